"""What a decision threshold costs and brings: counts, shares with intervals, and thresholds that follow from a rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ecgportal.errors import InvalidInput
from training.metrics.base import Figure, Sample
from training.metrics.intervals import class_successes, figure, proportion

SHARES = {
    "sensitivity": "No record has the class.",
    "specificity": "Every record has the class.",
    "ppv": "No record is called at this threshold.",
    "npv": "Every record is called at this threshold.",
}


def consequences(sample: Sample, column: int, threshold: float) -> dict[str, Any]:
    """Return what happens when the class is called at ``probability >= threshold``.

    The counts ``called``, ``tp``, ``fp``, ``fn``, ``tn``; ``sensitivity``, ``specificity``, ``ppv`` and ``npv`` as
    figures with 95 % intervals (Wilson, subjects as clusters); ``per_1000``: the records called, found, missed and
    wrongly called among a thousand of the same mix.
    """
    if not 0 <= threshold <= 1:
        raise InvalidInput("A threshold lies between 0 and 1.", fields={"threshold": "Give a number between 0 and 1."})
    known = np.isfinite(sample.truth[:, column])
    truth, called = sample.truth[known, column] > 0.5, sample.predicted[known, column] >= threshold
    counts = {
        "tp": int((truth & called).sum()), "fp": int((~truth & called).sum()),
        "fn": int((truth & ~called).sum()), "tn": int((~truth & ~called).sum()),
    }  # fmt: skip
    decided = sample.decided.copy() if sample.decided.size else np.zeros(sample.truth.shape, bool)
    decided[:, column] = sample.predicted[:, column] >= threshold
    at = replace(sample, decided=decided)
    n = max(1, len(truth))
    return {
        "threshold": float(threshold), "n": len(truth), "called": counts["tp"] + counts["fp"], **counts,
        **{name: _share(at, column, name, why) for name, why in SHARES.items()},
        "per_1000": {name: 1000 * counts[key] / n for name, key in (("found", "tp"), ("missed", "fn"), ("wrong", "fp"))},
    }  # fmt: skip


def _share(sample: Sample, column: int, name: str, why: str) -> Figure:
    success, groups = class_successes(sample, column, name)
    if not len(success):
        return figure(float("nan"), None, why_undefined=why)
    return figure(float(success.mean()), proportion(success, groups))


def at_prevalence(sensitivity: float, specificity: float, prevalence: float) -> tuple[float | None, float | None]:
    """Return PPV and NPV where ``prevalence`` (share, 0 to 1) of the people have the class (Bayes' rule).

    The records that a model is judged on are seldom mixed as those it will see: predictive values move with the mix,
    sensitivity and specificity do not.
    """
    found, wrong = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    right, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    ppv = found / (found + wrong) if found + wrong > 0 else None
    npv = right / (right + missed) if right + missed > 0 else None
    return ppv, npv


def suggestions(sample: Sample, column: int) -> dict[str, float]:
    """Return thresholds by rule: ``youden`` (sensitivity + specificity), ``f1``, ``sensitivity_95`` (the highest with
    at least 95 % sensitivity), ``specificity_95`` (the lowest with at least 95 % specificity).

    Empty without both positives and negatives. Each is an observed probability of these records; a threshold that is
    chosen and judged on the same records looks better than it will be.
    """
    known = np.isfinite(sample.truth[:, column])
    p, t = sample.predicted[known, column], sample.truth[known, column] > 0.5
    if not t.any() or t.all():
        return {}
    order = np.argsort(-p, kind="stable")
    p, t = p[order], t[order]
    last = np.flatnonzero(np.append(p[1:] != p[:-1], True))
    tp, fp = np.cumsum(t)[last], np.cumsum(~t)[last]
    sensitivity, specificity = tp / t.sum(), 1 - fp / (~t).sum()
    cuts = p[last]
    found = {
        "youden": cuts[int((sensitivity + specificity).argmax())],
        "f1": cuts[int((2 * tp / (tp + fp + t.sum())).argmax())],
        "sensitivity_95": cuts[int(np.flatnonzero(sensitivity >= 0.95)[0])],
    }
    specific = np.flatnonzero(specificity >= 0.95)
    if specific.size:
        found["specificity_95"] = cuts[int(specific[-1])]
    return {name: float(cut) for name, cut in found.items()}
