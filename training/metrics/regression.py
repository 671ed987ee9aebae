"""Metrics of estimated numbers, in the target's unit."""

from __future__ import annotations

import numpy as np

from training.metrics.base import REGRESSION, Sample, divide, metric

_ANY = float("inf")


def _mean(sample: Sample, weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    known = sample.known
    return divide(weights @ np.where(known, values, 0.0), weights @ known.astype(np.float64))


def _error(sample: Sample) -> np.ndarray:
    return np.where(sample.known, sample.predicted - sample.truth, 0.0)


@metric("mae", "Mean absolute error", problems=REGRESSION, direction="lower", bounds=(0, _ANY), averages=("macro",))
def mae(sample: Sample, weights: np.ndarray) -> np.ndarray:
    """Mean of |estimate - truth|."""
    return _mean(sample, weights, np.abs(_error(sample)))


@metric(
    "rmse", "Root mean squared error", problems=REGRESSION, direction="lower", bounds=(0, _ANY), averages=("macro",)
)
def rmse(sample: Sample, weights: np.ndarray) -> np.ndarray:
    """Root of the mean squared difference of estimate and truth."""
    return np.sqrt(_mean(sample, weights, _error(sample) ** 2))


@metric("bias", "Mean error", problems=REGRESSION, direction="none", bounds=(-_ANY, _ANY))
def bias(sample: Sample, weights: np.ndarray) -> np.ndarray:
    """Mean of estimate - truth; positive where the estimates are too high."""
    return _mean(sample, weights, _error(sample))


@metric("r2", "R²", problems=REGRESSION, direction="higher", bounds=(-_ANY, 1), averages=("macro",), needs=("spread",))
def r2(sample: Sample, weights: np.ndarray) -> np.ndarray:
    """Share of the variance explained; 0 for always guessing the mean, negative for worse than that."""
    known = sample.known
    # Centred first: variances as differences of large means lose their digits.
    centre = np.array(
        [column[np.isfinite(column)].mean() if np.isfinite(column).any() else 0.0 for column in sample.truth.T]
    )
    truth = np.where(known, sample.truth - centre, 0.0)
    mean = _mean(sample, weights, truth)
    total = _mean(sample, weights, truth**2) - mean**2
    total = np.where(total > 1e-12 * np.maximum(1e-300, (truth**2).max(axis=0, initial=0.0)), total, 0.0)
    return 1.0 - divide(_mean(sample, weights, _error(sample) ** 2), total)
