"""Two models on the same records: the difference with its interval, not two intervals side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ecgportal.errors import InvalidInput
from training.metrics.base import Figure, Metric, Sample, average, better, metrics
from training.metrics.intervals import bootstrap_weights

_COMPARED = {
    "classification": ("auroc", "auprc", "f1", "sensitivity", "specificity", "brier"),
    "regression": ("mae", "rmse", "r2"),
}
_CELL_BUDGET = 20_000_000


def paired_differences(
    first: Sample, second: Sample, *, n_resamples: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """Compare two models on the same records by a bootstrap that draws each subject for both at once.

    first, second: the same truth, subjects and classes; only predictions and decisions differ.

    Returns one row a metric and class (``class`` is None for the mean over classes): ``metric``, ``title``, ``better``
    (``higher`` or ``lower``), ``first``, ``second``, ``difference`` (second - first, a figure with its 95 % percentile interval)
    and ``verdict``: ``first``, ``second`` or None where the interval holds zero.
    """
    if first.names != second.names or first.task != second.task or first.truth.shape != second.truth.shape:
        raise InvalidInput("The two models must answer the same classes for the same records.", code="not_comparable")
    if not np.array_equal(first.truth, second.truth, equal_nan=True) or not np.array_equal(first.groups, second.groups):
        raise InvalidInput("The two models must be judged by the same truth and subjects.", code="not_comparable")
    kind = "regression" if first.task == "regression" else "classification"
    chosen = [
        metrics()[name] for name in _COMPARED[kind] if name in metrics() and first.task in metrics()[name].problems
    ]
    ones = first.weight_of_one()
    n_resamples = int(max(200, min(n_resamples, _CELL_BUDGET // max(1, first.truth.size))))
    draws: list[list[np.ndarray]] = [[] for _ in chosen]
    if first.n_groups >= 2:
        for weights in bootstrap_weights(first.groups, n_resamples, seed):
            for place, m in enumerate(chosen):
                draws[place].append(_columns(m, second, weights) - _columns(m, first, weights))
    rows = []
    for m, drawn in zip(chosen, draws, strict=True):
        a, b = _columns(m, first, ones)[0], _columns(m, second, ones)[0]
        resampled = np.concatenate(drawn) if drawn else np.empty((0, len(a)))
        for column in range(len(a)):
            name = None if column == len(first.names) else first.names[column]
            if name is not None and len(first.names) == 1:
                continue
            rows.append(_row(m, name, a[column], b[column], resampled[:, column]))
    return sorted(rows, key=lambda row: row["class"] is not None)


def _columns(m: Metric, sample: Sample, weights: np.ndarray) -> np.ndarray:
    """Return ``(resamples, classes + 1)``: each class, then their mean."""
    values = m.values(sample, weights)
    if not m.per_output:
        values = values[:, None]
        return np.concatenate([np.full((len(values), len(sample.names)), np.nan), values], axis=1)
    return np.concatenate([values, average(values, "macro", sample, weights)[:, None]], axis=1)


def _row(m: Metric, name: str | None, a: float, b: float, drawn: np.ndarray) -> dict[str, Any]:
    difference = _difference(b - a, drawn)
    verdict = None
    if difference.low is not None and difference.high is not None and not difference.low <= 0 <= difference.high:
        up = difference.low > 0
        verdict = "second" if up == (better(m.name) == "higher") else "first"
    return {
        "metric": m.name, "title": m.title, "class": name, "better": better(m.name), "first": _plain(a), "second": _plain(b),
        "difference": difference, "verdict": verdict,
    }  # fmt: skip


def _difference(value: float, drawn: np.ndarray) -> Figure:
    if not np.isfinite(value):
        return Figure(None, None, None, "Not defined for these records.")
    defined = drawn[np.isfinite(drawn)]
    if len(defined) < max(20, len(drawn) // 2):
        return Figure(float(value), None, None, "Undefined in most resamples, so no interval can be given.")
    low, high = np.quantile(defined, [0.025, 0.975])
    return Figure(float(value), float(min(low, value)), float(max(high, value)))


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def matching(first: Sequence[str], second: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the records that both have, in the order of ``first``."""
    where = {key: place for place, key in enumerate(second)}
    both = [(place, where[key]) for place, key in enumerate(first) if key in where]
    return np.array([a for a, _ in both], dtype=int), np.array([b for _, b in both], dtype=int)
