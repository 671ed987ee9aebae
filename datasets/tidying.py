"""What a host with a bucket does about what was deleted on another one, and which blobs the rows of datasets name."""

from __future__ import annotations

import shutil
import time
import uuid
from pathlib import Path

from datasets import announced
from datasets.models import Dataset, Ingest, LabelImport, OriginalFile, Record
from datasets.preparing import stores_here, take_out
from ecgportal import storage, tending
from ecgportal.jobs.models import TERMINAL

_AT_A_TIME = 500
_UNKNOWN_S = 86_400.0


@storage.names_blobs
def named(digests: set[str]) -> set[str]:
    """Return those of the digests that belong to an original file or a label table."""
    found = set(OriginalFile.objects.filter(sha256__in=digests).values_list("sha256", flat=True))
    return found | set(LabelImport.objects.filter(sha256__in=digests).values_list("sha256", flat=True))


@tending.on_removed
def forget_prepared(key: str) -> None:
    """Take a deleted record (``prepared/<dataset>/<record>``) out of this host's prepared stores."""
    kind, *ids = key.split("/")
    if kind == "prepared" and len(ids) == 2 and ids[1]:
        for store in stores_here(ids[0]):
            take_out(store, {ids[1]})


@tending.tidier
def tidy_datasets() -> None:
    """Remove packs, derived files and prepared records that no row names any more."""
    for kind, tidy in (("signals", _tidy_signals), ("prepared", _tidy_prepared)):
        folders = storage.areas(kind)
        there = set(Dataset.objects.filter(pk__in=folders).values_list("pk", flat=True))
        for pk, folder in folders.items():
            if pk in there:
                tidy(pk, folder)
            else:
                shutil.rmtree(folder, ignore_errors=True)


def _tidy_signals(dataset: uuid.UUID, folder: Path) -> None:
    waiting: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        if tending.is_left_over(path):
            path.unlink(missing_ok=True)
        elif not path.name.startswith(".") and path.suffix != ".part":
            waiting.setdefault(path.name.partition(".")[0], []).append(path)
    names = list(waiting)
    for start in range(0, len(names), _AT_A_TIME):
        asked = [name for name in names[start : start + _AT_A_TIME] if _is_id(name)]
        records = Record.objects.filter(dataset=dataset)
        kept = {str(pk) for pk in records.filter(pack__in=asked).values_list("pack", flat=True).distinct()}
        kept |= {str(pk) for pk in records.filter(pk__in=asked).values_list("pk", flat=True)}
        for name in set(asked) - kept:
            for path in waiting[name]:
                path.unlink(missing_ok=True)


def _tidy_prepared(dataset: uuid.UUID, folder: Path) -> None:
    stored = {str(pk) for pk in Record.objects.filter(dataset=dataset).values_list("pk", flat=True)}
    for store in stores_here(dataset):
        take_out(store, set(store.index) - stored)


@tending.tidier
def tidy_announced() -> None:
    """Remove, from the bucket too, what this host stored for batches that were never committed."""
    announced.remove_left()


@tending.tidier
def tidy_uploads() -> None:
    """Remove the files of uploads that were read, given up or deleted."""
    folders = storage.areas("uploads")
    # The row of an upload that is being sent comes last.
    yesterday = time.time() - _UNKNOWN_S
    rows = {pk: folder.stat().st_mtime < yesterday for pk, folder in folders.items()}
    for pk, state, waiting in Ingest.objects.filter(pk__in=folders).values_list("pk", "job__state", "waiting"):
        rows[pk] = state in TERMINAL and not waiting
    for pk, is_over in rows.items():
        if is_over:
            storage.remove_area("uploads", pk, here_only=True)


def _is_id(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False
