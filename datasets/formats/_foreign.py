"""Files that are known by their first bytes or names and not read: what they are, and what to do instead."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from ecgportal.errors import UnreadableFile


@dataclass(frozen=True)
class Foreign:
    """A kind of file that no reader takes. advice: a sentence on how its ECGs can be brought in."""

    title: str
    advice: str
    magics: tuple[bytes, ...] = ()
    suffixes: tuple[str, ...] = ()
    code: str = "format_not_read"


# What lies beside ECGs in published collections and folders of systems.
_NOT_NEEDED = re.compile(
    r"(records(-\w+)?|annotators|sha(1|256)sums(\.txt)?|md5sums(\.txt)?|licen[cs]e(\.\w+)?|readme(\.\w+)?|changelog(\.\w+)?|"
    r"thumbs\.db|desktop\.ini|\.ds_store|\._.+|autorun\.inf|index\.html?|.+\.(?:xws|md5|sha256|md|log|py|m))$",
    re.IGNORECASE,
)
_UNPACK = "Unpack it and upload the folder, or pack it as zip or tar.gz."
_AS_TABLE = "Export its ECGs as CSV, one column a lead, with the unit in the header as in I (uV)."
_AS_DATA = "Ask the device's software for an export of the samples (DICOM, SCP-ECG, aECG or CSV); a picture holds none."

_KINDS = (
    Foreign("a file packed with Zstandard", _UNPACK, (b"\x28\xb5\x2f\xfd",), (".zst", ".tzst"), "archive_kind"),
    Foreign("a 7-Zip archive", _UNPACK, (b"7z\xbc\xaf\x27\x1c",), (".7z",), "archive_kind"),
    Foreign("a RAR archive", _UNPACK, (b"Rar!\x1a\x07",), (".rar",), "archive_kind"),
    Foreign("a file packed with xz", _UNPACK, (b"\xfd7zXZ\x00",), (".xz", ".txz"), "archive_kind"),
    Foreign("a file packed with bzip2", _UNPACK, (b"BZh",), (".bz2", ".tbz2"), "archive_kind"),
    Foreign("a file packed with LZ4", _UNPACK, (b"\x04\x22\x4d\x18",), (".lz4",), "archive_kind"),
    Foreign("one file packed with gzip", "Unpack it, or pack the folder as tar.gz.", (b"\x1f\x8b",), (), "archive_kind"),
    Foreign("an old Word or Excel document", _AS_TABLE, (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",), (".xls", ".doc")),
    Foreign("a spreadsheet", _AS_TABLE, (), (".xlsx", ".xlsm", ".ods")),
    Foreign("a Parquet table", _AS_TABLE, (b"PAR1",), (".parquet",)),
    Foreign("an Arrow table", _AS_TABLE, (b"ARROW1",), (".feather", ".arrow")),
    Foreign("an SQLite database", _AS_TABLE, (b"SQLite format 3\x00",)),
    Foreign(
        "a Python pickle",
        "It is not loaded, since loading one can run code. Save the samples with numpy.save.",
        (b"\x80\x04\x95", b"\x80\x05\x95"),
        (".pkl", ".pickle", ".joblib"),
    ),
    Foreign("a PDF document", _AS_DATA, (b"%PDF-",), (".pdf",), "not_an_ecg"),
    Foreign(
        "a picture",
        _AS_DATA,
        (b"\x89PNG", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*"),
        (".png", ".jpg", ".jpeg", ".gif", ".tif", ".tiff", ".bmp", ".svg"),
        "not_an_ecg",
    ),
    Foreign("a GDF recording", "Convert it to EDF+, BDF or CSV.", (b"GDF 1.", b"GDF 2."), (".gdf",)),
    Foreign(
        "a BrainVision recording",
        "Convert it to EDF+ or CSV.",
        (b"Brain Vision Data Exchange", b"BrainVision Data Exchange"),
        (".vhdr", ".vmrk", ".eeg"),
    ),
    Foreign("a LabChart recording", "Export it from LabChart as text or as MATLAB file.", (b"CFWB",), (".adicht",)),
    Foreign("an AcqKnowledge recording", "Export it from AcqKnowledge as text or as MATLAB file.", (), (".acq",)),
)  # fmt: skip


def packed(head: bytes) -> Foreign | None:
    """Return the kind of an archive that is not opened, by its first bytes; None for anything else, and for gzip."""
    kind = foreign(head, "")
    return kind if kind is not None and kind.code == "archive_kind" and not head.startswith(b"\x1f\x8b") else None


def foreign(head: bytes, name: str) -> Foreign | None:
    """Return what a file is that no reader knows, by its first bytes or else by its name's ending; None when unknown."""
    by_bytes = next((kind for kind in _KINDS if any(head.startswith(magic) for magic in kind.magics)), None)
    return by_bytes or next((kind for kind in _KINDS if name.lower().endswith(kind.suffixes or ("\0",))), None)


def refusal(head: bytes, name: str, titles: str) -> UnreadableFile:
    """Return the error for a file that no reader knows. titles: the formats that are read."""
    kind = foreign(head, name)
    if kind is not None:
        return UnreadableFile(f"{name} is {kind.title}, which is not read. {kind.advice}", code=kind.code)
    if not head.strip(b"\x00 \t\r\n"):
        return UnreadableFile(
            f"{name} is empty, or begins with nothing but blanks. Upload it again.", code="empty_file"
        )
    if _NOT_NEEDED.match(PurePosixPath(name).name):
        return UnreadableFile(
            f"{name} holds no ECG, and none of the ECGs beside it needs it. It was passed over.", code="not_needed"
        )
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".json" or re.match(rb"[\xef\xbb\xbf\s]*[{\[]", head):
        return UnreadableFile(
            f"{name} is JSON, of which FHIR Observations with SampledData are read (NDJSON and XML, too). Export the ECG so, or as CSV.",
            code="not_an_ecg",
        )
    if re.match(rb"[\xef\xbb\xbf\s]*<", head):
        return UnreadableFile(
            f"{name} is XML, but not of a kind that the portal reads as an ECG. It reads: {titles}.", code="not_an_ecg"
        )
    return UnreadableFile(
        f"{name} is not an ECG in a format that the portal reads. It reads: {titles}.", code="not_an_ecg"
    )
