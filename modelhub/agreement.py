"""How predictions agree with labels: for the rows that are looked at, and counted over a whole run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from django.db import connection
from django.db.models import Q

from datasets import tallies
from datasets.labels.maps import LabelMapSpec, apply_map
from datasets.models import LabelMap
from datasets.selectors import full_coverage, labels_of, spec_of
from ecgportal.jobs.models import JobState
from modelhub.models import ModelVersion, Prediction, PredictionRun


def maps_for(version: ModelVersion, project: Any) -> list[LabelMap]:
    """Return the maps of a project that have all classes of a version: first the one that it was trained with, then those
    with no other classes."""
    if version.task == "regression":
        return []
    maps = LabelMap.objects.filter(Q(project=project) | Q(project=None)).order_by("name", "-version")
    fitting = [row for row in maps if set(version.classes) <= set(row.classes)]
    named = str(version.facts.get("label_map") or "")

    def rank(row: LabelMap) -> tuple[bool, ...]:
        is_named = named in (str(row), f"{row.name} {row.version}")
        return not is_named, len(row.classes) > len(version.classes), row.project_id is None

    return sorted(fitting, key=rank)


def map_for(version: ModelVersion, project: Any) -> LabelMap | None:
    """Return the label map that a version was trained with, or one that has all its classes; None without any."""
    return next(iter(maps_for(version, project)), None)


def truths(
    run: PredictionRun, rows: Iterable[Prediction], label_map: LabelMap | None = None
) -> dict[Any, list[str] | None]:
    """Return the classes that the labels give to each record, None where they give none, by the record's id.

    label_map: what sorts the labels, the run's own without it.
    """
    label_map = label_map or run.label_map
    if label_map is None:
        return {}
    spec, found = spec_of(label_map), {}
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


def codes_of(run: PredictionRun, label_map: LabelMap) -> dict[str, str]:
    """Return the class of each code of the run's dataset that the map knows, by ``"<system> <code>"``: what the database
    needs to sort labels itself."""
    found = full_coverage(run.dataset, label_map).codes
    return {f"{code.system} {code.code}": code.target for code in found if code.target is not None}


# Few different answers meet few different sets of classes: the database brings equal ones together.
_PAIRS = """
SELECT predicted, truth, count(*) FROM (
  SELECT p.predicted, (
    SELECT array_agg(DISTINCT %(codes)s::jsonb ->> (l.system || ' ' || l.code))
    FROM datasets_recordlabel l WHERE l.record_id = p.record_id AND %(codes)s::jsonb ? (l.system || ' ' || l.code)
  ) AS truth FROM modelhub_prediction p WHERE p.run_id = %(run)s
) answered GROUP BY predicted, truth
"""


def of_run(run: PredictionRun, label_map: LabelMap | None = None) -> dict[str, Any] | None:
    """Count over all predictions of a run: records with a known truth, full agreement, and per class the four cells.

    None without a map, or where no label of any record is known to it.
    """
    label_map = label_map or run.label_map
    if label_map is None or run.version.task == "regression":
        return None
    cells = {name: {"both": 0, "predicted_only": 0, "label_only": 0, "neither": 0} for name in run.version.classes}
    known = agrees = 0
    with connection.cursor() as cursor:
        cursor.execute(_PAIRS, {"codes": json.dumps(codes_of(run, label_map)), "run": run.pk})
        pairs = cursor.fetchall()
    for predicted, truth, count in pairs:
        if truth is None:
            continue
        known += count
        agrees += count * (set(predicted) == set(truth) & set(cells))
        for name, cell in cells.items():
            key = ("neither", "label_only", "predicted_only", "both")[2 * (name in predicted) + (name in truth)]
            cell[key] += count
    if not known:
        return None
    return {"label_map": str(label_map), "known": known, "agrees": agrees, "classes": cells}


def kept_of_run(run: PredictionRun, label_map: LabelMap | None) -> dict[str, Any] | None:
    """Return ``of_run`` as it is now; for a run that has ended it is counted once until the dataset changes."""
    if label_map is None or run.job.state != JobState.SUCCEEDED:
        return of_run(run, label_map) if label_map else None
    name = f"answers {run.pk} {label_map.pk}"
    return tallies.kept(run.dataset_id, [name], lambda names: {name: of_run(run, label_map)})[name]
