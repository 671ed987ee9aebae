"""ROC, precision-recall and calibration: how well scores separate and how honest they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from viz.figures import charts, panels
from viz.figures.figure import Figure, figure


@dataclass(frozen=True)
class Curve:
    """One curve of operating points.

    name: label or run; x, y: the curve (ROC: 1 - specificity, sensitivity; precision-recall: recall,
    precision), ordered along the curve; thresholds: the score at each point; area with its 95%
    interval; low, high: 95% band of y at each x; chosen: the threshold in use; prevalence: share of
    positives in [0, 1]; positives, negatives: counts; point: x and y at the chosen threshold, where
    they are known better than the curve tells. Everything but name, x and y may be absent.
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
    point: tuple[float, float] | None = None

    def at_chosen(self) -> tuple[float, float, float] | None:
        """Return x, y and threshold of the point in use: the last whose threshold is not below the chosen one."""
        if self.chosen is None or not len(self.thresholds):
            return None
        if self.point is not None:
            return self.point[0], self.point[1], float(self.chosen)
        scores = np.asarray(self.thresholds, dtype=float)
        reached = np.flatnonzero(scores >= self.chosen - 1e-12)
        k = int(reached[np.argmin(scores[reached])]) if reached.size else int(np.argmax(scores))
        same = np.flatnonzero(scores == scores[k])
        k = int(same[-1])
        return float(self.x[k]), float(self.y[k]), float(self.chosen)


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
            # Many bands lie over each other; each is fainter then.
            alpha = 0.18 if len(drawn) <= 2 else 0.07
            data.append(charts.band(one.x, one.low, one.high, k, dark, f"95% band, {one.name}", alpha))
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
    if len(drawn) > panels.MOST_TOGETHER:
        told = [panels.ranked(len(drawn), (area[0].upper() + area[1:], [(one.name, one.area) for one in drawn]))]
    if skipped:
        told.append(f"No curve for {', '.join(skipped)}: only one class was seen.")
    if len(drawn) > panels.MOST_TOGETHER:
        plotly = panels.panels([_panel(one, kind) for one in drawn], title, x_title, y_title, _HOVER, dark, kind)
        return Figure(plotly, title, " ".join(told), table)
    frame = charts.layout(
        title, x_title, y_title, dark, uirevision=kind, x={"range": [-0.02, 1.02], "constrain": "domain"},
        y={"range": [-0.02, 1.02], **({"scaleanchor": "x", "constrain": "domain"} if kind == "roc" else {})},
    )  # fmt: skip
    return Figure({"data": data, "layout": frame}, title, " ".join(told), table)


_HOVER = "<b>%{customdata[0]}</b><br>%{customdata[1]:.3f}, %{customdata[2]:.3f}<br>threshold %{customdata[3]:.4f}<extra></extra>"


def _panel(one: Curve, kind: str) -> panels.Panel:
    cuts = charts.numbers(one.thresholds) if len(one.thresholds) else [None] * len(one.x)
    rows = list(
        zip([charts.plain(one.name)] * len(one.x), charts.numbers(one.x), charts.numbers(one.y), cuts, strict=True)
    )
    level = one.prevalence if one.prevalence is not None else 0.0
    point = one.at_chosen()
    return panels.Panel(
        one.name, one.area, one.x, one.y, one.low, one.high, chance=((0, 0), (1, 1)) if kind == "roc" else ((0, level), (1, level)),
        point=point[:2] if point else None, hover=rows,
    )  # fmt: skip


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
                    f"{sum(one.counts):,} records.")  # fmt: skip
        lows, highs = (list(v) if len(v) else [None] * len(one.counts) for v in (one.low, one.high))
        table += [[one.name, *row] for row in zip(one.predicted, one.observed, lows, highs, one.counts, strict=True)]
    if len(drawn) > panels.MOST_TOGETHER:
        told = [panels.ranked(len(drawn), ("Expected calibration error", [(one.name, one.ece) for one in drawn]))]
        hover = "<b>%{customdata[0]}</b><br>predicted %{customdata[1]:.3f}, observed %{customdata[2]:.3f}, %{customdata[3]} records<extra></extra>"
        small = [
            panels.Panel(
                one.name, one.ece, one.predicted, one.observed, one.low, one.high, bars=True,
                hover=[(charts.plain(one.name), *row) for row in zip(one.predicted, one.observed, one.counts, strict=True)],
            )
            for one in drawn
        ]  # fmt: skip
        return Figure(
            panels.panels(small, title, x_title, y_title, hover, dark, "calibration"), title, " ".join(told), table
        )
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
