"""A small SCP-ECG encoder: what the readers' tests need and no public file shows."""

from __future__ import annotations

import binascii
import struct

import numpy as np

CODES = {"I": 1, "II": 2, "V1": 3, "V2": 4, "V6": 8}
Code = tuple[str, int, bool, int]
"""Prefix bits as text, extra bits, is a table switch, value."""


def default_table() -> list[Code]:
    """Return the default table written out as the standard prints it."""
    table: list[Code] = [("0", 0, False, 0)]
    for value in range(1, 9):
        table += [("1" * value + "00", 0, False, value), ("1" * value + "01", 0, False, -value)]
    return [*table, ("1111111110", 8, False, 0), ("1111111111", 16, False, 0)]


def huffman(values: list[int], tables: list[list[Code]] | None = None, alternate: bool = False) -> bytes:
    """Encode integers; with ``alternate`` a switch to the other table is written before every value."""
    tables = tables or [default_table()]
    bits: list[str] = []
    current = 0
    for value in values:
        if alternate:
            target = (current + 1) % len(tables)
            bits.append(next(p for p, _, switch, to in tables[current] if switch and to == target + 1))
            current = target
        bits.append(one(value, tables[current]))
    text = "".join(bits)
    text += "0" * (-len(text) % 16)
    return int(text, 2).to_bytes(len(text) // 8, "big") if text else b""


def one(value: int, table: list[Code]) -> str:
    for prefix, extra, switch, base in table:
        if switch:
            continue
        if not extra and base == value:
            return prefix
        if extra and -(1 << (extra - 1)) <= value < 1 << (extra - 1):
            return prefix + f"{value & ((1 << extra) - 1):0{extra}b}"
    raise ValueError(value)


def table_section(tables: list[list[Code]]) -> bytes:
    """Return the data part of section 2 for custom tables."""
    out = struct.pack("<H", len(tables))
    for table in tables:
        out += struct.pack("<H", len(table))
        for prefix, extra, switch, value in table:
            base = int(prefix[::-1], 2)
            out += struct.pack("<BBBhI", len(prefix), len(prefix) + extra, 0 if switch else 1, value, base)
    return out


def differences(values: np.ndarray, order: int) -> list[int]:
    values = np.asarray(values, dtype=np.int64)
    if order == 1:
        return np.concatenate([values[:1], np.diff(values)]).tolist()
    if order == 2:
        return np.concatenate([values[:2], np.diff(values, 2)]).tolist()
    return values.tolist()


def block(
    parts: list[bytes], unit_nv: int = 1000, interval_us: int = 2000, order: int = 0, bimodal: bool = False
) -> bytes:
    """Return the data part of section 5 or 6."""
    parts = [part + b"\x00" * (len(part) % 2) for part in parts]
    head = struct.pack("<HHBB", unit_nv, interval_us, order, bimodal)
    return head + b"".join(struct.pack("<H", len(part)) for part in parts) + b"".join(parts)


def leads_section(leads: list[tuple[str, int, int]], subtracted: bool = False) -> bytes:
    flags = (1 if subtracted else 0) | 4 | (len(leads) << 3)
    return struct.pack("<BB", len(leads), flags & 0xFF) + b"".join(
        struct.pack("<IIB", start, end, CODES[name]) for name, start, end in leads
    )


def beats_section(
    length_ms: int, fiducial: int, beats: list[tuple[int, int, int, int]], zones: list[tuple[int, int]]
) -> bytes:
    out = struct.pack("<HHH", length_ms, fiducial, len(beats))
    out += b"".join(struct.pack("<HIII", *beat) for beat in beats)
    return out + b"".join(struct.pack("<II", *zone) for zone in zones)


def patient_section(identity: str = "S-1", name: str = "Planted", age: int = 60, sex: int = 2) -> bytes:
    tags = [
        (0, name.encode() + b"\x00"),
        (2, identity.encode() + b"\x00"),
        (4, struct.pack("<HB", age, 1)),
        (8, bytes([sex])),
    ]
    tags.append((25, struct.pack("<HBB", 2020, 2, 3)))
    return b"".join(struct.pack("<BH", tag, len(value)) + value for tag, value in tags) + b"\xff\x00\x00"


def scp_file(sections: dict[int, bytes], version: int = 20) -> bytes:
    """Return a whole file with pointers and check sums. version: ten times the protocol version."""
    count = 12
    own = 16 + 10 * count
    bodies: dict[int, bytes] = {}
    for number, data in sections.items():
        data += b"\x00" * (len(data) % 2)
        head = struct.pack("<HIBB6s", number, 16 + len(data), version, version, b"")
        body = head + data
        bodies[number] = struct.pack("<H", binascii.crc_hqx(body, 0xFFFF)) + body
    at = 6 + own
    pointers = struct.pack("<HII", 0, own, 7)
    for number in range(1, count):
        length = len(bodies.get(number, b""))
        pointers += struct.pack("<HII", number, length, at + 1 if length else 0)
        at += length
    first = struct.pack("<HIBB6s", 0, own, version, version, b"SCPECG") + pointers
    first = struct.pack("<H", binascii.crc_hqx(first, 0xFFFF)) + first
    rest = first + b"".join(bodies[number] for number in sorted(bodies))
    whole = struct.pack("<I", 6 + len(rest)) + rest
    return struct.pack("<H", binascii.crc_hqx(whole, 0xFFFF)) + whole


DEFAULT_MARK = struct.pack("<H", 19999)
