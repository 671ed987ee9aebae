"""MAT-files of level 4 and 5 (MathWorks, "MAT-File Format", R2023a), read without executing or resolving anything.

Numeric arrays, text, structs and cells come out as NumPy arrays, ``str``, ``dict`` and ``list``. Objects, function
handles and opaque values are refused.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

from ecgportal.errors import TooLarge, UnreadableFile, UnsafeFile

MAX_INFLATED = 256 * 1024 * 1024
_MAX_DEPTH = 16
_MAX_ELEMENTS = 200_000

_MI_TYPES = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8", 16: "u1", 17: "u2", 18: "u4",
}  # fmt: skip
_MI_MATRIX, _MI_COMPRESSED = 14, 15
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_REFUSED = {3: "an object", 5: "a sparse matrix", 16: "a function handle", 17: "an opaque object"}
_LEVEL4_TYPES = {0: "f8", 1: "f4", 2: "i4", 3: "i2", 4: "u2", 5: "u1"}


def is_level5(head: bytes) -> bool:
    """Tell whether a file begins as a MAT-file of level 5 (not 7.3, which is HDF5)."""
    return (
        len(head) >= 128
        and head[126:128] in (b"IM", b"MI")
        and head[:6] == b"MATLAB"
        and not head.startswith(b"MATLAB 7.3")
    )


def is_level4(head: bytes) -> bool:
    """Tell whether a file begins as a MAT-file of level 4, which has no signature: all header fields must make sense."""
    if len(head) < 22:
        return False
    kind, rows, columns, imaginary, name_length = struct.unpack_from("<5i", head)
    name = head[20 : 20 + name_length]
    return (
        0 <= kind < 60 and kind // 10 in _LEVEL4_TYPES and kind % 10 == 0 and rows > 0 and columns > 0 and imaginary == 0
        and 2 <= name_length <= 64 and name.endswith(b"\x00") and name[:-1].isascii()
        and name[:-1].decode("ascii").isidentifier()
    )  # fmt: skip


def read_matfile(data: bytes, name: str) -> dict[str, Any]:
    """Return the variables of a MAT-file by name. name: the file's name, for messages."""
    try:
        return _File(name).level5(data) if is_level5(data[:128]) else _level4(data, name)
    except (struct.error, ValueError, IndexError, zlib.error, UnicodeDecodeError, KeyError, OverflowError) as error:
        raise _damaged(name, str(error)) from error


def _damaged(name: str, reason: str) -> UnreadableFile:
    return UnreadableFile(f"{name} is a damaged MAT-file ({reason}). Save it again.", code="damaged_file")


def _level4(data: bytes, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    position = 0
    while position < len(data) and len(found) < 1000:
        if not is_level4(data[position : position + 96]):
            raise _damaged(name, f"no variable begins at byte {position}")
        kind, rows, columns, _, length = struct.unpack_from("<5i", data, position)
        dtype = np.dtype("<" + _LEVEL4_TYPES[kind // 10])
        start = position + 20 + length
        end = start + rows * columns * dtype.itemsize
        if end > len(data):
            raise _damaged(
                name,
                f"{rows} x {columns} values are announced, the file holds {max(len(data) - start, 0) // dtype.itemsize}",
            )
        values = np.frombuffer(data, dtype, rows * columns, start).reshape(columns, rows).T
        found[data[position + 20 : start - 1].decode("ascii")] = values
        position = end
    return found


class _File:
    """One run over a file of level 5: byte order and the counters that the limits are held against."""

    def __init__(self, name: str):
        self.name = name
        self.order = "<"
        self.elements = 0
        self.inflated = 0

    def level5(self, data: bytes) -> dict[str, Any]:
        self.order = "<" if data[126:128] == b"IM" else ">"
        found: dict[str, Any] = {}
        position = 128
        while position + 8 <= len(data):
            kind, start, end, position = self._tag(data, position)
            if kind == _MI_COMPRESSED:
                inner = self._inflate(data[start:end])
                kind, start, end, _ = self._tag(inner, 0)
                body = inner[start:end]
            else:
                # A compressed element is not padded; all others end on a multiple of 8 bytes.
                body = data[start:end]
            if kind == _MI_MATRIX:
                key, value = self._matrix(body, 0)
                found[key or "unnamed"] = value
        return found

    def _inflate(self, data: bytes) -> bytes:
        engine = zlib.decompressobj()
        inflated = engine.decompress(data, MAX_INFLATED - self.inflated + 1)
        self.inflated += len(inflated)
        if self.inflated > MAX_INFLATED:
            raise TooLarge(
                f"{self.name} inflates to more than {MAX_INFLATED / 1e6:.0f} MB. Split it into several files."
            )
        return inflated

    def _tag(self, data: bytes, position: int) -> tuple[int, int, int, int]:
        """Return an element's type, the start and end of its data, and where the next element begins."""
        self.elements += 1
        if self.elements > _MAX_ELEMENTS:
            raise TooLarge(
                f"{self.name} has more than {_MAX_ELEMENTS} elements; an ECG has a few.", code="too_many_elements"
            )
        (first,) = struct.unpack_from(self.order + "I", data, position)
        if first >> 16:
            kind, size, start = first & 0xFFFF, first >> 16, position + 4
            following = position + 8
            if size > 4:
                raise ValueError("a small element is too long")
        else:
            kind = first
            (size,) = struct.unpack_from(self.order + "I", data, position + 4)
            start = position + 8
            following = start + size if kind == _MI_COMPRESSED else start + (size + 7) // 8 * 8
        end = start + size
        if end > len(data):
            raise ValueError("an element is longer than the file")
        return kind, start, end, following

    def _values(self, data: bytes, position: int) -> tuple[np.ndarray, int]:
        kind, start, end, following = self._tag(data, position)
        dtype = np.dtype(self.order + _MI_TYPES[kind])
        return np.frombuffer(data, dtype, (end - start) // dtype.itemsize, start), following

    def _matrix(self, data: bytes, depth: int) -> tuple[str, Any]:
        if depth > _MAX_DEPTH:
            raise ValueError("values are nested too deeply")
        if not data:
            return "", np.empty((0, 0))
        flags, position = self._values(data, 0)
        kind = int(flags[0]) & 0xFF
        if kind in _REFUSED:
            raise UnsafeFile(
                f"{self.name} holds {_REFUSED[kind]}, which is not opened. Save the samples as a plain matrix.",
                code="matlab_object",
            )
        dims, position = self._values(data, position)
        shape = tuple(int(n) for n in dims)
        count = 1
        for n in shape:
            count *= n
        name_values, position = self._values(data, position)
        name = name_values.tobytes().decode("latin-1")
        if not 1 <= len(shape) <= 8 or any(n < 0 for n in shape) or count > len(data):
            raise ValueError(f"an array of shape {shape} does not fit into the file")
        if kind == _CELL:
            return name, self._cells(data, position, count, depth)
        if kind == _STRUCT:
            return name, self._struct(data, position, count, depth)
        values, _ = self._values(data, position)
        if kind == _CHAR:
            letters = values[:10_000].tolist()
            if len(shape) == 2 and shape[0] > 1 and count == len(letters):
                # Several rows of text, stored column by column.
                return name, ["".join(map(chr, letters[row :: shape[0]])).strip() for row in range(shape[0])]
            return name, "".join(map(chr, letters))
        if int(flags[0]) & 0x800:
            raise ValueError("complex numbers are no samples")
        if values.size != count:
            raise ValueError(f"{count} values are announced, {values.size} are there")
        # Values are stored in the smallest type that holds them; the class says what they are. Column order.
        return name, values.astype(_CLASSES[kind], copy=False).reshape(shape[::-1]).T

    def _cells(self, data: bytes, position: int, count: int, depth: int) -> list[Any]:
        cells = []
        for _ in range(count):
            _, start, end, position = self._tag(data, position)
            cells.append(self._matrix(data[start:end], depth + 1)[1])
        return cells

    def _struct(self, data: bytes, position: int, count: int, depth: int) -> Any:
        length, position = self._values(data, position)
        width = int(length[0])
        names, position = self._values(data, position)
        text = names.tobytes()
        if width <= 0 or len(text) > 64 * 1024:
            raise ValueError("a struct has no field names")
        fields = [text[i : i + width].split(b"\x00")[0].decode("latin-1") for i in range(0, len(text), width)]
        structs = []
        for _ in range(count):
            entry: dict[str, Any] = {}
            for field in fields:
                _, start, end, position = self._tag(data, position)
                entry[field] = self._matrix(data[start:end], depth + 1)[1]
            structs.append(entry)
        return structs[0] if count == 1 else structs
