"""Prepared signals of a dataset by one recipe: built once, brought up to date when records are added, shared by all jobs."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from django.db import connection

from datasets import signals
from datasets.models import Dataset, PreparedSet, Record
from datasets.prepared import PreparedStore
from datasets.preprocess.recipe import Recipe
from ecgportal import home, storage
from ecgportal.errors import Conflict, NotFound

_BATCH = 128
_LOOK_AGAIN_S = 0.1

Progress = Callable[[float, str], None]


def open_store(dataset: Dataset, recipe: Recipe) -> PreparedStore:
    """Return the dataset's store of a recipe, made empty if it is not there."""
    folder = storage.area("prepared", dataset.pk, recipe.digest)
    if not (folder / "manifest.json").exists():
        try:
            return PreparedStore.create(folder, recipe)
        except Conflict:
            # Another job made it at the same moment.
            return PreparedStore.open(folder)
    return PreparedStore.open(folder)


@contextmanager
def _one_at_a_time(dataset: Dataset, recipe: Recipe, progress: Progress | None) -> Iterator[None]:
    """Let one job at a time prepare a dataset by a recipe; others wait, may be told to stop, and find the work done."""
    # With a bucket each host has a store of its own.
    where = f" on {home.host_name()}" if storage.shared() is not None else ""
    name = f"prepare {dataset.pk} {recipe.digest}{where}"
    with connection.cursor() as cursor:
        while not _locked(cursor, name):
            if progress is not None:
                progress(0.0, "Another job prepares these signals")
            time.sleep(_LOOK_AGAIN_S)
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 1))", [name])


def _locked(cursor: Any, name: str) -> bool:
    cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 1))", [name])
    return cursor.fetchone()[0]


def bring_up_to_date(dataset: Dataset, recipe: Recipe, progress: Progress | None = None) -> PreparedStore:
    """Prepare the records that the store does not hold yet. One writer at a time; readers are not disturbed."""
    store = open_store(dataset, recipe)
    with _one_at_a_time(dataset, recipe, progress):
        store.refresh()
        have = set(store.index)
        stored = list(Record.objects.filter(dataset=dataset).order_by("id").values_list("pk", flat=True))
        missing = [pk for pk in stored if str(pk) not in have]
        # Deleted by another host, or while this one was preparing them.
        take_out(store, have - {str(pk) for pk in stored})
        for start in range(0, len(missing), _BATCH):
            rows = list(Record.objects.filter(pk__in=missing[start : start + _BATCH]).select_related("subject"))
            store.append([str(row.pk) for row in rows], [recipe.apply(signals.load(row)) for row in rows])
            if progress is not None:
                progress(
                    min(start + _BATCH, len(missing)) / len(missing),
                    f"Prepared {min(start + _BATCH, len(missing)):,} of {len(missing):,} records",
                )
    PreparedSet.objects.update_or_create(
        dataset=dataset,
        recipe_digest=recipe.digest,
        defaults={"recipe": json.loads(recipe.to_json()), "record_count": len(store.index)},
    )
    return store


class StoreView:
    """Some records of a store as the training engine reads them."""

    def __init__(self, store: PreparedStore, records: list[uuid.UUID]):
        self._store = store
        self._rows = np.array([store.index[str(pk)] for pk in records], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Any) -> np.ndarray:
        """Return float32 ``(n, leads, samples)``."""
        return self._store.read(self._rows[np.asarray(indices)])


def forget(dataset: Dataset, record_id: uuid.UUID) -> None:
    """Remove one record's samples from every prepared set of its dataset."""
    for store in stores_here(dataset.pk):
        take_out(store, [str(record_id)])
    there = Record.objects.filter(dataset=dataset).count()
    PreparedSet.objects.filter(dataset=dataset, record_count__gt=there).update(record_count=there)


def stores_here(dataset_id: Any) -> Iterator[PreparedStore]:
    """Yield the prepared stores of a dataset that lie on this host."""
    for manifest in storage.folder_of("prepared", dataset_id).glob("*/manifest.json"):
        yield PreparedStore.open(manifest.parent)


def take_out(store: PreparedStore, keys: Iterable[str]) -> None:
    """Remove those of some records from a store that it holds."""
    for key in keys:
        if key in store.index:
            # Another process may have done it at this moment.
            with suppress(NotFound):
                store.remove(key)
