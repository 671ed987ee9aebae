"""The files of an upload by relative name, on disk: every process that reads them looks up the folders it needs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class FileIndex:
    """A list of files, written once: ``path`` holds one line of JSON per folder, a second file where each line stands.

    Paths in it count from ``base``, so that hosts may have the same files under different folders.
    """

    def __init__(self, path: Path, base: Path):
        self.path, self.base = path, base
        self._places: dict[str, tuple[int, int, int]] = json.loads(_places(path).read_bytes())

    @classmethod
    def write(cls, path: Path, base: Path, files: Mapping[str, Path]) -> FileIndex:
        """Write the list of ``files`` (by name) and return it. It appears whole or not at all."""
        folders: dict[str, dict[str, str]] = {}
        prefix = f"{base}/"
        for name, file in files.items():
            folders.setdefault(folder_of(name), {})[name] = str(file).removeprefix(prefix)
        places, part = {}, path.with_suffix(".part")
        with part.open("wb") as stream:
            for folder, inside in folders.items():
                line = json.dumps(inside).encode() + b"\n"
                places[folder] = (stream.tell(), len(line), len(inside))
                stream.write(line)
        _places(path).write_text(json.dumps(places))
        os.replace(part, path)
        return cls(path, base)

    def place(self, name: str) -> list[Any]:
        """Return where a reading process finds the folder of a file."""
        offset, length, _ = self._places[folder_of(name)]
        return [str(self.path), str(self.base), offset, length]

    def __len__(self) -> int:
        return sum(count for _, _, count in self._places.values())

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yield every file's name and path, folder by folder."""
        with self.path.open("rb") as stream:
            for line in stream:
                for name, path in json.loads(line).items():
                    yield name, self.base / path


def folder_of(name: str) -> str:
    return name[: name.rfind("/") + 1]


def _places(path: Path) -> Path:
    return path.with_suffix(".places")
