"""Schiller SEMA XML (``SchillerEDI``), after published descriptions of the format.

The wave data of type ECG_RHYTHMS (ECG_RHYTHM) is read; samples are comma-separated whole numbers.
"""

from __future__ import annotations

import re
from datetime import datetime
from xml.etree.ElementTree import Element

import numpy as np

from datasets.ecg import Record, RecordMeta
from datasets.formats._clinical import (
    age_between,
    asked_leads,
    check_leads,
    check_rate,
    check_size,
    decimal,
    finite_signal,
    lead_name,
    millivolts_per,
    number,
    option_unit_mv,
    parse_numbers,
    sex,
    stem,
)
from datasets.formats._xml import head_text, parse_xml, root_name, text_of
from datasets.formats.base import Reader, ReadOptions, ReadResult, Source, reader
from ecgportal.errors import NeedsAnswer, UnreadableFile

_RHYTHMS = ("ECG_RHYTHMS", "ECG_RHYTHM")
_PRINTED = {"HR": "heart_rate_bpm", "RR": "rr_ms", "PR": "pr_ms", "QRS": "qrs_ms", "QT": "qt_ms", "QTC": "qtc_ms"}
# Rates at which the exponent beside the rate can only be a formality.
_USUAL_HZ = (100.0, 8000.0)


def _sniff(head: bytes, name: str) -> bool:
    root = root_name(head) or ""
    # The root is the class name of the exporting program; older exports name it otherwise but keep the parts.
    return root.lower().endswith("schilleredi") or (
        root.lower().startswith("schiller") and "<patdata" in head_text(head)
    )


def _rate(name: str, block: Element, options: ReadOptions) -> float:
    value = decimal(text_of(block, "resolution/samplerate/value"))
    value = number(text_of(block, "resolution/samplerate")) if value is None else value
    exponent = number(text_of(block, "resolution/samplerate/exponent"))
    if value is None:
        if options.fs_hz is None:
            raise NeedsAnswer(
                f"{name} gives no sampling rate. State it.",
                fields={"fs_hz": "Schiller electrocardiographs store 500 Hz or 1000 Hz; the file does not say which."},
            )
        return check_rate(name, options.fs_hz)
    if exponent not in (None, 0.0, 1.0) or (exponent == 1.0 and not _USUAL_HZ[0] <= value <= _USUAL_HZ[1]):
        raise UnreadableFile(
            f"{name} states its sampling rate as {value:g} with the exponent {exponent:g}, whose meaning is not published. "
            "Export the recording in another format.",
            code="bad_rate",
        )
    return check_rate(name, value)


def _scale(name: str, block: Element, options: ReadOptions) -> float:
    """Return millivolt per digit."""
    value, unit = decimal(text_of(block, "resolution/yres/unitperbit")), text_of(block, "resolution/yres/units")
    factor = millivolts_per(unit) if unit else None
    if factor is None or value is None:
        if options.unit is None:
            raise NeedsAnswer(
                f"{name} does not say how many microvolt one digit is. State the unit.",
                fields={
                    "unit": "Schiller electrocardiographs store 1 to 5 microvolt per digit; the file does not say."
                },
            )
        return option_unit_mv(options.unit)
    if value == 0:
        raise UnreadableFile(f"{name} states a resolution of 0. Export the recording again.", code="bad_scale")
    return value * factor


def _date(text: str | None) -> datetime | None:
    match = re.match(r"(\d{4})-?(\d\d)-?(\d\d)", text or "")
    try:
        return datetime(int(match[1]), int(match[2]), int(match[3])) if match else None
    except ValueError:
        return None


def _printed(root: Element) -> dict[str, float]:
    """Return the global measurements, which stand as pairs of a name and a value."""
    printed: dict[str, float] = {}
    for block in root.iter("annotation_global"):
        for name, value in zip(block.findall("name"), block.findall("value"), strict=False):
            key, stated = _PRINTED.get((name.text or "").strip().upper()), number(value.text)
            if key and stated and key not in printed:
                printed[key] = stated
    return printed


def _meta(root: Element, notes: list[str]) -> RecordMeta:
    person = root.find("patdata")
    at = _date(text_of(root, "examdescript/startdatetime/date"))
    clock = re.match(r"(\d\d):?(\d\d):?(\d\d)", text_of(root, "examdescript/startdatetime/time") or "")
    recorded = at.date().isoformat() if at else None
    if recorded and clock:
        recorded = f"{recorded}T{clock[1]}:{clock[2]}:{clock[3]}"
    maker = text_of(root, "examdescript/aquiringdevice/hardware/model")
    age = number(text_of(person, "age"))
    return RecordMeta(
        subject=text_of(person, "id"),
        age=age if age is not None else age_between(_date(text_of(person, "birthdate")), at),
        sex=sex(text_of(person, "gender")),
        printed=_printed(root),
        device=f"Schiller {maker}" if maker else "Schiller",
        recorded_at=recorded,
        notes=tuple(notes),
    )


def _read(source: Source, options: ReadOptions) -> ReadResult:
    root = parse_xml(source)
    name = source.name
    records = []
    others: set[str] = set()
    for block in root.iterfind("eventdata/event/wavedata"):
        kind = (text_of(block, "type") or "").upper()
        if kind not in _RHYTHMS:
            others.add(kind or "wave data of no type")
            continue
        channels = block.findall("channel")
        named = [
            lead_name(text_of(channel, "name") or f"channel {index}") for index, channel in enumerate(channels, start=1)
        ]
        leads = asked_leads(name, named, options)
        check_leads(name, leads)
        if not leads:
            continue
        fs_hz, scale = _rate(name, block, options), _scale(name, block, options)
        rows = []
        for lead, channel in zip(leads, channels, strict=True):
            stored = (text_of(channel, "datatype") or text_of(channel, "datastype") or "COMMASEPARATE").upper()
            if not stored.startswith("COMMA"):
                raise UnreadableFile(
                    f"{name}: lead {lead} stores its samples as {stored[:20]}; comma-separated numbers are read. "
                    "Export the recording so.",
                    code="unknown_sample_kind",
                )
            text = (channel.findtext("data") or "").strip()
            rows.append(parse_numbers(name, f"lead {lead}", text, ",", scale))
        length = max(row.size for row in rows)
        check_size(name, len(rows), length)
        if length == 0:
            continue
        signal = np.full((len(rows), length), np.nan, np.float32)
        notes = []
        for index, (lead, row) in enumerate(zip(leads, rows, strict=True)):
            signal[index, : row.size] = row
            if row.size < length:
                notes.append(f"Lead {lead} has {row.size} of {length} samples; the rest is a gap.")
        records.append((fs_hz, tuple(leads), signal, notes))
    if not records:
        raise UnreadableFile(
            f"{name} is a Schiller file without a rhythm (ECG_RHYTHMS). Export it with its rhythm.", code="no_rhythm"
        )
    if others:
        for record in records:
            record[3].append(f"The file also holds {', '.join(sorted(others)).lower()}, not taken as the rhythm.")
    key = stem(name)
    made = [
        Record(signal=finite_signal(name, signal), fs_hz=fs, leads=leads, meta=_meta(root, notes))
        for fs, leads, signal, notes in records
    ]
    if len(made) == 1:
        return ReadResult(((key, made[0]),))
    return ReadResult(tuple((f"{key}_{index}", record) for index, record in enumerate(made, start=1)))


reader(Reader("schiller_xml", "Schiller XML", (".xml",), _sniff, _read, tried_on_real_files=False))
