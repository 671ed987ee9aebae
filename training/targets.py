"""From the labels of a dataset to what a network is trained on and judged by."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets.labels.maps import apply_map
from datasets.models import Dataset, LabelMap, Record
from datasets.selectors import dataset_labels, spec_of

NUMERIC_TARGETS = ("age",)


@dataclass(frozen=True)
class Labelled:
    """One record with a known truth. ``group`` is the subject's key, or the record's own id without one."""

    record: uuid.UUID
    key: str
    group: str
    fingerprint: str
    fold: int | None
    label: Any
    classes: frozenset[str]


def labelled_records(
    dataset: Dataset, task: str, outputs: Sequence[str], label_map: LabelMap | None, target: str = ""
) -> list[Labelled]:
    """Return the records whose truth is known, in the order of their keys.

    For classes a record counts when the whole map gives it at least one class: a record whose codes the map does not
    know says nothing, not "none of them". A multi-class or binary record with several classes counts for the first
    class of the map's order that is among the outputs.
    """
    rows = (
        Record.objects.filter(dataset=dataset)
        .order_by("key", "id")
        .values_list("pk", "key", "subject__key", "fingerprint", "fold", *NUMERIC_TARGETS)
    )
    labels = dataset_labels(dataset) if task != "regression" else {}
    spec = spec_of(label_map) if label_map is not None else None
    found: list[Labelled] = []
    for pk, key, subject, fingerprint, fold, *numbers in rows:
        group = f"s:{subject}" if subject else f"r:{pk}"
        if task == "regression":
            value = dict(zip(NUMERIC_TARGETS, numbers))[target]
            if value is not None:
                found.append(Labelled(pk, key, group, fingerprint, fold, float(value), frozenset()))
            continue
        assert spec is not None
        given = apply_map(labels.get(pk, []), spec).classes
        if not given:
            continue
        present = [name for name in outputs if name in given]
        if task == "multiclass":
            if present:
                found.append(Labelled(pk, key, group, fingerprint, fold, present[:1], frozenset(present[:1])))
        else:
            found.append(Labelled(pk, key, group, fingerprint, fold, present, frozenset(present)))
    return found
