"""Training as it goes: loss and metric curves, the learning-rate finder, runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from viz.figures import charts
from viz.figures.figure import Figure, figure

Series = Mapping[str, Sequence[tuple[float, float | None]]]


@figure("loss_curves")
def loss_curves(
    series: Series,
    *,
    best_epoch: float | None = None,
    run: str = "",
    dark: bool = False,
    title: str = "Loss",
    unit: str = "loss (no unit)",
) -> Figure:
    """Draw ``{"training": [(epoch, loss), ...], "validation": [...]}``; zoom survives live updates of the same run."""
    return _over_epochs(series, title, unit, f"loss-{run}", best_epoch, dark, lower_is_better=True)


@figure("metric_curves")
def metric_curves(
    series: Series, *, best_epoch: float | None = None, run: str = "", dark: bool = False, title: str = "Metrics",
    unit: str = "score (share)",
) -> Figure:  # fmt: skip
    """Draw metrics over epochs; zoom survives live updates of the same run."""
    return _over_epochs(series, title, unit, f"metrics-{run}", best_epoch, dark, lower_is_better=False)


def _over_epochs(
    series: Series, title: str, unit: str, key: str, best_epoch: float | None, dark: bool, *, lower_is_better: bool
) -> Figure:
    heads = ["series", "epoch (count)", unit]
    drawn = {name: points for name, points in series.items() if len(points)}
    if not drawn:
        return charts.empty(title, "epoch (count)", unit, dark, key, heads, "Nothing has been measured yet.")
    data: list[dict[str, Any]] = []
    table: list[list[Any]] = [heads]
    told: list[str] = []
    for k, (name, points) in enumerate(drawn.items()):
        epochs = [float(at) for at, _ in points]
        values = [np.nan if value is None else float(value) for _, value in points]
        keep = charts.thin(len(points), 2000)
        mode = "lines+markers" if len(points) <= 30 else "lines"
        data.append(charts.curve(
            name, [epochs[i] for i in keep], [values[i] for i in keep], k, dark, mode=mode,
            hovertemplate=f"{charts.plain(name)}<br>epoch %{{x:.5g}}: %{{y:.5g}}<extra></extra>",
        ))  # fmt: skip
        table += [[name, at, charts.number(value)] for at, value in zip(epochs, values, strict=True)]
        told.append(_course(name, epochs, values, lower_is_better))
    shapes = []
    if best_epoch is not None:
        shapes.append({
            "type": "line", "x0": best_epoch, "x1": best_epoch, "y0": 0, "y1": 1, "yref": "paper",
            "line": {"color": charts.theme(dark).quiet, "width": 1, "dash": "dash"},
            "label": {"text": "kept", "textposition": "end", "textangle": 0, "xanchor": "right"},
        })  # fmt: skip
        told.append(f"The model of epoch {best_epoch:g} was kept.")
    last = max(at for points in drawn.values() for at, _ in points)
    # Few epochs would get ticks between them.
    whole = {"tickformat": "d"} | ({"dtick": 1} if last <= 12 else {})
    frame = charts.layout(title, "epoch (count)", unit, dark, uirevision=key, shapes=shapes, x=whole)
    return Figure({"data": data, "layout": frame}, title, " ".join(told), table)


def _course(name: str, epochs: list[float], values: list[float], lower_is_better: bool) -> str:
    known = [(at, value) for at, value in zip(epochs, values, strict=True) if np.isfinite(value)]
    if not known:
        return f"{name}: no finite value yet."
    at, best = (min if lower_is_better else max)(known, key=lambda point: point[1])
    word = "lowest" if lower_is_better else "highest"
    return f"{name}: last {known[-1][1]:.4g} at epoch {known[-1][0]:g}, {word} {best:.4g} at epoch {at:g}."


@figure("lr_finder")
def lr_finder(
    rates: Sequence[float], losses: Sequence[float], *, chosen: float | None = None, smoothed: Sequence[float] = (),
    suggested: Mapping[str, float] = MappingProxyType({}), dark: bool = False, title: str = "Learning-rate finder",
) -> Figure:  # fmt: skip
    """Loss against learning rate on a logarithmic axis, with the chosen rate and the suggested ones, by name, marked."""
    x_title, y_title = "learning rate (1/step)", "loss (no unit)"
    heads = [x_title, y_title, "smoothed loss (no unit)"]
    if not len(rates):
        return charts.empty(title, x_title, y_title, dark, "lr-finder", heads, "The learning-rate finder has not run.")
    hover = "rate %{x:.3g}: loss %{y:.4g}<extra></extra>"
    data = [charts.curve("loss", rates, losses, 0, dark, hovertemplate=hover)]
    if len(smoothed):
        data[0]["opacity"] = 0.5
        data.append(charts.curve("smoothed loss", rates, smoothed, 1, dark, hovertemplate=hover))
    told = [f"Learning rates from {min(rates):.2g} to {max(rates):.2g} were tried."]
    level = smoothed if len(smoothed) else losses
    for k, (name, rate) in enumerate(suggested.items(), start=2):
        near = int(np.argmin(np.abs(np.log(np.asarray(rates, dtype=float)) - np.log(rate))))
        data.append({
            "type": "scatter", "mode": "markers", "name": f"{name} {rate:.2g}", "x": [rate], "y": [charts.number(level[near])],
            "marker": {"symbol": "circle-open", "size": 12, "color": charts.colour(k, dark), "line": {"width": 2, "color": charts.colour(k, dark)}},
            "hovertemplate": f"{charts.plain(name)} %{{x:.3g}}<extra></extra>",
        })  # fmt: skip
        told.append(f"{name.capitalize()}: {rate:.2g}.")
    if chosen is not None:
        near = int(np.argmin(np.abs(np.log(np.asarray(rates, dtype=float)) - np.log(chosen))))
        data.append({
            "type": "scatter", "mode": "markers", "name": f"chosen {chosen:.2g}", "x": [chosen], "y": [charts.number(level[near])],
            "marker": {"symbol": "diamond", "size": 12, "color": charts.colour(1, dark), "line": {"width": 1.5, "color": charts.theme(dark).ink}},
            "hovertemplate": "chosen rate %{x:.3g}<extra></extra>",
        })  # fmt: skip
        told.append(f"Chosen: {chosen:.2g}, where the loss is {charts.show(level[near], 4)}.")
    smooth = list(smoothed) if len(smoothed) else [None] * len(rates)
    table: list[list[Any]] = [heads] + [list(row) for row in zip(rates, losses, smooth, strict=True)]
    frame = charts.layout(
        title, x_title, y_title, dark, uirevision="lr-finder", x={"type": "log", "exponentformat": "power"}
    )
    return Figure({"data": data, "layout": frame}, title, " ".join(told), table)
