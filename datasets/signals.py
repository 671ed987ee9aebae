"""Native-rate signals on disk: packs of float32 millivolt, written once, read by memory map."""

from __future__ import annotations

import os
import shutil
import uuid
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from django.db import connection

from datasets import ecg
from datasets.models import Record
from ecgportal import storage
from ecgportal.errors import NotFound

_CHUNK = 1 << 22


def take_turns(dataset_id: uuid.UUID) -> None:
    """Wait until nobody else writes packs of a dataset, and keep others waiting until the current transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [str(dataset_id)])


def is_my_turn(dataset_id: uuid.UUID) -> bool:
    """Do the same if nobody writes now; False, at once, when somebody does."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [str(dataset_id)])
        return bool(cursor.fetchone()[0])


def _path(dataset_id: uuid.UUID, pack: uuid.UUID) -> Path:
    return storage.area("signals", dataset_id) / f"{pack}.f32"


class PackWriter:
    """Collect signals into one new pack file. It appears whole when the block ends without an error, or not at all.

    pack: its name, where that is chosen already.
    """

    def __init__(self, dataset_id: uuid.UUID, pack: uuid.UUID | None = None):
        self.pack = pack or uuid.uuid4()
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

    def zeros(self, size: int) -> None:
        """Append ``size`` bytes of zeros."""
        while size:
            size -= self._stream.write(bytes(min(size, _CHUNK)))

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        try:
            if kind is None:
                storage.keep(self._part, self._target)
                os.replace(self._part, self._target)
        finally:
            self._part.unlink(missing_ok=True)


def adopt_pack(dataset_id: uuid.UUID, path: Path, pack: uuid.UUID) -> None:
    """Make a finished file of signals the pack of this name; the file is moved."""
    target = _path(dataset_id, pack)
    storage.keep(path, target)
    try:
        os.replace(path, target)
    except OSError:
        part = target.with_suffix(".part")
        shutil.copyfile(path, part)
        os.replace(part, target)


def discard(dataset_id: uuid.UUID, pack: uuid.UUID) -> None:
    """Remove a pack whose rows were not committed, or what there is of it."""
    path = _path(dataset_id, pack)
    path.with_suffix(".part").unlink(missing_ok=True)
    storage.drop(path)


def _stored(record: Record) -> np.ndarray:
    """Return the native signal as a read-only memory map. NotFound when its pack is missing or short."""
    try:
        return _map(record)
    except (FileNotFoundError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and _fetched(record):
            return _map(record)
        raise NotFound(
            f"The stored signal of {record.key} is missing. Restore the data folder from a backup or upload the record again."
        ) from error


def _map(record: Record) -> np.ndarray:
    path, shape = _path(record.dataset_id, record.pack), (len(record.leads), record.n_samples)
    storage.needed(path)
    return np.memmap(path, dtype="<f4", mode="r", offset=record.offset, shape=shape)


def _fetched(record: Record) -> bool:
    """See that the record's pack is on this host, where the portal has a bucket; False when there is none."""
    if storage.shared() is None:
        return False
    if storage.obtain(_path(record.dataset_id, record.pack)):
        return True
    # Since the row was read a neighbour in the pack may have been deleted, which gave the pack a new name.
    pack = Record.objects.filter(pk=record.pk).values_list("pack", flat=True).first()
    if pack is None or pack == record.pack:
        return False
    record.pack = pack
    return storage.obtain(_path(record.dataset_id, pack))


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
    """Overwrite a record's samples with zeros, so that a deleted person's signal is gone from the disk. A portal with a bucket
    cuts them out in the transaction of the deletion, by :func:`cut_out`."""
    path = _path(record.dataset_id, record.pack)
    for derived in path.parent.glob(f"{record.pk}.*"):
        derived.unlink(missing_ok=True)
    if storage.shared() is None and path.exists():
        with path.open("r+b") as stream:
            stream.seek(record.offset)
            stream.write(b"\x00" * (4 * len(record.leads) * record.n_samples))


def cut_out(records: Sequence[Record]) -> list[uuid.UUID]:
    """In the transaction that deletes some records of a dataset: give the others of their packs new packs without them, and
    release the old ones. What other hosts have of these is under a name that no row has any more.

    Returns the new packs, to be discarded if the transaction fails; none where the portal has no bucket. Conflict while a
    backup is written, which may name the old packs.
    """
    if storage.shared() is None or not records:
        return []
    dataset_id, ids = records[0].dataset_id, [record.pk for record in records]
    # Two deletions from one pack, or a deletion and a batch that is stored, take turns.
    take_turns(dataset_id)
    storage.hold_off_backup()
    places: dict[uuid.UUID, list[tuple[int, int]]] = defaultdict(list)
    # Their packs as they are now: a deletion that came before may have named them anew.
    rows = Record.objects.filter(dataset=dataset_id, pk__in=ids)
    for pack, offset, leads, n_samples in rows.values_list("pack", "offset", "leads", "n_samples"):
        places[pack].append((offset, 4 * len(leads) * n_samples))
    made: list[uuid.UUID] = []
    try:
        for pack, holes in places.items():
            others = Record.objects.filter(dataset=dataset_id, pack=pack).exclude(pk__in=ids)
            # Of a pack that was lost there is nothing left to cut out.
            if others.exists() and storage.obtain(_path(dataset_id, pack)):
                made.append(_without(dataset_id, pack, holes))
                others.update(pack=made[-1])
    except BaseException:
        for pack in made:
            discard(dataset_id, pack)
        raise
    storage.release(
        [storage.key_of(_path(dataset_id, pack)) for pack in places]
        + [f"signals/{dataset_id}/{pk}." for pk in ids]
        + [f"prepared/{dataset_id}/{pk}" for pk in ids]
    )
    return made


def _without(dataset_id: uuid.UUID, pack: uuid.UUID, holes: list[tuple[int, int]]) -> uuid.UUID:
    """Write a pack again with zeros in the place of some records; returns the new one."""
    path = _path(dataset_id, pack)
    with PackWriter(dataset_id) as writer, path.open("rb") as stream:
        at = 0
        for offset, size in sorted(holes):
            writer.copy(stream, at, offset - at)
            writer.zeros(size)
            at = offset + size
        writer.copy(stream, at, path.stat().st_size - at)
    return writer.pack
