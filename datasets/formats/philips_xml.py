"""Philips SierraECG / PhilipsECG XML, versions 1.03 to 1.04.02.

The limb leads III, aVR, aVL and aVF are stored as what remains after their prediction from I and II; the second
that holds the device's calibration pulse is cut off.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from xml.etree.ElementTree import Element

import numpy as np

from datasets.ecg import LEADS_12, Record, RecordMeta
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
    parse_numbers,
    person_words,
    sex,
    statement_labels,
    stem,
    without_calibration,
)
from datasets.formats._philips_xli import xli_decode
from datasets.formats._xml import head_text, parse_xml, root_name, text_of
from datasets.formats.base import Reader, ReadOptions, ReadResult, Source, reader
from ecgportal.errors import NeedsAnswer, UnreadableFile

VERSIONS = ("1.03", "1.04", "1.04.01", "1.04.02")
_TYPES = ("SierraECG", "PhilipsECG")
_PRINTED = (
    ("heartrate", "heart_rate_bpm"), ("meanventrate", "heart_rate_bpm"), ("atrialrate", "atrial_rate_bpm"),
    ("rrint", "rr_ms"), ("print", "pr_ms"), ("meanprint", "pr_ms"), ("qrsdur", "qrs_ms"), ("meanqrsdur", "qrs_ms"),
    ("qtint", "qt_ms"), ("meanqtint", "qt_ms"), ("qtcb", "qtc_ms"), ("meanqtc", "qtc_ms"), ("pdur", "p_ms"),
    ("pfrontaxis", "p_axis_deg"), ("qrsfrontaxis", "qrs_axis_deg"), ("tfrontaxis", "t_axis_deg"),
)  # fmt: skip
_NAME_TAGS = (
    "lastname", "firstname", "middlename", "institutionname", "facilityname", "departmentname", "operator", "operatorid",
    "attendingdoctor", "referringdoctor", "orderingclinician", "consultingclinician", "mdsignatureline",
)  # fmt: skip


def _sniff(head: bytes, name: str) -> bool:
    return root_name(head) == "restingecgdata" or (
        root_name(head) == "restingECGdata" and "philips" in head_text(head).lower()
    )


def _check_version(name: str, root: Element) -> str:
    kind = text_of(root, "documentinfo/documenttype") or "none stated"
    version = text_of(root, "documentinfo/documentversion") or "none stated"
    if kind not in _TYPES:
        raise UnreadableFile(
            f"{name} is a document of type {kind[:40]}; Philips files of type {' or '.join(_TYPES)} are read. "
            "Export the recording as Philips XML.",
            code="unknown_document_type",
        )
    if version not in VERSIONS:
        raise UnreadableFile(
            f"{name} is {kind} version {version[:20]}; versions {', '.join(VERSIONS)} are read. "
            "Export the recording in one of them.",
            code="unknown_document_version",
        )
    return f"{kind} {version}"


def _characteristic(
    root: Element, waveforms: Element, attributes: tuple[str, ...], paths: tuple[str, ...]
) -> float | None:
    """Return a number from the waveform's own attributes, or from the signal characteristics."""
    block = root.find("dataacquisition/signalcharacteristics")
    stated = [waveforms.get(key) for key in attributes] + [text_of(block, path) for path in paths]
    return next((value for value in map(decimal, stated) if value is not None), None)


def _lead_names(name: str, root: Element, waveforms: Element) -> tuple[str, ...]:
    labels = (waveforms.get("leadlabels") or "").split()
    announced = number(waveforms.get("numberofleads"))
    if labels:
        leads = [lead_name(label) for label in labels[: int(announced) if announced else None]]
    else:
        block = root.find("dataacquisition/signalcharacteristics")
        counts = [number(text_of(block, f"numberchannels{word}")) for word in ("allocated", "valid")]
        count = int(next((value for value in counts if value), 0))
        kinds = {(text_of(block, path) or "").upper() for path in ("acquisitiontype", "leadset")}
        standard = bool(kinds & {"STD-12", "10-WIRE"}) and count >= 12
        leads = list(LEADS_12) if standard else [f"channel {index}" for index in range(1, min(count, 64) + 1)]
    check_leads(name, leads)
    if not leads:
        raise UnreadableFile(f"{name} does not say which leads it holds. Export the recording again.", code="no_leads")
    return tuple(leads)


def _compression(waveforms: Element) -> str:
    """Return the compression of the samples, upper case, empty for none."""
    method = (waveforms.get("compressmethod") or waveforms.get("compression") or "").upper()
    plain = (waveforms.get("compressflag") or "").lower() in ("false", "f", "no", "0")
    return "" if plain or method in ("UNCOMPRESSED", "NONE") else method


def _digits(name: str, root: Element, waveforms: Element, leads: int, samples: int) -> tuple[np.ndarray, bool]:
    """Return the stored integers ``(leads, samples)``, one lead after the other, and whether they were XLI-compressed."""
    encoding, method = (waveforms.get("dataencoding") or "Base64").lower(), _compression(waveforms)
    if encoding not in ("base64", "plain") or (encoding == "plain" and method):
        raise UnreadableFile(
            f"{name} encodes its samples as {waveforms.get('dataencoding', '')[:20]!r}{' compressed' if method else ''}; "
            "Base64 and uncompressed Plain are read. Export it again.",
            code="unknown_encoding",
        )
    if method not in ("", "XLI"):
        raise UnreadableFile(
            f"{name} compresses its samples with {method[:20]!r}; XLI is read.", code="unknown_compression"
        )
    bits = _characteristic(root, waveforms, ("nbitspersample", "bitspersample"), ("bitspersample",))
    text = waveforms.text or ""
    if encoding == "plain":
        values = parse_numbers(name, "the waveform", text, None)
        _check_count(name, leads, samples, values.size)
        return values[: leads * samples].astype(np.int32).reshape(leads, samples), False
    text = "".join(text.split())
    try:
        data = base64.b64decode(text[: len(text) // 4 * 4], validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableFile(
            f"{name}: the samples are not base64 ({error}). The file is damaged; export it again.", code="bad_base64"
        ) from error
    if method == "XLI":
        # The chunks unpack to words of 16 bits, whatever the converter's resolution was.
        return xli_decode(name, data, leads, samples), True
    if bits not in (None, 0, 16) and not (bits < 16 and len(data) >= 2 * leads * samples):
        raise UnreadableFile(
            f"{name} packs its samples in {bits:g} bits, which is not published; whole words of 16 bits are read. "
            "Export it as 16 bits.",
            code="unknown_sample_kind",
        )
    _check_count(name, leads, samples, len(data) // 2)
    signed = waveforms.get("signalsigned") or text_of(root, "dataacquisition/signalcharacteristics/signalsigned") or ""
    kind = "<u2" if signed.lower() in ("false", "f", "no", "0") else "<i2"
    return np.frombuffer(data, kind, leads * samples).reshape(leads, samples), False


def _check_count(name: str, leads: int, samples: int, held: int) -> None:
    if held < leads * samples:
        raise UnreadableFile(
            f"{name} announces {leads} leads of {samples} samples but holds {held} values. "
            "The file was cut off; export it again.",
            code="short_waveform",
        )


def _restore_limb_leads(digits: np.ndarray, leads: tuple[str, ...], compressed: bool) -> np.ndarray:
    """Return digits with III, aVR, aVL and aVF put back from their remainders; other rows are unchanged.

    Uncompressed files hold either form. There the remainder form is told by its size: stored values that lie
    nearer to 0 than to the prediction are remainders.
    """
    out = digits.astype(np.int32)
    if not {"I", "II", "III", "aVR", "aVL", "aVF"} <= set(leads):
        return out
    row = {lead: leads.index(lead) for lead in ("I", "II", "III", "aVR", "aVL", "aVF")}
    one, two = out[row["I"]], out[row["II"]]
    if not compressed and np.abs(out[row["III"]]).sum() >= np.abs(two - one - out[row["III"]]).sum():
        return out
    three = two - one - out[row["III"]]
    out[row["III"]] = three
    out[row["aVR"]] = -out[row["aVR"]] - (one + two) // 2
    out[row["aVL"]] = (one - three) // 2 - out[row["aVL"]]
    out[row["aVF"]] = (two + three) // 2 - out[row["aVF"]]
    return out


def _signal(name: str, root: Element, options: ReadOptions) -> tuple[float, tuple[str, ...], np.ndarray, list[str]]:
    waveforms = root.find(".//parsedwaveforms")
    if waveforms is None or not (waveforms.text or "").strip():
        raise UnreadableFile(
            f"{name} is a Philips file without its waveforms (parsedwaveforms). Export it with them.",
            code="no_waveform",
        )
    leads = tuple(asked_leads(name, _lead_names(name, root, waveforms), options))
    stated = _characteristic(root, waveforms, ("samplespersecond",), ("samplingrate",))
    if stated is None and options.fs_hz is None:
        raise NeedsAnswer(
            f"{name} gives no sampling rate. State it.",
            fields={"fs_hz": "Guess: 500. Philips electrocardiographs store 500 Hz as a rule; the file does not say."},
        )
    fs_hz = check_rate(name, stated if stated is not None else options.fs_hz)
    resolution = _characteristic(root, waveforms, ("resolution",), ("signalresolution", "resolution"))
    if not resolution and options.unit is None:
        raise NeedsAnswer(
            f"{name} does not say how many microvolt one digit is. State the unit.",
            fields={
                "unit": "Guess: 200/mV. Philips electrocardiographs store 5 microvolt per digit as a rule, that is 200/mV."
            },
        )
    scale = resolution * 1e-3 if resolution else option_unit_mv(options.unit or "")
    duration_ms = number(waveforms.get("durationperchannel"))
    samples = int((duration_ms or 0) * fs_hz / 1000)
    if samples <= 0:
        raise UnreadableFile(
            f"{name} states a duration of 0 for its waveforms. Export it again.", code="short_waveform"
        )
    check_size(name, len(leads), samples)
    notes: list[str] = []
    digits, compressed = _digits(name, root, waveforms, len(leads), samples)
    whole = _restore_limb_leads(digits, leads, compressed)
    if not compressed and (whole != digits).any():
        notes.append("The limb leads III, aVR, aVL and aVF were stored as differences from I and II and were put back.")
    offset = _characteristic(root, waveforms, ("signaloffset",), ("signaloffset",)) or 0.0
    millivolt = ((whole - offset) * scale).astype(np.float32)
    millivolt = without_calibration(millivolt, fs_hz, notes)
    return fs_hz, leads, millivolt, notes


def _printed(root: Element, interpretation: Element | None) -> dict[str, float]:
    printed: dict[str, float] = {}
    blocks = (
        [interpretation.find(path) for path in ("interpretationmeasurements", "globalmeasurements")]
        if interpretation is not None
        else []
    )
    blocks += [root.find("measurements/globalmeasurements"), root.find("internalmeasurements/crossleadmeasurements")]
    for block in blocks:
        for tag, key in _PRINTED:
            value = number(text_of(block, tag))
            if value is not None and key not in printed and (value or key.endswith("_deg")):
                printed[key] = value
    return printed


def _date(text: str | None) -> datetime | None:
    try:
        return datetime.strptime(text or "", "%Y-%m-%d")
    except ValueError:
        return None


def _meta(root: Element, document: str, notes: list[str]) -> RecordMeta:
    interpretations = root.findall(".//interpretations/interpretation")
    # The latest one is the valid one after an over-reading.
    interpretation = max(interpretations, key=lambda e: (e.get("date") or "", e.get("time") or ""), default=None)
    statements: list[str] = []
    if interpretation is not None:
        statements = [element.findtext("leftstatement") or "" for element in interpretation.iterfind("statement")]
        statements.append(interpretation.findtext("severity") or "")
    people = person_words(element.text for element in root.iter() if element.tag in _NAME_TAGS)
    labels, left_out = statement_labels(statements, people)
    acquisition = root.find("dataacquisition")
    date, time = (acquisition.get("date") or "", acquisition.get("time") or "") if acquisition is not None else ("", "")
    person = root.find("patient/generalpatientdata")
    machine = text_of(acquisition, "machine")
    age = number(text_of(person, "age/years"))
    return RecordMeta(
        subject=text_of(person, "patientid"),
        age=age if age is not None else age_between(_date(text_of(person, "age/dateofbirth")), _date(date)),
        sex=sex(text_of(person, "sex")),
        labels=labels,
        printed=_printed(root, interpretation),
        device=f"Philips {machine}" if machine else None,
        recorded_at=(f"{date}T{time}" if time else date) if re.fullmatch(r"\d{4}-\d\d-\d\d", date) else None,
        notes=(f"Document {document}.", *notes, *left_out_note(left_out)),
    )


def _read(source: Source, options: ReadOptions) -> ReadResult:
    root = parse_xml(source)
    document = _check_version(source.name, root)
    fs_hz, leads, signal, notes = _signal(source.name, root, options)
    record = Record(
        signal=finite_signal(source.name, signal), fs_hz=fs_hz, leads=leads, meta=_meta(root, document, notes)
    )
    return ReadResult(((stem(source.name), record),))


reader(Reader("philips_xml", "Philips SierraECG XML", (".xml",), _sniff, _read))
