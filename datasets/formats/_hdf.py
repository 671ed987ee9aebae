"""ECGs in HDF5 files: one array, one array a group, or one array of many exams. Links out of the file are refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

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

    with source.open() as stream:
        try:
            with h5py.File(stream, "r") as file:
                return ReadResult(tuple(_records(source.name, file, options)))
        except PortalError:
            raise
        # The HDF5 library reports damage as any of these.
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
                f"{source.name} is a damaged HDF5 file ({str(error)[:120]}). Save it again.", code="damaged_file"
            ) from error


def _records(name: str, file: Any, options: ReadOptions) -> Iterator[tuple[str, Record]]:
    datasets = dict(_walk(name, file))
    ids = next((d for path, d in datasets.items() if path.rpartition("/")[2].lower() in _IDS and d.ndim == 1), None)
    many = {p: d for p, d in datasets.items() if d.dtype.kind in "iuf" and d.ndim == 3 and is_signal_shape(d.shape[1:])}
    single = {
        p: d
        for p, d in datasets.items()
        if d.dtype.kind in "iuf" and d.ndim in (1, 2) and is_signal_shape(_squeezed(d.shape)) and d is not ids
    }
    if many:
        path, data = next(iter(many.items()))
        check_size(name, data.shape[0], data.shape[1] * data.shape[2])
        told = _told(datasets, file, data)
        keys = _keys(ids, data.shape[0])
        for index, key in enumerate(keys):
            array, note = _unpadded(data[index])
            record = record_of(f"{name} ({key})", array, told, options)
            yield key, record if not note else _with_note(record, note)
        return
    if len(single) > 1:
        named = {path: d for path, d in single.items() if path.rpartition("/")[2].lower() in _USUAL}
        single = named or {path: d for path, d in single.items() if d.ndim == 2}
    if not single:
        listed = ", ".join(f"{path} {d.shape}" for path, d in list(datasets.items())[:10]) or "nothing"
        raise UnreadableFile(f"{name} holds no array that is an ECG; it holds {listed}.", code="not_an_ecg")
    check_size(name, 1, sum(int(d.size) for d in single.values()))
    for path, data in single.items():
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
