"""ISHNE Holter files (Badilini 1998): a fixed header of 522 bytes, a block of free text, interleaved 16-bit samples.

Beats of an annotation file (``.ann``, Zareba and others) of the same name are kept. The free text is not.
"""

from __future__ import annotations

import binascii
import struct
from datetime import datetime
from pathlib import PurePosixPath

import numpy as np

from datasets.ecg import Record, RecordMeta
from datasets.formats._clinical import (
    age_between,
    asked_leads,
    check_rate,
    check_size,
    distinct_leads,
    option_unit_mv,
    stem,
)
from datasets.formats.base import MAX_FILE_BYTES, Reader, ReadOptions, ReadResult, Source, read_bytes, reader
from ecgportal.errors import NeedsAnswer, TooLarge, UnreadableFile

_MAGIC, _BEATS_MAGIC = b"ISHNE1.0", b"ANN  1.0"
_HEADER_BYTES, _MOST_LEADS = 522, 12
_NO_SAMPLE = -32768
_BLOCK_SAMPLES = 1 << 20
_MAX_BEATS_BYTES = 16 * 1024 * 1024
_LEADS = {
    2: "X", 3: "Y", 4: "Z", 5: "I", 6: "II", 7: "III", 8: "aVR", 9: "aVL", 10: "aVF", 11: "V1", 12: "V2", 13: "V3", 14: "V4",
    15: "V5", 16: "V6", 17: "ES", 18: "AS", 19: "AI",
}  # fmt: skip
_SEX = {1: "male", 2: "female"}
_BEATS = frozenset("NVSFPEUXDBAQT")


def _sniff(head: bytes, name: str) -> bool:
    return head[:8] == _MAGIC


def _text(raw: bytes) -> str | None:
    text = raw.split(b"\x00")[0].decode("latin-1").strip()
    return text if text and text.isprintable() else None


def _moment(header: bytes, date_at: int, time_at: int | None = None) -> datetime | None:
    day, month, year = struct.unpack_from("<3h", header, date_at)
    hour, minute, second = struct.unpack_from("<3h", header, time_at) if time_at is not None else (0, 0, 0)
    try:
        return datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None


def _damaged(name: str, why: str, code: str = "damaged_ishne") -> UnreadableFile:
    return UnreadableFile(f"{name}: the ISHNE header {why}. The file is damaged; export it again.", code=code)


def _start(name: str, header: bytes, leads: int, size: int) -> int:
    """Return where the samples begin: behind the free text. A stated place that would mix up the leads is refused."""
    text_bytes, _, _, stated = struct.unpack_from("<4i", header, 10)
    start = _HEADER_BYTES + text_bytes
    if text_bytes < 0 or start > size:
        raise _damaged(name, f"states {text_bytes} bytes of text in a file of {size}")
    if stated > 0 and (stated - start) % (2 * leads):
        raise _damaged(name, f"lets the samples begin at byte {stated}, but its text ends at byte {start}")
    return start


def _frames(name: str, header: bytes, leads: int, stored: int, notes: list[str]) -> int:
    """Return the samples of each lead. The stated number counts those of one lead or of all, depending on the writer."""
    (stated,) = struct.unpack_from("<i", header, 14)
    held = stored // (2 * leads)
    counts_all = abs(stated - held * leads) <= leads
    if held == 0 or (stated > held and not counts_all):
        raise UnreadableFile(
            f"{name} announces {stated} samples but holds {held} of each of its {leads} leads. "
            "The file was cut off; send it again.",
            code="short_waveform",
        )
    if stated not in (held, held * leads):
        notes.append(f"The header states {stated} samples; the file holds {held} of each lead, which were taken.")
    return held


def _scales(name: str, header: bytes, leads: int, options: ReadOptions) -> list[float]:
    """Return millivolt per digit of every lead."""
    nanovolts = struct.unpack_from(f"<{leads}h", header, 206)
    if min(nanovolts) > 0:
        return [value * 1e-6 for value in nanovolts]
    if options.unit is None:
        raise NeedsAnswer(
            f"{name} does not say how many nanovolt one digit is. State the unit.",
            fields={"unit": "No guess: Holter recorders differ. Give <number>/mV, the digits of one millivolt."},
        )
    return [value * 1e-6 if value > 0 else option_unit_mv(options.unit) for value in nanovolts]


def _signal(source: Source, start: int, frames: int, scales: list[float]) -> np.ndarray:
    """Return float32 millivolt ``(leads, samples)``, NaN where the recorder marked a fault; read in pieces."""
    leads = len(scales)
    check_size(source.name, leads, frames)
    signal = np.empty((leads, frames), np.float32)
    factors = np.array(scales, np.float32)[:, None]
    with source.open() as stream:
        stream.seek(start)
        for first in range(0, frames, _BLOCK_SAMPLES):
            count = min(_BLOCK_SAMPLES, frames - first)
            digits = np.frombuffer(stream.read(2 * leads * count), "<i2").reshape(count, leads).T
            part = signal[:, first : first + count]
            np.multiply(digits, factors, out=part)
            part[digits == _NO_SAMPLE] = np.nan
    return signal


def _beats(source: Source, fs_hz: float, used: list[str]) -> list[tuple[float, str, str | None, str]]:
    """Return the beats of the annotation file beside the recording, up to the first stretch without a clock."""
    beside = source.companion(f"{PurePosixPath(source.name).stem}.ann")
    if beside is None:
        return []
    data = read_bytes(beside, _MAX_BEATS_BYTES)
    if data[:8] != _BEATS_MAGIC or len(data) < _HEADER_BYTES + 4:
        return []
    used.append(beside.name)
    at = _HEADER_BYTES + max(struct.unpack_from("<i", data, 10)[0], 0)
    if at + 4 > len(data):
        return []
    (sample,) = struct.unpack_from("<I", data, at)
    found: list[tuple[float, str, str | None, str]] = []
    for kind, _, step in struct.iter_unpack("<ccH", data[at + 4 : len(data) - (len(data) - at) % 4]):
        symbol = kind.decode("latin-1")
        if symbol == "!":
            break
        sample += step
        found.append((sample / fs_hz, symbol if symbol in _BEATS else "Q", None, ""))
    return found


def _read(source: Source, options: ReadOptions) -> ReadResult:
    name = source.name
    if source.size > MAX_FILE_BYTES:
        raise TooLarge(
            f"{name} is {source.size / 1e6:.0f} MB; a single file may have at most {MAX_FILE_BYTES / 1e6:.0f} MB. "
            "Split the recording or raise the limit on the server."
        )
    with source.open() as stream:
        header = stream.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES:
            raise _damaged(name, f"is cut off after {len(header)} bytes")
        (leads,) = struct.unpack_from("<h", header, 156)
        if not 1 <= leads <= _MOST_LEADS:
            raise _damaged(name, f"announces {leads} leads; 1 to {_MOST_LEADS} are possible")
        start = _start(name, header, leads, source.size)
        summed = header[10:] + stream.read(start - _HEADER_BYTES)
    notes: list[str] = []
    used: list[str] = []
    (checksum,) = struct.unpack_from("<H", header, 8)
    own = binascii.crc_hqx(summed, 0xFFFF)
    # Writers differ in the order of its two bytes; 0 is none.
    if checksum not in (0, own, own >> 8 | (own & 0xFF) << 8):
        notes.append("The check sum of the header does not fit: the header was changed after the recording.")
    fs_hz = check_rate(name, float(struct.unpack_from("<h", header, 272)[0]))
    frames = _frames(name, header, leads, source.size - start, notes)
    codes = struct.unpack_from(f"<{leads}h", header, 158)
    names = [
        _LEADS.get(code) or f"{'bipolar' if code == 1 else 'channel'} {i}" for i, code in enumerate(codes, start=1)
    ]
    signal = _signal(source, start, frames, _scales(name, header, leads, options))
    if struct.unpack_from("<h", header, 230)[0] > 0:
        notes.append("The header states a pacemaker.")
    at = _moment(header, 138, 150) or _moment(header, 138)
    meta = RecordMeta(
        subject=_text(header[108:128]),
        age=age_between(_moment(header, 132), at),
        sex=_SEX.get(struct.unpack_from("<h", header, 128)[0]),
        annotations=tuple(_beats(source, fs_hz, used)),
        device=_text(header[232:272]),
        recorded_at=at.isoformat() if at else None,
        notes=tuple(notes),
    )
    record = Record(signal, fs_hz, tuple(distinct_leads(name, asked_leads(name, names, options))), meta=meta)
    return ReadResult(((stem(name), record),), tuple(used))


reader(Reader("ishne", "ISHNE Holter", (".ecg", ".hol"), _sniff, _read, tried_on_real_files=False))
