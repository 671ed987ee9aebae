"""Where bytes lie. Original files are content-addressed blobs (sha256) behind Django's storage; no other module
knows where. Large arrays (native signals, prepared sets, checkpoints) lie in folders that ``area`` hands out."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

from django.conf import settings

from ecgportal.errors import NotFound

_CHUNK = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_AREAS = {"signals", "prepared", "checkpoints", "uploads", "run"}


def blob_path(sha256: str) -> Path:
    """Return where the blob of a digest lies (whether or not it is there)."""
    if not _DIGEST.fullmatch(sha256):
        raise NotFound("This is not a content digest.")
    return Path(settings.MEDIA_ROOT) / sha256[:2] / sha256[2:4] / sha256


def put(stream: BinaryIO) -> tuple[str, int]:
    """Store a stream once, whatever its name; returns its sha256 and size. Atomic: a blob is whole or not there."""
    folder = Path(settings.MEDIA_ROOT)
    folder.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".part-", delete=False) as part:
        try:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                part.write(chunk)
        except BaseException:
            os.unlink(part.name)
            raise
    target = blob_path(digest.hexdigest())
    if target.exists():
        os.unlink(part.name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part.name, target)
    return digest.hexdigest(), size


def adopt(path: Path, sha256: str) -> None:
    """Store a file whose digest is known. A file under ``PORTAL_HOME`` shares its bytes with the blob where the file system
    can: do not write to it. What lies elsewhere may be written to by others, and is copied."""
    target = blob_path(sha256)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_relative_to(settings.PORTAL_HOME):
        with path.open("rb") as stream:
            put(stream)
        return
    try:
        os.link(path, target)
    except FileExistsError:
        return
    except OSError:
        with path.open("rb") as stream:
            put(stream)


def put_bytes(data: bytes) -> tuple[str, int]:
    return put(io.BytesIO(data))


def open_blob(sha256: str) -> BinaryIO:
    try:
        return blob_path(sha256).open("rb")
    except FileNotFoundError:
        raise NotFound(f"The stored file {sha256[:12]} is missing from this portal's storage.") from None


def read_blob(sha256: str) -> bytes:
    with open_blob(sha256) as stream:
        return stream.read()


def delete_blob(sha256: str) -> None:
    blob_path(sha256).unlink(missing_ok=True)


def area(kind: str, *ids: object) -> Path:
    """Return a folder of this portal for rows' ids (UUIDs or digests, never names from outside), made if needed."""
    if kind not in _AREAS:
        raise ValueError(f"unknown storage area {kind!r}")
    parts = [str(part) for part in ids]
    if any(not re.fullmatch(r"[0-9a-f][0-9a-f-]{7,63}", part) for part in parts):
        raise ValueError("storage areas are named by ids")
    folder = Path(settings.PORTAL_HOME, kind, *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def remove_area(kind: str, *ids: object) -> None:
    shutil.rmtree(area(kind, *ids), ignore_errors=True)


def downloads(name: str) -> Path:
    """Return the folder of what was fetched from outside for a name of our own, made if needed."""
    if not re.fullmatch(r"[a-z0-9_]{1,60}", name):
        raise ValueError("downloads are named by a word of the portal")
    folder = Path(settings.PORTAL_HOME, "downloads", name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_writable() -> bool:
    try:
        put_bytes(b"storage check")
    except OSError:
        return False
    return True
