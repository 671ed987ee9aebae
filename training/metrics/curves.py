"""ROC and precision-recall curves with their bands, thinned for plotting."""

from __future__ import annotations

from typing import Any

import numpy as np

from training.metrics.base import Sample

MAX_POINTS = 200
# A band needs its 2.5 and 97.5 percentiles at each place only roughly: more resamples would not change the picture.
BAND_RESAMPLES = 200
_GRID = np.linspace(0.0, 1.0, 101)


def curve_points(
    sample: Sample,
    column: int,
    max_points: int = MAX_POINTS,
    *,
    weights: np.ndarray | None = None,
    threshold: float | None = None,
) -> dict[str, Any] | None:
    """Return one class's curves, or None without both positives and negatives.

    ``roc``: ``fpr``, ``tpr``, ``threshold``; ``pr``: ``recall``, ``precision``, ``threshold``. Every point is
    a real operating point "called when probability >= threshold"; the first has nothing called. The point of the
    given threshold is kept. With resampling ``weights`` ``(resamples, records)`` both have ``low`` and ``high``, the
    95 % band of the second coordinate at each value of the first.
    """
    known = np.isfinite(sample.truth[:, column])
    p, t = sample.predicted[known, column], sample.truth[known, column] > 0.5
    if not t.any() or t.all():
        return None
    order = np.argsort(-p, kind="stable")
    p, t = p[order], t[order]
    last = np.flatnonzero(np.append(p[1:] != p[:-1], True))
    fpr, tpr, precision = (row[0] for row in _coordinates(t, last, np.ones((1, len(t)))))
    limit = np.concatenate([[np.inf], p[last]])
    own = [] if threshold is None else [int(np.flatnonzero(limit >= threshold)[-1])]
    roc = np.union1d(_thin(fpr, tpr, max_points), own).astype(int)
    pr = np.union1d(_thin(tpr, precision, max_points), own).astype(int)
    found = {
        "roc": {"fpr": _list(fpr[roc]), "tpr": _list(tpr[roc]), "threshold": _list(limit[roc])},
        "pr": {"recall": _list(tpr[pr]), "precision": _list(precision[pr]), "threshold": _list(limit[pr])},
    }
    if weights is not None and len(weights) >= 20:
        bands = _bands(t, last, weights[:BAND_RESAMPLES][:, known][:, order])
        for name, at, (low, high) in (("roc", fpr[roc], bands[0]), ("pr", tpr[pr], bands[1])):
            found[name] |= {"low": _list(np.interp(at, _GRID, low)), "high": _list(np.interp(at, _GRID, high))}
    return found


def _coordinates(t: np.ndarray, last: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return false positive rate, sensitivity and precision, each ``(resamples, points)``; NaN where undefined."""
    tp = np.cumsum(weights * t, axis=1)[:, last]
    seen = np.cumsum(weights, axis=1)[:, last]
    fp = seen - tp
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr, fpr = tp / tp[:, -1:], fp / fp[:, -1:]
        precision = np.where(seen > 0, tp / seen, 1.0)
    start = np.zeros((len(weights), 1))
    return (
        np.concatenate([start, fpr], axis=1),
        np.concatenate([start, tpr], axis=1),
        np.concatenate([start + 1, precision], axis=1),
    )


def _bands(t: np.ndarray, last: np.ndarray, weights: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the band of the ROC and of the precision-recall curve on ``_GRID``."""
    rows: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for fpr, tpr, precision in zip(*_coordinates(t, last, weights), strict=True):
        if np.isfinite(fpr).all() and np.isfinite(tpr).all():
            rows[0].append(np.interp(_GRID, fpr, tpr))
            rows[1].append(np.interp(_GRID, tpr, precision))
    return [_percentiles(part) for part in rows]


def _percentiles(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    if not rows:
        return np.full(len(_GRID), np.nan), np.full(len(_GRID), np.nan)
    low, high = np.percentile(rows, [2.5, 97.5], axis=0)
    return low, high


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
