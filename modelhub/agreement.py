"""How predictions agree with labels: for the rows that are looked at, and counted over a whole run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.models import Q

from datasets.labels.maps import LabelMapSpec, apply_map
from datasets.models import LabelMap
from datasets.selectors import labels_of, spec_of
from modelhub.models import ModelVersion, Prediction, PredictionRun

_BATCH = 2000


def map_for(version: ModelVersion, project: Any) -> LabelMap | None:
    """Return the label map that a version was trained with, or one that has all its classes; None without any."""
    if version.task == "regression":
        return None
    maps = list(LabelMap.objects.filter(Q(project=project) | Q(project=None)).order_by("name", "-version"))
    named = str(version.facts.get("label_map") or "")
    fitting = [row for row in maps if set(version.classes) <= set(row.classes)]
    return next((row for row in fitting if str(row) == named or f"{row.name} {row.version}" == named), None) or (
        fitting[0] if fitting else None
    )


def truths(run: PredictionRun, rows: Iterable[Prediction]) -> dict[Any, list[str] | None]:
    """Return the classes that the labels give to each record, None where they give none, by the record's id."""
    if run.label_map is None:
        return {}
    spec, found = spec_of(run.label_map), {}
    rows = list(rows)
    labels = labels_of(row.record_id for row in rows)
    for row in rows:
        found[row.record_id] = _truth(labels.get(row.record_id, []), spec, run.version.classes)
    return found


def truth_of(record: Any, version: ModelVersion, label_map: LabelMap | None) -> list[str] | None:
    """Return the classes that one record's labels give it, None where they give none."""
    if label_map is None:
        return None
    return _truth(labels_of([record.pk]).get(record.pk, []), spec_of(label_map), version.classes)


def _truth(labels: list[Any], spec: LabelMapSpec, classes: list[str]) -> list[str] | None:
    given = apply_map(labels, spec).classes
    return [name for name in classes if name in given] if given else None


def verdict(predicted: list[str], truth: list[str] | None) -> str:
    """Return ``agrees``, ``differs`` or ``partly``; empty where the truth is not known."""
    if truth is None:
        return ""
    if set(predicted) == set(truth):
        return "agrees"
    return "partly" if set(predicted) & set(truth) else "differs"


def of_run(run: PredictionRun) -> dict[str, Any] | None:
    """Count over all predictions of a run: records with a known truth, full agreement, and per class the four cells."""
    if run.label_map is None or run.version.task == "regression":
        return None
    cells = {name: {"both": 0, "predicted_only": 0, "label_only": 0, "neither": 0} for name in run.version.classes}
    known = agrees = 0
    batch: list[Prediction] = []

    def count() -> None:
        nonlocal known, agrees
        true = truths(run, batch)
        for row in batch:
            truth = true[row.record_id]
            if truth is None:
                continue
            known += 1
            agrees += set(row.predicted) == set(truth)
            for name, cell in cells.items():
                key = ("neither", "label_only", "predicted_only", "both")[2 * (name in row.predicted) + (name in truth)]
                cell[key] += 1
        batch.clear()

    for row in run.predictions.order_by("id").iterator(chunk_size=_BATCH):
        batch.append(row)
        if len(batch) == _BATCH:
            count()
    count()
    if not known:
        return None
    return {"label_map": str(run.label_map), "known": known, "agrees": agrees, "classes": cells}
