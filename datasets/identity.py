"""Keep persons out: pseudonyms for subject keys, metadata without free text, original files without identity.

What is taken away follows the idea of DICOM PS3.15, annex E (basic profile): what is known to be needed stays, everything
else goes. A format that cannot be cleaned surely is not kept as a file; its samples and measurements are.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import re
from base64 import b32encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.ecg import canonical_lead
from datasets.file_names import FileNames, names_somebody, reads_as_person
from datasets.formats._scp_meta import identifying_texts
from datasets.formats._wfdb_notes import read_annotations
from datasets.formats.mfer import identifying_texts as mfer_texts
from datasets.recording_time import parse, shifted, text_of

AS_SENT, SCRUBBED, NOT_KEPT = "as sent", "scrubbed", "not kept"
# Ages above 89 single people out (45 CFR 164.514); they are stored as this one.
OLDEST_TOLD = 90.0

_XML = frozenset(("muse_xml", "cardiosoft_xml", "philips_xml", "hl7_aecg", "mortara_xml", "schiller_xml"))
_MARKED = re.compile(
    r"\((?:AB|AFIB|AFL|B|BII|IVR|N|NOD|P|PREX|SBR|SVTA|T|VFL|VT|J|PM|MISSB|PSE|TS|AVB\d?)?|QRS|P|T|R|Beat|R-peak|\S|[pqrt]+_(?:onset|offset|peak)|Recording (?:starts|ends)|[-+]?\d{0,3}(?:\.\d+)?"
)
_PERSONAL = re.compile(
    r"\b(confirmed|reviewed|referr\w*|verified|signed|edited|ordered|overread\w*|technician|operator|patient|name|born|dob|mrn|"
    r"physician|doctor|dr|md|prof|hospital|clinic|ward|tel|phone)\b|@|\d{5}|\d{1,4}[-./]\d{1,2}[-./]\d{2,4}",
    re.IGNORECASE,
)
_IDENTITY_TAG = (
    r"[\w:]*(?:name|birth|dob|patientid|pid|mrn|ssn|address|street|city|phone|physician|doctor|referr|attending|technician|operator|"
    r"overread|editor|orderer|requester|site|location|institution|facility|hospital|account|visit|admission|room|bed|comment|note)\w*"
)
_LONG_TEXT = re.compile(r">[^<]{4000,}<")
_ELEMENT = re.compile(rf"<({_IDENTITY_TAG})\b([^<>]*)>([^<]*)<", re.IGNORECASE)
_ATTRIBUTE = re.compile(rf"\b({_IDENTITY_TAG}|extension)\s*=\s*\"([^\"]*)\"", re.IGNORECASE)
# FHIR: what names people, places and numbers; a quantity's value is no text.
_JSON_WORDS = re.compile(
    r"\"(?:family|given|birthDate|line|city|postalCode|value)\"\s*:\s*(\"[^\"]{1,200}\"|\[[^\[\]{}]{1,800}\])"
)
_JSON_PERSON = re.compile(
    r"\"(?:subject|performer|encounter|patient|practitioner|managingOrganization|generalPractitioner|note)\"\s*:\s*\[?\s*\{[^{}]*?"
    r"\"(?:display|text)\"\s*:\s*\"([^\"]{1,200})\""
)
_FHIR_ELEMENT = re.compile(
    r"<(?:\w+:)?(?:family|given|birthDate|line|city|postalCode|text|display|value)\s+value\s*=\s*[\"']([^\"']{1,200})[\"']"
)
_COMMENT = re.compile(
    r"#\s*(<?(age|sex|gender)>?\s*:\s*<?[\w.]{0,8}>?\s*)+$|#\s*dx\s*:\s*[\d\s,]*$|#\s*(rx|hx|sx)\s*:\s*(unknown)?\s*$",
    re.IGNORECASE,
)
_TABLE_WORDS = frozenset(
    "time t s ms us sec second seconds sample samples index hz mv uv µv v nv ecg ekg lead leads channel fs frequency rate sampling unit units nan e".split()
)


def pseudonym(key: bytes, identifier: str) -> str:
    """Return a subject's key for everyone to see: HMAC-SHA256 (RFC 2104) of the identifier, 60 bits in base 32.

    The same person gets the same pseudonym everywhere under one ``key``; without the key it says nothing.
    """
    # Tables that went through a spreadsheet program state 15709.0 for 15709.
    text = re.sub(r"^(\d+)\.0$", r"\1", identifier.strip())
    digest = hmac.new(key, b"subject\x00" + text.encode("utf-8", "replace"), hashlib.sha256).digest()
    return "P-" + b32encode(digest[:8]).decode()[:12]


_SITE_CODE = re.compile(r"[A-Za-z]{0,4}[-_ ]?\d{1,4}|[A-Z]{1,4}|S-[A-Z2-7]{8}")


def site_name(key: bytes, name: str, keeps: bool = False) -> str:
    """Return how a hospital or source is stored: a short code as it is; a name as a pseudonym unless the project ``keeps`` it.

    Records of one site still share one value, so that sites can be held out. 40 bits in base 32.
    """
    text = re.sub(r"^(\d+)\.0$", r"\1", " ".join(name.split()))
    if keeps or _SITE_CODE.fullmatch(text):
        return text[:80]
    digest = hmac.new(key, b"site\x00" + text.encode("utf-8", "replace"), hashlib.sha256).digest()
    return "S-" + b32encode(digest[:5]).decode()


@dataclass(frozen=True)
class Identity:
    """How a project treats identity. key: of its pseudonyms. keeps: originals stay as sent, identifiers are returned."""

    key: bytes
    keeps: bool = False

    @property
    def names(self) -> FileNames:
        return FileNames(self.key, self.keeps)

    def time(self, stated: str | None) -> str | None:
        """Return a stated time of recording as it is stored, in ISO 8601; None for one that cannot be used."""
        at = parse(stated)
        if at is None:
            return None
        return text_of(at if self.keeps else shifted(at, self.key))

    def age(self, years: float | None) -> float | None:
        """Return an age as it is stored."""
        return years if self.keeps or years is None else min(years, OLDEST_TOLD)

    def clean(self, row: dict[str, Any], terms: Iterable[str]) -> None:
        """Put the pseudonym for the subject; without ``keeps`` also shift the time, cap the age, and drop texts that can name
        a person.

        row: a record as :func:`datasets.reading.row_of` returns it, changed in place. terms: what the file says in
        its identifying fields.
        """
        row["recorded_at"] = self.time(row["recorded_at"])
        row["age"] = self.age(row["age"])
        identifier = row["subject"]
        row["identifier"] = identifier if self.keeps else None
        row["subject"] = pseudonym(self.key, identifier) if identifier else None
        if self.keeps:
            return
        named = Named([*terms, *([identifier] if identifier else [])])
        meta = row["meta"]
        row["labels"] = [
            label for label in row["labels"] if label[0] != "name" or not named.in_text(label[1], strict=True)
        ]
        meta["annotations"] = [
            [*mark[:3], mark[3] if _MARKED.fullmatch(mark[3]) else ""]
            for mark in meta["annotations"]
            if len(mark[1]) <= 16 and not named.in_text(mark[1])
        ]
        meta["notes"] = [note for note in meta["notes"] if not named.in_text(note)]
        meta["dropped_channels"] = [
            name if not named.of_channel(name) else "(left out)" for name in meta["dropped_channels"]
        ]
        meta["device"] = None if meta["device"] and named.in_text(meta["device"]) else meta["device"]


class Named:
    """The identifying words of one file."""

    def __init__(self, terms: Iterable[str]):
        self._terms = sorted({term.casefold() for term in terms if len(term) >= 3}, key=len, reverse=True)

    def in_text(self, text: str, strict: bool = False) -> bool:
        """Tell whether a text holds one of the words, or a name by its form; ``strict``: or speaks of a person at all."""
        folded = text.casefold()
        if any(term in folded for term in self._terms) or names_somebody(text):
            return True
        return strict and _PERSONAL.search(text) is not None

    def of_channel(self, name: str) -> bool:
        """Tell whether the name of a channel that is no lead is a person's."""
        return canonical_lead(name) is None and (self.in_text(name) or reads_as_person(name))

    def mask(self, text: str) -> str:
        for term in self._terms:
            text = re.sub(re.escape(term), "…", text, flags=re.IGNORECASE)
        return text


def terms_of(format_name: str | None, data: bytes) -> list[str]:
    """Return the words in a file's identifying fields. data: the file's first megabytes."""
    if format_name in _XML or (format_name is None and data.lstrip(b"\xef\xbb\xbf\xff\xfe \r\n\t").startswith(b"<")):
        encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
        # Samples and pictures are longer than any name, and most of the file.
        text = _LONG_TEXT.sub("><", data.decode(encoding, "replace"))
        found = [match[3] for match in _ELEMENT.finditer(text)] + [m[2] for m in _ATTRIBUTE.finditer(text)]
        found += [a for m in _ELEMENT.finditer(text) for a in re.findall(r"\"([^\"]*)\"", m[2])]
    elif format_name == "fhir_observation" and b"<" in data[:8]:
        found = [match[1] for match in _FHIR_ELEMENT.finditer(data.decode("utf-8", "replace"))]
    elif format_name == "fhir_observation" or (format_name is None and b'"resourceType"' in data[:4096]):
        text = data.decode("utf-8", "replace")
        found = [cell for match in _JSON_WORDS.finditer(text) for cell in re.findall(r"\"([^\"]*)\"", match[1])]
        found += [match[1] for match in _JSON_PERSON.finditer(text)]
    elif format_name == "ishne":
        found = [part.split(b"\x00")[0].decode("latin-1") for part in (data[28:68], data[68:108], data[108:128])]
    elif format_name == "contec":
        found = [data[32:40].split(b"\x00")[0].decode("latin-1")]
    elif format_name == "scp_ecg":
        found = identifying_texts(data)
    elif format_name == "mfer" or (format_name is None and data[2:5] == b"MFR"):
        found = mfer_texts(data)
    elif format_name == "edf":
        found = re.split(r"[\s_]+", data[8:168].decode("latin-1"))
    elif format_name == "dicom" or data[128:132] == b"DICM":
        found = _dicom_terms(data)
    else:
        return []
    words: list[str] = []
    for text in found:
        text = text.strip()
        words += [part for part in (text, *re.split(r"[\s^,;=]+", text)) if len(part) >= 4 and not part.isspace()]
    # A bare small number or a unit is no identity, and would hit everywhere.
    return [
        word
        for word in words
        if not re.fullmatch(r"[\d.]{1,3}|startdate|male|female|unknown|root|true|false", word, re.IGNORECASE)
    ]


def _dicom_terms(data: bytes) -> list[str]:
    import pydicom

    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=True)
        wanted = ("PN", "LO", "SH", "LT", "ST", "UT")
        return [
            str(value) for element in dataset.iterall()
            if element.VR in wanted and re.search(r"name|patientid|institution|address|physician|operator|comment|station|descri|accession|otherpatient|studyid", element.keyword, re.IGNORECASE)
            for value in (element.value if element.VM > 1 else [element.value]) if value
        ]  # fmt: skip
    except Exception:
        # The reader says what is wrong with the file; there is nothing to be taken from it here.
        return []


def scrub(format_name: str, name: str, path: Path, data: bytes | None = None) -> tuple[str, bytes | None]:
    """Return what may be kept of an original file: (``as sent``, None), (``scrubbed``, bytes) or (``not kept``, None).

    data: the file's bytes where they are at hand.
    """

    def content() -> bytes:
        return path.read_bytes() if data is None else data

    try:
        if format_name == "wfdb":
            return _scrub_wfdb(name, content)
        if format_name == "edf":
            return _scrub_edf(content())
        if format_name == "dicom":
            return SCRUBBED, _scrub_dicom(content())
        if format_name == "numpy" and name.lower().endswith(".npy"):
            return AS_SENT, None
        if format_name == "hdf5" and _only_numbers_hdf(path):
            return AS_SENT, None
        if format_name == "matlab" and _only_numbers_mat(path):
            return AS_SENT, None
        if format_name == "csv" and _only_numbers_text(content()):
            return AS_SENT, None
    except Exception:
        # What cannot be cleaned for whatever reason is not kept.
        return NOT_KEPT, None
    return NOT_KEPT, None


def _scrub_wfdb(name: str, content: Callable[[], bytes]) -> tuple[str, bytes | None]:
    lowered = name.lower()
    if not lowered.endswith(".hea"):
        if re.search(r"\.(dat|mat|xyz|d\d+)$", lowered):
            return AS_SENT, None
        notes = [note for *_, note in read_annotations(content(), 1.0, ())]
        return (AS_SENT, None) if all(_MARKED.fullmatch(note) for note in notes) else (NOT_KEPT, None)
    raw = content()
    kept, is_first = [], True
    for line in raw.decode("utf-8", "replace").splitlines():
        if line.lstrip().startswith("#"):
            if _COMMENT.fullmatch(line.strip()):
                kept.append(line)
            continue
        if is_first and line.strip():
            # Name, signals, rate and length; not the time and date of recording.
            parts, is_first = line.split(), False
            line = " ".join(parts[:4]) if len(parts) > 4 else line
        elif len(parts := line.split(None, 8)) == 9 and Named(()).of_channel(parts[8]):
            line = " ".join([*parts[:8], f"channel {len(kept)}"])
        kept.append(line)
    text = "\n".join(kept) + "\n"
    same = text.split() == raw.decode("utf-8", "replace").split()
    return (AS_SENT, None) if same else (SCRUBBED, text.encode())


def _scrub_edf(data: bytes) -> tuple[str, bytes | None]:
    """Blank patient, recording and start as EDF+ prescribes for anonymous files; texts of annotations are not kept."""
    from datasets.formats._edf_header import read_annotations as edf_annotations
    from datasets.formats._edf_header import read_header

    header = read_header("", io.BytesIO(data), len(data))
    for signal in header.signals:
        if signal.is_annotation:
            for record in range(header.records):
                at = header.start + record * header.record_bytes + signal.offset * header.width
                found = edf_annotations(data[at : at + signal.samples * header.width])[1]
                if any(not _MARKED.fullmatch(mark.text) for mark in found):
                    return NOT_KEPT, None
    sex = {"male": "M", "female": "F"}.get(header.sex or "", "X")
    patient = f"X {sex} X X" if header.plus else ""
    recording = "Startdate X X X X" if header.plus else ""
    clean = f"{patient:<80}{recording:<80}01.01.8500.00.00".encode()
    # Transducers and prefilters are free text, too.
    count = len(header.signals)
    fields = bytearray(data[256 : header.start])
    for start, width in ((16, 80), (136, 80), (224, 32)):
        fields[start * count : (start + width) * count] = b" " * (width * count)
    # Behind the data records that are read there may be more annotations.
    end = header.start + header.records * header.record_bytes
    return SCRUBBED, data[:8] + clean + data[184:256] + bytes(fields) + data[header.start : end]


_DICOM_KEPT = frozenset(
    "SOPClassUID Modality Manufacturer ManufacturerModelName PatientAge PatientSex PatientSize PatientWeight WaveformSequence "
    "WaveformAnnotationSequence AcquisitionContextSequence SpecificCharacterSet".split()
)
_DICOM_TEXT = frozenset(("CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning", "LongCodeValue"))


def _scrub_dicom(data: bytes) -> bytes:
    import pydicom
    from pydicom.dataset import Dataset

    dataset = pydicom.dcmread(io.BytesIO(data), force=True)

    def clean(part: Dataset, top: bool) -> None:
        for element in list(part):
            keyword = element.keyword
            if element.tag.is_private or not keyword or (top and keyword not in _DICOM_KEPT):
                del part[element.tag]
            elif element.VR == "SQ":
                for item in element.value:
                    clean(item, False)
            elif not top and keyword not in _DICOM_TEXT and element.VR in (
                "PN", "LO", "LT", "ST", "UT", "DA", "DT", "TM", "SH", "UI", "UC", "UR", "AE", "UN", "AS",
            ) and not (keyword in ("MultiplexGroupLabel", "ChannelLabel") and _is_channel(str(element.value))):  # fmt: skip
                del part[element.tag]

    clean(dataset, True)
    uid = pydicom.uid.generate_uid(entropy_srcs=[hashlib.sha256(data).hexdigest()])
    dataset.SOPInstanceUID = uid
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Only the waveform and its coded description were kept"
    for element in list(dataset.file_meta):
        if element.keyword not in ("MediaStorageSOPClassUID", "TransferSyntaxUID", "FileMetaInformationVersion"):
            del dataset.file_meta[element.tag]
    dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.preamble = b"\x00" * 128
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _is_channel(text: str) -> bool:
    return canonical_lead(text) is not None or text.strip().upper() in ("RHYTHM", "MEDIAN BEAT")


def _only_numbers_hdf(path: Path) -> bool:
    import h5py

    found: list[bool] = []

    def look(name: str, node: Any) -> None:
        found.append(not node.attrs and (not isinstance(node, h5py.Dataset) or node.dtype.kind in "iufb"))

    with h5py.File(path, "r") as file:
        file.visititems(look)
        return not file.attrs and all(found)


def _only_numbers_mat(path: Path) -> bool:
    from scipy.io import whosmat

    kinds = ("double", "single", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    return all(kind in kinds for _, _, kind in whosmat(str(path)))


def _only_numbers_text(data: bytes) -> bool:
    words = set(re.findall(r"[^\W\d_]+\w*", data.decode("utf-8-sig", "replace")))
    return len(words) < 100 and all(
        word.casefold() in _TABLE_WORDS or canonical_lead(word) is not None for word in words
    )
