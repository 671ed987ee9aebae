"""GE MUSE RestingECG XML.

The rhythm waveform is read at the rate of its own ``SampleBase``; the median is named in the notes. Stored are
eight leads as a rule; the limb leads that follow from I and II are left to the canonical form.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from datetime import datetime
from xml.etree.ElementTree import Element

import numpy as np

from datasets.ecg import Record, RecordMeta
from datasets.formats._clinical import (
    age_between,
    check_leads,
    check_rate,
    check_size,
    decimal,
    finite_signal,
    lead_name,
    left_out_note,
    millivolts_per,
    number,
    option_unit_mv,
    person_words,
    sex,
    statement_labels,
    stem,
    timeline,
)
from datasets.formats._xml import parse_xml, root_name, text_of
from datasets.formats.base import Reader, ReadOptions, ReadResult, Source, reader
from ecgportal.errors import NeedsAnswer, UnreadableFile

_PRINTED = {
    "VentricularRate": "heart_rate_bpm", "AtrialRate": "atrial_rate_bpm", "PRInterval": "pr_ms", "QRSDuration": "qrs_ms",
    "QTInterval": "qt_ms", "QTCorrected": "qtc_ms", "PAxis": "p_axis_deg", "RAxis": "qrs_axis_deg",
    "TAxis": "t_axis_deg", "QRSCount": "qrs_count",
}  # fmt: skip
_AGE = {"YEARS": 1.0, "MONTHS": 1 / 12, "WEEKS": 7 / 365.25, "DAYS": 1 / 365.25, "HOURS": 1 / 8766}
_DATE = re.compile(r"(\d{1,2})-(\d{1,2})-(\d{4})")
_NAME_TAGS = re.compile(r"(LastName|FirstName|SiteName|LocationName|RoomID)$")


def _sniff(head: bytes, name: str) -> bool:
    return root_name(head) == "RestingECG"


def _rate(name: str, waveform: Element, options: ReadOptions) -> float:
    base = decimal(text_of(waveform, "SampleBase"))
    if base is None:
        if options.fs_hz is None:
            raise NeedsAnswer(
                f"{name} gives no SampleBase for its rhythm. State the sampling rate.",
                fields={"fs_hz": "Guess: 500. MUSE stores 240, 250, 500 or 1000 Hz; the file does not say which."},
            )
        return check_rate(name, options.fs_hz)
    exponent = number(text_of(waveform, "SampleExponent")) or 0.0
    return check_rate(name, base * 10.0**exponent if abs(exponent) <= 9 else None)


def _scale(name: str, lead: str, data: Element, options: ReadOptions) -> float:
    """Return millivolt per digit."""
    per_bit = decimal(text_of(data, "LeadAmplitudeUnitsPerBit"))
    unit = text_of(data, "LeadAmplitudeUnits")
    factor = millivolts_per(unit) if unit else None
    if factor is None or per_bit is None:
        if options.unit is None:
            raise NeedsAnswer(
                f"{name}: lead {lead} does not say how many microvolt one digit is. State the unit.",
                fields={
                    "unit": "Guess: 204.918/mV. MUSE stores 4.88 microvolt per digit as a rule, that is 204.918/mV."
                },
            )
        factor = option_unit_mv(options.unit) if factor is None else factor
        per_bit = 1.0 if per_bit is None else per_bit
    if per_bit == 0:
        raise UnreadableFile(f"{name}: lead {lead} states 0 microvolt per digit. Export it again.", code="bad_scale")
    return per_bit * factor


def _digits(name: str, lead: str, data: Element, notes: list[str]) -> np.ndarray:
    """Return the stored integers of one lead, int16 little endian in base64."""
    size = number(text_of(data, "LeadSampleSize"))
    if size not in (None, 2.0):
        raise UnreadableFile(
            f"{name}: lead {lead} stores {size:g} bytes a sample; MUSE files have 2. Export it again.",
            code="bad_sample_size",
        )
    text = "".join((data.findtext("WaveFormData") or "").split())
    if len(text) % 4 == 1:
        # A cut in the middle of a group: the counts below say it better than the decoder would.
        text = text[:-1]
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableFile(
            f"{name}: the samples of lead {lead} are not base64 ({error}). The file is damaged; export it again.",
            code="bad_base64",
        ) from error
    announced = number(text_of(data, "LeadSampleCountTotal"))
    held = len(raw) // 2
    wanted = held if announced is None else int(announced)
    if wanted <= 0 or held < wanted:
        raise UnreadableFile(
            f"{name}: lead {lead} announces {wanted} samples but holds {held}. The file was cut off; export it again.",
            code="short_waveform",
        )
    check_size(name, 1, wanted)
    checksum = text_of(data, "LeadDataCRC32")
    if checksum and checksum.isdigit() and int(checksum) != zlib.crc32(raw):
        notes.append(f"The checksum of lead {lead} does not fit its samples: the file was changed after the recording.")
    if (text_of(data, "LeadOff") or "").upper() == "TRUE":
        notes.append(f"The device reported lead {lead} as off.")
    offset = number(text_of(data, "LeadTimeOffset"))
    if offset:
        notes.append(f"Lead {lead} is stated to start {offset:g} later; the samples were not moved.")
    for tag in ("LeadOffsetFirstSample", "FirstSampleBaseline"):
        if number(text_of(data, tag)):
            notes.append(f"Lead {lead} states a {tag} of {number(text_of(data, tag)):g}, which was not applied.")
    return np.frombuffer(raw, "<i2", wanted)


def _waveform(
    name: str, waveform: Element, options: ReadOptions
) -> tuple[float, tuple[str, ...], np.ndarray, list[str]]:
    """Return (rate, leads, signal in mV, notes) of one Waveform element."""
    fs_hz = _rate(name, waveform, options)
    notes: list[str] = []
    rows: dict[str, np.ndarray] = {}
    elements = waveform.findall("LeadData")
    names = [lead_name(text_of(data, "LeadID") or f"lead {index}") for index, data in enumerate(elements, start=1)]
    check_leads(name, names)
    total = 0
    for lead, data in zip(names, elements, strict=True):
        digits = _digits(name, lead, data, notes)
        total += digits.size
        check_size(name, 1, total)
        rows[lead] = (digits * _scale(name, lead, data, options)).astype(np.float32)
    if not rows:
        return fs_hz, (), np.empty((0, 0), np.float32), notes
    length = max(row.size for row in rows.values())
    check_size(name, len(rows), length)
    signal = np.full((len(rows), length), np.nan, np.float32)
    for index, (lead, row) in enumerate(rows.items()):
        signal[index, : row.size] = row
        if row.size < length:
            notes.append(f"Lead {lead} has {row.size} of {length} samples; the rest is a gap.")
    return fs_hz, tuple(rows), signal, notes


def _statements(root: Element) -> tuple[list[str], int]:
    """Return the lines of the diagnosis, and how many pieces compared it with an earlier recording.

    A line is split over several elements; only a whole line says what was meant ("CANNOT RULE OUT" "INFARCT").
    """
    lines: list[str] = []
    pieces: list[str] = []
    statements = root.findall("Diagnosis/DiagnosisStatement")
    for index, statement in enumerate(statements):
        text = text_of(statement, "StmtText") or ""
        if text.upper().startswith(("WHEN COMPARED", "COMPARED")):
            if pieces:
                lines.append(" ".join(pieces))
            return lines, len(statements) - index
        pieces.append(text)
        if any((flag.text or "").strip() == "ENDSLINE" for flag in statement.findall("StmtFlag")):
            lines.append(" ".join(pieces))
            pieces = []
    if pieces:
        lines.append(" ".join(pieces))
    return lines, 0


def _date(text: str | None) -> datetime | None:
    """Return a date that MUSE writes month first, or None."""
    match = _DATE.fullmatch(text or "")
    try:
        return datetime(int(match[3]), int(match[1]), int(match[2])) if match else None
    except ValueError:
        return None


def _recorded_at(root: Element) -> str | None:
    at = _date(text_of(root, "TestDemographics/AcquisitionDate"))
    if at is None:
        return None
    time = text_of(root, "TestDemographics/AcquisitionTime") or ""
    date = at.date().isoformat()
    return f"{date}T{time}" if re.fullmatch(r"\d{2}:\d{2}:\d{2}", time) else date


def _beats(
    root: Element, fs_hz: float, samples: int, rate_bpm: float | None, notes: list[str]
) -> list[tuple[float, str, str | None, str]]:
    """Return the QRS marks. Their times are milliseconds or samples of the rhythm, by version: the printed rate tells."""
    marks = [
        (at, kind)
        for at, kind in (
            (number(text_of(qrs, "Time")), text_of(qrs, "Type")) for qrs in root.iterfind("QRSTimesTypes/QRS")
        )
        if at is not None and at >= 0
    ]
    if len(marks) < 2:
        return []
    last, rr = marks[-1][0], (marks[-1][0] - marks[0][0]) / (len(marks) - 1)
    # A unit under which the marks outlast the recording, or beat otherwise than is printed, is the wrong one.
    fits = {
        unit_s
        for unit_s in (1e-3, 1 / fs_hz)
        if last * unit_s <= samples / fs_hz
        and rr > 0
        and (not rate_bpm or abs(60 / (rr * unit_s) / rate_bpm - 1) < 0.2)
    }
    if len(fits) != 1:
        notes.append(
            "The QRS times of the file were left out: their unit is not stated, and its other values do not tell it."
        )
        return []
    unit_s = fits.pop()
    return [
        (round(at * unit_s, 6), "qrs", None, f"type {kind}" if kind and kind.isdigit() else "") for at, kind in marks
    ]


def _meta(root: Element, fs_hz: float, samples: int, notes: list[str]) -> RecordMeta:
    measurements = root.find("RestingECGMeasurements")
    if measurements is None:
        measurements = root.find("OriginalRestingECGMeasurements")
    printed = {}
    for tag, key in _PRINTED.items():
        value = number(text_of(measurements, tag))
        # MUSE writes 0 for an interval or rate that was not measured.
        if value is not None and (value or key.endswith("_deg")):
            printed[key] = value
    beats = _beats(root, fs_hz, samples, printed.get("heart_rate_bpm"), notes)
    age = number(text_of(root, "PatientDemographics/PatientAge"))
    unit = (text_of(root, "PatientDemographics/AgeUnits") or "YEARS").upper()
    lines, compared = _statements(root)
    people = person_words(element.text for element in root.iter() if _NAME_TAGS.search(element.tag))
    labels, left_out = statement_labels(lines, people)
    device = text_of(root, "TestDemographics/AcquisitionDevice")
    born, at = (
        _date(text_of(root, path)) for path in ("PatientDemographics/DateofBirth", "TestDemographics/AcquisitionDate")
    )
    return RecordMeta(
        subject=text_of(root, "PatientDemographics/PatientID"),
        age=age * _AGE[unit] if age is not None and unit in _AGE else age_between(born, at),
        sex=sex(text_of(root, "PatientDemographics/Gender")),
        labels=labels,
        printed=printed,
        annotations=tuple(beats),
        device=f"GE {device}" if device else None,
        recorded_at=_recorded_at(root),
        notes=(*notes, *left_out_note(left_out + compared)),
    )


def _read(source: Source, options: ReadOptions) -> ReadResult:
    root = parse_xml(source)
    name = source.name
    waveforms = root.findall("Waveform")
    kinds = [(text_of(waveform, "WaveformType") or "").lower() for waveform in waveforms]
    # A file with one untyped waveform can only mean the recording itself.
    chosen = [w for w, kind in zip(waveforms, kinds, strict=True) if kind == "rhythm" or (not kind and len(kinds) == 1)]
    parts = [(waveform, *_waveform(name, waveform, options)) for waveform in chosen]
    parts = [part for part in parts if part[2]]
    if not parts:
        held = ", ".join(sorted({kind for kind in kinds if kind})) or "none"
        raise UnreadableFile(
            f"{name} is a MUSE file without a rhythm waveform (waveforms: {held}). Export it with its rhythm.",
            code="no_rhythm",
        )
    others = [kind for kind in kinds if kind and kind != "rhythm"]
    notes = [f"The file also holds a {kind} waveform, not taken as the rhythm." for kind in others]
    records = []
    for fs_hz in dict.fromkeys(part[1] for part in parts):
        same = [part for part in parts if part[1] == fs_hz]
        groups = [same] if len({part[2] for part in same}) == len(same) else [[part] for part in same]
        for group in groups:
            # WaveformStartTime counts milliseconds from the start of the acquisition.
            starts = [(number(text_of(part[0], "WaveformStartTime")) or 0.0) / 1000 for part in group]
            order = sorted(range(len(group)), key=lambda i: -group[i][3].shape[1])
            leads, signal = timeline(name, fs_hz, [(starts[i], group[i][2], group[i][3]) for i in order])
            remarks = [*notes, *(text for part in group for text in part[4])]
            meta = _meta(root, fs_hz, signal.shape[1], remarks)
            records.append(Record(signal=finite_signal(name, signal), fs_hz=fs_hz, leads=leads, meta=meta))
    key = stem(name)
    if len(records) == 1:
        return ReadResult(((key, records[0]),))
    return ReadResult(tuple((f"{key}_{index}", record) for index, record in enumerate(records, start=1)))


reader(Reader("muse_xml", "GE MUSE XML", (".xml",), _sniff, _read))
