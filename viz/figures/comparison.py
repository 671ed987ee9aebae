"""Scores per class and runs side by side, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from viz.figures import charts, panels
from viz.figures.figure import Figure, figure


@dataclass(frozen=True)
class Score:
    """A score with its 95% interval, and the number of records with the label behind it; None where unknown."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    support: int | None = None


@figure("f1_per_class")
def f1_per_class(
    scores: Sequence[Score],
    *,
    macro: Score | None = None,
    dark: bool = False,
    title: str = "F1 per class",
    metric: str = "F1",
) -> Figure:
    """Horizontal bars with 95% intervals; the macro average, where given, as a line."""
    x_title, y_title = f"{metric} (share)", "class"
    heads: list[Any] = ["class", x_title, "95% low", "95% high", "records with the label (count)"]
    if not scores:
        return charts.empty(title, x_title, y_title, dark, "per-class", heads, "No class has been scored.")
    names = [charts.plain(one.name, 40) for one in scores]
    data: list[dict[str, Any]] = [{
        "type": "bar", "orientation": "h", "name": metric, "y": names, "x": [charts.number(one.value) for one in scores],
        "error_x": _bars(scores, dark), "marker": {"color": charts.colour(0, dark)}, "showlegend": False,
        "customdata": [one.support for one in scores],
        "hovertemplate": f"%{{y}}: {metric} %{{x:.3f}} (%{{customdata}} records)<extra></extra>",
    }]  # fmt: skip
    many = len(scores) > panels.MOST_TOGETHER
    told = (
        [panels.ranked(len(scores), (metric, [(one.name, one.value) for one in scores]))]
        if many
        else [_told(one, metric) for one in scores]
    )
    table: list[list[Any]] = [heads, *([one.name, one.value, one.low, one.high, one.support] for one in scores)]
    shapes = []
    if macro is not None and macro.value is not None:
        shapes.append({
            "type": "line", "x0": macro.value, "x1": macro.value, "y0": 0, "y1": 1, "yref": "paper",
            "line": {"color": charts.colour(1, dark), "dash": "dash", "width": 2}, "label": {"text": "macro", "textposition": "end"},
        })  # fmt: skip
        told.insert(0, _told(Score("Macro average", macro.value, macro.low, macro.high), metric))
        table.append(["macro average", macro.value, macro.low, macro.high, None])
    frame = charts.layout(
        title, x_title, y_title, dark, uirevision="per-class", x={"range": [0, 1.02]},
        y={"type": "category", "autorange": "reversed"}, shapes=shapes, height=max(260, 120 + 26 * len(names)),
    )  # fmt: skip
    return Figure({"data": data, "layout": frame}, title, " ".join(told), table)


@dataclass(frozen=True)
class Run:
    """One run in a comparison: its name and its scores by metric."""

    name: str
    scores: Mapping[str, Score] = field(default_factory=dict)


@figure("runs_comparison")
def runs_comparison(runs: Sequence[Run], *, dark: bool = False, title: str = "Runs compared") -> Figure:
    """Dots with 95% intervals: one row a metric, one colour and symbol a run."""
    x_title, y_title = "score (share)", "metric"
    metrics = list(dict.fromkeys(name for run in runs for name in run.scores))
    heads: list[Any] = ["run", "metric", x_title, "95% low", "95% high"]
    if not metrics:
        return charts.empty(title, x_title, y_title, dark, "runs", heads, "No finished run to compare.")
    symbols = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star", "triangle-down")
    data: list[dict[str, Any]] = []
    table: list[list[Any]] = [heads]
    told: list[str] = []
    for k, run in enumerate(runs):
        # Runs are set a little apart so that their intervals do not cover each other.
        shift = 0.5 * ((k + 0.5) / len(runs) - 0.5)
        held = [name for name in metrics if name in run.scores]
        scores = [run.scores[name] for name in held]
        data.append({
            "type": "scatter", "mode": "markers", "name": charts.plain(run.name, 60), "x": [charts.number(one.value) for one in scores],
            "y": [metrics.index(name) + shift for name in held], "error_x": _bars(scores, dark), "customdata": [charts.plain(n) for n in held],
            "marker": {"color": charts.colour(k, dark), "symbol": symbols[k % len(symbols)], "size": 10},
            "hovertemplate": f"<b>{charts.plain(run.name, 60)}</b> %{{customdata}} %{{x:.3f}}<extra></extra>",
        })  # fmt: skip
        table += [[run.name, name, one.value, one.low, one.high] for name, one in zip(held, scores, strict=True)]
    for name in metrics:
        known = [
            (run.scores[name].value, run.name)
            for run in runs
            if name in run.scores and run.scores[name].value is not None
        ]
        if known:
            best, by = max(known, key=lambda pair: pair[0] or 0.0)
            told.append(f"Highest {name}: {by} with {charts.show(best)}.")
    frame = charts.layout(
        title, x_title, y_title, dark, uirevision="runs",
        y={"tickvals": list(range(len(metrics))), "ticktext": [charts.plain(m, 40) for m in metrics], "range": [len(metrics) - 0.4, -0.6]},
        height=max(280, 160 + 46 * len(metrics)),
    )  # fmt: skip
    return Figure({"data": data, "layout": frame}, title, " ".join(told), table)


@figure("forest")
def forest(
    groups: Mapping[str, Sequence[Score]], *, reference: Score | None = None, dark: bool = False, title: str = "Parts of the records",
    metric: str = "AUROC", unit: str = "share",
) -> Figure:  # fmt: skip
    """One row a part with its value and 95% interval; the whole, where given, as a line.

    groups: attribute (may be empty) -> parts, in the order to show; a part whose value is None is named, not drawn.
    """
    x_title, y_title = f"{metric} ({unit})", "part"
    heads: list[Any] = ["attribute", "part", x_title, "95% low", "95% high", "records (count)"]
    rows = [(attribute, one) for attribute, parts in groups.items() for one in parts]
    if not any(one.value is not None for _, one in rows):
        return charts.empty(title, x_title, y_title, dark, "forest", heads, "No part is large enough to be judged.")
    names = [charts.plain(f"{attribute}: {one.name} ({one.support})".removeprefix(": "), 48) for attribute, one in rows]
    data: list[dict[str, Any]] = [{
        "type": "scatter", "mode": "markers", "name": metric, "x": [charts.number(one.value) for _, one in rows],
        "y": list(range(len(rows))), "error_x": _bars([one for _, one in rows], dark), "showlegend": False,
        "marker": {"color": charts.colour(0, dark), "symbol": "square", "size": 9}, "customdata": names,
        "hovertemplate": f"%{{customdata}}: {metric} %{{x:.3f}}<extra></extra>",
    }]  # fmt: skip
    shapes = []
    told = [
        _told(one, metric).removesuffix(".") + (f" ({attribute})." if attribute else ".")
        for attribute, one in rows
        if one.value is not None
    ]
    if reference is not None and reference.value is not None:
        shapes.append({
            "type": "line", "x0": reference.value, "x1": reference.value, "y0": 0, "y1": 1, "yref": "paper",
            "line": {"color": charts.colour(1, dark), "dash": "dash", "width": 2},
            "label": {"text": charts.plain(reference.name), "textposition": "end", "textangle": 0},
        })  # fmt: skip
        told.insert(0, _told(reference, metric))
    table = [heads, *([attribute, one.name, one.value, one.low, one.high, one.support] for attribute, one in rows)]
    frame = charts.layout(
        title, x_title, y_title, dark, uirevision="forest", shapes=shapes,
        y={"tickvals": list(range(len(rows))), "ticktext": names, "range": [len(rows) - 0.5, -0.6]},
        height=max(260, 130 + 26 * len(rows)),
    )  # fmt: skip
    return Figure({"data": data, "layout": frame}, title, " ".join(told), table)


def _bars(scores: Sequence[Score], dark: bool) -> dict[str, Any]:
    def reach(one: Score, end: float | None) -> float | None:
        return None if one.value is None or end is None else charts.number(abs(end - one.value))

    return {
        "type": "data", "symmetric": False, "array": [reach(one, one.high) for one in scores],
        "arrayminus": [reach(one, one.low) for one in scores], "color": charts.theme(dark).ink, "thickness": 1.5, "width": 4,
    }  # fmt: skip


def _told(one: Score, metric: str) -> str:
    count = f", {one.support} record{'' if one.support == 1 else 's'}" if one.support is not None else ""
    return f"{one.name}: {metric} {charts.with_interval(one.value, one.low, one.high)}{count}."
