"""What tests of WFDB records share: reading one from a file, or one that is made in memory."""

from __future__ import annotations

from pathlib import Path

from datasets.ecg import Record
from datasets.formats import registry
from datasets.formats.archive import FileSource
from datasets.formats.base import BytesSource, ReadOptions, ReadResult


def folder_index(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir()}


def read_path(path: Path, options: ReadOptions | None = None) -> ReadResult:
    entry, result = registry.read(FileSource(path.name, path, folder_index(path.parent)), options)
    assert entry.name == "wfdb"
    return result


def read_made(
    header: str, files: dict[str, bytes] | None = None, options: ReadOptions | None = None, name: str = "x.hea"
) -> Record:
    entry, result = registry.read(BytesSource(name, header.encode(), files or {}), options)
    assert entry.name == "wfdb"
    return result.records[0][1]
