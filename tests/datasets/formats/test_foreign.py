"""Files that are not read are called what they are, with what to do."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from datasets.formats import registry
from datasets.formats._foreign import packed
from datasets.formats.archive import is_archive, unpack
from datasets.formats.base import BytesSource
from ecgportal.errors import UnreadableFile


@pytest.mark.parametrize(
    ("name", "head", "code", "words"),
    [
        ("a.tar.zst", b"\x28\xb5\x2f\xfd", "archive_kind", "Zstandard"), ("a.7z", b"7z\xbc\xaf\x27\x1c", "archive_kind", "7-Zip"),
        ("a.rar", b"Rar!\x1a\x07\x01\x00", "archive_kind", "RAR"), ("a.tar.xz", b"\xfd7zXZ\x00", "archive_kind", "xz"),
        ("a.tar.bz2", b"BZh9", "archive_kind", "bzip2"), ("a.lz4", b"\x04\x22\x4d\x18", "archive_kind", "LZ4"),
        ("a.csv.gz", gzip.compress(b"I,II\n", mtime=0), "archive_kind", "packed with gzip"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "format_not_read", "as CSV"), ("a.xlsx", b"PK\x03\x04", "format_not_read", "as CSV"),
        ("a.parquet", b"PAR1", "format_not_read", "as CSV"), ("a.feather", b"ARROW1", "format_not_read", "as CSV"),
        ("a.db", b"SQLite format 3\x00", "format_not_read", "SQLite"), ("a.pkl", b"\x80\x04\x95", "format_not_read", "run code"),
        ("scan.pdf", b"%PDF-1.7", "not_an_ecg", "picture holds none"), ("scan.xml", b"\x89PNG\r\n", "not_an_ecg", "picture"),
        ("a.gdf", b"GDF 2.20", "format_not_read", "EDF"), ("a.vhdr", b"Brain Vision Data Exchange Header", "format_not_read", "EDF"),
        ("a.adicht", b"CFWB", "format_not_read", "LabChart"), ("a.acq", b"\x00\x00\x2d\x01", "format_not_read", "AcqKnowledge"),
        ("a.json", b'{"ecg": [1, 2, 3]}', "not_an_ecg", "FHIR"), ("a.xml", b"<?xml version='1.0'?><plist/>", "not_an_ecg", "XML"),
        ("db/RECORDS", b"A0001\n", "not_needed", "passed over"), ("SHA256SUMS.txt", b"0a1b A0001.hea\n", "not_needed", "passed over"),
        ("LICENSE.txt", b"Open Data Commons", "not_needed", "passed over"), ("Thumbs.db", b"\xd0\xcf", "not_needed", "passed over"),
        ("a.bin", b"", "empty_file", "empty"), ("a.bin", b"MZ\x90", "not_an_ecg", "It reads:"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_read_is_named_with_what_to_do(name: str, head: bytes, code: str, words: str) -> None:
    data = head + b"x" * 600 if head and code not in ("not_an_ecg", "not_needed") else head
    with pytest.raises(UnreadableFile) as error:
        registry.read(BytesSource(name, data))
    assert error.value.code == code and name in error.value.message and words in error.value.message
    assert error.value.message.count(".") >= 2, "one sentence says what it is, another what to do"


@pytest.mark.parametrize("head", [b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\xfd7zXZ\x00"])
def test_archives_of_other_kinds_are_refused_as_such(head: bytes, tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(head + bytes(600))
    assert is_archive(path.read_bytes(), "cohort.tar.zst")
    with pytest.raises(UnreadableFile, match=r"cohort\.bin is .*, which is not read\. Unpack it") as error:
        unpack(path, "cohort.bin", tmp_path)
    assert error.value.code == "archive_kind"


def test_gzip_is_no_archive_of_another_kind() -> None:
    assert packed(gzip.compress(b"x")) is None and packed(b"I,II\n1,2\n") is None
