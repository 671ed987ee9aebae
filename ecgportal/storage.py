"""Where bytes lie. Original files are content-addressed blobs (sha256) behind Django's storage; no other module
knows where. Large arrays (native signals, prepared sets, checkpoints) lie in folders that ``area`` hands out.

Without ``PORTAL_STORAGE_URL`` everything lies under ``PORTAL_HOME``, which several hosts share. With it blobs, signals, uploads and
checkpoints lie in a bucket, each under the key that its path has below ``PORTAL_HOME``; a host's ``PORTAL_HOME`` is its workplace and
keeps what it has fetched. Then this order holds: a file is in the bucket before the row that names it is committed, and a row that
stops naming one leaves a :class:`~ecgportal.jobs.models.Removal` in the same transaction, by which the bucket and then every host
forget it (:mod:`ecgportal.tending`). A process that dies in between leaves nothing that a row names and the bucket lacks.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from ecgportal import bucket
from ecgportal.errors import Conflict, NotFound, StorageFailed
from ecgportal.jobs.models import Removal

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_AREAS = {"signals", "prepared", "checkpoints", "uploads", "run", "writing"}
#: Of these the bucket has the whole; of the other areas each host has its own.
SHARED = ("blobs", "signals", "checkpoints", "uploads")
_AT_ONCE = 1000
_NOTED_S = 300.0
_BACKUP_LOCK = "hashtextextended('backup', 2)"
_BLOBS_LOCK = "hashtextextended('blobs', 2)"

Naming = Callable[[set[str]], set[str]]
_namings: list[Naming] = []


# -- the bucket


def shared() -> bucket.Bucket | None:
    """Return the bucket in which the files of this portal lie; None when they lie under ``PORTAL_HOME`` alone."""
    return bucket.parse(settings.STORAGE_URL) if settings.STORAGE_URL else None


def key_of(path: Path) -> str:
    """Return the key in the bucket of a path below ``PORTAL_HOME``."""
    return path.relative_to(settings.PORTAL_HOME).as_posix()


def keep(path: Path, target: Path | None = None) -> None:
    """Bring a finished file of an area into the bucket, if there is one. target: the path that it will have."""
    if (store := shared()) is not None:
        store.put(key_of(target or path), path)


def keep_all(paths: Sequence[Path]) -> None:
    """Bring many files of an area into the bucket side by side, if there is one."""
    if (store := shared()) is not None:
        store.put_all([(key_of(path), path, "") for path in paths])


def obtain(path: Path) -> bool:
    """See that a file of an area is on this host, fetched from the bucket when it is not; False when it is nowhere."""
    if path.exists():
        needed(path)
        return True
    store = shared()
    return store is not None and store.fetch(key_of(path), path)


def needed(path: Path) -> None:
    """Note that a file is needed here: of copies of the bucket those go first that were not needed for longest
    (:mod:`ecgportal.copies`). Not left to the file system, which may be told not to note it."""
    if shared() is None:
        return
    now, found = time.time(), path.stat()
    if now - found.st_atime > _NOTED_S:
        # Of a file that another user of this machine owns the file system's own note has to do.
        with suppress(PermissionError):
            os.utime(path, (now, found.st_mtime))


def is_made_here(path: Path) -> bool:
    """Tell whether a file below ``PORTAL_HOME`` is what this host has made of a record, which is in no bucket."""
    parts = path.relative_to(settings.PORTAL_HOME).parts if path.is_absolute() else path.parts
    return parts[0] == "signals" and path.suffix != ".f32"


def drop(path: Path) -> None:
    """Remove a file that no row names nor ever has. Where the bucket does not answer it stays there, unseen."""
    path.unlink(missing_ok=True)
    if (store := shared()) is not None:
        try:
            store.delete([key_of(path)])
        except StorageFailed as error:
            logger.warning("%s was not removed: %s", key_of(path), error.message)


def release(keys: Iterable[str]) -> None:
    """Have files forgotten, in the bucket and on every host, once the current transaction commits; without a bucket: nothing.

    A key that ends with a slash stands for a folder; one that ends with a dot for what a host has made of a record,
    which never was in the bucket. Blobs that a row still names stay. Where the bucket does not answer now, it is tried again later.
    """
    if shared() is None:
        return
    now, names = timezone.now(), sorted(set(keys))
    Removal.objects.bulk_create(
        [Removal(key=key, at=now) for key in names], update_conflicts=True, unique_fields=["key"],
        update_fields=["at", "is_done"], batch_size=1000,
    )  # fmt: skip
    if names:
        transaction.on_commit(lambda: _carry_out(names))


def _carry_out(names: list[str]) -> None:
    from ecgportal import tending

    if len(names) > _AT_ONCE:
        # Nobody waits for so many: a host's next look finds them.
        return
    try:
        tending.carry_out(names)
    except StorageFailed as error:
        logger.warning("%d files will be removed later: %s", len(names), error.message)


def release_area(kind: str, *ids: object) -> None:
    """Have an area's files in the bucket forgotten once the current transaction commits."""
    release([f"{key_of(folder_of(kind, *ids))}/"])


def release_blobs(digests: Iterable[str]) -> None:
    """Have blobs forgotten that no row names once the current transaction commits. Without a bucket that is for
    :func:`drop_unused` alone, after it."""
    release(key_of(blob_path(sha256)) for sha256 in digests)


@contextmanager
def backing_up() -> Iterator[None]:
    """Keep the names of files as they are during a backup, whose copy of the database is older than its copy of the files."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_advisory_lock({_BACKUP_LOCK})")
        try:
            yield
        finally:
            cursor.execute(f"SELECT pg_advisory_unlock({_BACKUP_LOCK})")


def hold_off_backup() -> None:
    """Keep a backup waiting until the current transaction ends, which gives files other names. Conflict while one is written."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_try_advisory_xact_lock_shared({_BACKUP_LOCK})")
        if not cursor.fetchone()[0]:
            raise Conflict(
                "A backup of the portal is being written, which needs the files as they are. Delete when it is done.",
                code="backup_running",
            )


# -- blobs


def blob_path(sha256: str) -> Path:
    """Return where the blob of a digest lies (whether or not it is there)."""
    if not _DIGEST.fullmatch(sha256):
        raise NotFound("This is not a content digest.")
    return Path(settings.MEDIA_ROOT) / sha256[:2] / sha256[2:4] / sha256


def put(stream: BinaryIO) -> tuple[str, int]:
    """Store a stream once, whatever its name; returns its sha256 and size. Atomic: a blob is whole or not there."""
    return _put(stream, shared())


def _put(stream: BinaryIO, store: bucket.Bucket | None) -> tuple[str, int]:
    folder = Path(settings.MEDIA_ROOT)
    folder.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".part-", delete=False) as part:
        try:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                part.write(chunk)
            target = blob_path(digest.hexdigest())
            if store is not None:
                part.flush()
                store.put(key_of(target), Path(part.name), target.name)
        except BaseException:
            os.unlink(part.name)
            raise
    if target.exists():
        os.unlink(part.name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part.name, target)
    return digest.hexdigest(), size


def adopt(files: Sequence[tuple[Path, str]]) -> None:
    """Store files whose digests are known. A file under ``PORTAL_HOME`` shares its bytes with the blob where the file system
    can: do not write to it. What lies elsewhere may be written to by others, and is copied."""
    if (store := shared()) is not None:
        store.put_all([(key_of(blob_path(sha256)), path, sha256) for path, sha256 in files])
    for path, sha256 in files:
        _adopt(path, sha256)


def _adopt(path: Path, sha256: str) -> None:
    target = blob_path(sha256)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_relative_to(settings.PORTAL_HOME):
        with path.open("rb") as stream:
            _put(stream, None)
        return
    try:
        os.link(path, target)
        needed(target)
    except FileExistsError:
        return
    except OSError:
        with path.open("rb") as stream:
            _put(stream, None)


def put_bytes(data: bytes) -> tuple[str, int]:
    return put(io.BytesIO(data))


def open_blob(sha256: str) -> BinaryIO:
    path = blob_path(sha256)
    try:
        needed(path)
        return path.open("rb")
    except FileNotFoundError:
        store = shared()
        if store is not None and store.fetch(key_of(path), path, sha256):
            return path.open("rb")
        where = str(store) if store is not None else "this portal's storage"
        raise NotFound(f"The stored file {sha256[:12]} is missing from {where}.") from None


def read_blob(sha256: str) -> bytes:
    with open_blob(sha256) as stream:
        return stream.read()


def has_blob(sha256: str) -> bool:
    """Tell whether a blob is stored, here or in the bucket."""
    path = blob_path(sha256)
    store = shared()
    return path.exists() or (store is not None and store.head(key_of(path)) is not None)


def names_blobs(call: Naming) -> Naming:
    """Register a function that returns those of some digests that its app's rows name."""
    _namings.append(call)
    return call


def unused(digests: Iterable[str]) -> set[str]:
    """Return those of some digests that no row names."""
    left = set(digests)
    for call in _namings:
        left -= call(left) if left else set()
    return left


def hold_blobs() -> None:
    """Keep :func:`drop_unused` waiting until the current transaction ends, whose rows will refer to stored files."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_advisory_xact_lock_shared({_BLOBS_LOCK})")


@contextmanager
def alone_with_blobs() -> Iterator[None]:
    """Be in a transaction during which no row that names a blob appears."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_advisory_xact_lock({_BLOBS_LOCK})")
        yield


def drop_unused(digests: Iterable[str]) -> None:
    """Remove stored files that no row refers to, once the rows that did are gone."""
    digests = set(digests)
    if not digests:
        return
    if shared() is not None:
        release_blobs(digests)
        return
    with alone_with_blobs():
        for sha256 in unused(digests):
            blob_path(sha256).unlink(missing_ok=True)


# -- areas


def folder_of(kind: str, *ids: object) -> Path:
    """Return the folder that :func:`area` would make."""
    if kind not in _AREAS:
        raise ValueError(f"unknown storage area {kind!r}")
    parts = [str(part) for part in ids]
    if any(not re.fullmatch(r"[0-9a-f][0-9a-f-]{7,63}", part) for part in parts):
        raise ValueError("storage areas are named by ids")
    return Path(settings.PORTAL_HOME, kind, *parts)


def area(kind: str, *ids: object) -> Path:
    """Return a folder of this portal for rows' ids (UUIDs or digests, never names from outside), made if needed."""
    folder = folder_of(kind, *ids)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def areas(kind: str) -> dict[uuid.UUID, Path]:
    """Return the folders of a kind that are on this host and named by a row's id."""
    found: dict[uuid.UUID, Path] = {}
    for path in area(kind).iterdir():
        try:
            found[uuid.UUID(path.name)] = path
        except ValueError:
            # Nothing that the portal made.
            continue
    return found


def remove_area(kind: str, *ids: object, here_only: bool = False) -> None:
    """Remove an area for good; its ids name no other one later. here_only: what other hosts and the bucket have stays."""
    shutil.rmtree(folder_of(kind, *ids), ignore_errors=True)
    if kind in SHARED and not here_only:
        release_area(kind, *ids)


def clear_folder(folder: Path) -> None:
    """Remove a folder inside an area here and in the bucket, at once, so that its name can be used again."""
    if (store := shared()) is not None:
        store.delete_below(f"{key_of(folder)}/")
    shutil.rmtree(folder, ignore_errors=True)


def downloads(name: str) -> Path:
    """Return the folder of what was fetched from outside for a name of our own, made if needed."""
    if not re.fullmatch(r"[a-z0-9_]{1,60}", name):
        raise ValueError("downloads are named by a word of the portal")
    folder = Path(settings.PORTAL_HOME, "downloads", name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def trouble() -> str:
    """Return what keeps this host from storing files, as a sentence; empty when nothing does."""
    try:
        _put(io.BytesIO(b"storage check"), None)
    except OSError:
        return "The data folder cannot be written. Check its owner and the free space."
    try:
        if (store := shared()) is not None:
            store.check()
    except StorageFailed as error:
        return error.message
    return ""
