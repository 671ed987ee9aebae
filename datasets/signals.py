"""Native-rate signals on disk: packs of float32 millivolt, written once, read by memory map."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from datasets import ecg
from datasets.models import Record
from ecgportal import storage
from ecgportal.errors import NotFound

_CHUNK = 1 << 22


def _path(dataset_id: uuid.UUID, pack: uuid.UUID) -> Path:
    return storage.area("signals", dataset_id) / f"{pack}.f32"


class PackWriter:
    """Collect signals into one new pack file. It appears whole when the block ends without an error, or not at all."""

    def __init__(self, dataset_id: uuid.UUID):
        self.pack = uuid.uuid4()
        self._target = _path(dataset_id, self.pack)
        self._part = self._target.with_suffix(".part")
        self._stream = self._part.open("wb")

    def add(self, signal: np.ndarray) -> int:
        """Append ``(leads, samples)`` float32 and return its byte offset."""
        offset = self._stream.tell()
        self._stream.write(np.ascontiguousarray(signal, dtype="<f4").tobytes())
        return offset

    def copy(self, stream: BinaryIO, place: int, size: int) -> int:
        """Append ``size`` bytes of float32 from another file and return their byte offset."""
        offset = self._stream.tell()
        stream.seek(place)
        while size:
            data = stream.read(min(size, _CHUNK))
            if not data:
                raise EOFError("a spool of signals is shorter than what was announced")
            self._stream.write(data)
            size -= len(data)
        return offset

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        if kind is None:
            os.replace(self._part, self._target)
        else:
            self._part.unlink(missing_ok=True)


def adopt_pack(dataset_id: uuid.UUID, path: Path) -> uuid.UUID:
    """Make a finished file of signals a pack; the file is moved. Returns the pack's name."""
    pack = uuid.uuid4()
    target = _path(dataset_id, pack)
    try:
        os.replace(path, target)
    except OSError:
        part = target.with_suffix(".part")
        shutil.copyfile(path, part)
        os.replace(part, target)
    return pack


def discard(dataset_id: uuid.UUID, pack: uuid.UUID) -> None:
    """Remove a pack whose rows were not committed."""
    _path(dataset_id, pack).unlink(missing_ok=True)


def _stored(record: Record) -> np.ndarray:
    """Return the native signal as a read-only memory map. NotFound when its pack is missing or short."""
    path = _path(record.dataset_id, record.pack)
    shape = (len(record.leads), record.n_samples)
    try:
        return np.memmap(path, dtype="<f4", mode="r", offset=record.offset, shape=shape)
    except (FileNotFoundError, ValueError) as error:
        raise NotFound(
            f"The stored signal of {record.key} is missing. Restore the data folder from a backup or upload the record again."
        ) from error


def read_signal(record: Record, longest_s: float | None = None) -> np.ndarray:
    """Return the native signal or its beginning, float32 mV ``(leads, samples)``. NotFound when its pack is missing or short."""
    stored = _stored(record)
    return np.array(stored if longest_s is None else stored[:, : max(1, round(longest_s * record.fs_hz))])


def load(record: Record, longest_s: float | None = None) -> ecg.Record:
    """Return the record, or its first ``longest_s`` seconds, in the pure core's form."""
    return _as_record(record, read_signal(record, longest_s))


def mapped(record: Record) -> ecg.Record:
    """Return the record over a read-only memory map: of a long recording only the stretches that are used are read."""
    return _as_record(record, _stored(record))


def _as_record(record: Record, signal: np.ndarray) -> ecg.Record:
    meta = ecg.RecordMeta(
        subject=record.subject.key if record.subject_id and record.subject else None,
        age=record.age,
        sex=record.sex_word,
        printed=record.meta.get("printed", {}),
        annotations=tuple(tuple(row) for row in record.meta.get("annotations", [])),
        dropped_channels=tuple(record.meta.get("dropped_channels", [])),
        notes=tuple(record.meta.get("notes", [])),
    )
    return ecg.Record(signal, record.fs_hz, tuple(record.leads), tuple(record.leads_computed), meta)


def derived_path(record: Record, name: str) -> Path:
    """Return where a file computed from the record's signal may lie; it goes with the record."""
    return storage.area("signals", record.dataset_id) / f"{record.pk}.{name}"


def erase(record: Record) -> None:
    """Overwrite a record's samples with zeros, so that a deleted person's signal is gone from the disk."""
    path = _path(record.dataset_id, record.pack)
    for derived in path.parent.glob(f"{record.pk}.*"):
        derived.unlink(missing_ok=True)
    if path.exists():
        with path.open("r+b") as stream:
            stream.seek(record.offset)
            stream.write(b"\x00" * (4 * len(record.leads) * record.n_samples))
