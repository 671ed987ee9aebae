"""ECGs in HDF5 files: one array, one array a group, or one array of many exams. Links out of the file are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from datasets.ecg import Record
from datasets.formats._arrays import IDS, MAX_BESIDE, Exams, keys_of, record_of, stacked, told_by
from datasets.formats._choosing import Beside, Picked, last_of, lead_of, pick, rate_by_time, squeezed
from datasets.formats._clinical import check_size, stem
from datasets.formats.base import ReadOptions, ReadResult, Source
from ecgportal.errors import PortalError, TooLarge, UnreadableFile, UnsafeFile

_MAX_OBJECTS = 100_000
_MAX_DEPTH = 8


def read_hdf(source: Source, options: ReadOptions) -> ReadResult:
    """Read every ECG of an HDF5 file. MATLAB 7.3 stores axes in reverse; which one holds the leads is told by shape."""
    import h5py

    with source.open() as stream, _damage(source.name), h5py.File(stream, "r") as file:
        datasets = dict(_walk(source.name, file))
        picked = pick(source.name, {p: d for p, d in datasets.items() if d.shape is not None}, is_collection=True)
        if picked.exams is not None:
            return ReadResult(_exams(source, picked.exams, file, datasets, options))
        return ReadResult(tuple(_records(source.name, picked, file, datasets, options)))


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


def _exams(source: Source, path: str, file: Any, datasets: dict[str, Any], options: ReadOptions) -> Exams:
    """Return the records of an array ``(exams, samples, leads)``, read from the file one by one."""
    import h5py

    data, name = datasets[path], source.name
    count, *exam = squeezed(data.shape)
    if count == 0:
        raise UnreadableFile(f"{name} holds no exam.", code="no_signal")
    if len(exam) != 2:
        raise UnreadableFile(
            f"{name} holds {path} of shape {data.shape}; (exams, samples, leads) is read.", code="bad_shape"
        )
    check_size(name, exam[0], exam[1])
    _check_stored(name, data)
    ids = next((d for p, d in datasets.items() if last_of(p).lower() in IDS and d.shape == (count,)), None)

    @contextmanager
    def opened() -> Iterator[Callable[[int], np.ndarray]]:
        with source.open() as stream, _damage(name), h5py.File(stream, "r") as again:
            yield lambda index: again[path][index].reshape(exam)

    keys = keys_of(name, ids[()].tolist() if ids is not None else None, count)
    exams = Exams(name, keys, told_by(_beside(datasets, file).of(path)), options, opened)
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


def _records(
    name: str, picked: Picked, file: Any, datasets: dict[str, Any], options: ReadOptions
) -> Iterator[tuple[str, Record]]:
    paths = (*picked.single, *(path for rows in picked.rows.values() for path in rows))
    check_size(name, 1, sum(int(datasets[path].size) for path in paths))
    for path in paths:
        _check_stored(name, datasets[path])
    times = {
        p: d[()]
        for p, d in datasets.items()
        if d.ndim in (1, 2) and re.fullmatch(r"t|times?|time_?s", last_of(p), re.I)
    }
    beside = _beside(datasets, file)
    same = len(picked.single) > 1 and len({last_of(path) for path in picked.single}) == 1
    for path in picked.single:
        data = datasets[path]
        # One group an ECG: the group's name is the ECG's.
        label = path.rpartition("/")[0] if same else path
        array = data[()].reshape(squeezed(data.shape))
        told = told_by(beside.of(path))
        told = replace(told, fs_hz=told.fs_hz or rate_by_time(times, max(array.shape), path))
        key = stem(name) if len(picked.single) == 1 else label.replace("/", "_")
        yield key, record_of(f"{name} ({path})", array, told, options)
    for path, rows in picked.rows.items():
        leads = [(lead_of(lead), datasets[lead][()]) for lead in rows]
        own = [told_by(beside.of(lead)) for lead in rows]
        if len({(t.fs_hz, t.unit_mv, t.units_mv, repr(t.gain), t.offset) for t in own}) > 1:
            raise UnreadableFile(
                f"{name} states different units, rates or scales for its leads. Save them alike.", code="mixed_leads"
            )
        array, told = stacked(name, leads, own[0])
        told = replace(told, fs_hz=told.fs_hz or rate_by_time(times, array.shape[1], rows[0]))
        key = stem(name) if len(picked.rows) == 1 else path.replace("/", "_")
        yield key, record_of(f"{name} ({path})" if path else name, array, told, options)


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
            if entry.dtype.names is None:
                yield path, entry
            else:
                yield from ((f"{path}/{column}", _Column(entry, column)) for column in entry.dtype.names)


class _Column:
    """One column of a table with named columns, as far as it is a dataset of its own."""

    attrs: Mapping[str, object] = {}

    def __init__(self, table: Any, name: str):
        self.dtype, self.shape, self.size, self.ndim = table.dtype[name], table.shape, table.size, table.ndim
        self.id = table.id
        self._table, self._name = table, name

    def __getitem__(self, place: Any) -> np.ndarray:
        return self._table.fields(self._name)[place]


def _beside(datasets: dict[str, Any], file: Any) -> Beside:
    """Return what attributes and small datasets of a file say."""
    said: list[tuple[str, object]] = []
    groups = {"": file}
    for path, entry in datasets.items():
        is_small = entry.size is not None and 0 < entry.size <= MAX_BESIDE
        if is_small and entry.dtype.kind in "iufSO":
            said.append((path, _content(file, entry)))
        said += _attributes(path, entry)
        while (path := path.rpartition("/")[0]) and path not in groups:
            groups[path] = file[path]
    said += [statement for path, group in groups.items() for statement in _attributes(path, group)]
    holders = (path for path, entry in datasets.items() if entry.size is not None and entry.size > MAX_BESIDE)
    return Beside([(path, value) for path, value in said if value is not None], holders)


def _attributes(path: str, entry: Any) -> Iterator[tuple[str, object]]:
    for key in entry.attrs:
        try:
            yield f"{path}/{key}", _plain(entry.attrs[key])
        except (OSError, TypeError, ValueError):
            # A kind of value that h5py does not know says nothing here.
            continue


def _content(file: Any, entry: Any) -> object:
    """Return a small dataset's value; MATLAB 7.3 keeps text as numbers, and cells of texts as references within the file."""
    import h5py

    if _is_text(entry):
        return "".join(map(chr, entry[()].ravel(order="F").tolist()))
    if h5py.check_ref_dtype(entry.dtype) is h5py.Reference:
        cells = [file[reference] for reference in entry[()].ravel().tolist() if reference]
        return [_content(file, cell) for cell in cells if isinstance(cell, h5py.Dataset) and _is_text(cell)]
    return _plain(entry[()])


def _is_text(entry: Any) -> bool:
    kind = entry.attrs.get("MATLAB_class")
    return isinstance(kind, bytes | np.bytes_) and kind == b"char" and entry.dtype.kind == "u" and entry.size <= 4096


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
