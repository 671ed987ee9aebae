"""What keeps the hosts of a portal with a bucket honest: what was deleted on one of them goes from the bucket and from all others.

Every host runs :func:`look_again` each ``EVERY_S`` seconds (``manage.py tend_storage``, started by the supervisor): what was deleted
within the last ``SEEN_AGAIN`` is removed from its ``PORTAL_HOME``, again and again, since a file may have been on its way meanwhile.
A host that was off, or without its database, for longer looks at everything it has when it comes back.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from ecgportal import storage
from ecgportal.errors import StorageFailed
from ecgportal.jobs.models import Removal

logger = logging.getLogger(__name__)

EVERY_S = 60.0
SEEN_AGAIN = timedelta(hours=1)
_KEPT = timedelta(days=2)
_AT_A_TIME = 500
_OLD_PART_S = 86_400.0

#: Called with each key that was removed, on every host, for what does not lie under that key.
_listeners: list[Callable[[str], None]] = []
#: Each removes from this host whatever the rows do not name any more.
_tidiers: list[Callable[[], None]] = []


def on_removed(call: Callable[[str], None]) -> Callable[[str], None]:
    """Register what an app does on each host about a key that was released."""
    _listeners.append(call)
    return call


def tidier(call: Callable[[], None]) -> Callable[[], None]:
    """Register how an app removes from this host what no row names any more."""
    _tidiers.append(call)
    return call


def carry_out(keys: Iterable[str] | None = None) -> int:
    """Remove from the bucket what was released (all of it, or some keys) and from this host, too; returns how many keys.

    StorageFailed when the bucket does not answer; what is left is done by a later call of any host.
    """
    store = storage.shared()
    waiting = Removal.objects.filter(is_done=False)
    if keys is not None:
        waiting = waiting.filter(key__in=list(keys))
    count = 0
    while store is not None:
        has_blobs = waiting.filter(key__startswith="blobs/").exists()
        with storage.alone_with_blobs() if has_blobs else transaction.atomic():
            rows = list(waiting.order_by("pk").select_for_update(skip_locked=True)[:_AT_A_TIME])
            if not rows:
                return count
            gone = _still_unwanted([row.key for row in rows])
            if not has_blobs:
                # One that was released since stays for the next round, which takes the lock.
                rows = [row for row in rows if not row.key.startswith("blobs/")]
                gone = [key for key in gone if not key.startswith("blobs/")]
            for key in gone:
                if key.endswith("/") and key.split("/")[0] in storage.SHARED:
                    store.delete_below(key)
            store.delete([key for key in gone if not key.endswith(("/", ".")) and key.split("/")[0] in storage.SHARED])
            Removal.objects.filter(pk__in=[row.pk for row in rows]).update(is_done=True)
        for key in gone:
            _remove_here(key)
        count += len(rows)
    return count


def _still_unwanted(keys: list[str]) -> list[str]:
    """Return the keys without those of blobs that a row names."""
    digests = {key.rpartition("/")[2] for key in keys if key.startswith("blobs/")}
    wanted = digests - storage.unused(digests)
    return [key for key in keys if not (key.startswith("blobs/") and key.rpartition("/")[2] in wanted)]


def look_again() -> None:
    """Finish what could not be removed from the bucket, and remove from this host what was deleted lately, wherever that was."""
    try:
        carry_out()
    except StorageFailed as error:
        logger.warning("files that were deleted still lie in the bucket: %s", error.message)
    now = timezone.now()
    for key in Removal.objects.filter(at__gte=now - SEEN_AGAIN).values_list("key", flat=True).iterator():
        _remove_here(key)
    Removal.objects.filter(is_done=True, at__lt=now - _KEPT).delete()


def look_at_all() -> None:
    """Remove from this host everything that no row names any more."""
    for call in _tidiers:
        try:
            call()
        except Exception:
            # One kind of file that cannot be looked at must not keep the others.
            logger.exception("looking for files that no row names failed in %s", call.__qualname__)


def _remove_here(key: str) -> None:
    path = Path(settings.PORTAL_HOME, key)
    if key.endswith("/"):
        shutil.rmtree(path, ignore_errors=True)
    elif key.endswith("."):
        for made in path.parent.glob(f"{path.name}*"):
            made.unlink(missing_ok=True)
    else:
        path.unlink(missing_ok=True)
    for call in _listeners:
        call(key)


def is_left_over(path: Path) -> bool:
    """Tell whether a file is the part of one whose process died long ago."""
    is_part = path.name.startswith(".part-") or path.suffix == ".part"
    return is_part and time.time() - path.stat().st_mtime > _OLD_PART_S


@tidier
def _tidy_blobs() -> None:
    """Remove blobs that no row names. One that was stored for a row to come is fetched again when it is needed."""
    found: dict[str, Path] = {}
    for path in Path(settings.MEDIA_ROOT).rglob("*"):
        if path.is_file() and path.name.startswith("."):
            if is_left_over(path):
                path.unlink(missing_ok=True)
        elif path.is_file():
            found[path.name] = path
        if len(found) >= _AT_A_TIME:
            _drop_unnamed(found)
    _drop_unnamed(found)


def _drop_unnamed(found: dict[str, Path]) -> None:
    for sha256 in storage.unused(found):
        found[sha256].unlink(missing_ok=True)
    found.clear()
