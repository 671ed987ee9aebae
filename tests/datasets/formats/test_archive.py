"""Archives: what is taken, what is refused by name, and what refuses the whole archive."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datasets.formats.archive import ArchiveLimits, FileSource, FolderSource, is_archive, unpack
from ecgportal.errors import PortalError, TooLarge, UnreadableFile, UnsafeFile


def make_zip(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def make_tar(members: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def opened(data: bytes, into: Path, limits: ArchiveLimits | None = None, name: str = "upload.zip"):
    result = unpack(io.BytesIO(data), name, into, limits)
    return {name: path.read_bytes() for name, path in result.files}, {name: code for name, code, _ in result.refused}


PLAIN = {"a/00001.hea": b"head", "a/00001.dat": b"\x00" * 2048, "b/other.csv": b"I,II\n1,2\n", "empty.txt": b""}


@pytest.mark.parametrize(
    "data",
    [make_zip(PLAIN), make_zip(PLAIN, zipfile.ZIP_STORED), make_tar(PLAIN), make_tar(PLAIN, "w:gz")],
    ids=["deflated", "stored", "tar", "tar.gz"],
)
def test_members_come_out_whole_under_numbers(data: bytes, tmp_path: Path) -> None:
    result = unpack(io.BytesIO(data), "upload", tmp_path)
    assert {name: path.read_bytes() for name, path in result.files} == PLAIN
    assert result.refused == []
    assert all(path.parent == tmp_path and not any(n in path.name for n in ("hea", "csv")) for _, path in result.files)
    assert len(unpack(io.BytesIO(data), "upload", tmp_path).files) == len(PLAIN)


def test_a_path_is_opened_like_a_stream(tmp_path: Path) -> None:
    archive = tmp_path / "x.tar.gz"
    archive.write_bytes(make_tar(PLAIN, "w:gz"))
    into = tmp_path / "into"
    into.mkdir()
    assert len(unpack(archive, "x.tar.gz", into).files) == 4


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("../evil.hea", "unsafe_path"),
        ("a/../../evil.hea", "unsafe_path"),
        ("/etc/passwd", "unsafe_path"),
        ("C:evil.hea", "unsafe_path"),
        ("C:\\evil.hea", "unsafe_path"),
        ("..\\evil.hea", "unsafe_path"),
        ("\\\\host\\share\\x", "unsafe_path"),
        ("a//b.hea", "unsafe_path"),
        ("x.hea:stream", "unsafe_path"),
        ("a\nb.hea", "bad_name"),
        ("x" * 4096, "bad_name"),
        ("d/" * 40 + "x", "bad_name"),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_bad_name_is_refused_and_the_others_are_taken(name: str, code: str, kind: str, tmp_path: Path) -> None:
    members = {name: b"bad", "good.hea": b"good"}
    data = make_zip(members) if kind == "zip" else make_tar(members)
    result = unpack(io.BytesIO(data), "upload." + kind, tmp_path)
    assert [n for n, _ in result.files] == ["good.hea"]
    ((shown, found, sentence),) = result.refused
    assert found == code
    assert shown in sentence and "\n" not in sentence
    assert [p.name for p in tmp_path.iterdir()] == [result.files[0][1].name]


def test_a_nul_byte_in_a_name_is_refused(tmp_path: Path) -> None:
    data = make_zip({"aXb.hea": b"1"}).replace(b"aXb.hea", b"a\x00b.hea")
    taken, refused = opened(data, tmp_path)
    assert taken == {} and list(refused.values()) == ["bad_name"]


def test_markup_and_direction_marks_in_names_stay_text(tmp_path: Path) -> None:
    taken, _ = opened(make_zip({"<img onerror>.csv": b"1", "txt\u202egnp.hea": b"2"}), tmp_path)
    assert taken == {"<img onerror>.csv": b"1", "txtgnp.hea": b"2"}


def test_names_that_differ_in_capitals_only_clash(tmp_path: Path) -> None:
    taken, refused = opened(make_zip({"A.hea": b"1", "a.HEA": b"2"}), tmp_path)
    assert taken == {"A.hea": b"1"} and refused == {"a.HEA": "name_clash"}


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in (
            ("s", tarfile.SYMTYPE),
            ("h", tarfile.LNKTYPE),
            ("d", tarfile.CHRTYPE),
            ("p", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("good.hea")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"good"))
    taken, refused = opened(buffer.getvalue(), tmp_path, name="x.tar")
    assert taken == {"good.hea": b"good"}
    assert refused == dict.fromkeys("shdp", "not_a_file")

    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    taken, refused = opened(buffer.getvalue(), tmp_path)
    assert taken == {} and refused == {"link": "not_a_file"}


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    data = bytearray(make_zip({"secret.hea": b"x", "good.hea": b"y"}))
    central = data.index(b"PK\x01\x02")
    data[central + 8] |= 1
    taken, refused = opened(bytes(data), tmp_path)
    assert taken == {"good.hea": b"y"} and refused == {"secret.hea": "encrypted"}


def test_a_nested_archive_is_refused_with_a_sentence(tmp_path: Path) -> None:
    inner = make_zip({"x": b"1"})
    result = unpack(
        io.BytesIO(make_zip({"inner.zip": inner, "t.bin": gzip.compress(b"1"), "ok.csv": b"1"})), "u.zip", tmp_path
    )
    assert [n for n, _ in result.files] == ["ok.csv"]
    assert [(n, c) for n, c, _ in result.refused] == [("inner.zip", "nested_archive"), ("t.bin", "nested_archive")]
    assert "inner.zip in u.zip was refused: it is an archive inside the archive" in result.refused[0][2]


SMALL = ArchiveLimits(total_bytes=10**8, ratio=50, ratio_from_bytes=10**6)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_bomb_refuses_the_whole_archive(kind: str, tmp_path: Path) -> None:
    members = {"first.hea": b"fine", "bomb.dat": bytes(20_000_000)}
    data = make_zip(members) if kind == "zip" else make_tar(members, "w:gz")
    with pytest.raises(TooLarge) as caught:
        unpack(io.BytesIO(data), "upload." + kind, tmp_path, SMALL)
    assert caught.value.code == "archive_bomb"
    assert list(tmp_path.iterdir()) == []


def test_a_bomb_behind_a_refused_name_is_still_a_bomb(tmp_path: Path) -> None:
    data = make_tar({"../bomb.dat": bytes(20_000_000), "x.hea": b"1"}, "w:gz")
    with pytest.raises(TooLarge):
        unpack(io.BytesIO(data), "x.tar.gz", tmp_path, SMALL)


def test_a_size_that_lies_does_not_inflate_beyond_it(tmp_path: Path) -> None:
    data = bytearray(make_zip({"bomb.dat": bytes(20_000_000), "good.hea": b"y"}))
    central = data.index(b"PK\x01\x02")
    struct.pack_into("<I", data, central + 24, 10)
    taken, refused = opened(bytes(data), tmp_path, SMALL)
    assert taken == {"good.hea": b"y"} and refused == {"bomb.dat": "damaged"}


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    data = bytearray(make_zip({"one": os.urandom(500), "two": os.urandom(500)}))
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    struct.pack_into("<I", data, second + 42, 0)
    with pytest.raises(UnsafeFile) as caught:
        unpack(io.BytesIO(bytes(data)), "x.zip", tmp_path)
    assert caught.value.code == "archive_bomb"


def test_counts_and_sizes_have_limits(tmp_path: Path) -> None:
    many = {f"{i}.hea": b"1" for i in range(20)}
    for data, name in ((make_zip(many), "m.zip"), (make_tar(many), "m.tar")):
        with pytest.raises(TooLarge) as caught:
            unpack(io.BytesIO(data), name, tmp_path, ArchiveLimits(members=10))
        assert caught.value.code == "too_many_files"
    taken, refused = opened(
        make_zip({"big": os.urandom(2000), "small": b"1"}), tmp_path, ArchiveLimits(member_bytes=1000)
    )
    assert list(taken) == ["small"] and refused == {"big": "too_large"}
    with pytest.raises(TooLarge) as caught:
        unpack(io.BytesIO(make_zip({"big": os.urandom(2000)})), "x.zip", tmp_path, ArchiveLimits(total_bytes=1000))
    assert caught.value.code == "too_large"


def test_a_tar_header_that_announces_a_huge_name_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 50_000_000
    data = gzip.compress(info.tobuf() + bytes(50_000_000) + make_tar({"x": b"1"}))
    with pytest.raises(PortalError):
        unpack(io.BytesIO(data), "x.tar.gz", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data", [make_zip(PLAIN)[:-30], make_tar(PLAIN, "w:gz")[:-40], b"7z\xbc\xaf\x27\x1c" + bytes(600), b"nothing"]
)
def test_a_damaged_archive_is_refused_and_leaves_nothing(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile):
        unpack(io.BytesIO(data), "x.zip", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_file_in_gzip_is_told_from_a_damaged_archive(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="one file packed with gzip") as caught:
        unpack(io.BytesIO(gzip.compress(b"I,II\n1,2\n" * 100)), "x.csv.gz", tmp_path)
    assert caught.value.code == "archive_kind"
    assert unpack(io.BytesIO(make_tar(PLAIN, "w:gz")), "x.gz", tmp_path).files


def test_archives_are_told_by_content() -> None:
    assert is_archive(make_zip(PLAIN)[:512], "x.bin")
    assert is_archive(make_tar(PLAIN)[:512], "x.bin")
    assert is_archive(make_tar(PLAIN, "w:gz")[:512], "x.tar.gz")
    assert not is_archive(make_zip(PLAIN)[:512], "labels.xlsx")
    assert not is_archive(b"I,II\n1,2\n", "x.zip")


_ZIP_SEED, _TAR_SEED = make_zip(PLAIN), make_tar(PLAIN, "w:gz")


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([_ZIP_SEED, _TAR_SEED]), st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=12)
)
@example(_ZIP_SEED, [(_ZIP_SEED.index(b"PK\x01\x02") + 46, 0)])
def test_changed_bytes_never_crash(
    tmp_path_factory: pytest.TempPathFactory, seed: bytes, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(seed)
    for position, value in changes:
        data[position % len(data)] = value
    into = tmp_path_factory.mktemp("fuzz")
    try:
        result = unpack(io.BytesIO(bytes(data)), "x", into)
    except PortalError:
        assert list(into.iterdir()) == []
    else:
        assert all(path.parent == into for _, path in result.files)


def test_companions_come_from_the_same_folder_of_the_upload(tmp_path: Path) -> None:
    result = unpack(io.BytesIO(make_zip({**PLAIN, "b/00001.dat": b"other"})), "u.zip", tmp_path)
    folder = FolderSource(dict(result.files))
    source = folder.get("a/00001.hea")
    assert source is not None and source.size == 4
    companion = source.companion("00001.dat")
    assert companion is not None and companion.name == "a/00001.dat" and companion.size == 2048
    for name in ("../b/00001.dat", "other.csv", "/etc/passwd", "http://host/x.dat", "a/00001.dat", "", "..", "\\x"):
        assert source.companion(name) is None
    assert [s.name for s in folder] == sorted(PLAIN | {"b/00001.dat": b""})
    assert FileSource("x.csv", tmp_path / "nowhere").companion("y") is None


def test_a_server_folder_is_listed_without_links(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.hea").write_bytes(b"1")
    (tmp_path / "link.hea").symlink_to("/etc/passwd")
    (tmp_path / "out").symlink_to("/etc")
    assert [s.name for s in FolderSource.of_folder(tmp_path)] == ["sub/a.hea"]
