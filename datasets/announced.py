"""What a batch is about to store, noted before it is stored, so that nothing stays behind of a process that is killed meanwhile.

A note (``writing/<dataset>/<pack>``, on the host that writes) is there from before the pack until after the commit. Whoever holds the
lock of the dataset, under which batches are written, knows of each note that was there before: its rows are stored, or never will be.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from pathlib import Path

from django.db import transaction

from datasets import signals
from datasets.models import Record
from ecgportal import storage

_KIND = "writing"


def announce(dataset_id: uuid.UUID, pack: uuid.UUID, blobs: Iterable[str]) -> None:
    """Note that a pack and some blobs are going to be stored. The caller has the turn of the dataset."""
    (storage.area(_KIND, dataset_id) / str(pack)).write_text(json.dumps(sorted(blobs)), encoding="utf-8")


def withdraw(dataset_id: uuid.UUID, pack: uuid.UUID) -> None:
    """Remove the note about a pack whose rows are committed, or which was discarded."""
    (storage.folder_of(_KIND, dataset_id) / str(pack)).unlink(missing_ok=True)


def remove_left(dataset_id: uuid.UUID | None = None) -> int:
    """Remove what processes of this host stored for batches whose rows were never committed; returns how many packs.

    dataset_id: only of this dataset, waiting for a batch that is being written to it; otherwise of all whom nobody writes to now.
    """
    folders = storage.areas(_KIND)
    if dataset_id is not None:
        return _settle(dataset_id, folders[dataset_id], wait=True) if dataset_id in folders else 0
    return sum(_settle(pk, folder, wait=False) for pk, folder in folders.items())


def _settle(dataset_id: uuid.UUID, folder: Path, *, wait: bool) -> int:
    notes = {uuid.UUID(path.name): path for path in folder.iterdir()}
    if not notes:
        return 0
    with transaction.atomic():
        if wait:
            signals.take_turns(dataset_id)
        elif not signals.is_my_turn(dataset_id):
            return 0
        named = Record.objects.filter(dataset=dataset_id, pack__in=notes).order_by().values_list("pack", flat=True)
        left = set(notes) - set(named.distinct())
        for pack in left:
            signals.discard(dataset_id, pack)
    for pack, path in notes.items():
        if pack in left:
            storage.drop_unused(_blobs(path))
        path.unlink(missing_ok=True)
    return len(left)


def _blobs(path: Path) -> list[str]:
    try:
        return list(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError):
        # Settled by another process, or killed while the note was written: then nothing was stored yet.
        return []
