"""Keep persons out: pseudonyms for subject keys, metadata without free text, the words that identify in a file.

What is taken away follows the idea of DICOM PS3.15, annex E (basic profile): what is known to be needed stays, everything
else goes. What is kept of original files: :mod:`datasets.scrubbing`.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import re
from base64 import b32encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from datasets.ecg import canonical_lead
from datasets.file_names import FileNames, names_somebody, reads_as_person
from datasets.formats._scp_meta import identifying_texts
from datasets.formats.mfer import identifying_texts as mfer_texts
from datasets.recording_time import parse, shifted, text_of

# Ages above 89 single people out (45 CFR 164.514); they are stored as this one.
OLDEST_TOLD = 90.0

_XML = frozenset(("muse_xml", "cardiosoft_xml", "philips_xml", "hl7_aecg", "mortara_xml", "schiller_xml"))
MARKED = re.compile(
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
# What stands between the signs that divide the headings of tables and the names inside files of arrays.
_CALLED = re.compile(rb"[A-Za-z0-9\xc0-\xff][A-Za-z0-9\xc0-\xff _.^~-]{5,}")
_CALLED_WITHIN = 1 << 18


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
            [*mark[:3], mark[3] if MARKED.fullmatch(mark[3]) else ""]
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


def called_like_persons(data: bytes) -> list[str]:
    """Return what reads like a person's name among what columns, arrays and groups may be called. data: as in ``terms_of``."""
    pieces = set(_CALLED.findall(data[:_CALLED_WITHIN]))
    return [text for piece in pieces if reads_as_person(text := piece.decode("latin-1"))]


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
