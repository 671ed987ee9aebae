"""Huffman coding of SCP-ECG (EN 1064, 5.5 and C.2.7): default and custom tables, table switches, differences."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from ecgportal.errors import UnreadableFile

DEFAULT_TABLE_MARK = 19999
MAX_TABLES = 64
MAX_CODES = 4096
MAX_CODE_BITS = 32
_LOOKUP_BITS = 12


@dataclass(frozen=True)
class Code:
    """One code: ``prefix`` is read from its most significant bit on; ``extra`` bits follow as a signed number.

    switch: the value is the number of the table to go on with, not a sample.
    """

    prefix: int
    prefix_bits: int
    extra_bits: int
    switch: bool
    value: int


def _default_codes() -> list[Code]:
    """Return the default table: 0 is one bit; n and -n are a run of ones, then 0, then the sign."""
    codes = [Code(0, 1, 0, False, 0)]
    for size in range(1, 9):
        ones = ((1 << size) - 1) << 2
        codes += [Code(ones, size + 2, 0, False, size), Code(ones | 1, size + 2, 0, False, -size)]
    return [*codes, Code(0b1111111110, 10, 8, False, 0), Code(0b1111111111, 10, 16, False, 0)]


class Table:
    """A table made ready for decoding: the first bits index the codes, longer prefixes are searched."""

    def __init__(self, codes: list[Code]):
        self.short: list[Code | None] = [None] * (1 << _LOOKUP_BITS)
        self.long: list[Code] = []
        for code in codes:
            if code.prefix_bits > _LOOKUP_BITS:
                self.long.append(code)
                continue
            spread = _LOOKUP_BITS - code.prefix_bits
            start = code.prefix << spread
            for index in range(start, start + (1 << spread)):
                if self.short[index] is None:
                    self.short[index] = code


def _damaged(name: str, why: str) -> UnreadableFile:
    return UnreadableFile(f"{name}: section 2 (Huffman tables) {why}. Export the recording again.", code="damaged_scp")


def read_tables(name: str, data: bytes) -> list[Table]:
    """Return the tables of section 2 (its data part)."""
    if len(data) < 2:
        raise _damaged(name, "is too short")
    (count,) = struct.unpack_from("<H", data)
    if count == DEFAULT_TABLE_MARK:
        return [Table(_default_codes())]
    if not 0 < count <= MAX_TABLES:
        raise _damaged(name, f"announces {count} tables")
    tables, at, total = [], 2, 0
    for _ in range(count):
        if at + 2 > len(data):
            raise _damaged(name, "ends inside a table")
        (size,) = struct.unpack_from("<H", data, at)
        at += 2
        total += size
        if not 0 < size or total > MAX_CODES or at + 9 * size > len(data):
            raise _damaged(name, f"announces a table of {size} codes that is not there")
        tables.append(Table([_read_code(name, data, at + 9 * index, count) for index in range(size)]))
        at += 9 * size
    return tables


def _read_code(name: str, data: bytes, at: int, tables: int) -> Code:
    prefix_bits, total_bits, mode, value, base = struct.unpack_from("<BBBhI", data, at)
    if not 0 < prefix_bits <= total_bits <= MAX_CODE_BITS or total_bits - prefix_bits > 24:
        raise _damaged(name, f"holds a code of {prefix_bits} of {total_bits} bits")
    switch = mode == 0
    if switch and not 1 <= value <= tables:
        raise _damaged(name, f"switches to table {value} of {tables}")
    # The code is stored with its first bit as the least significant one.
    prefix = int(f"{base & ((1 << prefix_bits) - 1):0{prefix_bits}b}"[::-1], 2)
    return Code(prefix, prefix_bits, total_bits - prefix_bits, switch, value)


def decode(name: str, what: str, data: bytes, tables: list[Table], count: int) -> np.ndarray:
    """Return ``count`` values of one lead; the work is bounded by twice as many codes."""
    out: list[int] = []
    table = tables[0]
    window, held, at, size = 0, 0, 0, len(data)
    # Real files switch tables rarely; a file that does little else is not decoded to its end.
    budget = 2 * count + 1000
    while len(out) < count and budget:
        budget -= 1
        if held < 64 and at < size:
            piece = data[at : at + 8]
            at += 8
            window = (window << (8 * len(piece))) | int.from_bytes(piece, "big")
            held += 8 * len(piece)
        if held <= 0:
            break
        index = window >> (held - _LOOKUP_BITS) if held >= _LOOKUP_BITS else window << (_LOOKUP_BITS - held)
        code = table.short[index]
        if code is None:
            code = next(
                (c for c in table.long if c.prefix_bits <= held and window >> (held - c.prefix_bits) == c.prefix), None
            )
            if code is None:
                raise UnreadableFile(
                    f"{name}: {what} holds bits that are no code of its Huffman table. The file is damaged; export it again.",
                    code="damaged_scp",
                )
        held -= code.prefix_bits + code.extra_bits
        if held < 0:
            break
        value = code.value
        if code.extra_bits:
            extra = (window >> held) & ((1 << code.extra_bits) - 1)
            value += extra - (1 << code.extra_bits) if extra >> (code.extra_bits - 1) else extra
        window &= (1 << held) - 1
        if code.switch:
            table = tables[code.value - 1]
        else:
            out.append(value)
    if len(out) < count:
        raise UnreadableFile(
            f"{name}: {what} announces {count} samples but holds {len(out)}. The file is damaged; export it again.",
            code="short_waveform",
        )
    return np.array(out, dtype=np.int64)


def undo_differences(values: np.ndarray, order: int) -> np.ndarray:
    """Return samples from first or second differences (order 1 or 2; 0 gives the values back).

    Second differences: x[n] = d[n] + 2 x[n-1] - x[n-2], and the first two values are samples. Samples have 16 bits:
    sums wrap around as they did in the device.
    """
    if order == 1:
        samples = np.cumsum(values)
    elif order == 2 and values.size > 2:
        slope = np.concatenate([[values[1] - values[0]], values[2:]]).cumsum()
        samples = np.concatenate([values[:1], values[0] + np.cumsum(slope)])
    else:
        return values
    return samples.astype(np.int16).astype(np.int64)
