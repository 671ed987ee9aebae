"""Read runs and evaluations."""

from __future__ import annotations

from typing import Any

from django.db.models import Count

from training.models import EpochMetrics, SplitGroup, SplitMember, TrainingRun


def split_counts(run: TrainingRun) -> dict[str, dict[str, int]]:
    """Return records and subjects (groups) of each part."""
    if run.split_id is None:
        return {}
    groups = dict(
        SplitGroup.objects.filter(split=run.split_id)
        .values_list("part")
        .annotate(n=Count("pk"))
        .values_list("part", "n")
    )
    records = dict(
        SplitMember.objects.filter(split=run.split_id)
        .values_list("group__part")
        .annotate(n=Count("pk"))
        .values_list("group__part", "n")
    )
    return {
        part: {"records": records.get(part, 0), "subjects": groups.get(part, 0)}
        for part in ("train", "validation", "test")
    }


def epoch_rows(run: TrainingRun, after: int = 0) -> list[dict[str, Any]]:
    """Return the metric rows of epochs later than ``after``."""
    rows = EpochMetrics.objects.filter(run=run, epoch__gt=after).order_by("epoch")
    return [{"epoch": row.epoch, **row.values} for row in rows]
