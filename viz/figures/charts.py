"""The common frame of all ordinary figures: layout, series style, bands, empty figures, thinning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from viz.figures.figure import Figure
from viz.figures.palette import DASHES, theme
from viz.figures.svg import clean

_MAX_POINTS = 1_000
Numbers = Sequence[float] | np.ndarray


def plain(words: Any, limit: int = 120) -> str:
    """Return outside text as Plotly shows it letter by letter (Plotly reads some HTML tags)."""
    return clean(words, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def layout(
    title: str, x_title: str, y_title: str, dark: bool, *, uirevision: str, x: dict[str, Any] | None = None,
    y: dict[str, Any] | None = None, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return a layout that reads in light and dark and at 390 px: legend below, margins by content."""
    colours = theme(dark)
    axis = {
        "gridcolor": colours.grid, "linecolor": colours.quiet, "zeroline": False, "showline": True, "automargin": True,
        "ticks": "outside", "tickcolor": colours.quiet,
    }  # fmt: skip
    return {
        "title": {"text": plain(title), "font": {"size": 15}, "x": 0, "xref": "paper", "xanchor": "left"},
        "xaxis": axis | {"title": {"text": plain(x_title)}} | (x or {}),
        "yaxis": axis | {"title": {"text": plain(y_title)}} | (y or {}),
        "paper_bgcolor": colours.ground, "plot_bgcolor": colours.ground, "font": {"color": colours.ink, "size": 12},
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        "margin": {"l": 56, "r": 16, "t": 48, "b": 56}, "hovermode": "closest", "autosize": True,
        "hoverlabel": {"bgcolor": colours.ground, "font": {"color": colours.ink}},
        "uirevision": uirevision,
    } | more  # fmt: skip


def colour(k: int, dark: bool) -> str:
    series = theme(dark).series
    return series[k % len(series)]


def line(k: int, dark: bool, width: float = 2.0) -> dict[str, Any]:
    """Series differ by colour and by dash, so that colour is never the only sign."""
    return {"color": colour(k, dark), "width": width, "dash": DASHES[k % len(DASHES)]}


def curve(name: str, x: Numbers, y: Numbers, k: int, dark: bool, **more: Any) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "name": plain(name), "x": numbers(x), "y": numbers(y), "line": line(k, dark),
    } | more  # fmt: skip


def band(x: Numbers, low: Numbers, high: Numbers, k: int, dark: bool, name: str, alpha: float = 0.18) -> dict[str, Any]:
    """Return a closed, filled outline between two curves; points where either is NaN are left out."""
    xs, lows, highs = (np.asarray(one, dtype=float) for one in (x, low, high))
    known = np.isfinite(xs) & np.isfinite(lows) & np.isfinite(highs)
    xs, lows, highs = xs[known], lows[known], highs[known]
    return {
        "type": "scatter", "mode": "lines", "name": plain(name), "x": numbers(np.concatenate([xs, xs[::-1]])),
        "y": numbers(np.concatenate([highs, lows[::-1]])), "fill": "toself", "fillcolor": rgba(colour(k, dark), alpha),
        "line": {"width": 0, "color": colour(k, dark)}, "hoverinfo": "skip", "showlegend": False, "meta": {"band": True},
    }  # fmt: skip


def rgba(colour: str, alpha: float) -> str:
    r, g, b = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha:g})"


def numbers(values: Numbers, digits: int = 6) -> list[float | None]:
    """Return plain JSON numbers; what is not finite becomes None (a gap)."""
    return [number(value, digits) for value in values]


def number(value: Any, digits: int = 6) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{float(value):.{digits}g}")


def show(value: Any, digits: int = 3) -> str:
    """Write a number for a sentence; unknown is said, not left blank."""
    return "unknown" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def with_interval(value: Any, low: Any, high: Any, digits: int = 3) -> str:
    text = show(value, digits)
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return text
    return f"{text} (95% interval {low:.{digits}f} to {high:.{digits}f})"


def thin(n: int, most: int = _MAX_POINTS) -> np.ndarray:
    """Return at most ``most`` indices of ``n``, evenly spread, with the first and the last."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int)) if n else np.empty(0, dtype=int)


def empty(title: str, x_title: str, y_title: str, dark: bool, uirevision: str, heads: list[str], reason: str) -> Figure:
    """Return the defined answer to no data: a figure that says so."""
    note = {
        "text": plain(reason),
        "xref": "paper",
        "yref": "paper",
        "x": 0.5,
        "y": 0.5,
        "showarrow": False,
        "font": {"size": 14},
    }
    made = layout(title, x_title, y_title, dark, uirevision=uirevision, annotations=[note])
    return Figure({"data": [], "layout": made}, title, reason, [heads])
