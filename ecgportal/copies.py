"""How much of the bucket a host keeps, and what it made of that: what it has not needed for longest goes when it is too much.

Nothing goes that was needed within ``IN_USE_S``, nor what the bucket does not have as it is here. Who has a file open when it goes
keeps it until the end; who wants it later has it fetched, or made, again.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from django.conf import settings

from ecgportal import storage
from ecgportal.bucket import Bucket
from ecgportal.errors import StorageFailed

logger = logging.getLogger(__name__)

EVERY_S = 600.0
IN_USE_S = 3600.0
# Room is made for a while at a time, not for one file.
_DOWN_TO = 0.9
_AT_A_TIME = 100
_MOST = 5000


class _Copy(NamedTuple):
    needed: float
    size: int
    path: Path


def limit_bytes() -> int:
    """Return how many bytes of copies this host keeps; 0: any number."""
    if settings.COPIES_GB is not None:
        return int(settings.COPIES_GB * 1e9)
    return shutil.disk_usage(settings.PORTAL_HOME).total // 2


def bound() -> bool:
    """Bring the copies of this host below the limit; returns whether there is more to do. Where the bucket does not answer nothing
    goes."""
    store, limit = storage.shared(), limit_bytes()
    if store is None or not limit:
        return False
    copies = list(_copies())
    if (excess := sum(copy.size for copy in copies) - limit) <= 0:
        return False
    resting = sorted(copy for copy in copies if not _is_needed(copy.needed))
    try:
        left = _make_room(store, resting[:_MOST], excess + int((1 - _DOWN_TO) * limit))
    except StorageFailed as error:
        logger.warning("this host's copies were not looked at: %s", error.message)
        return False
    if left > 0 and len(resting) <= _MOST:
        logger.warning(
            "copies of the bucket take more than PORTAL_COPIES_GB: all others are in use, or not in the bucket"
        )
    return left > 0 and len(resting) > _MOST


def _make_room(store: Bucket, copies: Sequence[_Copy], wanted: int) -> int:
    """Remove copies, the first ones first, until that many bytes are free; returns how many are still wanted."""
    for start in range(0, len(copies), _AT_A_TIME):
        part = copies[start : start + _AT_A_TIME]
        there = store.holds({storage.key_of(c.path): c.size for c in part if not storage.is_made_here(c.path)})
        for copy in part:
            if wanted <= 0:
                return wanted
            if storage.is_made_here(copy.path) or storage.key_of(copy.path) in there:
                wanted -= _forget(copy)
    return wanted


def _copies() -> Iterator[_Copy]:
    for kind in ("blobs", "signals"):
        for folder, _, names in os.walk(Path(settings.PORTAL_HOME, kind)):
            for name in names:
                if name.startswith(".") or name.endswith(".part"):
                    continue
                try:
                    found = os.stat(path := Path(folder, name))
                except FileNotFoundError:
                    continue
                yield _Copy(max(found.st_atime, found.st_mtime), found.st_size, path)


def _is_needed(at: float) -> bool:
    return time.time() - at < IN_USE_S


def _forget(copy: _Copy) -> int:
    """Remove a copy unless it was needed meanwhile; returns how many bytes that made free."""
    try:
        found = copy.path.stat()
        if _is_needed(max(found.st_atime, found.st_mtime)):
            return 0
        copy.path.unlink()
    except FileNotFoundError:
        return 0
    return copy.size
