"""How far probabilities can be taken at their word."""

from __future__ import annotations

from typing import Any

import numpy as np

from training.metrics.base import CLASSIFICATION, Sample, divide, metric
from training.metrics.intervals import wilson

BINS = 10


def _bin(p: np.ndarray) -> np.ndarray:
    """Return the index of each probability's bin of equal width."""
    return np.minimum((p * BINS).astype(int), BINS - 1)


def _gap(p: np.ndarray, t: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over records of |observed share - mean probability| of their bin, ``(resamples,)``."""
    member = (_bin(p)[:, None] == np.arange(BINS)).astype(np.float64)
    difference = weights @ (member * (t - p)[:, None])
    return divide(np.abs(difference).sum(axis=1), weights.sum(axis=1))


@metric("brier", "Brier score", problems=CLASSIFICATION, direction="lower", bounds=(0, 1), averages=("macro",))
def brier(sample: Sample, weights: np.ndarray) -> np.ndarray:
    """Mean squared difference of probability and truth, per class against the rest (Brier 1950)."""
    known = sample.known
    error = np.where(known, (sample.predicted - np.where(known, sample.truth, 0.0)) ** 2, 0.0)
    return divide(weights @ error, weights @ known.astype(np.float64))


@metric(
    "ece", "Expected calibration error", problems=CLASSIFICATION, direction="lower", bounds=(0, 1),
    averages=("macro",), interval="basic",
)  # fmt: skip
def ece(sample: Sample, weights: np.ndarray) -> np.ndarray:
    """Mean gap between probability and observed share over ten bins of equal width, per class."""
    answer = np.full((len(weights), sample.truth.shape[1]), np.nan)
    for column in range(sample.truth.shape[1]):
        known = np.isfinite(sample.truth[:, column])
        if known.any():
            answer[:, column] = _gap(sample.predicted[known, column], sample.truth[known, column], weights[:, known])
    return answer


def reliability(sample: Sample, column: int) -> list[dict[str, Any]]:
    """Return the points of one class's reliability diagram, one per bin that holds records.

    Each: ``from``, ``to``, ``n``, ``mean_probability``, ``observed`` share with ``low`` and ``high`` (Wilson).
    """
    known = np.isfinite(sample.truth[:, column])
    p, t = sample.predicted[known, column], sample.truth[known, column]
    index = _bin(p)
    points = []
    for b in range(BINS):
        inside = index == b
        n = int(inside.sum())
        if n:
            low, high = wilson(float(t[inside].sum()), n)
            points.append({
                "from": b / BINS, "to": (b + 1) / BINS, "n": n, "mean_probability": float(p[inside].mean()),
                "observed": float(t[inside].mean()), "low": low, "high": high,
            })  # fmt: skip
    return points
