"""FHIR Observation with SampledData (hl7.org/fhir, R4 and R5): one Observation or a Bundle, as JSON or XML, or one resource
a line (NDJSON, as bulk exports write them).

Leads are components, or the Observation's own value. A sample is ``origin + factor * data``; ``E``, ``U`` and ``L`` (no value,
above and below what could be measured) are gaps. References to other resources are looked up inside the file only.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from datasets.ecg import Record, RecordMeta, SourceLabel
from datasets.formats._clinical import (
    age_between,
    check_leads,
    check_rate,
    check_size,
    finite_signal,
    known_lead,
    millivolts_per,
    number,
    option_unit_mv,
    parse_numbers,
    sex,
    stem,
)
from datasets.formats._xml import head_text, parse_xml, root_name
from datasets.formats.base import HEAD_BYTES, Reader, ReadOptions, ReadResult, Source, read_bytes, reader
from datasets.recording_time import parse
from ecgportal.errors import NeedsAnswer, TooLarge, UnreadableFile

Json = Mapping[str, Any]

_MAX_BYTES = 128 * 1024 * 1024
_MAX_OBSERVATIONS, _MAX_LEADS = 1000, 64
_MAX_LINES = 100_000
# Elements that repeat; in JSON they are lists.
_LISTS = frozenset("component coding identifier entry contained interpretation name extension".split())
_MARK = re.compile(rb'"resourceType"\s*:\s*"(Observation|Bundle)"|"valueSampledData"\s*:')
# ISO/IEEE 11073-10101: a lead's potential is 131328 plus the lead's number, which SCP-ECG uses, too.
_MDC_POTENTIAL = 131_328
_MDC_LEADS = {
    **dict(enumerate(("I", "II", "V1", "V2", "V3", "V4", "V5", "V6", "V7"), start=1)), 11: "V3R", 12: "V4R", 13: "V5R", 14: "V6R", 15: "V7R",
    16: "X", 17: "Y", 18: "Z", 61: "III", 62: "aVR", 63: "aVL", 64: "aVF", 66: "V8", 67: "V9",
}  # fmt: skip
_MDC_SYSTEMS = ("urn:oid:2.16.840.1.113883.6.24", "urn:iso:std:iso:11073:10101", "11073")
_LOINC = {
    "8867-4": "heart_rate_bpm", "8625-6": "pr_ms", "8633-0": "qrs_ms", "8634-8": "qt_ms", "8636-3": "qtc_ms", "8637-1": "rr_ms",
}  # fmt: skip
_SYSTEMS = {"snomed.info/sct": "snomed", "icd-10": "icd10"}
_PER_SECOND = {"ms": 1e3, "s": 1.0, "us": 1e6, "ns": 1e9}
_NO_VALUE = re.compile(r"(?<!\S)[EULeul](?!\S)")
# Further from zero than any amplifier for ECGs reaches: the origin is the converter's zero then, not a voltage.
_MOST_OFFSET_MV = 400.0


def _sniff(head: bytes, name: str) -> bool:
    if _MARK.search(head) is not None and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return True
    return root_name(head) in ("Observation", "Bundle") and "http://hl7.org/fhir" in head_text(head)


def _items(value: Any) -> list[Json]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def _object(value: Any) -> Json:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value.strip() if isinstance(value, str) and value.strip() else None


def _resources(source: Source) -> list[Json]:
    """Return the resources that a file begins with: one, or one a line."""
    if source.size > _MAX_BYTES:
        raise TooLarge(
            f"{source.name} is {source.size / 1e6:.0f} MB; a FHIR file may have at most {_MAX_BYTES / 1e6:.0f} MB. Split the recording."
        )
    with source.open() as stream:
        is_xml = root_name(stream.read(HEAD_BYTES)) is not None
    if is_xml:
        return [_of_element(parse_xml(source))]
    try:
        text = read_bytes(source).decode("utf-8-sig")
        try:
            found = [json.loads(text)]
        except json.JSONDecodeError as error:
            lines = [line for line in text.splitlines() if line.strip()]
            if error.msg != "Extra data" or not 2 <= len(lines) <= _MAX_LINES:
                raise
            found = [json.loads(line) for line in lines]
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(
            f"{source.name} begins like a FHIR resource but is no JSON ({type(error).__name__}), neither as a whole nor line by "
            "line. It is damaged; export it again.",
            code="bad_json",
        ) from error
    if not all(isinstance(content, dict) for content in found):
        raise UnreadableFile(
            f"{source.name} holds no FHIR resource. Export an Observation or a Bundle.", code="no_waveform"
        )
    return found


def _of_element(element: Element) -> dict[str, Any]:
    """Return an element of FHIR's XML as its JSON says the same: values are attributes, resources stand in an element of
    their kind, what may repeat is a list."""
    content: dict[str, Any] = {key: value for key, value in element.attrib.items() if key == "id"}
    if element.tag[:1].isupper():
        content["resourceType"] = element.tag
    for child in element:
        value: Any = child.get("value")
        if value is None and child.tag in ("resource", "contained"):
            value = _of_element(child[0]) if len(child) else {}
        elif value is None:
            value = _of_element(child)
        if child.tag in _LISTS:
            content.setdefault(child.tag, []).append(value)
        else:
            content.setdefault(child.tag, value)
    return content


def _observations(contents: Iterable[Json]) -> Iterator[tuple[Json, dict[str, Json]]]:
    """Yield each Observation with SampledData and the resources beside it, by ``Type/id`` and by their addresses in the file."""
    beside: dict[str, Json] = {}
    found: list[Json] = []
    for content in contents:
        for entry in [{"resource": content}, *_items(content.get("entry"))]:
            resource = _object(entry.get("resource"))
            for each in (resource, *_items(resource.get("contained"))):
                kind, key = _text(each.get("resourceType")), _text(each.get("id"))
                if kind and key:
                    beside[f"{kind}/{key}"] = beside[f"#{key}"] = each
                found += [each] if kind == "Observation" or "component" in each else []
            if address := _text(entry.get("fullUrl")):
                beside[address] = resource
    for each in found:
        if _object(each.get("valueSampledData")) or any(
            c.get("valueSampledData") for c in _items(each.get("component"))
        ):
            yield each, beside


def _lead(code: Any) -> str | None:
    """Return the lead that a CodeableConcept names, or None."""
    concept = _object(code)
    for coding in _items(concept.get("coding")):
        for words in (coding.get("display"), coding.get("code")):
            text = _text(words)
            if text and not text.isdecimal() and (lead := known_lead(text.removesuffix(" lead").removesuffix(" Lead"))):
                return lead
        value = str(coding.get("code") or "")
        if value.isdecimal() and len(value) < 9 and any(part in str(coding.get("system")) for part in _MDC_SYSTEMS):
            lead = _MDC_LEADS.get(int(value) - _MDC_POTENTIAL) or _MDC_LEADS.get(int(value))
            if lead:
                return lead
    text = _text(concept.get("text"))
    return known_lead(text) if text else None


def _named(code: Any) -> str:
    concept = _object(code)
    words = [concept.get("text"), *(c.get("display") or c.get("code") for c in _items(concept.get("coding")))]
    return next((text[:60] for word in words if (text := _text(word))), "unnamed")


def _rate(name: str, sampled: Json, options: ReadOptions) -> float:
    """Return the rate in hertz out of ``period`` (R4, milliseconds) or ``interval`` with ``intervalUnit`` (R5)."""
    period, interval = number(sampled.get("period")), number(sampled.get("interval"))
    if period is not None and period > 0:
        return check_rate(name, 1000 / period)
    unit = str(sampled.get("intervalUnit") or "")
    if interval is not None and interval > 0 and unit in _PER_SECOND:
        return check_rate(name, _PER_SECOND[unit] / interval)
    if interval is not None and interval > 0 and unit in ("Hz", "/s"):
        return check_rate(name, interval)
    if options.fs_hz is None:
        raise NeedsAnswer(
            f"{name} does not say its sampling rate. State it.",
            fields={"fs_hz": "No guess: neither period nor interval can be read."},
        )
    return check_rate(name, options.fs_hz)


def _scale(name: str, sampled: Json, options: ReadOptions) -> float:
    """Return millivolt per unit of origin and factor."""
    origin = _object(sampled.get("origin"))
    for words in (origin.get("code"), origin.get("unit")):
        if (unit := _text(words)) and (factor := millivolts_per(unit.replace("\u00b5", "u").replace("\u03bc", "u"))):
            return factor
    if options.unit is None:
        raise NeedsAnswer(
            f"{name} does not say the unit of its samples. State it.",
            fields={
                "unit": "Guess: uV. The origin of the samples has no unit of voltage; devices mostly write microvolt."
            },
        )
    return option_unit_mv(options.unit)


def _channel(name: str, what: str, sampled: Json, options: ReadOptions, notes: list[str]) -> np.ndarray:
    """Return ``(dimensions, samples)`` in millivolt, float32."""
    if sampled.get("offsets"):
        raise UnreadableFile(
            f"{name}: {what} is not sampled evenly (offsets); resample it and export it again.", code="uneven_samples"
        )
    data = sampled.get("data")
    if not isinstance(data, str) or not data.strip():
        where = (
            " It may be kept elsewhere, but links are never followed."
            if sampled.get("dataFile") or "_data" in sampled
            else ""
        )
        raise UnreadableFile(f"{name}: {what} has no samples.{where} Export it with its data.", code="no_waveform")
    dimensions = number(sampled.get("dimensions"))
    rows = 1 if dimensions is None else int(dimensions)
    if not 1 <= rows <= _MAX_LEADS:
        raise UnreadableFile(f"{name}: {what} states {rows} dimensions; 1 to {_MAX_LEADS} are read.", code="bad_size")
    clean, gaps = _NO_VALUE.subn("nan", data)
    if gaps:
        notes.append(f"{what}: {gaps} values that could not be measured (E, U or L) are gaps.")
    values = parse_numbers(name, what, clean, None)
    if values.size % rows:
        raise UnreadableFile(
            f"{name}: {what} has {values.size} values, which {rows} dimensions do not divide. The file is cut short; export it again.",
            code="bad_size",
        )
    per_unit = _scale(name, sampled, options)
    factor, origin = number(sampled.get("factor")), number(_object(sampled.get("origin")).get("value")) or 0.0
    step = per_unit * (1.0 if factor is None else factor)
    if step == 0:
        raise UnreadableFile(
            f"{name}: {what} states the factor 0, which leaves no signal. Export it again.", code="bad_scale"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        middle = float(np.nanmedian(values)) if np.isfinite(values).any() else 0.0
        signal = values * np.float32(step) + np.float32(origin * per_unit)
        if abs(middle * step + origin * per_unit) > _MOST_OFFSET_MV and abs((middle - origin) * step) < _MOST_OFFSET_MV:
            signal = (values - np.float32(origin)) * np.float32(step)
            notes.append(f"{what}: the origin was taken for the converter's zero, not for a voltage.")
    return signal.reshape(-1, rows).T.astype(np.float32)


def _parts(
    name: str, observation: Json, options: ReadOptions, notes: list[str]
) -> dict[tuple[float, int], dict[str, np.ndarray]]:
    """Return the leads by rate and length."""
    own = {"code": observation.get("code"), "valueSampledData": observation.get("valueSampledData")}
    parts: dict[tuple[float, int], dict[str, np.ndarray]] = defaultdict(dict)
    held = [c for c in (own, *_items(observation.get("component"))) if _object(c.get("valueSampledData"))]
    if len(held) > _MAX_LEADS:
        raise TooLarge(f"{name} has {len(held)} channels in one Observation; at most {_MAX_LEADS} are read.")
    unnamed = 0
    for component in held:
        sampled = _object(component["valueSampledData"])
        what = _named(component.get("code"))
        rows = _channel(name, what, sampled, options, notes)
        lead = _lead(component.get("code"))
        if lead and len(rows) == 1:
            leads = [lead]
        else:
            asked = (options.lead_order or ())[unnamed : unnamed + len(rows)]
            unnamed += len(rows)
            if len(asked) < len(rows):
                raise NeedsAnswer(
                    f"{name}: {what} does not say which lead{'s' if len(rows) > 1 else ''} it is. State the lead order.",
                    fields={
                        "lead_order": f"No guess: {len(rows)} channel{'s' if len(rows) > 1 else ''} without a lead's code."
                    },
                )
            leads = [known_lead(each) or each for each in asked]
        part = parts[_rate(name, sampled, options), rows.shape[1]]
        check_leads(name, [*part, *leads])
        part.update(zip(leads, rows, strict=True))
        check_size(name, len(part), rows.shape[1])
    return parts


def _labels(observation: Json) -> Iterator[SourceLabel]:
    concepts = [*_items(observation.get("interpretation")), _object(observation.get("valueCodeableConcept"))]
    concepts += [_object(c.get("valueCodeableConcept")) for c in _items(observation.get("component"))]
    for concept in concepts:
        for coding in _items(concept.get("coding")):
            code = _text(coding.get("code"))
            system = next((own for part, own in _SYSTEMS.items() if part in str(coding.get("system")).lower()), None)
            if code and system:
                yield SourceLabel(code[:120], system)


def _printed(observation: Json) -> dict[str, float]:
    found: dict[str, float] = {}
    for component in _items(observation.get("component")):
        quantity = _object(component.get("valueQuantity"))
        for coding in _items(_object(component.get("code")).get("coding")):
            key, value = _LOINC.get(str(coding.get("code"))), number(quantity.get("value"))
            if key and value is not None:
                in_seconds = key.endswith("_ms") and str(quantity.get("code") or quantity.get("unit")) == "s"
                found.setdefault(key, value * 1000 if in_seconds else value)
    return found


def _subject(observation: Json, beside: Mapping[str, Json]) -> tuple[str | None, Json]:
    """Return the subject's identifier and what the file itself holds of the person; nothing is fetched."""
    told = _object(observation.get("subject"))
    reference = _text(told.get("reference")) or ""
    person = beside.get(reference, {})
    for identifier in (_object(told.get("identifier")), *_items(person.get("identifier"))):
        if value := _text(identifier.get("value")):
            return value[:200], person
    return (reference.rpartition("/")[2].lstrip("#")[:200] or None), person


def _meta(observation: Json, beside: Mapping[str, Json], notes: list[str], dropped: list[str]) -> RecordMeta:
    subject, person = _subject(observation, beside)
    at = _text(observation.get("effectiveDateTime")) or _text(observation.get("effectiveInstant"))
    at = at or _text(_object(observation.get("effectivePeriod")).get("start"))
    return RecordMeta(
        subject=subject, age=age_between(_moment(person.get("birthDate")), _moment(at)), sex=sex(_text(person.get("gender"))),
        labels=tuple(dict.fromkeys(_labels(observation))), printed=_printed(observation), recorded_at=at,
        device=_text(_object(observation.get("device")).get("display")), notes=tuple(notes), dropped_channels=tuple(dropped),
    )  # fmt: skip


def _moment(value: Any) -> datetime | None:
    return parse(_text(value))


def _read(source: Source, options: ReadOptions) -> ReadResult:
    name = source.name
    records: list[tuple[str, Record]] = []
    for observation, beside in _observations(_resources(source)):
        if len(records) == _MAX_OBSERVATIONS:
            raise TooLarge(f"{name} holds more than {_MAX_OBSERVATIONS} recordings. Export them in several files.")
        notes: list[str] = []
        parts = _parts(name, observation, options, notes)
        fs_hz, length = max(parts, key=lambda part: (len(parts[part]), part[1]))
        leads = parts.pop((fs_hz, length))
        dropped = [f"{lead} ({other[1]} samples at {other[0]:g} Hz)" for other, own in parts.items() for lead in own]
        signal = finite_signal(name, np.stack(list(leads.values())))
        record = Record(signal, fs_hz, tuple(leads), meta=_meta(observation, beside, notes, dropped))
        records.append((f"{stem(name)}_{len(records) + 1}", record))
    if not records:
        raise UnreadableFile(
            f"{name} holds no Observation with SampledData. Export the ECG's Observation with its samples.",
            code="no_waveform",
        )
    if len(records) == 1:
        records = [(stem(name), records[0][1])]
    return ReadResult(records)


reader(
    Reader(
        name="fhir_observation",
        title="FHIR Observation",
        suffixes=(".json", ".ndjson", ".xml"),
        sniff=_sniff,
        read=_read,
        tried_on_real_files=False,
    )
)
