"""The answers that an evaluation keeps, for thresholds and for models side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.models import Record
from ecgportal.errors import Conflict, InvalidInput
from training.metrics.base import Sample, make_sample
from training.metrics.paired import matching, paired_differences
from training.metrics.thresholds import consequences, suggestions
from training.models import Evaluation

RULES = {
    "in_use": "In use",
    "asked": "Asked for",
    "youden": "Best Youden index",
    "f1": "Highest F1",
    "sensitivity_95": "Sensitivity at least 95 %",
    "specificity_95": "Specificity at least 95 %",
}


@dataclass(frozen=True)
class Kept:
    """Records of an evaluation in its order, with their subjects, as a sample of metrics."""

    records: tuple[str, ...]
    subjects: tuple[str, ...]
    sample: Sample

    def rows(self, places: np.ndarray) -> Sample:
        """Return the sample of some records, with their subjects numbered anew."""
        old = self.sample
        groups = np.array(self.subjects)[places]
        made = make_sample(old.predicted[places], old.truth[places], old.names, old.task, groups=groups)
        return Sample(
            made.predicted,
            made.truth,
            old.decided[places] if old.decided.size else old.decided,
            made.groups,
            old.task,
            old.names,
        )


def kept(row: Evaluation) -> Kept:
    """Return the kept answers. Conflict when the evaluation has not finished or held too many records to keep them."""
    if not row.report:
        raise Conflict("The evaluation has not finished.", code="not_finished")
    samples = (row.curves or {}).get("samples")
    if not samples:
        raise Conflict(
            "The answers of this evaluation were not kept: it had too many records.", code="answers_not_kept"
        )
    names, task = row.report["classes"], row.report["task"]
    truth = np.array([[np.nan if v is None else v for v in line] for line in samples["truth"]], dtype=np.float64)
    subjects = dict(
        Record.objects.filter(pk__in=samples["records"], subject__isnull=False).values_list("pk", "subject__key")
    )
    by_text = {str(pk): key for pk, key in subjects.items()}
    owners = tuple(f"s:{by_text[key]}" if key in by_text else f"r:{key}" for key in samples["records"])
    limits = [row.report["per_class"][name].get("threshold") for name in names]
    thresholds = None if any(limit is None for limit in limits) else np.array(limits, dtype=np.float64)
    sample = make_sample(np.array(samples["probabilities"]), truth, names, task, groups=owners, thresholds=thresholds)
    return Kept(tuple(samples["records"]), owners, sample)


def threshold_rows(row: Evaluation, name: str, asked: float | None = None) -> list[dict[str, Any]]:
    """Return what happens to one class at the threshold in use, at the one asked for, and at those of the rules.

    Each row: ``rule``, ``title`` and the values of :func:`training.metrics.thresholds.consequences`.
    """
    sample = kept(row).sample
    if sample.task == "regression":
        raise InvalidInput("A regression has no threshold.", code="no_threshold")
    if name not in sample.names:
        raise InvalidInput(
            f"The model has no class {name[:80]!r}.", fields={"class": f"Choose one of {', '.join(sample.names)}."}
        )
    column = sample.names.index(name)
    # One of several classes is decided by all thresholds together.
    in_use = None if sample.task == "multiclass" else row.report["per_class"][name].get("threshold")
    cuts = {"in_use": in_use, "asked": asked} | suggestions(sample, column)
    return [
        {"rule": rule, "title": RULES[rule]} | consequences(sample, column, cut)
        for rule, cut in cuts.items()
        if cut is not None
    ]


@dataclass(frozen=True)
class Paired:
    """Two evaluations on the records that both hold. rows: of :func:`training.metrics.paired.paired_differences`."""

    n: int
    n_subjects: int
    rows: list[dict[str, Any]]


def paired(first: Evaluation, second: Evaluation) -> Paired:
    """Compare two evaluations on their common records, class by class.

    InvalidInput when they are about different datasets, label maps or classes, or share no record.
    """
    if first.dataset_id != second.dataset_id:
        raise InvalidInput("The two evaluations are about different datasets.", code="not_comparable")
    if first.label_map_id != second.label_map_id:
        raise InvalidInput("The two evaluations use different label maps.", code="not_comparable")
    a, b = kept(first), kept(second)
    if a.sample.names != b.sample.names or a.sample.task != b.sample.task:
        raise InvalidInput("The two models have different classes or tasks.", code="not_comparable")
    mine, theirs = matching(a.records, b.records)
    if not len(mine):
        raise InvalidInput("The two evaluations have no record in common.", code="not_comparable")
    one, two = a.rows(mine), b.rows(theirs)
    if not np.array_equal(one.truth, two.truth, equal_nan=True):
        raise InvalidInput(
            "The labels of the records changed between the two evaluations; evaluate both models again.",
            code="labels_changed",
        )
    return Paired(len(mine), one.n_groups, paired_differences(one, two))
