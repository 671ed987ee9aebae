"""Many curves as small panels of one plane, since ten curves in one field cannot be told apart.

All panels lie in the coordinates of one pair of axes: panel k is moved by whole steps, so that zoom, hover and the drawing
at the server treat them like any other curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from viz.figures import charts

# As many curves are still told apart in one field by colour and dash.
MOST_TOGETHER = 8
COLUMNS = 5
_STEP_X, _STEP_Y = 1.18, 1.5
_NAME = 12
# Height of a figure 720 px wide whose panels are square, per row, and what lies around them.
_ROW_PX, _AROUND_PX = 158, 120


@dataclass(frozen=True)
class Panel:
    """One curve in [0, 1] x [0, 1]. value: shown beside the name. low, high: band of y, or its bars with ``bars``.
    chance: two points of the line of chance. point: x and y in use. hover: a row of values per point."""

    name: str
    value: float | None
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    bars: bool = False
    chance: tuple[tuple[float, float], tuple[float, float]] = ((0, 0), (1, 1))
    point: tuple[float, float] | None = None
    hover: Sequence[Sequence[Any]] = ()


def panels(
    drawn: Sequence[Panel], title: str, x_title: str, y_title: str, hover: str, dark: bool, uirevision: str
) -> dict[str, Any]:
    """Return ``{"data", "layout"}`` with a panel per curve, five to a row. hover: Plotly's template over a hover row."""
    frames: tuple[list[Any], list[Any]] = ([], [])
    chances: tuple[list[Any], list[Any]] = ([], [])
    data: list[dict[str, Any]] = []
    notes = []
    for k, one in enumerate(drawn):
        right, up = (k % COLUMNS) * _STEP_X, -(k // COLUMNS) * _STEP_Y
        _add(frames, [(right, up), (right + 1, up), (right + 1, up + 1), (right, up + 1), (right, up)])
        _add(chances, [(right + x, up + y) for x, y in one.chance])
        data += _curve(one, right, up, hover, dark)
        value = f" {one.value:.3f}" if one.value is not None else ""
        notes.append({
            "text": charts.plain(one.name, _NAME) + value, "hovertext": charts.plain(one.name), "x": right, "y": up + 1.12,
            "xref": "x", "yref": "y", "xanchor": "left", "yanchor": "middle", "showarrow": False, "font": {"size": 11},
        })  # fmt: skip
    theme = charts.theme(dark)
    under = [
        _lines("panel", frames, theme.grid, "solid"),
        _lines("chance", chances, theme.quiet, "dot"),
    ]
    rows = -(-len(drawn) // COLUMNS)
    bare = {"showticklabels": False, "showgrid": False, "ticks": "", "linecolor": theme.ground}
    layout = charts.layout(
        title, f"{x_title}, 0 to 1 in each panel", f"{y_title}, 0 to 1 in each panel", dark, uirevision=uirevision,
        x=bare | {"range": [-0.05, (COLUMNS - 1) * _STEP_X + 1.05], "constrain": "domain"},
        y=bare | {"range": [-(rows - 1) * _STEP_Y - 0.05, 1.3], "scaleanchor": "x", "constrain": "domain"},
        annotations=notes, height=_AROUND_PX + _ROW_PX * rows, showlegend=False, meta={"wide": True},
    )  # fmt: skip
    return {"data": under + data, "layout": layout}


def ranked(count: int, *figures: tuple[str, Sequence[tuple[str, float | None]]]) -> str:
    """Say of one figure or more, each with its value per class, the median, the three highest and the three lowest."""
    told = [f"{count} classes."]
    for what, values in figures:
        known = sorted(
            ((value, name) for name, value in values if value is not None and np.isfinite(value)), reverse=True
        )
        if not known:
            told.append(f"{what}: unknown.")
            continue
        middle = float(np.median([value for value, _ in known]))
        told.append(f"{what}: median {middle:.3f}; highest {_few(known[:3])}; lowest {_few(known[:-4:-1])}.")
    return " ".join([*told, "The data table holds all."])


def _few(some: Sequence[tuple[float, str]]) -> str:
    return ", ".join(f"{name} {value:.3f}" for value, name in some)


def _add(path: tuple[list[Any], list[Any]], points: Sequence[tuple[float, float]]) -> None:
    for column, values in zip(path, zip(*points, strict=True), strict=True):
        column += [*([None] if column else []), *values]


def _lines(name: str, path: tuple[list[Any], list[Any]], colour: str, dash: str) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": path[0], "y": path[1], "hoverinfo": "skip", "showlegend": False,
        "connectgaps": False, "line": {"color": colour, "width": 1, "dash": dash},
    }  # fmt: skip


def _curve(one: Panel, right: float, up: float, hover: str, dark: bool) -> list[dict[str, Any]]:
    x, y = np.asarray(one.x, dtype=float) + right, np.asarray(one.y, dtype=float) + up
    out = []
    more: dict[str, Any] = {"customdata": [list(row) for row in one.hover], "hovertemplate": hover, "showlegend": False}
    if len(one.low):
        low, high = np.asarray(one.low, dtype=float) + up, np.asarray(one.high, dtype=float) + up
        if one.bars:
            more["error_y"] = {
                "type": "data", "symmetric": False, "array": charts.numbers(high - y), "arrayminus": charts.numbers(y - low),
                "color": charts.colour(0, dark),
            }  # fmt: skip
        else:
            out.append(charts.band(x, low, high, 0, dark, f"95% band, {one.name}"))
    mode = "lines+markers" if one.bars else "lines"
    out.append(charts.curve(one.name, x, y, 0, dark, mode=mode, **more))
    if one.point is not None:
        out.append({
            "type": "scatter", "mode": "markers", "name": charts.plain(f"{one.name}, threshold in use"), "showlegend": False,
            "x": [one.point[0] + right], "y": [one.point[1] + up], "hoverinfo": "skip",
            "marker": {"symbol": "diamond", "size": 9, "color": charts.colour(1, dark), "line": {"width": 1, "color": charts.theme(dark).ink}},
        })  # fmt: skip
    return out
