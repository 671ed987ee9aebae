"""Metrics of decisions: F1, sensitivity, specificity, predictive values."""

from __future__ import annotations

from functools import partial

import numpy as np

from training.metrics.base import CLASSIFICATION, Interval, Sample, confusion, divide, metric
from training.metrics.intervals import class_successes, proportion, wilson


def _f1_exact(sample: Sample, column: int, value: float) -> Interval | None:
    # F1 = 2 J / (1 + J) with J = TP / (TP + FP + FN), a proportion; F1 grows with J, so bounds carry over.
    truth, called = sample.truth[:, column], sample.decided[:, column]
    n = int(((truth > 0.5) | (called & np.isfinite(truth))).sum())
    low, high = wilson(value / (2 - value) * n, n)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def _share_exact(of: str, sample: Sample, column: int, value: float) -> Interval | None:
    return proportion(*class_successes(sample, column, of))


@metric(
    "f1", "F1", problems=CLASSIFICATION, direction="higher", bounds=(0, 1), averages=("macro", "weighted"),
    needs=("positives", "calls"), exact=_f1_exact,
)  # fmt: skip
def f1(sample: Sample, weights: np.ndarray) -> np.ndarray:
    """Harmonic mean of sensitivity and positive predictive value; undefined without a positive and without a call."""
    c = confusion(sample, weights)
    return divide(2 * c.tp, 2 * c.tp + c.fp + c.fn)


@metric(
    "sensitivity", "Sensitivity", problems=CLASSIFICATION, direction="higher", bounds=(0, 1), averages=("macro",),
    needs=("positives",), exact=partial(_share_exact, "sensitivity"), interval="exact",
)  # fmt: skip
def sensitivity(sample: Sample, weights: np.ndarray) -> np.ndarray:
    """Share of the records with the class that were called so."""
    c = confusion(sample, weights)
    return divide(c.tp, c.tp + c.fn)


@metric(
    "specificity", "Specificity", problems=CLASSIFICATION, direction="higher", bounds=(0, 1), averages=("macro",),
    needs=("negatives",), exact=partial(_share_exact, "specificity"), interval="exact",
)  # fmt: skip
def specificity(sample: Sample, weights: np.ndarray) -> np.ndarray:
    """Share of the records without the class that were not called so."""
    c = confusion(sample, weights)
    return divide(c.tn, c.tn + c.fp)


@metric(
    "ppv", "Positive predictive value", problems=CLASSIFICATION, direction="higher", bounds=(0, 1),
    needs=("calls",), exact=partial(_share_exact, "ppv"), interval="exact",
)  # fmt: skip
def ppv(sample: Sample, weights: np.ndarray) -> np.ndarray:
    """Share of the calls that were right, at these records' mix of classes."""
    c = confusion(sample, weights)
    return divide(c.tp, c.tp + c.fp)


@metric(
    "npv", "Negative predictive value", problems=CLASSIFICATION, direction="higher", bounds=(0, 1),
    needs=("clears",), exact=partial(_share_exact, "npv"), interval="exact",
)  # fmt: skip
def npv(sample: Sample, weights: np.ndarray) -> np.ndarray:
    """Share of the records not called that were rightly so, at these records' mix of classes."""
    c = confusion(sample, weights)
    return divide(c.tn, c.tn + c.fn)
