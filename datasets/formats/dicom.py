"""DICOM waveforms: 12-lead, general and ambulatory ECG (DICOM PS3.3, A.34 and C.10.9).

The rhythm is read; median beats are told apart by originality and label, and named in the notes.
"""

from __future__ import annotations

import io
import struct
import zlib
from datetime import datetime
from typing import TYPE_CHECKING

from datasets.ecg import Record, RecordMeta
from datasets.formats._clinical import (
    age_between,
    finite_signal,
    left_out_note,
    number,
    person_words,
    sex,
    statement_labels,
    stem,
    without_calibration,
)
from datasets.formats._dicom_annotations import annotations_of
from datasets.formats._dicom_groups import Group, merge_groups, read_group
from datasets.formats.base import Reader, ReadOptions, ReadResult, Source, read_bytes, reader
from ecgportal.errors import PortalError, TooLarge, UnreadableFile

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# 16 bits, 12 leads, 1000 Hz: 90 minutes; compressed files of ECG carts hold seconds.
MAX_INFLATED_BYTES = 128 * 1024 * 1024
# Reading steps of the parser; a cart's ECG with all its annotations takes some thousand.
MAX_STEPS = 200_000
_DEFLATED = "1.2.840.10008.1.2.1.99"
_EXPLICIT_LE = b"1.2.840.10008.1.2.1\x00"
_VRS = frozenset(
    "AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)
_LONG_VRS = frozenset("OB OD OF OL OV OW SQ UC UN UR UT SV UV".split())
_DIRECTORY = "1.2.840.10008.1.3.10"
_ECG_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.9.1.1": "12-lead ECG",
    "1.2.840.10008.5.1.4.1.1.9.1.2": "general ECG",
    "1.2.840.10008.5.1.4.1.1.9.1.3": "ambulatory ECG",
    "1.2.840.10008.5.1.4.1.1.9.1.4": "general 32-bit ECG",
    "1.2.840.10008.5.1.4.1.1.9.2.1": "haemodynamic waveform",
    "1.2.840.10008.5.1.4.1.1.9.3.1": "cardiac electrophysiology waveform",
}
_PEOPLE = (
    "PatientName", "OtherPatientNames", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName",
    "NameOfPhysiciansReadingStudy", "PhysiciansOfRecord", "RequestingPhysician", "InstitutionName", "PatientAddress",
    "InstitutionAddress", "PatientBirthName", "PatientMotherBirthName",
)  # fmt: skip


def _element_at(head: bytes, at: int) -> tuple[int, int, int] | None:
    """Return (group, element, offset of the next element) of the little endian element at ``at``, or None."""
    if at + 12 > len(head):
        return None
    group, element = struct.unpack_from("<HH", head, at)
    vr = head[at + 4 : at + 6].decode("latin-1")
    if vr in _LONG_VRS:
        (length,) = struct.unpack_from("<I", head, at + 8)
        return group, element, at + 12 + (0 if length == 0xFFFFFFFF else length)
    if vr in _VRS:
        return group, element, at + 8 + struct.unpack_from("<H", head, at + 6)[0]
    return group, element, at + 8 + struct.unpack_from("<I", head, at + 4)[0]


def _sniff(head: bytes, name: str) -> bool:
    """Recognise the DICM mark, or, without a preamble, three well-formed elements from group 2 or 8 on."""
    if head[128:132] == b"DICM":
        return True
    at, last = 0, (0, 0)
    for _ in range(3):
        found = _element_at(head, at)
        if found is None or found[0] not in (2, 8) or (last == (0, 0) and found[1] > 0x20) or found[:2] <= last:
            return False
        last, at = found[:2], found[2]
        if at > len(head):
            return False
    return True


def _inflate(name: str, data: bytes) -> bytes:
    """Return a deflated file as explicit little endian, never inflating more than the limit; others unchanged."""
    at = 132 if data[128:132] == b"DICM" else 0
    syntax_at = None
    while True:
        found = _element_at(data, at)
        if found is None or found[0] != 2:
            break
        if found[1] == 0x10 and data[at + 8 : found[2]].rstrip(b"\x00 ").decode("latin-1") == _DEFLATED:
            syntax_at = (at, found[2])
        if found[2] <= at:
            break
        at = found[2]
    if syntax_at is None:
        return data
    # Written by some toolkits with a zlib header, though the standard asks for a bare deflate stream.
    window = (
        15 if data[at : at + 1] == b"\x78" and at + 1 < len(data) and (data[at] * 256 + data[at + 1]) % 31 == 0 else -15
    )
    unpack = zlib.decompressobj(window)
    try:
        plain = unpack.decompress(data[at:], MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise UnreadableFile(
            f"{name} is a deflated DICOM file whose compressed part is damaged ({error}). Export it again.",
            code="damaged_dicom",
        ) from error
    if unpack.unconsumed_tail:
        raise TooLarge(
            f"{name} is a deflated DICOM file that unpacks to more than {MAX_INFLATED_BYTES // 2**20} MB. "
            "Export it uncompressed or split the recording."
        )
    start, end = syntax_at
    meta = data[132 if data[128:132] == b"DICM" else 0 : start]
    syntax = b"\x02\x00\x10\x00UI" + struct.pack("<H", len(_EXPLICIT_LE)) + _EXPLICIT_LE
    body = meta[12:] if meta[:4] == b"\x02\x00\x00\x00" else meta
    # The group length would be stale after the change of the syntax; without it readers go by the tags.
    return b"\x00" * 128 + b"DICM" + body + syntax + data[end:at] + plain


class _Metered(io.BytesIO):
    """Bytes that may be read in so many steps only: the parser takes one or two for every element and item."""

    steps = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TooLarge(
                f"The DICOM file has more than {MAX_STEPS // 2} elements; no ECG has. It was not read further."
            )
        return super().read(size)


def _check_elements(name: str, raw: bytes) -> None:
    """Refuse a sequence of stated length, which the parser opens later, with too many elements.

    Elements of nested sequences follow each other in the bytes, so one walk over all heads counts them.
    """
    at, count = 0, 0
    while at + 8 <= len(raw):
        count += 1
        if count > MAX_STEPS // 2:
            raise TooLarge(
                f"{name} has more than {MAX_STEPS // 2} elements in one sequence; no ECG has. It was not read."
            )
        found = _element_at(raw, at)
        if found is None or found[0] == 0xFFFE:
            at += 8
        elif raw[at + 4 : at + 6] == b"SQ":
            at += 12
        else:
            # In implicit files a sequence is told by the item that it starts with.
            at = at + 8 if raw[at + 8 : at + 12] == b"\xfe\xff\x00\xe0" else found[2]


def _age(dataset: Dataset) -> float | None:
    text = str(dataset.get("PatientAge", "") or "").strip()
    value = number(text[:-1]) if text[-1:].isalpha() else number(text)
    if value is None:
        return age_between(_date(dataset.get("PatientBirthDate")), _date(dataset.get("StudyDate")))
    return value / {"D": 365.25, "W": 365.25 / 7, "M": 12.0}.get(text[-1:].upper(), 1.0)


def _date(value: object) -> datetime | None:
    try:
        return datetime.strptime(str(value or "")[:8], "%Y%m%d")
    except ValueError:
        return None


def _recorded_at(dataset: Dataset) -> str | None:
    text = str(dataset.get("AcquisitionDateTime", "") or "")
    if len(text) < 8:
        text = str(dataset.get("ContentDate") or dataset.get("StudyDate") or "")
        text += str(dataset.get("ContentTime") or dataset.get("StudyTime") or "") if len(text) == 8 else ""
    if len(text) < 8 or not text[:8].isdigit():
        return None
    time = text[8:14] if text[8:14].isdigit() and len(text[8:14]) == 6 else ""
    date = f"{text[:4]}-{text[4:6]}-{text[6:8]}"
    return f"{date}T{time[:2]}:{time[2:4]}:{time[4:]}" if time else date


def _meta(dataset: Dataset, groups: list[Group], used: Group, notes: tuple[str, ...]) -> RecordMeta:
    found = annotations_of(dataset, groups, used)
    people = person_words(str(dataset.get(key, "")) for key in _PEOPLE)
    labels, left_out = statement_labels(found.statements, people)
    maker = " ".join(str(dataset.get(key, "") or "") for key in ("Manufacturer", "ManufacturerModelName")).strip()
    return RecordMeta(
        subject=str(dataset.get("PatientID", "") or "").strip() or None,
        age=_age(dataset),
        sex=sex(str(dataset.get("PatientSex", "") or "")),
        labels=labels,
        printed=found.printed,
        annotations=found.marks,
        dropped_channels=used.dropped,
        device=maker or None,
        recorded_at=_recorded_at(dataset),
        notes=(*used.notes, *notes, *left_out_note(left_out)),
    )


def _dataset(name: str, data: bytes) -> Dataset:
    # The package takes a seventh of a second to load: only where there is a file for it.
    import pydicom
    from pydicom.dataelem import RawDataElement

    try:
        with pydicom.config.disable_value_validation():
            dataset = pydicom.dcmread(_Metered(_inflate(name, data)), force=True)
            for keyword in ("WaveformSequence", "WaveformAnnotationSequence"):
                element = dataset.get_item(keyword)
                if isinstance(element, RawDataElement) and element.value:
                    _check_elements(name, element.value)
            kind = str(dataset.get("SOPClassUID", ""))
            has_waveform = "WaveformSequence" in dataset
            modality = "" if has_waveform else str(dataset.get("Modality", "") or "unknown modality")[:16]
    except PortalError:
        raise
    # The parser meets arbitrary bytes here; whatever it trips over, the file is the cause.
    except Exception as error:
        raise UnreadableFile(
            f"{name} is a damaged DICOM file ({type(error).__name__}: {str(error)[:120]}). Export it again.",
            code="damaged_dicom",
        ) from error
    if not has_waveform and str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) == _DIRECTORY:
        raise UnreadableFile(
            f"{name} is the directory of a medium (DICOMDIR). It holds no ECG itself; the files that it lists are read one by one.",
            code="not_needed",
        )
    if not has_waveform:
        raise UnreadableFile(
            f"{name} is a DICOM object without a waveform ({modality}"
            f"{', ' + _ECG_CLASSES[kind] if kind in _ECG_CLASSES else ''}). "
            "Send the ECG waveform object, not an image or a report of it.",
            code="no_waveform",
        )
    return dataset


def _records(name: str, dataset: Dataset, options: ReadOptions) -> ReadResult:
    sequence = dataset["WaveformSequence"].value
    big_endian = dataset.original_encoding[1] is False
    groups = [read_group(name, index, item, options, big_endian) for index, item in enumerate(sequence, start=1)]
    rhythms = [group for group in groups if not group.is_median and group.leads]
    if not rhythms:
        medians = ", ".join(repr(group.label) for group in groups if group.is_median)
        raise UnreadableFile(
            f"{name} holds no rhythm waveform of an ECG"
            + (f", only the averaged beat {medians}" if medians else "")
            + ". Export the recording with its rhythm.",
            code="no_rhythm",
        )
    notes = tuple(
        f"Multiplex group {group.index} {group.label!r} is an averaged beat of {group.samples} samples and was not taken "
        "as the rhythm."
        for group in groups
        if group.is_median
    )
    records = []
    merged = merge_groups(name, rhythms)
    for position, group in enumerate(merged, start=1):
        key = stem(name) if len(merged) == 1 else f"{stem(name)}_{position}"
        remarks: list[str] = []
        signal = without_calibration(finite_signal(name, group.signal_mv), group.fs_hz, remarks)
        meta = _meta(dataset, groups, group, (*notes, *remarks))
        record = Record(signal=signal, fs_hz=group.fs_hz, leads=group.leads, meta=meta)
        records.append((key, record))
    return ReadResult(tuple(records))


def _read(source: Source, options: ReadOptions) -> ReadResult:
    import pydicom

    dataset = _dataset(source.name, read_bytes(source))
    try:
        with pydicom.config.disable_value_validation():
            return _records(source.name, dataset, options)
    except PortalError:
        raise
    except Exception as error:
        raise UnreadableFile(
            f"{source.name} is a DICOM waveform with an attribute that cannot be understood "
            f"({type(error).__name__}: {str(error)[:120]}). Export it again.",
            code="damaged_dicom",
        ) from error


reader(Reader("dicom", "DICOM waveform", (".dcm", ".dicom"), _sniff, _read))
