"""Read runs and evaluations."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Max

from datasets.models import Dataset, Record
from ecgportal.jobs.models import Job, JobState
from modelhub.architectures.catalog import catalog, is_computed
from training.live import duration
from training.models import PARTS, EpochMetrics, Mode, SplitGroup, SplitMember, TrainingRun
from training.problems.registry import get_problem

Counts = dict[str, dict[str, int]]
#: What the epochs of a run without labels tell beside their losses, by its way of learning.
SCORES = ("accuracy", "chance", "explained")


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
        first = {part: run.split.counts[0][part] for part in PARTS}
        return first | {"folds": {name: dict(counts[name]) for name in folds}}
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


@dataclass(frozen=True)
class Progression:
    """Where a run stands: ``live`` as it was last written, the latest epoch's row, losses of the first and the
    last epoch, and the latest metrics in the task's order."""

    live: dict[str, Any]
    latest: dict[str, Any]
    metrics: list[tuple[str, float]]
    first_loss: float | None
    last_loss: float | None
    seconds: float

    @property
    def left(self) -> str:
        left_s = self.live.get("left_s")
        return duration(left_s) if left_s is not None else ""

    @property
    def elapsed(self) -> str:
        return duration(self.seconds)


def progression(run: TrainingRun) -> Progression:
    """Return where a run stands, from one query."""
    rows = epoch_rows(run)
    latest = rows[-1] if rows else {}
    names = SCORES if run.is_pretraining else get_problem(run.task).metrics
    metrics = [(name, latest[name]) for name in names if isinstance(latest.get(name), float | int)]
    losses = [row["train_loss"] for row in rows if row.get("train_loss") is not None]
    return Progression(
        run.live, latest, metrics, losses[0] if losses else None, losses[-1] if losses else None, sum(row.get("seconds") or 0 for row in rows)
    )  # fmt: skip


def statistics_rows(run: TrainingRun) -> list[tuple[str, list[Any]]]:
    """Return what a run's parts hold as rows ``(what, [train, validation, test])``; empty until it has ended."""
    found = run.manifest.get("statistics")
    if not found:
        return []
    parts = [found[part] for part in PARTS]
    rows = [(name, [part["classes"][name] for part in parts]) for name in parts[0].get("classes", {})]
    for key, title in (("target_mean", f"Mean {run.target}"), ("target_deviation", f"Deviation of {run.target}")):
        if key in parts[0]:
            rows.append((title, [_rounded(part[key]) for part in parts]))
    rows += [("Women", [part["female"] for part in parts]), ("Men", [part["male"] for part in parts])]
    return [*rows, ("Median age (years)", [_rounded(part["age_median"]) for part in parts])]


def _rounded(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3g}"


def repetition(run: TrainingRun) -> list[tuple[str, str, str, bool]]:
    """Return how a repeated run compares to the one it repeats: ``(what, then, now, same)``; empty until both have ended."""
    if run.repeats is None or not run.manifest or not run.repeats.manifest:
        return []
    titles = {
        "weights_hash": "Weights", "data_sha256": "Data", "split_digest": "Split", "recipe_digest": "Preparation", "label_map_sha256": "Label map", "code_version": "Portal",
        "code_sha256": "Its code",
    }  # fmt: skip
    # Manifests of earlier versions tell less.
    told = [name for name in titles if run.repeats.manifest.get(name) and run.manifest.get(name)]
    pairs = [(titles[name], run.repeats.manifest[name], run.manifest[name]) for name in told]
    for name, title in (("threads", "Threads"), ("processor", "Processor")):
        pairs.append((title, *(each.manifest["environment"].get(name) for each in (run.repeats, run))))
    return [(title, str(then)[:16], str(now)[:16], then == now) for title, then, now in pairs]


def outcome(run: TrainingRun) -> str:
    """Return which model a cancelled run has kept, or why there is none; empty for others."""
    if run.job.state != JobState.CANCELLED:
        return ""
    if run.produced_version_id is None and run.manifest:
        return "Cancelled; the model that was kept has been deleted since."
    if run.produced_version_id is None:
        what = "a network had finished its first epoch" if run.job.kind == "search" else "the first epoch was finished"
        return f"Cancelled before {what}, so there is no model. Resume goes on from where it was."
    if run.is_pretraining:
        return f"Cancelled; the trunk is that of epoch {run.best_epoch}, the last whole one."
    kept = f"epoch {run.best_epoch} of the {run.manifest['epochs']} that were done"
    if is_computed(run.architecture, run.mode):
        kept = "computed, without epochs"
    if "trial" in run.manifest:
        return f"Cancelled; the model is the best that the search had found: number {run.manifest['trial']}, {kept}."
    return f"Cancelled; the model is the best so far: {kept}."


def start_title(start: str) -> str:
    """Return what a training of a search starts from, in words."""
    if start.startswith("base:"):
        return f"The base model: {Mode(start.removeprefix('base:')).label.lower()}"
    return catalog()[start].title if start in catalog() else start


def judging_job(run: TrainingRun) -> Job | None:
    """Return the job that evaluates what a cancelled run kept, while it has not ended well; None without one."""
    named = run.job.result.get("evaluation_job")
    return Job.objects.filter(pk=named).exclude(state=JobState.SUCCEEDED).first() if named else None
