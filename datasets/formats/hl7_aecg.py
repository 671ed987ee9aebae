"""HL7 annotated ECG (aECG, ANSI/HL7 V3 ECG R1-2004; FDA's exchange format).

Every rhythm series gives a record; representative beats (``derivedSeries``) are named in the notes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from xml.etree.ElementTree import Element

import numpy as np

from datasets.ecg import Record, RecordMeta
from datasets.formats._clinical import (
    CODED_LEADS,
    age_between,
    check_leads,
    check_rate,
    check_size,
    decimal,
    finite_signal,
    known_lead,
    lead_name,
    left_out_note,
    millivolts_per,
    number,
    option_unit_mv,
    parse_numbers,
    person_words,
    sex,
    statement_labels,
    stem,
    timeline,
    without_calibration,
)
from datasets.formats._xml import head_text, parse_xml, root_name, text_of
from datasets.formats.base import Reader, ReadOptions, ReadResult, Source, reader
from ecgportal.errors import NeedsAnswer, UnreadableFile

_SECONDS = {
    "s": 1.0, "sec": 1.0, "second": 1.0, "ms": 1e-3, "msec": 1e-3, "us": 1e-6, "usec": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6,
    "ns": 1e-9, "min": 60.0,
}  # fmt: skip
# A step without a unit is in seconds by the guide; above this it is no rate of an ECG then.
_MOST_STEP_S = 0.1
_YEARS = {"a": 1.0, "y": 1.0, "yr": 1.0, "mo": 1 / 12, "wk": 7 / 365.25, "d": 1 / 365.25}
_PRINTED = {
    "MDC_ECG_HEART_RATE": "heart_rate_bpm", "MDC_ECG_TIME_PD_RR": "rr_ms", "MDC_ECG_TIME_PD_PP": "pp_ms",
    "MDC_ECG_TIME_PD_PR": "pr_ms", "MDC_ECG_TIME_PD_PQ": "pr_ms", "MDC_ECG_TIME_PD_QRS": "qrs_ms",
    "MDC_ECG_TIME_PD_QT": "qt_ms", "MDC_ECG_TIME_PD_QTC": "qtc_ms", "MDC_ECG_TIME_PD_QTCB": "qtc_ms",
    "MDC_ECG_TIME_PD_P": "p_ms", "MDC_ECG_ANGLE_P_FRONT": "p_axis_deg", "MDC_ECG_ANGLE_QRS_FRONT": "qrs_axis_deg",
    "MDC_ECG_ANGLE_T_FRONT": "t_axis_deg", "MINDRAY_ECG_P_AXIS": "p_axis_deg", "MINDRAY_ECG_QRS_AXIS": "qrs_axis_deg",
    "MINDRAY_ECG_T_AXIS": "t_axis_deg", "MINDRAY_ECG_TIME_PD_QTCH": "qtc_ms", "MDC_ECG_QRS_COUNT": "qrs_count",
}  # fmt: skip
_WAVES = {
    "PWAVE": "p",
    "QRSWAVE": "qrs",
    "QRSTWAVE": "qrst",
    "TWAVE": "t",
    "UWAVE": "u",
    "QWAVE": "q",
    "RWAVE": "r",
    "SWAVE": "s",
}
_ROOT = "annotatedecg"
# ISO/IEEE 11073-10101: a lead's potential is this plus the lead's number.
_MDC_POTENTIAL = 131_328
# Series that hold one averaged beat, whatever nomenclature names them.
_BEAT = re.compile(r"REPRESENTATIVE|MEDIAN|AVERAGE|TEMPLATE|(?<![A-Z])BEAT")
# Numbers between blanks with one comma at most inside each of them.
_DECIMAL_COMMAS = re.compile(r"(?:[-+]?\d+(?:,\d+)?[ \t]+)+")
_TIMESTAMP = re.compile(r"(\d{4})(\d{2})(\d{2})(?:(\d{2})(\d{2})?(\d{2})?(?:\.(\d{1,9}))?)?")


def _sniff(head: bytes, name: str) -> bool:
    root = root_name(head) or ""
    # A message of HL7 version 3 carries the document inside.
    return root.lower() == _ROOT or (root.startswith("PORT_") and f"<{_ROOT}" in head_text(head).lower())


def _lead(code: Element) -> str:
    """Return the lead that a sequence's code names: in letters, by its number in the MDC nomenclature, or in words."""
    value, words = (code.get("code") or "").strip(), (code.get("displayName") or "").strip()
    if value.isdecimal() and len(value) < 9:
        value = CODED_LEADS.get(int(value) - _MDC_POTENTIAL, value)
    return lead_name(words) if known_lead(value) is None and known_lead(words) is not None else lead_name(value)


def _time(text: str | None) -> datetime | None:
    """Return an HL7 time stamp (YYYYMMDD[HH[MM[SS[.fff]]]][+ZZZZ]) without its zone."""
    match = _TIMESTAMP.match((text or "").strip())
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    try:
        fraction = timedelta(seconds=float("0." + (match[7] or "0")))
        return datetime(year, month, day, hour, minute, second) + fraction
    except (ValueError, OverflowError):
        return None


def _code(element: Element) -> str:
    found = element.find("code")
    return (found.get("code") or "").strip() if found is not None else ""


def _quantity(element: Element | None) -> tuple[float | None, str]:
    if element is None:
        return None, ""
    return decimal(element.get("value")), (element.get("unit") or "").strip()


class _Set:
    """One sequence set: simultaneous leads at one rate. start: absolute time, or seconds, or None."""

    def __init__(self, name: str, element: Element, options: ReadOptions):
        self.start: datetime | float | None = None
        self.dropped: list[str] = []
        self.notes: list[str] = []
        self.step_unit = ""
        fs_hz: float | None = None
        rows: dict[str, np.ndarray] = {}
        leads: list[str] = []
        total = 0
        for sequence in element.iterfind("component/sequence"):
            code, value = _code(sequence), sequence.find("value")
            if value is None:
                continue
            if code.startswith("TIME_"):
                fs_hz, self.start = self._clock(value)
                continue
            lead = _lead(found) if (found := sequence.find("code")) is not None else lead_name(code)
            row = self._samples(name, lead, value, options)
            if row is None and lead not in self.dropped:
                self.notes.append(f"Lead {lead} holds no samples.")
            if row is not None:
                leads.append(lead)
                rows[lead] = row
                total += row.size
                check_size(name, 1, total)
        check_leads(name, leads)
        self.leads = tuple(leads)
        if not leads:
            return
        if fs_hz is None:
            fs_hz = options.fs_hz
        if fs_hz is None:
            unknown = f" in a known unit (stated: {self.step_unit[:20]})" if self.step_unit else ""
            raise NeedsAnswer(
                f"{name} gives no time increment for its waveform{unknown}. State the sampling rate.",
                fields={"fs_hz": "Guess: 500. 500 Hz and 1000 Hz are the usual rates of annotated ECG files."},
            )
        self.fs_hz = check_rate(name, fs_hz)
        length = max(row.size for row in rows.values())
        self.signal = np.full((len(leads), length), np.nan, np.float32)
        check_size(name, len(leads), length)
        for index, lead in enumerate(leads):
            self.signal[index, : rows[lead].size] = rows[lead]
            if rows[lead].size < length:
                self.notes.append(f"Lead {lead} has {rows[lead].size} of {length} samples; the rest is a gap.")

    def _clock(self, value: Element) -> tuple[float | None, datetime | float | None]:
        increment, unit = _quantity(value.find("increment"))
        head = value.find("head")
        start: datetime | float | None = None
        if head is not None:
            relative, head_unit = _quantity(head)
            absolute = _time(head.get("value")) if len((head.get("value") or "").split(".")[0]) >= 8 else None
            start = absolute if absolute is not None else (relative or 0.0) * _SECONDS.get(head_unit, 1.0)
        if not increment or increment <= 0:
            return None, start
        step_s = _SECONDS.get(unit.lower() or "s")
        if step_s is None or (not unit and increment > _MOST_STEP_S):
            self.step_unit = unit or "none"
            return None, start
        fs_hz = 1 / (increment * step_s)
        # The increment is printed with few digits; a rate within 0.001 % of a whole number is that number.
        return (float(round(fs_hz)) if abs(fs_hz - round(fs_hz)) < 1e-5 * fs_hz else fs_hz), start

    def _samples(self, name: str, lead: str, value: Element, options: ReadOptions) -> np.ndarray | None:
        digits = value.find("digits")
        if digits is None or not (digits.text or "").strip():
            return None
        scale, unit = _quantity(value.find("scale"))
        origin, origin_unit = _quantity(value.find("origin"))
        if scale == 0:
            raise UnreadableFile(
                f"{name}: lead {lead} states a scale of 0. Export the recording again.", code="bad_scale"
            )
        if unit:
            factor = millivolts_per(unit)
            if factor is None and known_lead(lead) is None:
                self.dropped.append(lead)
                return None
            if factor is None and options.unit is None:
                raise NeedsAnswer(
                    f"{name} gives lead {lead} in {unit[:20]!r}, which is not a voltage. State the unit.",
                    fields={
                        "unit": f"Guess: uV. The file says {unit[:20]!r}; uV is the usual unit of annotated ECG files."
                    },
                )
            factor = option_unit_mv(options.unit or "uV") if factor is None else factor
        elif options.unit is not None:
            factor = option_unit_mv(options.unit)
        else:
            raise NeedsAnswer(
                f"{name}: lead {lead} does not say how many microvolt one digit is. State the unit.",
                fields={"unit": "Guess: uV. The file names no unit; uV is the usual unit of annotated ECG files."},
            )
        offset = (origin or 0.0) * (millivolts_per(origin_unit) or factor)
        per_digit = (1.0 if scale is None else scale) * factor
        # The schema wants blanks between the digits; some writers put commas.
        text = digits.text or ""
        start = f"{text[:4000].strip()} " if len(text) <= 4000 else text[: text[:4000].rfind(" ") + 1].lstrip()
        if "," in start and _DECIMAL_COMMAS.fullmatch(start):
            raise UnreadableFile(
                f"{name}: lead {lead} holds numbers like {text.split()[0][:20]!r}, in which the comma may divide two samples "
                "or be a decimal comma. Export the recording again.",
                code="not_a_number",
            )
        text = text.replace(",", " ")
        return parse_numbers(name, f"lead {lead}", text, None, per_digit, offset)


def _printed(key: str, quantity: float, unit: str) -> float:
    """Return a measurement in the unit that its key names; one without a known unit is taken to be in it."""
    if key.endswith("_ms") and unit in _SECONDS:
        return round(quantity * _SECONDS[unit] * 1000, 6)
    if key.endswith("_bpm") and unit in ("hz", "/s", "1/s"):
        return quantity * 60
    return round(math.degrees(quantity), 6) if key.endswith("_deg") and unit == "rad" else quantity


class _Annotations:
    """Measurements, marks and statements of the annotation sets of one series."""

    def __init__(self) -> None:
        self.printed: dict[str, float] = {}
        self.marks: list[tuple[float, str, str | None, str]] = []
        self.statements: list[str] = []

    def walk(
        self, element: Element, start: datetime | float | None, marks: bool, lead: str | None = None, depth: int = 0
    ) -> None:
        for component in element.iterfind("component/annotation"):
            here = self._lead(component) or lead
            self._take(component, start, marks, here)
            if depth < 20:
                self.walk(component, start, marks, here, depth + 1)

    @staticmethod
    def _boundaries(annotation: Element) -> Iterator[Element]:
        return annotation.iterfind("support/supportingROI/component/boundary")

    def _lead(self, annotation: Element) -> str | None:
        for boundary in self._boundaries(annotation):
            code = _code(boundary)
            if code.startswith("MDC_ECG_LEAD"):
                return lead_name(code)
        return None

    def _take(self, annotation: Element, start: datetime | float | None, marks: bool, lead: str | None) -> None:
        code, value = _code(annotation).upper(), annotation.find("value")
        if value is None:
            return
        key = _PRINTED.get(code.removesuffix("_GL"))
        if key is not None:
            quantity, unit = _quantity(value)
            if quantity is not None and lead is None and key not in self.printed and (quantity or key.endswith("_deg")):
                self.printed[key] = _printed(key, quantity, unit.lower())
            return
        meant = (value.get("code") or "").upper()
        if code.startswith("MDC_ECG_RHY"):
            self.statements.append(
                value.get("displayName")
                or meant.removeprefix("MDC_ECG_RHY_").replace("_RHY", " RHYTHM").replace("_", " ")
            )
        elif "INTERPRETATION" in code and value.text:
            self.statements.append(value.text)
        if not marks:
            return
        for low, high in self._times(annotation, start):
            if code in ("MDC_ECG_WAVC", "MDC_ECG_WAVC_TYPE"):
                wave = _WAVES.get(meant.removeprefix("MDC_ECG_WAVC_"))
                if wave and low is not None:
                    self.marks.append((low, f"{wave}_onset", lead, ""))
                if wave and high is not None:
                    self.marks.append((high, f"{wave}_offset", lead, ""))
            elif code == "MDC_ECG_BEAT" and low is not None:
                self.marks.append((low, "beat", lead, meant.removeprefix("MDC_ECG_BEAT_").lower()))

    def _times(
        self, annotation: Element, start: datetime | float | None
    ) -> Iterator[tuple[float | None, float | None]]:
        for boundary in self._boundaries(annotation):
            value = boundary.find("value")
            if _code(boundary).startswith("TIME_") and value is not None:
                yield self._since(value.find("low"), start), self._since(value.find("high"), start)

    @staticmethod
    def _since(element: Element | None, start: datetime | float | None) -> float | None:
        if element is None:
            return None
        quantity, unit = _quantity(element)
        if unit in _SECONDS and quantity is not None:
            begin = start if isinstance(start, float) else 0.0
            return quantity * _SECONDS[unit] - begin
        at = _time(element.get("value"))
        return round((at - start).total_seconds(), 6) if at is not None and isinstance(start, datetime) else None


def _demographics(root: Element) -> tuple[str | None, str | None, datetime | None, float | None]:
    """Return (subject key, sex, birth, stated age in years)."""
    trial_subject = root.find(".//trialSubject")
    key, birth, gender, age = None, None, None, None
    if trial_subject is not None:
        identity = trial_subject.find("id")
        if identity is not None:
            key = (identity.get("extension") or identity.get("root") or "").strip() or None
        person = trial_subject.find("subjectDemographicPerson")
        if person is not None:
            key = key or text_of(person, "PatientID")
            age = number(text_of(person, "Age"))
            code = person.find("administrativeGenderCode")
            gender = sex(code.get("code")) if code is not None else None
            born = person.find("birthTime")
            birth = _time(born.get("value")) if born is not None else None
    for observation in root.iterfind(".//relatedObservation"):
        if _code(observation) == "21612-7":
            quantity, unit = _quantity(observation.find("value"))
            age = quantity * _YEARS.get(unit, 1.0) if quantity is not None else age
    return key, gender, birth, age


def _recorded(root: Element, series: Element) -> datetime | None:
    for owner in (series, root):
        for path in ("effectiveTime/low", "effectiveTime/center"):
            found = owner.find(path)
            at = _time(found.get("value")) if found is not None else None
            if at is not None:
                return at
    return None


def _meta(
    root: Element, series: Element, start: datetime | float | None, used: list[_Set], remarks: list[str]
) -> RecordMeta:
    found = _Annotations()
    for annotation_set in series.iterfind("subjectOf/annotationSet"):
        found.walk(annotation_set, start, marks=True)
    derived = list(series.iterfind("derivation/derivedSeries"))
    for entry in derived:
        # Times inside a representative beat are no times of the rhythm; its measurements are the record's.
        for annotation_set in entry.iterfind("subjectOf/annotationSet"):
            found.walk(annotation_set, None, marks=False)
    people = person_words(name.text for name in root.iter("name"))
    labels, left_out = statement_labels(found.statements, people)
    key, gender, birth, age = _demographics(root)
    at = _recorded(root, series)
    author = series.find("author/seriesAuthor")
    device = " ".join(
        filter(
            None,
            (
                text_of(author, "manufacturerOrganization/name"),
                text_of(author, "manufacturedSeriesDevice/manufacturerModelName"),
            ),
        )
    )
    notes = [*(text for entry in used for text in entry.notes), *remarks]
    if derived:
        kinds = ", ".join(sorted({_code(entry).replace("_", " ").lower() or "derived series" for entry in derived}))
        notes.append(f"The file also holds {len(derived)} derived series ({kinds}), not taken as the rhythm.")
    return RecordMeta(
        subject=key,
        age=age if age is not None else age_between(birth, at),
        sex=gender,
        labels=labels,
        printed=found.printed,
        annotations=tuple(sorted(found.marks, key=lambda mark: mark[0])),
        dropped_channels=tuple(dict.fromkeys(text for entry in used for text in entry.dropped)),
        device=device or None,
        recorded_at=at.replace(microsecond=0).isoformat() if at else None,
        notes=(*notes, *left_out_note(left_out)),
    )


def _series_records(name: str, root: Element, series: Element, options: ReadOptions) -> list[Record]:
    sets = [_Set(name, entry, options) for entry in series.iterfind("component/sequenceSet")]
    sets = [entry for entry in sets if entry.leads]
    records = []
    for fs_hz in dict.fromkeys(entry.fs_hz for entry in sets):
        clock = next(entry.start for entry in sets if entry.fs_hz == fs_hz)
        for used in _timelines([entry for entry in sets if entry.fs_hz == fs_hz], clock):
            starts = [_offset(entry.start, clock) for entry in used]
            order = sorted(range(len(used)), key=lambda i: -used[i].signal.shape[1])
            leads, signal = timeline(name, fs_hz, [(starts[i], used[i].leads, used[i].signal) for i in order])
            first = used[starts.index(min(starts))].start
            remarks: list[str] = []
            signal = without_calibration(finite_signal(name, signal), fs_hz, remarks)
            records.append(Record(signal, fs_hz, leads, meta=_meta(root, series, first, used, remarks)))
    return records


def _timelines(sets: Sequence[_Set], clock: datetime | float | None) -> list[list[_Set]]:
    """Share sequence sets of one rate among as few timelines as lose nothing: sets of the same leads at the same time are recordings
    of their own."""
    lines: list[list[_Set]] = []
    for entry in sets:
        begin = _offset(entry.start, clock)
        end = begin + entry.signal.shape[1] / entry.fs_hz
        for line in lines:
            if not any(
                set(other.leads) == set(entry.leads)
                and begin
                < (at := _offset(other.start, clock)) + other.signal.shape[1] / other.fs_hz - 0.5 / other.fs_hz
                and at < end - 0.5 / entry.fs_hz
                for other in line
            ):
                line.append(entry)
                break
        else:
            lines.append([entry])
    return lines


def _offset(start: datetime | float | None, clock: datetime | float | None) -> float:
    if isinstance(start, datetime) and isinstance(clock, datetime):
        return (start - clock).total_seconds()
    return start - clock if isinstance(start, float) and isinstance(clock, float) else 0.0


def _read(source: Source, options: ReadOptions) -> ReadResult:
    root = parse_xml(source)
    inner = next((element for element in root.iter() if element.tag.lower() == _ROOT), None)
    if inner is None:
        raise UnreadableFile(f"{source.name} is not an HL7 annotated ECG.", code="not_an_ecg")
    root = inner
    records: list[Record] = []
    for series in root.iter("series"):
        if not _BEAT.search(_code(series).upper()):
            records += _series_records(source.name, root, series, options)
    if not records:
        raise UnreadableFile(
            f"{source.name} is an HL7 annotated ECG without a rhythm waveform. Export it again with its waveforms.",
            code="no_waveform",
        )
    key = stem(source.name)
    if len(records) == 1:
        return ReadResult(((key, records[0]),))
    return ReadResult(tuple((f"{key}_{index}", record) for index, record in enumerate(records, start=1)))


reader(Reader("hl7_aecg", "HL7 aECG", (".xml", ".aecg"), _sniff, _read))
