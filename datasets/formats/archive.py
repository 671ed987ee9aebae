"""Archives of an upload, unpacked safely: zip, tar and tar.gz into a private folder.

Members are stored under numbers of our own; their names are checked and kept as text only. Nothing is trusted that
an archive says about itself: sizes are counted while they are inflated.
"""

from __future__ import annotations

import gzip
import io
import os
import secrets
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

from datasets.formats._foreign import packed, refusal
from datasets.formats._forward import ForwardReader
from ecgportal.errors import PortalError, TooLarge, UnreadableFile, UnsafeFile

_CHUNK = 1 << 20
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_GZIP = b"\x1f\x8b"
_TAR_GZ = (".tar.gz", ".tgz")
# Files that operating systems put into archives by themselves.
_CLUTTER = frozenset((".DS_Store", "Thumbs.db", "desktop.ini"))


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may unpack to. ``ratio`` is unpacked bytes to archive bytes, checked beyond ``ratio_from_bytes``."""

    total_bytes: int = 64 * 1024**3
    member_bytes: int = 2 * 1024**3
    members: int = 500_000
    ratio: float = 200.0
    ratio_from_bytes: int = 32 * 1024**2
    name_bytes: int = 1024
    depth: int = 32


@dataclass
class UnpackResult:
    """files: ``(relative POSIX name, path of the stored bytes)``. refused: ``(name, code, sentence)`` of single members."""

    files: list[tuple[str, Path]] = field(default_factory=list)
    refused: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Member:
    """An archive's entry before it is read. ``refusal``: ``(code, sentence)`` when its kind is not taken."""

    name: str
    size: int
    is_folder: bool
    open: Callable[[], IO[bytes] | None]
    refusal: tuple[str, str] | None = None


def is_archive(head: bytes, name: str) -> bool:
    """Tell by its first bytes (512 or more for tar) whether a file is an archive that :func:`unpack` opens or names."""
    if head.startswith(_ZIP):
        # Spreadsheets and NumPy archives are zip files too, but no folders of ECGs.
        return not name.lower().endswith((".xlsx", ".npz", ".docx", ".onnx", ".pt", ".pth"))
    if head[257:262] == b"ustar" or packed(head) is not None:
        return True
    return head.startswith(_GZIP) and name.lower().endswith(_TAR_GZ)


def unpack(source: Path | BinaryIO, name: str, into: Path, limits: ArchiveLimits | None = None) -> UnpackResult:
    """Unpack an archive into the existing, private folder ``into``.

    source: the archive's path or a seekable stream. name: its name, for messages.
    A member that is not acceptable is refused by name and the others are taken. An archive that passes the limits on
    size, count or ratio, or that is damaged as a whole, is refused entirely and what it left in ``into`` is removed.
    Raises TooLarge (``archive_bomb``, ``too_many_files``, ``too_large``), UnsafeFile or UnreadableFile
    (``bad_archive``).
    """
    stored = _Unpacking(name, into, limits or ArchiveLimits())
    with _told_apart(name, stored):
        if isinstance(source, Path):
            with source.open("rb") as stream:
                stored.run(stream)
        else:
            stored.run(source)
    return stored.result


@dataclass(frozen=True)
class Listing:
    """What a zip holds. members: ``(place in its directory, relative name, size in bytes)``. refused: as in UnpackResult."""

    members: list[tuple[int, str, int]]
    refused: list[tuple[str, str, str]]


def is_zip(head: bytes) -> bool:
    return head.startswith(_ZIP)


def list_zip(source: Path, name: str, limits: ArchiveLimits | None = None) -> Listing:
    """Return the members of a zip that may be unpacked, checked like :func:`unpack` does, without reading their bytes.

    What :func:`unpack_members` writes of them is never more than the sizes told here. Raises what ``unpack`` raises.
    """
    checks = _Unpacking(name, source.parent, limits or ArchiveLimits())
    found = []
    with _told_apart(name), source.open("rb") as stream:
        checks.measure(stream)
        for place, member in enumerate(checks.zip_members(stream)):
            if (shown := checks.accept(member)) is not None:
                checks.add(member.size)
                found.append((place, shown, member.size))
    return Listing(found, checks.result.refused)


class ZipPart:
    """An open zip of which some members are unpacked, and some again later. Its directory is read once."""

    def __init__(self, source: Path, name: str):
        self.source = source
        self._name = name
        with _told_apart(name):
            self._archive = zipfile.ZipFile(source)
            self._infos = self._archive.infolist()

    def unpack(self, members: Iterable[tuple[int, str]], into: Path) -> UnpackResult:
        """Unpack ``(place, relative name)`` of :func:`list_zip` into an existing folder; damaged ones are refused."""
        run = _Unpacking(self._name, into, ArchiveLimits())
        run.packed = max(self.source.stat().st_size, 1)
        with _told_apart(self._name, run):
            for place, name in members:
                info = self._infos[place]
                run.store(_Member(name, info.file_size, False, partial(self._archive.open, info)), name, place)
        return run.result

    def close(self) -> None:
        self._archive.close()


@contextmanager
def _told_apart(name: str, run: _Unpacking | None = None) -> Iterator[None]:
    """Turn what a damaged archive raises into a refusal of it, and remove what a refused one has left."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        if run is not None:
            run.discard()
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UnreadableFile(
            f"{name} cannot be unpacked: the archive is damaged or cut short ({error}). Upload it again.",
            code="bad_archive",
        ) from error
    except PortalError:
        if run is not None:
            run.discard()
        raise


class _Unpacking:
    """One run over one archive: the counters that the limits are held against."""

    def __init__(self, name: str, into: Path, limits: ArchiveLimits):
        self.name = name
        self.into = into
        self.limits = limits
        self.result = UnpackResult()
        # Several archives of one upload may be unpacked into the same folder.
        self.token = secrets.token_hex(6)
        self.total = 0
        self.packed = 0
        self.seen: dict[str, str] = {}

    def measure(self, stream: BinaryIO) -> None:
        """Note the archive's own size, which what it unpacks to is compared with."""
        stream.seek(0, 2)
        self.packed = max(stream.tell(), 1)
        stream.seek(0)

    def run(self, stream: BinaryIO) -> None:
        self.measure(stream)
        head = stream.read(512)
        stream.seek(0)
        if packed(head) is not None:
            raise refusal(head, self.name, "")
        members = self.zip_members(stream) if is_zip(head) else self._tar(stream)
        for count, member in enumerate(members, start=1):
            if count > self.limits.members:
                raise TooLarge(
                    f"{self.name} has more than {self.limits.members} files. Split it into several archives.",
                    code="too_many_files",
                )
            if (name := self.accept(member)) is not None:
                self.store(member, name, count)

    def discard(self) -> None:
        for _, path in self.result.files:
            path.unlink(missing_ok=True)
        self.result.files.clear()

    def zip_members(self, stream: BinaryIO) -> Iterator[_Member]:
        # The directory is parsed as a whole: its own length bounds the number of entries (46 bytes each).
        with zipfile.ZipFile(stream) as archive:
            infos = archive.infolist()
            declared = sum(info.file_size for info in infos)
            if len(infos) > self.limits.members:
                raise TooLarge(
                    f"{self.name} has {len(infos)} files, more than {self.limits.members}. Split it into several archives.",
                    code="too_many_files",
                )
            self._check_total(declared)
            self._check_overlap(infos)
            for info in infos:
                kind = stat.S_IFMT(info.external_attr >> 16)
                refusal = None
                if info.flag_bits & 0x1:
                    refusal = ("encrypted", "is encrypted; pack it without a password")
                elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    refusal = ("not_a_file", "is a link or a device, not a file")
                elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
                    refusal = (
                        "compression",
                        f"uses the compression method {info.compress_type}, which is not opened; use deflate",
                    )
                # orig_filename keeps what zipfile cuts at a NUL byte or turns from backslashes into slashes.
                yield _Member(
                    info.orig_filename,
                    info.file_size,
                    info.filename.endswith("/"),
                    partial(archive.open, info),
                    refusal,
                )

    def _check_overlap(self, infos: list[zipfile.ZipInfo]) -> None:
        """Refuse members that share bytes: the trick by which small archives inflate without bound."""
        end = 0
        for info in sorted(infos, key=lambda i: i.header_offset):
            if info.header_offset < end:
                raise UnsafeFile(
                    f"{self.name} has files that overlap one another inside the archive; no packing program writes that. It was refused.",
                    code="archive_bomb",
                )
            end = info.header_offset + 30 + info.compress_size

    def _tar(self, stream: BinaryIO) -> Iterator[_Member]:
        packed = stream.read(2) == _GZIP
        stream.seek(0)
        if packed and not self.name.lower().endswith((".tar.gz", ".tgz")):
            # A tar header names itself at byte 257; anything else in gzip is one file packed by itself.
            with gzip.GzipFile(fileobj=stream) as unpacked:
                head = unpacked.read(512)
            if head[257:262] != b"ustar":
                raise UnreadableFile(
                    f"{self.name} is one file packed with gzip, which is not opened. Unpack it, or pack it as zip or tar.gz.",
                    code="archive_kind",
                )
            stream.seek(0)
        forward = ForwardReader(gzip.GzipFile(fileobj=stream) if packed else stream, self._check_total)
        with tarfile.open(fileobj=forward, mode="r:") as archive:  # type: ignore[call-overload]
            for info in archive:
                refusal = None
                if not (info.isreg() or info.isdir()):
                    refusal = ("not_a_file", "is a link or a device, not a file")
                elif info.issparse():
                    refusal = ("not_a_file", "is a sparse file; pack it plainly")
                yield _Member(info.name, info.size, info.isdir(), partial(archive.extractfile, info), refusal)
                # tarfile keeps every entry that it has seen; a million of them would fill the memory.
                archive.members.clear()

    def add(self, size: int) -> None:
        self.total += size
        self._check_total(self.total)

    def accept(self, member: _Member) -> str | None:
        """Return the name under which a member is stored; None when it is refused or not worth a word."""
        bare = member.name.rpartition("/")[2]
        if member.refusal is None and (
            bare in _CLUTTER or bare.startswith("._") or member.name.startswith("__MACOSX/")
        ):
            return None
        refusal = self._bad_name(member.name)
        if refusal is None and member.is_folder:
            return None
        refusal = refusal or member.refusal
        if refusal is None and member.size > self.limits.member_bytes:
            refusal = ("too_large", f"is larger than {self.limits.member_bytes / 1e6:.0f} MB")
        if refusal is not None:
            self._refuse(member.name, *refusal)
            return None
        # Direction marks and other invisible characters would let a name look like another one.
        visible = "".join(c for c in member.name if unicodedata.category(c) != "Cf")
        name = unicodedata.normalize("NFC", visible.replace("\\", "/").removeprefix("./"))
        folded = name.casefold()
        if folded in self.seen:
            self._refuse(
                name,
                "name_clash",
                f"has the name of {_shown(self.seen[folded])!r}, but for capitals at most; rename one of them",
            )
            return None
        self.seen[folded] = name
        return name

    def store(self, member: _Member, name: str, number: int) -> None:
        """Write an accepted member under a number of ours."""
        path = self.into / f"{self.token}-{number:08d}"
        self._check_total(self.total + member.size)
        try:
            head = self._write(member, path)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            path.unlink(missing_ok=True)
            self._refuse(name, "damaged", f"is damaged inside the archive ({error})")
            return
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if is_archive(head, name) or head.startswith(_GZIP):
            path.unlink()
            self._refuse(name, "nested_archive", "is an archive inside the archive; unpack it and upload it by itself")
            return
        self.result.files.append((name, path))

    def _write(self, member: _Member, path: Path) -> bytes:
        head = b""
        opened = member.open()
        assert opened is not None
        with opened as stream, path.open("xb") as target:
            while chunk := stream.read(_CHUNK):
                head = head or chunk[:512]
                self.total += len(chunk)
                self._check_total(self.total)
                target.write(chunk)
        return head

    def _check_total(self, total: int) -> None:
        if total > self.limits.total_bytes:
            raise TooLarge(
                f"{self.name} unpacks to more than {self.limits.total_bytes / 1e9:.1f} GB. Split it into several archives.",
                code="too_large",
            )
        if total > self.limits.ratio_from_bytes and total > self.limits.ratio * self.packed:
            raise TooLarge(
                f"{self.name} unpacks to more than {self.limits.ratio:.0f} times its size, as no archive of ECGs does. "
                "It was refused; nothing of it was kept.",
                code="archive_bomb",
            )

    def _bad_name(self, name: str) -> tuple[str, str] | None:
        text = name.replace("\\", "/")
        parts = text.removeprefix("./").rstrip("/").split("/")
        if len(name.encode("utf-8", "surrogatepass")) > self.limits.name_bytes or len(parts) > self.limits.depth:
            return "bad_name", "has a name that is too long or too deep"
        if any(ord(c) < 32 or ord(c) == 127 or unicodedata.category(c) == "Cs" for c in name):
            return "bad_name", "has control characters in its name"
        if text.startswith("/") or (len(text) > 1 and text[1] == ":"):
            return "unsafe_path", "has an absolute name, which would lead out of the upload"
        if any(part in ("..", "") for part in parts) or any(part == "." for part in parts[:-1]):
            if text in (".", "./"):
                return None
            return "unsafe_path", "has a name that leads out of the upload"
        if any(":" in part for part in parts):
            return "unsafe_path", "has a colon in its name, which Windows reads as a drive or a hidden stream"
        return None

    def _refuse(self, name: str, code: str, reason: str) -> None:
        shown = _shown(name)
        self.result.refused.append((shown, code, f"{shown} in {self.name} was refused: it {reason}."))


def _shown(name: str) -> str:
    """Return a name that is safe to print: control and invisible characters escaped, long ones shortened."""
    text = "".join(
        c if c.isprintable() and unicodedata.category(c) not in ("Cs", "Cf") else f"\\u{ord(c):04x}" for c in name
    )
    return text if len(text) <= 200 else text[:197] + "..."


# Files up to this size are read whole where their bytes are needed several times.
_SMALL_BYTES = 1 << 20


class FileSource:
    """A file of an upload that lies on disk, with its neighbours (see :class:`datasets.formats.base.Source`).

    name: relative POSIX name inside the upload. path: where its bytes lie. index: path by relative name for the whole
    upload; neighbours are looked up in it and nowhere else. held: bytes of small files by path; where it is given, each
    file is read from disk once and stays there for whoever needs its bytes next.
    """

    __slots__ = ("_folder", "_held", "_index", "_path", "name")

    def __init__(
        self, name: str, path: Path, index: Mapping[str, Path] | None = None, held: dict[Path, bytes] | None = None
    ):
        self.name = name
        self._held = held
        self._path = path
        self._index = index if index is not None else {}
        self._folder = name[: name.rfind("/") + 1]

    @property
    def size(self) -> int:
        if self._held is not None and (data := self._held.get(self._path)) is not None:
            return len(data)
        return self._path.stat().st_size

    def open(self) -> BinaryIO:
        if self._held is None:
            return open(self._path, "rb")
        data = self._held.get(self._path)
        if data is not None:
            return io.BytesIO(data)
        stream = open(self._path, "rb")
        head = stream.read(_SMALL_BYTES + 1)
        if len(head) > _SMALL_BYTES:
            stream.seek(0)
            return stream
        stream.close()
        self._held[self._path] = head
        return io.BytesIO(head)

    def companion(self, name: str) -> FileSource | None:
        """Return the file ``name`` of the same folder of the upload; None for anything that is not a bare name."""
        full = self._folder + name
        path = self._index.get(full)
        if path is None or not name or "/" in name or "\\" in name or name in (".", ".."):
            return None
        return FileSource(full, path, self._index, self._held)


class FolderSource:
    """All files of an upload, in name order, each with its neighbours.

    index: path by relative POSIX name, as ``dict(unpack(...).files)`` gives it.
    """

    def __init__(self, index: Mapping[str, Path]):
        self._index = index

    @classmethod
    def of_folder(cls, folder: Path) -> FolderSource:
        """List a folder of the server with its subfolders; links are left out, so nothing outside it is reached."""
        index: dict[str, Path] = {}
        for root, _, names in os.walk(folder, followlinks=False):
            for name in names:
                path = Path(root) / name
                if path.is_file() and not path.is_symlink():
                    index[path.relative_to(folder).as_posix()] = path
        return cls(index)

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[FileSource]:
        for name in sorted(self._index):
            yield FileSource(name, self._index[name], self._index)

    def get(self, name: str) -> FileSource | None:
        """Return the file of this relative name, or None."""
        path = self._index.get(name)
        return None if path is None else FileSource(name, path, self._index)
