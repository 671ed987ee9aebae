"""GE CardioSoft / CASE CardiologyXML.

The printed strips (``StripData``) are the recording; the full disclosure is read where no strip was stored.
"""

from __future__ import annotations

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
    number,
    option_unit_mv,
    parse_numbers,
    person_words,
    sex,
    statement_labels,
    stem,
)
from datasets.formats._xml import parse_xml, root_name, text_of
from datasets.formats.base import Reader, ReadOptions, ReadResult, Source, reader
from ecgportal.errors import NeedsAnswer, UnreadableFile

_PRINTED = {
    "VentricularRate": "heart_rate_bpm", "PQInterval": "pr_ms", "PDuration": "p_ms", "QRSDuration": "qrs_ms",
    "QTInterval": "qt_ms", "QTCInterval": "qtc_ms", "RRInterval": "rr_ms", "PPInterval": "pp_ms",
    "PAxis": "p_axis_deg", "RAxis": "qrs_axis_deg", "TAxis": "t_axis_deg", "QRSNum": "qrs_count",
}  # fmt: skip
_UNITS = {"uvperlsb": 1e-3, "nvperlsb": 1e-6, "mvperlsb": 1.0}
_AGE = {"YEARS": 1.0, "MONTHS": 1 / 12, "WEEKS": 7 / 365.25, "DAYS": 1 / 365.25, "HOURS": 1 / 8766}
_NAME_TAGS = ("FamilyName", "GivenName", "Facility", "LocationName", "City", "Name")


def _sniff(head: bytes, name: str) -> bool:
    return root_name(head) == "CardiologyXML"


def _scale(name: str, block: Element, options: ReadOptions) -> float:
    """Return millivolt per digit."""
    resolution = block.find("Resolution")
    value = decimal(resolution.text) if resolution is not None else None
    factor = _UNITS.get((resolution.get("units") or "").strip().lower()) if resolution is not None else None
    if value is None or factor is None:
        if options.unit is None:
            raise NeedsAnswer(
                f"{name} does not say how many microvolt one digit is. State the unit.",
                fields={"unit": "Guess: 200/mV. CardioSoft stores 5 microvolt per digit as a rule, that is 200/mV."},
            )
        return option_unit_mv(options.unit)
    if value == 0:
        raise UnreadableFile(f"{name} states a resolution of 0. Export the recording again.", code="bad_scale")
    return value * factor


def _rate(name: str, block: Element, options: ReadOptions) -> float:
    fs_hz = decimal(text_of(block, "SampleRate"))
    if fs_hz is None:
        fs_hz = options.fs_hz
    if fs_hz is None:
        raise NeedsAnswer(
            f"{name} gives no sampling rate. State it.",
            fields={"fs_hz": "Guess: 500. CardioSoft stores 500 Hz as a rule; the file does not say."},
        )
    return check_rate(name, fs_hz)


def _one_line(text: str) -> str:
    """Return the values of several lines as one; lines end with a separator or without one, depending on the version."""
    text = text.strip().replace("\r", "")
    if "," not in text:
        return ",".join(text.split())
    return text.replace(",\n", "\n").replace("\n", ",") if "\n" in text else text


def _strip(name: str, block: Element, options: ReadOptions) -> tuple[float, tuple[str, ...], np.ndarray, list[str]]:
    """Return (rate, leads, signal in mV, notes) of one strip."""
    fs_hz, scale = _rate(name, block, options), _scale(name, block, options)
    announced = number(text_of(block, "ChannelSampleCountTotal"))
    rows: list[np.ndarray] = []
    elements = block.findall("WaveformData")
    leads = [lead_name(element.get("lead") or f"lead {index}") for index, element in enumerate(elements, start=1)]
    check_leads(name, leads)
    total = 0
    for lead, element in zip(leads, elements, strict=True):
        values = parse_numbers(name, f"lead {lead}", _one_line(element.text or ""), ",", scale)
        if announced is not None and values.size != int(announced):
            raise UnreadableFile(
                f"{name}: lead {lead} announces {int(announced)} samples but holds {values.size}. "
                "The file was cut off; export it again.",
                code="short_waveform",
            )
        total += values.size
        check_size(name, 1, total)
        rows.append(values)
    length = max(row.size for row in rows)
    check_size(name, len(rows), length)
    signal = np.full((len(rows), length), np.nan, np.float32)
    for index, row in enumerate(rows):
        signal[index, : row.size] = row
    notes = [
        f"Lead {x} has {r.size} of {length} samples; the rest is a gap."
        for x, r in zip(leads, rows, strict=True)
        if r.size < length
    ]
    return fs_hz, tuple(leads), signal, notes


def _disclosure(
    name: str, block: Element, options: ReadOptions
) -> tuple[float, tuple[str, ...], np.ndarray, list[str]]:
    """Return the full disclosure: lead after lead in blocks of one second."""
    fs_hz, scale = _rate(name, block, options), _scale(name, block, options)
    leads = [lead_name(text) for text in (text_of(block, "LeadOrder") or "").split(",") if text.strip()]
    check_leads(name, leads)
    text = block.findtext("FullDisclosureData") or ""
    values = parse_numbers(name, "the full disclosure", _one_line(text), ",", scale)
    per_second = round(fs_hz)
    if not leads or values.size == 0 or values.size % (len(leads) * per_second):
        raise UnreadableFile(
            f"{name}: the full disclosure holds {values.size} samples, which is no whole number of seconds of "
            f"{len(leads)} leads at {fs_hz:g} Hz. The file was cut off; export it again.",
            code="short_waveform",
        )
    blocks = values.reshape(-1, len(leads), per_second).transpose(1, 0, 2).reshape(len(leads), -1)
    note = "No strip was stored; the full disclosure was read."
    return fs_hz, tuple(leads), blocks, [note]


def _date(block: Element | None) -> datetime | None:
    parts = [number(text_of(block, tag)) for tag in ("Year", "Month", "Day", "Hour", "Minute", "Second")]
    if any(part is None for part in parts[:3]):
        return None
    try:
        year, month, day, hour, minute, second = (int(part or 0) for part in parts)
        return datetime(year, month, day, hour, minute, second)
    except (ValueError, OverflowError):
        return None


def _beats(block: Element) -> list[tuple[float, str, str | None, str]]:
    """Return the beats of a strip; class names follow their times."""
    found: list[tuple[float, str, str | None, str]] = []
    for results in block.iterfind("ArrhythmiaResults"):
        for element in results:
            if element.tag == "Time" and (element.get("units") or "ms") == "ms":
                at = number(element.text)
                if at is not None:
                    found.append((at / 1000, "beat", None, ""))
            elif element.tag == "BeatClass" and found and not found[-1][3]:
                kind = (element.text or "").strip().lower()
                if kind.isalpha() and len(kind) < 24:
                    found[-1] = (*found[-1][:3], kind)
    return found


def _meta(root: Element, block: Element, notes: list[str]) -> RecordMeta:
    measurements = root.find("RestingECGMeasurements")
    printed = {}
    for tag, key in _PRINTED.items():
        value = number(text_of(measurements, tag))
        if value is not None and (value or key.endswith("_deg")):
            printed[key] = value
    statements = [element.text or "" for element in root.iterfind("Interpretation/Diagnosis/DiagnosisText")]
    statements += [element.text or "" for element in root.iterfind("Interpretation/Conclusion/ConclusionText")]
    people = person_words(element.text for tag in _NAME_TAGS for element in root.iter(tag))
    labels, left_out = statement_labels(dict.fromkeys(text.strip() for text in statements), people)
    at = _date(root.find("ObservationDateTime"))
    stated = root.find("PatientInfo/Age")
    age = number(stated.text) if stated is not None else None
    unit = _AGE.get((stated.get("units") or "YEARS").strip().upper()) if stated is not None else None
    device = " ".join(
        filter(
            None, (text_of(root, "ClinicalInfo/DeviceInfo/Desc"), text_of(root, "ClinicalInfo/DeviceInfo/SoftwareVer"))
        )
    )
    return RecordMeta(
        subject=text_of(root, "PatientInfo/PID"),
        age=age * unit
        if age is not None and unit is not None
        else age_between(_date(root.find("PatientInfo/BirthDateTime")), at),
        sex=sex(text_of(root, "PatientInfo/Gender")),
        labels=labels,
        printed=printed,
        annotations=tuple(_beats(block)),
        device=f"GE {device}" if device else None,
        recorded_at=at.isoformat() if at else None,
        notes=(*notes, *left_out_note(left_out)),
    )


def _read(source: Source, options: ReadOptions) -> ReadResult:
    root = parse_xml(source)
    name, key = source.name, stem(source.name)
    strips = [
        block for block in root.iter() if block.tag in ("StripData", "Strip") and block.find("WaveformData") is not None
    ]
    disclosure = root.find(".//FullDisclosure")
    has_disclosure = disclosure is not None and bool((disclosure.findtext("FullDisclosureData") or "").strip())
    records = []
    for block in strips:
        fs_hz, leads, signal, notes = _strip(name, block, options)
        if has_disclosure:
            notes.append("The file also holds a full disclosure; the strip was taken.")
        records.append(
            Record(signal=finite_signal(name, signal), fs_hz=fs_hz, leads=leads, meta=_meta(root, block, notes))
        )
    if not strips and disclosure is not None and has_disclosure:
        fs_hz, leads, signal, notes = _disclosure(name, disclosure, options)
        records.append(
            Record(signal=finite_signal(name, signal), fs_hz=fs_hz, leads=leads, meta=_meta(root, disclosure, notes))
        )
    if not records:
        raise UnreadableFile(
            f"{name} is a CardioSoft file without strips and without a full disclosure. Export it with its waveforms.",
            code="no_waveform",
        )
    if len(records) == 1:
        return ReadResult(((key, records[0]),))
    return ReadResult(tuple((f"{key}_{index}", record) for index, record in enumerate(records, start=1)))


reader(Reader("cardiosoft_xml", "GE CardioSoft XML", (".xml",), _sniff, _read))
