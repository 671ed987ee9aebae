"""Read runs and evaluations."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from django.db.models import Count, Max

from datasets.models import Dataset, Record
from training.models import PARTS, EpochMetrics, SplitGroup, SplitMember, TrainingRun

Counts = dict[str, dict[str, int]]


def split_counts(run: TrainingRun) -> dict[str, Any]:
    """Return records and subjects (groups) of each part."""
    return split_counts_of([run]).get(run.pk, {})


def split_counts_of(runs: Iterable[TrainingRun]) -> dict[uuid.UUID, dict[str, Any]]:
    """Return ``{run id: {train, validation, test}}`` of the runs that are split, in two queries.

    Of a run that holds out every fold in turn the three parts are those of its first network, and ``folds`` has the counts
    of each fold.
    """
    run_of = {run.split_id: run for run in runs if run.split_id is not None}
    found: dict[uuid.UUID, Counts] = defaultdict(lambda: defaultdict(lambda: {"records": 0, "subjects": 0}))
    groups = SplitGroup.objects.filter(split__in=run_of).values("split", "part").annotate(n=Count("pk"))
    for row in groups:
        found[row["split"]][row["part"]]["subjects"] = row["n"]
    members = SplitMember.objects.filter(split__in=run_of).values("split", "group__part").annotate(n=Count("pk"))
    for row in members:
        found[row["split"]][row["group__part"]]["records"] = row["n"]
    return {run.pk: _three_parts(run, found[split]) for split, run in run_of.items()}


def _three_parts(run: TrainingRun, counts: Counts) -> dict[str, Any]:
    assert run.split is not None
    folds = sorted((name for name in counts if name.startswith("fold-")), key=lambda each: int(each[5:]))
    if folds:
        return run.split.counts[0] | {"folds": {name: dict(counts[name]) for name in folds}}
    return {part: dict(counts.get(part, {"records": 0, "subjects": 0})) for part in PARTS}


def epoch_rows(run: TrainingRun, after: int = 0, member: int | None = None) -> list[dict[str, Any]]:
    """Return the metric rows of epochs later than ``after`` of one network of a run, by default of the latest."""
    rows = EpochMetrics.objects.filter(run=run)
    if run.members > 1 and member is None:
        member = rows.aggregate(latest=Max("member"))["latest"]
    rows = rows.filter(member=member or 1, epoch__gt=after).order_by("epoch")
    return [{"epoch": row.epoch, **row.values} for row in rows]


def sites_of(datasets: Iterable[Dataset]) -> dict[str, int]:
    """Return how many records of the datasets come from each hospital, by its code; those without one are left out."""
    rows = Record.objects.filter(dataset__in=[row.pk for row in datasets]).exclude(site="")
    return {row["site"]: row["n"] for row in rows.order_by("site").values("site").annotate(n=Count("pk"))}
