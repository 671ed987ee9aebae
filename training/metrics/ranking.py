"""Areas under the ROC and the precision-recall curve."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.metrics.base import CLASSIFICATION, Interval, Sample, divide, metric
from training.metrics.intervals import auroc_interval, wilson


def _tied_sums(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of positives and negatives summed over equal scores, ascending: 2 x ``(resamples, ties)``."""
    order = np.argsort(score, kind="stable")
    score, positive = score[order], positive[order]
    starts = np.flatnonzero(np.append(True, score[1:] != score[:-1]))
    weights = weights[:, order]
    up = np.add.reduceat(weights * positive, starts, axis=1)
    return up, np.add.reduceat(weights, starts, axis=1) - up


def _per_class(sample: Sample, weights: np.ndarray, area: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the area per class, NaN without a positive, ``(resamples, classes)``."""
    answer = np.full((len(weights), sample.truth.shape[1]), np.nan)
    for column in range(sample.truth.shape[1]):
        known = np.isfinite(sample.truth[:, column])
        positive = sample.truth[known, column] > 0.5
        if positive.any():
            up, down = _tied_sums(sample.predicted[known, column], positive, weights[:, known])
            answer[:, column] = area(up, down)
    return answer


def _roc_area(up: np.ndarray, down: np.ndarray) -> np.ndarray:
    below = np.cumsum(down, axis=1) - down
    return divide((up * (below + 0.5 * down)).sum(axis=1), up.sum(axis=1) * down.sum(axis=1))


def _average_precision(up: np.ndarray, down: np.ndarray) -> np.ndarray:
    hits = np.cumsum(up[:, ::-1], axis=1)
    taken = hits + np.cumsum(down[:, ::-1], axis=1)
    precision = np.divide(hits, taken, out=np.zeros_like(hits), where=taken > 0)
    return divide((precision * up[:, ::-1]).sum(axis=1), up.sum(axis=1))


def _subjects(sample: Sample, column: int, positive: bool) -> int:
    truth = sample.truth[:, column]
    return len(np.unique(sample.groups[(truth > 0.5) if positive else (truth <= 0.5)]))


def _auroc_exact(sample: Sample, column: int, value: float) -> Interval | None:
    return auroc_interval(value, _subjects(sample, column, True), _subjects(sample, column, False))


def _auprc_exact(sample: Sample, column: int, value: float) -> Interval | None:
    # Binomial form of Boyd, Eng, Page 2013: the positives are the trials.
    positives = _subjects(sample, column, True)
    return wilson(value * positives, positives)


@metric(
    "auroc", "AUROC", problems=CLASSIFICATION, direction="higher", bounds=(0, 1), averages=("macro",),
    needs=("positives", "negatives"), exact=_auroc_exact,
)  # fmt: skip
def auroc(sample: Sample, weights: np.ndarray) -> np.ndarray:
    """Chance that a random record with the class scores above a random one without it; ties count half."""
    return _per_class(sample, weights, _roc_area)


@metric(
    "auprc", "AUPRC", problems=CLASSIFICATION, direction="higher", bounds=(0, 1), averages=("macro",),
    needs=("positives",), exact=_auprc_exact,
)  # fmt: skip
def auprc(sample: Sample, weights: np.ndarray) -> np.ndarray:
    """Average precision: the area under the precision-recall steps, without interpolation."""
    return _per_class(sample, weights, _average_precision)
