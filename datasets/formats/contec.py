"""Contec ECG90A files, by the layout that N. Rigacci found out from files of his own device (rigacci.org, 2019).

43 bytes of header, samples of eight leads in turn (unsigned 16 bits around 2048, II III V1 to V6), 37 bytes behind them.
The maker publishes nothing, and the file states neither its rate nor its unit nor its leads: all three are asked for.
"""

from __future__ import annotations

import re

import numpy as np

from datasets.ecg import Record, RecordMeta
from datasets.formats._clinical import (
    check_leads,
    check_rate,
    check_size,
    finite_signal,
    lead_name,
    option_unit_mv,
    stem,
)
from datasets.formats.base import Reader, ReadOptions, ReadResult, Source, read_bytes, reader
from ecgportal.errors import InvalidInput, NeedsAnswer, UnreadableFile

_HEADER, _FOOTER, _LEADS = 43, 37, 8
_ZERO, _MOST, _OFF_SCALE = 2048, 4095, 0x6800
_START = re.compile(rb"[\x20-\x7e]{0,8}\x00*\Z")
_TIME = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\x00")
_GUESSES = {
    "fs_hz": "Guess: 800. The only described device of this kind, the ECG90A, samples at 800 Hz; the file does not say.",
    "unit": "Guess: 200/mV. Owners of an ECG90A took one digit for 5 microvolt; the file does not say. Compare the result with a print.",
    "lead_order": "Guess: II III V1 V2 V3 V4 V5 V6. So owners of an ECG90A found it; the file does not say.",
}


def _sniff(head: bytes, name: str) -> bool:
    return len(head) >= _HEADER and _TIME.match(head, 10) is not None and _START.match(head[:8]) is not None


def _read(source: Source, options: ReadOptions) -> ReadResult:
    name, data = source.name, read_bytes(source)
    stored = len(data) - _HEADER - _FOOTER
    if stored <= 0 or stored % (2 * _LEADS):
        raise UnreadableFile(
            f"{name} begins like a file of a Contec ECG90A, but {max(stored, 0)} bytes are not whole samples of {_LEADS} leads. "
            "It was cut off, or another device wrote it. Export it as SCP-ECG, DICOM or PDF with data from the device's software.",
            code="damaged_contec",
        )
    check_size(name, _LEADS, stored // (2 * _LEADS))
    digits = np.frombuffer(data, "<u2", stored // 2, _HEADER).reshape(-1, _LEADS).T
    # What is not recorded to the end is filled up with zeros, which no sample is.
    filled = np.flatnonzero((digits != 0).any(axis=0))
    digits = digits[:, : filled[-1] + 1 if filled.size else 0]
    off_scale = digits == _OFF_SCALE
    if not digits.size or ((digits > _MOST) & ~off_scale).any():
        raise UnreadableFile(
            f"{name} begins like a file of a Contec ECG90A, but holds samples that its converter of 12 bits cannot give. "
            "Another device wrote it; export it in another format.",
            code="damaged_contec",
        )
    asked = {key: text for key, text in _GUESSES.items() if getattr(options, key) is None}
    if asked:
        raise NeedsAnswer(f"{name} is of a Contec ECG90A and does not say what its samples are.", fields=asked)
    assert options.fs_hz is not None and options.unit is not None and options.lead_order is not None
    leads = [lead_name(lead) for lead in options.lead_order]
    if len(leads) != _LEADS:
        raise InvalidInput(f"{name} has {_LEADS} leads, but {len(leads)} names were given.")
    check_leads(name, leads)
    signal = ((digits.astype(np.float64) - _ZERO) * option_unit_mv(options.unit)).astype(np.float32)
    signal[off_scale] = np.nan
    notes = (f"{int(off_scale.sum())} samples beyond the converter's range are gaps.",) if off_scale.any() else ()
    subject = data[32:40].split(b"\x00")[0].decode("latin-1").strip()
    meta = RecordMeta(
        subject=subject if subject.isprintable() and subject else None,
        age=float(data[41]) if 0 < data[41] <= 130 else None,
        sex={0: "female", 1: "male"}.get(data[40]),
        device="Contec ECG90A",
        recorded_at=data[10:29].decode("ascii").replace(" ", "T"),
        notes=notes,
    )
    record = Record(finite_signal(name, signal), check_rate(name, options.fs_hz), tuple(leads), meta=meta)
    return ReadResult(((stem(name), record),))


reader(Reader("contec", "Contec ECG90A", (".ecg",), _sniff, _read, tried_on_real_files=False))
