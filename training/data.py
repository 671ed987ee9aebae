"""Prepared signals of several datasets as one source for the engine."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from datasets.models import Dataset
from datasets.prepared import PreparedStore
from datasets.preparing import bring_up_to_date
from datasets.preprocess.recipe import Recipe
from modelhub.architectures.person import person_features
from training.targets import Labelled

Stores = dict[uuid.UUID, PreparedStore]


def prepare(
    datasets: Sequence[Dataset], recipe: Recipe, progress: Callable[[float, str], None] | None = None
) -> Stores:
    """Bring the prepared sets of all datasets up to date; returns them by dataset id."""
    stores: Stores = {}
    for number, dataset in enumerate(datasets):
        told = None
        if progress is not None:

            def told(part: float, note: str, before: int = number) -> None:
                progress((before + part) / len(datasets), note)

        stores[dataset.pk] = bring_up_to_date(dataset, recipe, told)
    return stores


class JointView:
    """Some records of several stores, in a given order, as the training engine reads them.

    persons: float32 ``(records, 5)``, age and sex as networks take them (``modelhub.architectures.person``).
    """

    def __init__(self, stores: Stores, items: Iterable[Labelled]):
        ids, items = list(stores), list(items)
        self.persons, _ = person_features([item.age for item in items], [item.sex for item in items])
        self._stores = [stores[pk] for pk in ids]
        number = {pk: position for position, pk in enumerate(ids)}
        places = [(number[item.dataset], stores[item.dataset].index[str(item.record)]) for item in items]
        self._places = np.array(places, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._places)

    def read(self, indices: Any) -> np.ndarray:
        """Return float32 ``(n, leads, samples)`` in the order asked for."""
        wanted = self._places[np.asarray(indices, dtype=np.intp)]
        if len(self._stores) == 1:
            return self._stores[0].read(wanted[:, 1])
        first = self._stores[0]
        found = np.empty((len(wanted), len(first.leads or ()), first.n_samples or 0), np.float32)
        for number, store in enumerate(self._stores):
            mine = wanted[:, 0] == number
            if mine.any():
                found[mine] = store.read(wanted[mine, 1])
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process reads the same records without the database."""
        from training.engine.source import Scattered

        return Scattered, (self._stores, self._places, self.persons)
