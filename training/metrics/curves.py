"""ROC and precision-recall curves, thinned for plotting."""

from __future__ import annotations

from typing import Any

import numpy as np

from training.metrics.base import Sample

MAX_POINTS = 200


def curve_points(sample: Sample, column: int, max_points: int = MAX_POINTS) -> dict[str, Any] | None:
    """Return one class's curves, or None without both positives and negatives.

    ``roc``: ``fpr``, ``tpr``, ``threshold``; ``pr``: ``recall``, ``precision``, ``threshold``. Every point is
    a real operating point "called when probability >= threshold"; the first has nothing called.
    """
    known = np.isfinite(sample.truth[:, column])
    p, t = sample.predicted[known, column], sample.truth[known, column] > 0.5
    if not t.any() or t.all():
        return None
    order = np.argsort(-p, kind="stable")
    p, t = p[order], t[order]
    last = np.flatnonzero(np.append(p[1:] != p[:-1], True))
    tp, fp = np.cumsum(t)[last].astype(float), np.cumsum(~t)[last].astype(float)
    tpr = np.concatenate([[0.0], tp / t.sum()])
    fpr = np.concatenate([[0.0], fp / (~t).sum()])
    limit = np.concatenate([[np.inf], p[last]])
    precision = np.concatenate([[1.0], tp / (tp + fp)])
    roc, pr = _thin(fpr, tpr, max_points), _thin(tpr, precision, max_points)
    return {
        "roc": {"fpr": _list(fpr[roc]), "tpr": _list(tpr[roc]), "threshold": _list(limit[roc])},
        "pr": {"recall": _list(tpr[pr]), "precision": _list(precision[pr]), "threshold": _list(limit[pr])},
    }


def _thin(x: np.ndarray, y: np.ndarray, max_points: int) -> np.ndarray:
    """Return indices of at most ``max_points`` points, evenly along the curve, both ends kept."""
    if len(x) <= max_points:
        return np.arange(len(x))
    way = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    wanted = np.linspace(0, way[-1], max_points)
    picked = np.unique(np.searchsorted(way, wanted).clip(0, len(x) - 1))
    return np.union1d(picked, [0, len(x) - 1])[: max_points + 1]


def _list(values: np.ndarray) -> list[float | None]:
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in values]
