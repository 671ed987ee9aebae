"""ROC, precision-recall and calibration: how well scores separate and how honest they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecgportal.errors import InvalidInput
from viz.figures import charts
from viz.figures.figure import Figure, figure


@dataclass(frozen=True)
class Curve:
    """One curve of operating points.

    name: label or run; x, y: the curve (ROC: 1 - specificity, sensitivity; precision-recall: recall,
    precision), ordered along the curve; thresholds: the score at each point; area with its 95%
    interval; low, high: 95% band of y at each x; chosen: the threshold in use; prevalence: share of
    positives in [0, 1]; positives, negatives: counts. Everything but name, x and y may be absent.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    thresholds: Sequence[float] = ()
    area: float | None = None
    area_low: float | None = None
    area_high: float | None = None
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    chosen: float | None = None
    prevalence: float | None = None
    positives: int | None = None
    negatives: int | None = None

    def at_chosen(self) -> tuple[float, float, float] | None:
        """Return x, y and threshold of the point in use: the last whose threshold is not below the chosen one."""
        if self.chosen is None or not len(self.thresholds):
            return None
        scores = np.asarray(self.thresholds, dtype=float)
        reached = np.flatnonzero(scores >= self.chosen - 1e-12)
        k = int(reached[np.argmin(scores[reached])]) if reached.size else int(np.argmax(scores))
        same = np.flatnonzero(scores == scores[k])
        k = int(same[-1])
        return float(self.x[k]), float(self.y[k]), float(self.chosen)


def scored(kind: str, name: str, truth: Sequence[int], score: Sequence[float], *, chosen: float | None = None,
           resamples: int = 200, seed: int = 0) -> Curve:  # fmt: skip
    """Make a curve from labels (0/1) and scores, with 95% intervals from a stratified bootstrap.

    kind: ``roc`` or ``pr``. The precision-recall area is the average precision (no interpolation).
    The band is the 2.5 and 97.5 percentile of y over the resamples at each x. Pairs with an
    unknown label or score are left out.
    """
    if kind not in ("roc", "pr"):
        raise InvalidInput(f"A curve is of kind roc or pr, not {kind!r}.")
    y, s = np.asarray(truth, dtype=float), np.asarray(score, dtype=float)
    if y.shape != s.shape:
        raise InvalidInput(f"There must be one score per label; got {s.size} scores and {y.size} labels.")
    known = np.isfinite(y) & np.isfinite(s)
    y, s = y[known], s[known]
    positives, negatives = int((y > 0.5).sum()), int((y <= 0.5).sum())
    if not positives or not negatives:
        return Curve(name, (), (), chosen=chosen, positives=positives, negatives=negatives)
    order = np.argsort(-s, kind="stable")
    y, s = (y[order] > 0.5).astype(float), s[order]
    last = np.append(np.flatnonzero(np.diff(s)), s.size - 1)
    make = _roc if kind == "roc" else _pr
    x0, y0, area = make(y, np.ones_like(y), last)
    rng = np.random.default_rng(seed)
    grid = np.linspace(0, 1, 101)
    areas, rows = [], []
    for _ in range(resamples):
        weights = np.empty_like(y)
        for value, count in ((1.0, positives), (0.0, negatives)):
            weights[y == value] = rng.multinomial(count, np.full(count, 1 / count))
        xb, yb, ab = make(y, weights, last)
        areas.append(ab)
        rows.append(np.interp(grid, xb, yb))
    low, high = np.percentile(rows, [2.5, 97.5], axis=0) if rows else (np.empty(0), np.empty(0))
    a_low, a_high = np.percentile(areas, [2.5, 97.5]) if areas else (None, None)
    thresholds = np.concatenate([[np.inf], s[last]])
    keep = charts.thin(x0.size)
    if chosen is not None:
        keep = np.unique(np.append(keep, np.searchsorted(-thresholds, -chosen, side="right") - 1))
    xs = x0[keep]
    return Curve(
        name, xs.tolist(), y0[keep].tolist(), thresholds[keep].tolist(), area, a_low, a_high,
        np.interp(xs, grid, low).tolist() if rows else (), np.interp(xs, grid, high).tolist() if rows else (),
        chosen, positives / y.size, positives, negatives,
    )  # fmt: skip


def _roc(y: np.ndarray, weights: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    tp = np.cumsum(y * weights)[last]
    fp = np.cumsum((1 - y) * weights)[last]
    tpr, fpr = np.append(0, tp / tp[-1]), np.append(0, fp / fp[-1])
    return fpr, tpr, float(np.trapezoid(tpr, fpr))


def _pr(y: np.ndarray, weights: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    tp = np.cumsum(y * weights)[last]
    seen = np.cumsum(weights)[last]
    recall = tp / tp[-1]
    precision = np.divide(tp, seen, out=np.ones_like(tp), where=seen > 0)
    area = float(np.sum(np.diff(np.append(0, recall)) * precision))
    return np.append(0, recall), np.append(precision[0], precision), area


@figure("roc")
def roc(curves: Sequence[Curve], *, dark: bool = False, title: str = "ROC curve") -> Figure:
    """Sensitivity against 1 - specificity, one curve a label or run, with bands and the threshold in use."""
    diagonal = {
        "type": "scatter", "mode": "lines", "name": "chance", "x": [0, 1], "y": [0, 1], "hoverinfo": "skip",
        "line": {"color": charts.theme(dark).quiet, "width": 1, "dash": "dot"},
    }  # fmt: skip
    return _operating(curves, "roc", title, "1 − specificity (share)", "sensitivity (share)", "AUROC", [diagonal], dark)


@figure("precision_recall")
def precision_recall(curves: Sequence[Curve], *, dark: bool = False, title: str = "Precision and recall") -> Figure:
    """Precision (PPV) against recall (sensitivity), with the prevalence as the level of chance."""
    lines = []
    for k, one in enumerate(curves):
        if one.prevalence is not None:
            lines.append({
                "type": "scatter", "mode": "lines", "name": charts.plain(f"prevalence, {one.name}"), "x": [0, 1],
                "y": [one.prevalence] * 2, "hoverinfo": "skip", "showlegend": False,
                "line": {"color": charts.colour(k, dark), "width": 1, "dash": "dot"},
            })  # fmt: skip
    return _operating(
        curves, "pr", title, "recall = sensitivity (share)", "precision = PPV (share)", "average precision", lines, dark
    )


def _operating(
    curves: Sequence[Curve],
    kind: str,
    title: str,
    x_title: str,
    y_title: str,
    area: str,
    extra: list[dict[str, Any]],
    dark: bool,
) -> Figure:
    heads = ["curve", x_title, y_title, "threshold (score)", "95% low", "95% high"]
    drawn = [one for one in curves if len(one.x)]
    if not drawn:
        why = (
            "No curve: it takes at least one record with the label and one without."
            if curves
            else "No curve was given."
        )
        return charts.empty(title, x_title, y_title, dark, kind, heads, why)
    data = list(extra)
    table: list[list[Any]] = [heads]
    told: list[str] = []
    for k, one in enumerate(drawn):
        label = f"{one.name}: {area} {charts.show(one.area)}" if one.area is not None else one.name
        if len(one.low):
            data.append(charts.band(one.x, one.low, one.high, k, dark, f"95% band, {one.name}"))
        cuts = charts.numbers(one.thresholds) if len(one.thresholds) else [None] * len(one.x)
        data.append(
            charts.curve(
                label, one.x, one.y, k, dark, customdata=cuts, hovertemplate=_point(one.name, x_title, y_title)
            )
        )
        point = one.at_chosen()
        if point:
            data.append(_marker(one.name, point, k, dark))
        told.append(_told(one, area, point, x_title, y_title))
        lows, highs = (list(v) if len(v) else [None] * len(one.x) for v in (one.low, one.high))
        table += [
            [one.name, *row]
            for row in zip(charts.numbers(one.x), charts.numbers(one.y), cuts, lows, highs, strict=True)
        ]
    skipped = [one.name for one in curves if not len(one.x)]
    if skipped:
        told.append(f"No curve for {', '.join(skipped)}: only one class was seen.")
    frame = charts.layout(
        title, x_title, y_title, dark, uirevision=kind, x={"range": [-0.02, 1.02], "constrain": "domain"},
        y={"range": [-0.02, 1.02], **({"scaleanchor": "x", "constrain": "domain"} if kind == "roc" else {})},
    )  # fmt: skip
    return Figure({"data": data, "layout": frame}, title, " ".join(told), table)


def _point(name: str, x_title: str, y_title: str) -> str:
    return f"<b>{charts.plain(name)}</b><br>{x_title} %{{x:.3f}}<br>{y_title} %{{y:.3f}}<br>threshold %{{customdata:.4f}}<extra></extra>"


def _marker(name: str, point: tuple[float, float, float], k: int, dark: bool) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers", "showlegend": False, "name": charts.plain(f"{name}, threshold {point[2]:.3g}"), "x": [point[0]], "y": [point[1]],
        "marker": {"symbol": "diamond", "size": 11, "color": charts.colour(k, dark), "line": {"width": 1.5, "color": charts.theme(dark).ink}},
        "hovertemplate": f"<b>{charts.plain(name)}</b> at threshold {point[2]:.4f}: %{{x:.3f}}, %{{y:.3f}}<extra></extra>",
    }  # fmt: skip


def _told(one: Curve, area: str, point: tuple[float, float, float] | None, x_title: str, y_title: str) -> str:
    counts = f" from {one.positives} positive and {one.negatives} negative records" if one.positives is not None else ""
    text = f"{one.name}: {area} {charts.with_interval(one.area, one.area_low, one.area_high)}{counts}."
    if point:
        text += f" At threshold {point[2]:.3g}: {x_title.split(' (')[0]} {point[0]:.3f}, {y_title.split(' (')[0]} {point[1]:.3f}."
    return text


@dataclass(frozen=True)
class Reliability:
    """Calibration of one label: per bin the mean predicted probability, the share observed, and the count.

    low, high: 95% interval of the observed share; ece: expected calibration error; brier: Brier score.
    """

    name: str
    predicted: Sequence[float]
    observed: Sequence[float]
    counts: Sequence[int]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    ece: float | None = None
    brier: float | None = None


def reliability(name: str, truth: Sequence[int], score: Sequence[float], bins: int = 10) -> Reliability:
    """Bin scores into ``bins`` equal widths; intervals are Wilson's; unknown pairs are left out."""
    y, s = np.asarray(truth, dtype=float), np.asarray(score, dtype=float)
    known = np.isfinite(y) & np.isfinite(s)
    y, s = y[known], np.clip(s[known], 0, 1)
    if not y.size:
        return Reliability(name, (), (), ())
    at = np.minimum((s * bins).astype(int), bins - 1)
    counts = np.bincount(at, minlength=bins)
    used = counts > 0
    predicted = np.bincount(at, s, bins)[used] / counts[used]
    observed = np.bincount(at, y, bins)[used] / counts[used]
    low, high = wilson(observed, counts[used])
    ece = float(np.sum(counts[used] * np.abs(predicted - observed)) / y.size)
    return Reliability(
        name,
        predicted.tolist(),
        observed.tolist(),
        counts[used].tolist(),
        low.tolist(),
        high.tolist(),
        ece,
        float(np.mean((s - y) ** 2)),
    )


def wilson(share: Any, n: Any, z: float = 1.959964) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95% interval of a share (Wilson 1927, doi 10.1080/01621459.1927.10502953)."""
    p, n = np.asarray(share, dtype=float), np.asarray(n, dtype=float)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


@figure("calibration")
def calibration(curves: Sequence[Reliability], *, dark: bool = False, title: str = "Calibration") -> Figure:
    """Observed share against predicted probability with 95% intervals; the diagonal is perfect calibration."""
    x_title, y_title = "mean predicted probability (share)", "observed share of positives (share)"
    heads = ["label", x_title, y_title, "95% low", "95% high", "records (count)"]
    drawn = [one for one in curves if len(one.predicted)]
    if not drawn:
        return charts.empty(
            title, x_title, y_title, dark, "calibration", heads, "No predictions to judge the calibration of."
        )
    data: list[dict[str, Any]] = [{
        "type": "scatter", "mode": "lines", "name": "perfect", "x": [0, 1], "y": [0, 1], "hoverinfo": "skip",
        "line": {"color": charts.theme(dark).quiet, "width": 1, "dash": "dot"},
    }]  # fmt: skip
    table: list[list[Any]] = [heads]
    told: list[str] = []
    for k, one in enumerate(drawn):
        bars = {}
        if len(one.low):
            up = charts.numbers(np.asarray(one.high) - np.asarray(one.observed))
            down = charts.numbers(np.asarray(one.observed) - np.asarray(one.low))
            bars = {
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": up,
                    "arrayminus": down,
                    "color": charts.colour(k, dark),
                }
            }
        data.append(
            charts.curve(one.name, one.predicted, one.observed, k, dark, mode="lines+markers", customdata=list(one.counts),
                         hovertemplate="predicted %{x:.3f}, observed %{y:.3f}, %{customdata} records<extra></extra>") | bars
        )  # fmt: skip
        told.append(f"{one.name}: expected calibration error {charts.show(one.ece)}, Brier score {charts.show(one.brier)}, "
                    f"{sum(one.counts)} records.")  # fmt: skip
        lows, highs = (list(v) if len(v) else [None] * len(one.counts) for v in (one.low, one.high))
        table += [[one.name, *row] for row in zip(one.predicted, one.observed, lows, highs, one.counts, strict=True)]
    span = {"range": [-0.02, 1.02]}
    frame = charts.layout(
        title,
        x_title,
        y_title,
        dark,
        uirevision="calibration",
        x=span | {"constrain": "domain"},
        y=span | {"scaleanchor": "x", "constrain": "domain"},
    )
    return Figure({"data": data, "layout": frame}, title, " ".join(told), table)
