"""Mortara ELI XML (root ``ECG``), after published descriptions of the format.

Every CHANNEL carries its own scale, rate and base64 samples; the TYPICAL_CYCLE is an averaged beat.
"""

from __future__ import annotations

import base64
import binascii
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
    left_out_note,
    number,
    option_unit_mv,
    person_words,
    sex,
    statement_labels,
    stem,
)
from datasets.formats._xml import head_text, parse_xml, root_name
from datasets.formats.base import Reader, ReadOptions, ReadResult, Source, reader
from ecgportal.errors import NeedsAnswer, UnreadableFile

_CYCLE = {
    "PR_DURATION": "pr_ms", "PR_INTERVAL": "pr_ms", "QRS_DURATION": "qrs_ms", "QT": "qt_ms", "QTC": "qtc_ms",
    "QTB": "qtc_ms",
    "P_DURATION": "p_ms", "P_AXIS": "p_axis_deg", "QRS_AXIS": "qrs_axis_deg", "T_AXIS": "t_axis_deg",
}  # fmt: skip
_ROOT = {"VENT_RATE": "heart_rate_bpm", "AVERAGE_RR": "rr_ms", "NUM_QRS": "qrs_count"}
# Codes of DEMOGRAPHIC_FIELD; its labels are words of the device's language and may carry a second name behind "&".
_FIELD = {"1": "LAST", "2": "ID", "3": "AGE", "4": "SEX", "7": "FIRST", "16": "DOB"}
_AGE = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def _sniff(head: bytes, name: str) -> bool:
    if root_name(head) != "ECG":
        return False
    text = head_text(head)
    return any(
        mark in text for mark in ("ACQUISITION_TIME=", "ACQUISITION_TIME_XML=", "<TYPICAL_CYCLE", "UNITS_PER_MV=")
    )


def _row(name: str, lead: str, channel: Element, fs_hz: float, options: ReadOptions, notes: list[str]) -> np.ndarray:
    """Return one channel in millivolt."""
    bits, kind = channel.get("BITS", "16"), (channel.get("FORMAT") or "SIGNED").upper()
    if bits not in ("8", "16", "32") or kind != "SIGNED" or (channel.get("ENCODING") or "BASE64").upper() != "BASE64":
        raise UnreadableFile(
            f"{name}: lead {lead} stores {bits[:8]} bits, {kind[:16]}; signed numbers of 8, 16 or 32 bits in base64 are read.",
            code="unknown_sample_kind",
        )
    per_mv = decimal(channel.get("UNITS_PER_MV"))
    if per_mv is None and options.unit is None:
        raise NeedsAnswer(
            f"{name}: lead {lead} does not say how many digits one millivolt is. State it.",
            fields={"unit": "Mortara electrocardiographs store 200/mV or 400/mV; the file does not say which."},
        )
    scale = option_unit_mv(options.unit or "") if per_mv is None else 1 / per_mv if per_mv else 0.0
    if scale == 0:
        raise UnreadableFile(f"{name}: lead {lead} states 0 digits per millivolt. Export it again.", code="bad_scale")
    text = "".join((channel.get("DATA") or channel.text or "").split())
    try:
        raw = base64.b64decode(text[: len(text) // 4 * 4], validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableFile(
            f"{name}: the samples of lead {lead} are not base64 ({error}). The file is damaged; export it again.",
            code="bad_base64",
        ) from error
    width = int(bits) // 8
    held = len(raw) // width
    announced = number(channel.get("DURATION"))
    wanted = held if announced is None else int(announced)
    if announced is not None and held != wanted and round(held * 1000 / fs_hz) == wanted:
        # Some exports state the duration in milliseconds.
        wanted = held
    elif 0 < wanted < held:
        notes.append(f"Lead {lead} holds {held} samples and announces {wanted}; the announced ones were taken.")
    if wanted <= 0 or held < wanted:
        raise UnreadableFile(
            f"{name}: lead {lead} announces {wanted} samples but holds {held}. The file was cut off; export it again.",
            code="short_waveform",
        )
    check_size(name, 1, wanted)
    return (np.frombuffer(raw, f"<i{width}", wanted) * scale).astype(np.float32)


def _date(text: str | None) -> datetime | None:
    match = re.match(r"(\d{4})-?(\d\d)-?(\d\d)(?:T?(\d\d):?(\d\d):?(\d\d))?", text or "")
    if match is None:
        return None
    try:
        year, month, day, hour, minute, second = (int(part or 0) for part in match.groups())
        return datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None


def _printed(root: Element) -> dict[str, float]:
    cycle = root.find("TYPICAL_CYCLE")
    printed: dict[str, float] = {}
    for element, table in ((root, _ROOT), (cycle, _CYCLE)):
        for attribute, key in table.items():
            value = number(element.get(attribute)) if element is not None else None
            if value is not None and key not in printed and (value or key.endswith("_deg")):
                printed[key] = value
    return printed


def _field(field: Element) -> str:
    """Return the upper-case key of a demographic field."""
    label = field.get("LABEL", "").partition("&")[0].strip(" :").upper()
    return _FIELD.get((field.get("ID") or "").strip(), {"FNAME": "FIRST", "LNAME": "LAST"}.get(label, label))


def _meta(root: Element, notes: list[str]) -> RecordMeta:
    person = root.find("SUBJECT")
    subject = dict(person.attrib) if person is not None else {}
    fields = {_field(field): field.get("VALUE") for field in root.iter("DEMOGRAPHIC_FIELD")}
    at = _date(root.get("ACQUISITION_TIME_XML") or root.get("ACQUISITION_TIME"))
    age = number(root.get("AGE"))
    if age is None:
        age = number(fields.get("AGE"))
    names = [
        subject.get("LAST_NAME"),
        subject.get("FIRST_NAME"),
        fields.get("LAST"),
        fields.get("NAME"),
        fields.get("FIRST"),
        root.get("TECHNICIAN"),
    ]
    lines = [statement.get("TEXT") or "" for statement in root.iterfind("AUTOMATIC_INTERPRETATION/STATEMENT")]
    labels, left_out = statement_labels(lines, person_words(names))
    source = root.find("SOURCE")
    device = " ".join(filter(None, (source.get("MANUFACTURER"), source.get("MODEL")))) if source is not None else ""
    if root.find("TYPICAL_CYCLE") is not None:
        notes.append("The file also holds an averaged beat (TYPICAL_CYCLE), not taken as the rhythm.")
    born = _date(subject.get("DOB_XML") or subject.get("DOB") or fields.get("DOB"))
    return RecordMeta(
        subject=subject.get("ID") or subject.get("LOCAL_ID") or fields.get("ID") or None,
        age=age * _AGE.get((root.get("AGE_UNITS") or "Y")[:1].upper(), 1.0)
        if age is not None
        else age_between(born, at),
        sex=sex(subject.get("GENDER") or fields.get("SEX") or fields.get("GENDER")),
        labels=labels,
        printed=_printed(root),
        device=device or None,
        recorded_at=at.isoformat() if at else None,
        notes=(*notes, *left_out_note(left_out)),
    )


def _read(source: Source, options: ReadOptions) -> ReadResult:
    root = parse_xml(source)
    name = source.name
    channels = root.findall("CHANNEL")
    if root.tag != "ECG" or not channels:
        raise UnreadableFile(
            f"{name} is a Mortara file without rhythm channels. Export it with its waveforms.", code="no_waveform"
        )
    named = [lead_name(channel.get("NAME") or f"channel {index}") for index, channel in enumerate(channels, start=1)]
    leads = asked_leads(name, named, options)
    check_leads(name, leads)
    rates = {decimal(channel.get("SAMPLE_FREQ")) for channel in channels}
    if len(rates) > 1:
        raise UnreadableFile(
            f"{name} states different sampling rates for its leads. Export it at one rate.", code="bad_rate"
        )
    stated = rates.pop()
    if stated is None and options.fs_hz is None:
        raise NeedsAnswer(
            f"{name} gives no sampling rate. State it.",
            fields={
                "fs_hz": "No guess: Mortara electrocardiographs store 500 Hz or 1000 Hz; the file does not say which."
            },
        )
    fs_hz = check_rate(name, stated if stated is not None else options.fs_hz)
    notes: list[str] = []
    rows = [_row(name, lead, channel, fs_hz, options, notes) for lead, channel in zip(leads, channels, strict=True)]
    length = max(row.size for row in rows)
    check_size(name, len(rows), length)
    signal = np.full((len(rows), length), np.nan, np.float32)
    for index, (lead, row, channel) in enumerate(zip(leads, rows, channels, strict=True)):
        signal[index, : row.size] = row
        if row.size < length:
            notes.append(f"Lead {lead} has {row.size} of {length} samples; the rest is a gap.")
        if number(channel.get("OFFSET")):
            notes.append(f"Lead {lead} states an offset of {number(channel.get('OFFSET')):g}, which was not applied.")
    record = Record(signal=finite_signal(name, signal), fs_hz=fs_hz, leads=tuple(leads), meta=_meta(root, notes))
    return ReadResult(((stem(name), record),))


reader(Reader("mortara_xml", "Mortara ELI XML", (".xml",), _sniff, _read, tried_on_real_files=False))
