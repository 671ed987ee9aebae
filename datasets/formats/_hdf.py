"""ECGs in HDF5 files: one array, one array a group, or one array of many exams. Links out of the file are refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, overload

import numpy as np

from datasets.ecg import Record
from datasets.formats._arrays import Told, is_signal_shape, record_of, told_by
from datasets.formats._clinical import check_size, stem
from datasets.formats.base import ReadOptions, ReadResult, Source
from ecgportal.errors import PortalError, TooLarge, UnreadableFile, UnsafeFile

_MAX_OBJECTS = 100_000
_MAX_DEPTH = 8
_IDS = ("exam_id", "exam_ids", "id", "ids", "record_id", "ecg_id", "study_id", "file_name")
_USUAL = frozenset(("ecg", "tracings", "signal", "signals", "data", "val", "feats", "p_signal"))


def read_hdf(source: Source, options: ReadOptions) -> ReadResult:
    """Read every ECG of an HDF5 file. MATLAB 7.3 stores axes in reverse; which one holds the leads is told by shape."""
    import h5py

    with source.open() as stream, _damage(source.name), h5py.File(stream, "r") as file:
        datasets = dict(_walk(source.name, file))
        exams = _exams(source, file, datasets, options)
        return ReadResult(exams if exams is not None else tuple(_records(source.name, file, datasets, options)))


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Turn what the HDF5 library raises for damaged files into one error of ours."""
    try:
        yield
    except PortalError:
        raise
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        MemoryError,
        AttributeError,
    ) as error:
        raise UnreadableFile(
            f"{name} is a damaged HDF5 file ({str(error)[:120]}). Save it again.", code="damaged_file"
        ) from error


class _Exams(Sequence[tuple[str, Record]]):
    """The records of one array of many exams, read from the file when they are asked for.

    A part of CODE-15% holds 20,000 exams, 4 GB as float32: more than should ever be in memory at once.
    """

    def __init__(self, source: Source, path: str, keys: list[str], told: Told, options: ReadOptions):
        self._source = source
        self._path = path
        self._keys = keys
        self._told = told
        self._options = options

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> tuple[str, Record]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, Record]]: ...
    def __getitem__(self, index: int | slice) -> tuple[str, Record] | list[tuple[str, Record]]:
        if isinstance(index, slice):
            return list(self._read(range(*index.indices(len(self)))))
        position = range(len(self))[index]
        return next(self._read(range(position, position + 1)))

    def __iter__(self) -> Iterator[tuple[str, Record]]:
        return self._read(range(len(self)))

    def _read(self, indices: range) -> Iterator[tuple[str, Record]]:
        import h5py

        name = self._source.name
        with self._source.open() as stream, _damage(name), h5py.File(stream, "r") as file:
            data = file[self._path]
            for index in indices:
                key = self._keys[index]
                array, note = _unpadded(data[index])
                record = record_of(f"{name} ({key})", array, self._told, self._options)
                yield key, _with_note(record, note) if note else record


def _exams(source: Source, file: Any, datasets: dict[str, Any], options: ReadOptions) -> _Exams | None:
    """Return the records of a file whose array is ``(exams, samples, leads)``, or None when it has no such array."""
    many = [
        (p, d) for p, d in datasets.items() if d.dtype.kind in "iuf" and d.ndim == 3 and is_signal_shape(d.shape[1:])
    ]
    if not many:
        return None
    path, data = many[0]
    count, *exam = data.shape
    if count == 0:
        raise UnreadableFile(f"{source.name} holds no exam.", code="no_signal")
    check_size(source.name, exam[0], exam[1])
    _check_stored(source.name, data)
    ids = next((d for p, d in datasets.items() if p.rpartition("/")[2].lower() in _IDS and d.shape == (count,)), None)
    exams = _Exams(source, path, _keys(ids, count), _told(datasets, file, data), options)
    # The first record shows at once whether anything has to be asked.
    next(iter(exams))
    return exams


def _check_stored(name: str, data: Any) -> None:
    """Refuse arrays that are announced but hardly stored: empty chunks would be filled with zeros in memory."""
    announced = int(data.size) * data.dtype.itemsize
    if announced > 64 * 1024 * 1024 and announced > 1000 * data.id.get_storage_size():
        raise TooLarge(
            f"{name} announces {announced / 1e6:.0f} MB of samples, but stores almost none of them. It was refused.",
            code="archive_bomb",
        )


def _records(name: str, file: Any, datasets: dict[str, Any], options: ReadOptions) -> Iterator[tuple[str, Record]]:
    ids = next((d for path, d in datasets.items() if path.rpartition("/")[2].lower() in _IDS and d.ndim == 1), None)
    single = {
        p: d
        for p, d in datasets.items()
        if d.dtype.kind in "iuf" and d.ndim in (1, 2) and is_signal_shape(_squeezed(d.shape)) and d is not ids
    }
    if len(single) > 1:
        named = {path: d for path, d in single.items() if path.rpartition("/")[2].lower() in _USUAL}
        single = named or {path: d for path, d in single.items() if d.ndim == 2}
    if not single:
        listed = ", ".join(f"{path} {d.shape}" for path, d in list(datasets.items())[:10]) or "nothing"
        raise UnreadableFile(f"{name} holds no array that is an ECG; it holds {listed}.", code="not_an_ecg")
    check_size(name, 1, sum(int(d.size) for d in single.values()))
    for path, data in single.items():
        _check_stored(name, data)
        key = stem(name) if len(single) == 1 else path
        yield (
            key,
            record_of(
                f"{name} ({path})", data[()].reshape(_squeezed(data.shape)), _told(datasets, file, data), options
            ),
        )


def _walk(name: str, group: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the datasets of a file by path, without following a link that could leave it."""
    import h5py

    if depth > _MAX_DEPTH or len(group) > _MAX_OBJECTS:
        raise TooLarge(f"{name} has more groups than any collection of ECGs.", code="too_many_elements")
    for key in group:
        link = group.get(key, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise UnsafeFile(
                f"{name} links to the file {link.filename!r}, which is not opened. Store the samples in the file itself.",
                code="external_link",
            )
        # Soft links and MATLAB's reference store only repeat what is elsewhere in the file.
        if not isinstance(link, h5py.HardLink) or key == "#refs#":
            continue
        entry = group.get(key)
        path = f"{prefix}{key}"
        if isinstance(entry, h5py.Group):
            yield from _walk(name, entry, f"{path}/", depth + 1)
        elif isinstance(entry, h5py.Dataset):
            if entry.is_virtual or entry.external:
                raise UnsafeFile(f"{name} keeps {path} in another file, which is not opened.", code="external_link")
            yield path, entry


def _told(datasets: dict[str, Any], file: Any, data: Any) -> Told:
    """Return what attributes and small datasets say about an array."""
    beside: dict[str, object] = {}
    for attributes in (file.attrs, data.parent.attrs, data.attrs):
        for key in attributes:
            beside[key] = _plain(attributes[key])
    for path, entry in datasets.items():
        if entry.size is not None and 0 < entry.size <= 64 and entry.dtype.kind in "iufSO":
            beside[path.rpartition("/")[2]] = _plain(entry[()])
    return told_by({key: value for key, value in beside.items() if value is not None})


def _plain(value: Any) -> object:
    """Return an attribute as a number, text or list of texts, or None."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        entries = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value.ravel()[:64].tolist()]
        return entries[0] if len(entries) == 1 else entries
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, str | int | float) else None


def _keys(ids: Any, count: int) -> list[str]:
    if ids is not None and ids.shape[0] == count:
        keys = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in ids[()].tolist()]
        if len(set(keys)) == count:
            return keys
    return [f"{index:06d}" for index in range(count)]


def _unpadded(exam: np.ndarray) -> tuple[np.ndarray, str]:
    """Cut the zeros that fixed-length collections (CODE-15%) put before and behind shorter ECGs."""
    axis = 0 if exam.shape[0] > exam.shape[1] else 1
    recorded = np.flatnonzero(np.any(exam != 0, axis=1 - axis))
    if not recorded.size:
        return exam, ""
    first, last = int(recorded[0]), int(recorded[-1]) + 1
    cut = exam.shape[axis] - (last - first)
    if cut < 50:
        return exam, ""
    note = f"{cut} samples of zero padding ({first} before, {exam.shape[axis] - last} behind the ECG) were cut off."
    return (exam[first:last] if axis == 0 else exam[:, first:last]), note


def _with_note(record: Record, note: str) -> Record:
    return replace(record, meta=replace(record.meta, notes=(*record.meta.notes, note)))


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (max(shape),) if len(shape) == 2 and 1 in shape else shape
