"""NumPy arrays: .npy, and .npz with one array or with rate, unit and leads beside it. Never a pickle."""

from __future__ import annotations

import ast
import io
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from datasets.formats._arrays import records_of
from datasets.formats._clinical import check_size
from datasets.formats.base import MAX_VALUES, Reader, ReadOptions, ReadResult, Source, read_bytes, reader
from ecgportal.errors import TooLarge, UnreadableFile, UnsafeFile

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000
_MAX_ARRAYS = 1000


def _sniff(head: bytes, name: str) -> bool:
    if head.startswith(_MAGIC):
        return True
    # The first member's name stands at byte 30 of a zip file.
    length = int.from_bytes(head[26:28], "little") if len(head) > 30 else 0
    return head.startswith(b"PK\x03\x04") and head[30 : 30 + length].endswith(b".npy")


def _read(source: Source, options: ReadOptions) -> ReadResult:
    data, name = read_bytes(source), source.name
    if data.startswith(_MAGIC):
        array = _array(data, name)
        columns = {key: array[key] for key in array.dtype.names} if array.dtype.names else {"array": array}
        return records_of(name, columns, {}, options)
    arrays = dict(_columns(_members(data, name)))
    beside: dict[str, object] = {
        key: _plain(value) for key, value in arrays.items() if value.size <= 64 and value.dtype.kind in "iufbUS"
    }
    return records_of(name, arrays, beside, options)


def _columns(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield arrays by name, of a table with named columns each column by itself."""
    for key, array in arrays.items():
        if array.dtype.names is None:
            yield key, array
        else:
            yield from ((f"{key}.{column}", array[column]) for column in array.dtype.names)


def _plain(value: np.ndarray) -> object:
    entries = [v.decode("latin-1") if isinstance(v, bytes) else v for v in value.ravel().tolist()]
    return entries[0] if value.size == 1 else entries


def _array(data: bytes, name: str) -> np.ndarray:
    """Parse one .npy image (NumPy enhancement proposal 1) after its header has been held against the file's size."""
    if len(data) < 12:
        raise _damaged(name, "it ends within its header")
    major = data[6]
    width = 2 if major == 1 else 4
    start = 8 + width
    length = int.from_bytes(data[8:start], "little")
    if major not in (1, 2, 3) or length > _MAX_HEADER or len(data) < start + length:
        raise _damaged(name, "its header is not one of NumPy")
    try:
        header = ast.literal_eval(data[start : start + length].decode("latin-1").strip())
        shape = tuple(int(n) for n in header["shape"])
        dtype = np.dtype(header["descr"])
        fortran = bool(header["fortran_order"])
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
        raise _damaged(name, "its header cannot be parsed") from error
    if dtype.kind == "c":
        raise UnreadableFile(f"{name} holds complex numbers; an ECG is real. Save its real part.", code="not_an_ecg")
    plain = [dtype] if dtype.names is None else [dtype[key] for key in dtype.names]
    if dtype.hasobject or dtype.itemsize == 0 or any(part.kind not in "iufbUS" for part in plain):
        raise UnsafeFile(
            f"{name} holds values of type {dtype}. Python objects are not loaded, since loading them can run code; "
            "save the samples as a plain numeric array.",
            code="object_array",
        )
    if any(n < 0 for n in shape) or len(shape) > 8:
        raise _damaged(name, f"its shape {shape} cannot be")
    count = math.prod(shape)
    check_size(name, 1, count)
    stored = data[start + length :]
    if count * dtype.itemsize > len(stored):
        raise UnreadableFile(
            f"{name} announces {count} values, but holds {len(stored) // dtype.itemsize}. The upload was cut short; upload it again.",
            code="truncated",
        )
    values = np.frombuffer(stored, dtype, count)
    return values.reshape(shape[::-1]).T if fortran else values.reshape(shape)


def _members(data: bytes, name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file by name."""
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            unpacked = sum(info.file_size for info in infos)
            if len(infos) > _MAX_ARRAYS or unpacked > min(8 * MAX_VALUES, 64 * 1024 * 1024 + 200 * len(data)):
                raise TooLarge(
                    f"{name} unpacks to more than the portal reads. Save one ECG a file.", code="archive_bomb"
                )
            for info in infos:
                if info.filename.endswith(".npy"):
                    arrays[info.filename.removesuffix(".npy")] = _array(archive.read(info), f"{name}: {info.filename}")
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise _damaged(name, str(error)) from error
    return arrays


def _damaged(name: str, reason: str) -> UnreadableFile:
    return UnreadableFile(f"{name} is a damaged NumPy file: {reason}. Save it again.", code="damaged_file")


reader(Reader(name="numpy", title="NumPy array", suffixes=(".npy", ".npz"), sniff=_sniff, read=_read))
