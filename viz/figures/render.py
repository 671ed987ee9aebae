"""Static SVG of ordinary figures (lines, markers, bands, bars, heatmaps): no browser, no script.

Reads the same Plotly dictionary that the page shows, so a download and the screen agree.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape, unescape
from typing import Any

import numpy as np

from viz.figures import svg
from viz.figures.figure import Figure, untyped
from viz.figures.palette import contrast

_LEFT, _RIGHT, _TOP, _BOTTOM = 84.0, 20.0, 44.0, 60.0
# Mean width of a letter of 11 px.
_LETTER, _WIDEST_NAMES, _LONGEST_UPRIGHT = 6.0, 270.0, 120.0
# Drawn narrower than this, as for a telephone, a figure is laid out anew: names stand above their rows, the legend in one column.
NARROW = 460.0
_NARROW_LEFT, _NARROW_TOP, _NARROW_NAMES, _NARROW_ROW = 58.0, 22.0, 104.0, 42.0
_DASHES = {"dash": "8 5", "dot": "2 4", "dashdot": "8 4 2 4", "longdash": "14 6", "longdashdot": "14 5 2 5"}


@dataclass(frozen=True)
class _Axis:
    """One axis: category names, or a linear or logarithmic range, mapped to pixels."""

    first: float
    last: float
    start_px: float
    end_px: float
    names: tuple[str, ...] = ()
    log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()
    # Names stand above what they name, inside the plot.
    above: bool = False

    def px(self, value: Any) -> float:
        at = float(self.names.index(value)) if self.names and isinstance(value, str) else float(value)
        if self.log:
            at = math.log10(at) if at > 0 else math.nan
        return self.start_px + (at - self.first) / (self.last - self.first) * (self.end_px - self.start_px)


def figure_svg(figure: Figure, width: float = 720, height: float | None = None) -> str:
    """Draw a figure as one SVG element with title and description; colours as in the figure's layout."""
    layout, data = figure.plotly["layout"], figure.plotly["data"]
    names = [
        str(one["name"]) for one in data if one.get("showlegend", True) and one.get("name") and one["type"] != "heatmap"
    ]
    narrow = width < NARROW
    columns = 1 if narrow else 2
    legend_rows = math.ceil(len(names) / columns)
    # What is inside role img cannot be reached; a figure with links is a group.
    linked = any(one["type"] == "bar" and any(_links(one)) for one in data)
    left = _left(layout["yaxis"], data, narrow)
    upright = _upright_px(data, width - _RIGHT - left)
    x = _axis(layout["xaxis"], data, "x", left, width - _RIGHT, layout)
    y = _axis(layout["yaxis"], data, "y", 0.0, 1.0, layout)
    y = replace(y, above=narrow and _has_names(layout["yaxis"], y) and not _is_matrix(data))
    height = (
        height or (_narrow_height(y, data) if narrow else float(layout.get("height", 420))) + 18 * legend_rows + upright
    )
    bottom = height - _BOTTOM - 18 * legend_rows - upright
    y = replace(y, start_px=bottom, end_px=_NARROW_TOP if narrow else _TOP)
    ink, quiet = layout["font"]["color"], layout["yaxis"]["linecolor"]
    body = [
        svg.el("title", escape(svg.clean(figure.title))), svg.el("desc", escape(svg.clean(figure.summary, 4000))),
        svg.el("rect", width=width, height=height, fill=layout["paper_bgcolor"]),
        # A narrow figure stands on a page under a heading of its own.
        "" if narrow else svg.text(left, 24, _words(layout["title"]["text"]), 16, ink, font_weight="bold"),
        _frame(x, y, layout, ink, quiet, upright),
    ]  # fmt: skip
    marks = [_trace(one, x, y, ink) for one in data] + [_line_shape(one, x, y, ink) for one in layout.get("shapes", [])]
    inner = svg.el("g", "".join(marks), transform=f"translate({-x.start_px:.2f} {-y.end_px:.2f})")
    # An inner svg element clips what lies outside the axes.
    body.append(
        svg.el("svg", inner, x=x.start_px, y=y.end_px, width=x.end_px - x.start_px, height=y.start_px - y.end_px)
    )
    body += [_line_name(one, x, y, ink) for one in layout.get("shapes", []) if y.above]
    body += [_note(one, x, y, ink) for one in layout.get("annotations", [])]
    body.append(_legend(data, left, bottom + 52 + upright, width, ink, columns))
    return svg.el(
        "svg", "".join(body), xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width:g} {height:g}", width=width, height=height,
        role="group" if linked else "img", aria_label=svg.clean(figure.title), font_family=svg.FONT,
    )  # fmt: skip


def _is_matrix(data: list[dict[str, Any]]) -> bool:
    return any(one["type"] == "heatmap" for one in data)


def _has_names(spec: dict[str, Any], axis: _Axis) -> bool:
    return bool(axis.names) or spec.get("ticktext") is not None


def _narrow_height(y: _Axis, data: list[dict[str, Any]]) -> float:
    """Return the height of a narrow figure without its legend."""
    if y.above:
        return _NARROW_TOP + _BOTTOM + _NARROW_ROW * max(len(y.ticks), 1)
    return _NARROW_TOP + _BOTTOM + 34 * max(len(y.ticks), 3) if _is_matrix(data) else 340.0


def _left(spec: dict[str, Any], data: list[dict[str, Any]], narrow: bool) -> float:
    """Return the room left of the plot that the names along the vertical axis need, within limits."""
    names = spec.get("ticktext") or [one for each in data for one in _values(each, "y") if isinstance(one, str)]
    longest = max((len(_words(name)) for name in names), default=0)
    if not narrow:
        return min(max(_LEFT, 36 + _LETTER * longest), _WIDEST_NAMES)
    if not names:
        return _NARROW_LEFT
    # Above their rows names need no room beside them.
    return min(36 + _LETTER * longest, _NARROW_NAMES) if _is_matrix(data) else 28.0


def _words(text: Any) -> str:
    """Turn Plotly's text into plain words: escapes undone, line breaks to blanks, tags dropped."""
    return unescape(re.sub(r"<[^>]*>", "", str(text).replace("<br>", " ")))


def _values(one: dict[str, Any], key: str) -> list[Any]:
    values = one.get(key, [])
    return untyped(values).tolist() if isinstance(values, dict) else list(values)


def _axis(
    spec: dict[str, Any], data: list[dict[str, Any]], key: str, start_px: float, end_px: float, layout: dict[str, Any]
) -> _Axis:
    texts = tuple(dict.fromkeys(value for one in data for value in _values(one, key) if isinstance(value, str)))
    if texts or spec.get("type") == "category":
        first, last = -0.5, max(len(texts), 1) - 0.5
        if spec.get("autorange") == "reversed":
            first, last = last, first
        return _Axis(
            first, last, start_px, end_px, texts, False, tuple((float(k), name) for k, name in enumerate(texts))
        )
    log = spec.get("type") == "log"
    first, last = spec["range"] if "range" in spec else _span(spec, data, key, layout, log)
    given = spec.get("tickvals")
    ticks = (
        tuple(zip(given, spec["ticktext"], strict=True))
        if given is not None
        else _ticks(min(first, last), max(first, last), log)
    )
    return _Axis(first, last, start_px, end_px, (), log, ticks)


def _span(
    spec: dict[str, Any], data: list[dict[str, Any]], key: str, layout: dict[str, Any], log: bool
) -> tuple[float, float]:
    """Return the range of an axis from the points, their error bars and the marked lines, with a margin."""
    values = [value for one in data for value in _values(one, key) if value is not None]
    for one in data:
        bars = one.get(f"error_{key}") or {"array": [], "arrayminus": []}
        for value, up, down in zip(_values(one, key), bars["array"], bars["arrayminus"], strict=False):
            values += [value + (up or 0), value - (down or 0)] if value is not None else []
    values += [one[f"{key}{k}"] for one in layout.get("shapes", []) for k in (0, 1) if one.get(f"{key}ref") != "paper"]
    numeric = [
        math.log10(value) if log else float(value)
        for value in values
        if math.isfinite(value) and (value > 0 or not log)
    ]
    first, last = (min(numeric), max(numeric)) if numeric else (0.0, 1.0)
    from_zero = spec.get("rangemode") == "tozero" and first >= 0
    first = 0.0 if from_zero else first
    pad = 0.05 * (last - first) or 0.5
    return (first if from_zero else first - pad), last + pad


def _ticks(low: float, high: float, log: bool) -> tuple[tuple[float, str], ...]:
    if log:
        whole = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
        return tuple((10.0**k, f"{10.0**k:g}") for k in whole)
    raw = (high - low) / 5
    base = 10 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next(base * k for k in (1, 2, 5, 10) if base * k >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return tuple((k * step, f"{k * step:.6g}") for k in range(first, math.floor(high / step + 1e-9) + 1))


def _upright_px(data: list[dict[str, Any]], width: float) -> float:
    """Return the room for names under a matrix that must stand upright, 0 where they fit lying."""
    names = list(
        dict.fromkeys(
            _words(name)
            for one in data
            if one["type"] == "heatmap"
            for name in _values(one, "x")
            if isinstance(name, str)
        )
    )
    longest = max((len(name) for name in names), default=0)
    return min(_LETTER * longest, _LONGEST_UPRIGHT) if names and longest * _LETTER > width / len(names) else 0.0


def _frame(x: _Axis, y: _Axis, layout: dict[str, Any], ink: str, quiet: str, upright: float) -> str:
    out, grid = [], layout["xaxis"]["gridcolor"]
    shown = [
        () if layout[key].get("showticklabels") is False else axis.ticks for key, axis in (("xaxis", x), ("yaxis", y))
    ]
    for value, name in shown[0]:
        px = x.px(value)
        if not x.names:
            out.append(svg.el("path", d=f"M{px:.1f} {y.start_px:.1f}V{y.end_px:.1f}", stroke=grid, stroke_width=1))
        if upright:
            most, at = int(upright / _LETTER), f"rotate(-90 {px + 4:.1f} {y.start_px + 8:.1f})"
            out.append(
                svg.text(px + 4, y.start_px + 8, _words(name), 11, ink, limit=most, text_anchor="end", transform=at)
            )
            continue
        room = int(abs(x.px(1.0) - x.px(0.0)) / _LETTER) if x.names else None
        out.append(svg.text(px, y.start_px + 16, _words(name), 11, ink, limit=room, text_anchor="middle"))
    for value, name in shown[1]:
        px = y.px(value)
        if not y.names:
            out.append(svg.el("path", d=f"M{x.start_px:.1f} {px:.1f}H{x.end_px:.1f}", stroke=grid, stroke_width=1))
        if y.above:
            room = int((x.end_px - x.start_px) / _LETTER)
            out.append(svg.text(x.start_px + 4, px - 0.24 * abs(y.px(1) - y.px(0)), _words(name), 12, ink, limit=room))
            continue
        room = int((x.start_px - 30) / _LETTER)
        out.append(svg.text(x.start_px - 6, px + 4, _words(name), 11, ink, limit=room, text_anchor="end"))
    corner = f"M{x.start_px:.1f} {y.end_px:.1f}V{y.start_px:.1f}H{x.end_px:.1f}"
    out.append(svg.el("path", d=corner, fill="none", stroke=quiet, stroke_width=1))
    middle_x, middle_y = (x.start_px + x.end_px) / 2, (y.start_px + y.end_px) / 2
    letters = int(2 * (x.end_px + _RIGHT - middle_x) / _LETTER)
    lines = textwrap.wrap(_words(layout["xaxis"]["title"]["text"]), max(letters, 8))[:2]
    for k, words in enumerate(lines):
        below = y.start_px + 36 + upright + 13 * k - (6 if len(lines) > 1 else 0)
        out.append(svg.text(middle_x, below, words, 12, ink, text_anchor="middle"))
    turn, most = f"rotate(-90 16 {middle_y:.1f})", int((y.start_px - y.end_px + 60) / _LETTER)
    title = _words(layout["yaxis"]["title"]["text"])
    out.append(svg.text(16, middle_y, title, 12, ink, limit=most, text_anchor="middle", transform=turn))
    return "".join(out)


def _trace(one: dict[str, Any], x: _Axis, y: _Axis, ink: str) -> str:
    kinds: dict[str, Callable[..., str]] = {"heatmap": _heatmap, "bar": _bars}
    return kinds.get(one["type"], _scatter)(one, x, y, ink)


def _scatter(one: dict[str, Any], x: _Axis, y: _Axis, ink: str) -> str:
    pairs = zip(_values(one, "x"), _values(one, "y"), strict=True)
    points = [(x.px(a), y.px(b)) if a is not None and b is not None else (math.nan, math.nan) for a, b in pairs]
    out, mode = "", one.get("mode", "lines")
    drawn = one.get("line", {})
    if "lines" in mode:
        path = _path(points)
        if one.get("fill") == "toself" and path:
            out += svg.el("path", d=path + "Z", **_fill(one["fillcolor"]))
        if one.get("fill") == "tozeroy" and path:
            floor = min(max(y.px(0.0), min(y.start_px, y.end_px)), max(y.start_px, y.end_px))
            out += svg.el(
                "path",
                d=f"{path}L{points[-1][0]:.2f} {floor:.2f}L{points[0][0]:.2f} {floor:.2f}Z",
                **_fill(one["fillcolor"]),
            )
        if drawn.get("width", 2) and path:
            out += svg.el(
                "path", d=path, fill="none", stroke=drawn["color"], stroke_width=drawn.get("width", 2),
                stroke_dasharray=_DASHES.get(drawn.get("dash", "solid")), stroke_linejoin="round", opacity=one.get("opacity"),
            )  # fmt: skip
    out += _errors(one, points, x, y, drawn.get("color", ink))
    if "markers" in mode:
        colour = one.get("marker", {}).get("color", drawn.get("color", ink))
        size = float(one.get("marker", {}).get("size", 6)) / 2
        symbol = one.get("marker", {}).get("symbol", "circle")
        out += "".join(_marker(symbol, a, b, size, colour) for a, b in points if math.isfinite(a) and math.isfinite(b))
    return out


def _path(points: list[tuple[float, float]]) -> str:
    out, pen = [], "M"
    for a, b in points:
        if math.isfinite(a) and math.isfinite(b):
            out.append(f"{pen}{a:.2f} {b:.2f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(out)


def _fill(colour: str) -> dict[str, Any]:
    found = re.fullmatch(r"rgba\((\d+),(\d+),(\d+),([\d.]+)\)", colour)
    if not found:
        return {"fill": colour}
    r, g, b = (int(found[k]) for k in (1, 2, 3))
    return {"fill": f"#{r:02x}{g:02x}{b:02x}", "fill_opacity": float(found[4])}


def _marker(symbol: str, a: float, b: float, r: float, colour: str) -> str:
    if symbol == "square":
        return svg.el("rect", x=a - r, y=b - r, width=2 * r, height=2 * r, fill=colour)
    shapes = {
        "diamond": f"M{a:.2f} {b - 1.3 * r:.2f}l{1.3 * r:.2f} {1.3 * r:.2f}l{-1.3 * r:.2f} {1.3 * r:.2f}l{-1.3 * r:.2f} {-1.3 * r:.2f}Z",
        "triangle-up": f"M{a:.2f} {b - r:.2f}l{r:.2f} {2 * r:.2f}h{-2 * r:.2f}Z",
        "triangle-down": f"M{a:.2f} {b + r:.2f}l{r:.2f} {-2 * r:.2f}h{-2 * r:.2f}Z",
    }
    if symbol in shapes:
        return svg.el("path", d=shapes[symbol], fill=colour)
    if symbol in ("cross", "x", "star"):
        turn = f"rotate(45 {a:.2f} {b:.2f})" if symbol == "x" else None
        return svg.el(
            "path",
            d=f"M{a - r:.2f} {b:.2f}h{2 * r:.2f}M{a:.2f} {b - r:.2f}v{2 * r:.2f}",
            stroke=colour,
            stroke_width=2,
            transform=turn,
        )
    return svg.el("circle", cx=a, cy=b, r=r, fill=colour)


def _errors(one: dict[str, Any], points: list[tuple[float, float]], x: _Axis, y: _Axis, colour: str) -> str:
    out = []
    for key, axis, vertical in (("error_x", x, False), ("error_y", y, True)):
        spec = one.get(key)
        if not spec:
            continue
        for (a, b), value, up, down in zip(
            points, _values(one, "y" if vertical else "x"), spec["array"], spec["arrayminus"], strict=True
        ):
            if value is None or up is None or down is None or not math.isfinite(a + b):
                continue
            low, high = axis.px(value - down), axis.px(value + up)
            out.append(f"M{a:.2f} {low:.2f}V{high:.2f}" if vertical else f"M{low:.2f} {b:.2f}H{high:.2f}")
    return (
        svg.el("path", d="".join(out), stroke=_error_colour(one, colour), stroke_width=1.5, fill="none") if out else ""
    )


def _error_colour(one: dict[str, Any], colour: str) -> str:
    return str((one.get("error_x") or one.get("error_y") or {}).get("color", colour))


def _links(one: dict[str, Any]) -> list[str]:
    """Return the addresses behind a trace's bars; other data beside bars (counts) are none."""
    return [link if isinstance(link, str) else "" for link in one.get("customdata") or ()]


def _bars(one: dict[str, Any], x: _Axis, y: _Axis, ink: str) -> str:
    out, points = [], []
    flat = one.get("orientation") == "h"
    # A width is that of the whole bar; without one, bars leave room between each other.
    size = 0.92 * one["width"] if one.get("width") else 0.7
    pitch = abs((y.px(1) - y.px(0)) if flat else (x.px(1) - x.px(0)))
    size *= pitch * (0.6 if flat and y.above else 1.0)
    lower = 0.1 * pitch if flat and y.above else 0.0
    notes, links, names = list(one.get("text") or []), _links(one), list(one.get("hovertext") or [])
    for k, (a, b) in enumerate(zip(_values(one, "x"), _values(one, "y"), strict=True)):
        if a is None or b is None:
            points.append((math.nan, math.nan))
            continue
        px, py = x.px(a), y.px(b) + lower
        points.append((px, py))
        zero = x.px(0.0) if flat else y.px(0.0)
        box = (
            (min(zero, px), py - size / 2, abs(px - zero), size)
            if flat
            else (px - size / 2, min(zero, py), size, abs(py - zero))
        )
        bar = svg.el("rect", x=box[0], y=box[1], width=box[2], height=box[3], fill=one["marker"]["color"])
        if flat and k < len(notes):
            fits = box[2] > 7 * len(notes[k])
            at, anchor = (box[0] + box[2] - 5, "end") if fits else (box[0] + box[2] + 5, "start")
            shade = _readable(one["marker"]["color"]) if fits else ink
            bar += svg.text(at, py + 4, notes[k], 11, shade, text_anchor=anchor)
        address = links[k] if k < len(links) else None
        called = names[k] if k < len(names) else b if flat else a
        name = f"{_words(called)}: {_words(notes[k] if k < len(notes) else a if flat else b)}"
        out.append(svg.el("a", bar, href=address, aria_label=name) if address else bar)
    return "".join(out) + _errors(one, points, x, y, ink)


def _heatmap(one: dict[str, Any], x: _Axis, y: _Axis, ink: str) -> str:
    out = []
    w, h = abs(x.px(1.0) - x.px(0.0)), abs(y.px(1.0) - y.px(0.0))
    for r, row in enumerate(one["z"]):
        for c, value in enumerate(row):
            left, top = x.px(float(c)) - w / 2, y.px(float(r)) - h / 2
            shade = _shade(one["colorscale"], value, one.get("zmin", 0), one.get("zmax", 1))
            out.append(svg.el("rect", x=left + 0.5, y=top + 0.5, width=max(0, w - 1), height=max(0, h - 1), fill=shade))
            lines = str(one["text"][r][c]).split("<br>") if one.get("text") else []
            if w < _LETTER * max((len(words) for words in lines), default=0):
                lines = lines[:1]
            for k, words in enumerate(lines):
                at = top + h / 2 + 4 + 13 * (k - (len(lines) - 1) / 2)
                out.append(svg.text(left + w / 2, at, words, 11, _readable(shade), text_anchor="middle"))
    return "".join(out)


def _shade(scale: list[Any], value: float | None, low: float, high: float) -> str:
    if value is None:
        return "#9a9a9a"
    at = min(max((value - low) / (high - low), 0.0), 1.0)
    stops = [one[0] for one in scale]
    mixed = [np.interp(at, stops, [int(one[1][k : k + 2], 16) for one in scale]) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(part):02x}" for part in mixed)


def _readable(ground: str) -> str:
    return max(("#000000", "#ffffff"), key=lambda one: contrast(one, ground))


def _line_shape(one: dict[str, Any], x: _Axis, y: _Axis, ink: str) -> str:
    if one.get("type") != "line":
        return ""
    whole = one.get("yref") == "paper"
    px, top, low = x.px(one["x0"]), y.end_px if whole else y.px(one["y1"]), y.start_px if whole else y.px(one["y0"])
    drawn = svg.el(
        "path", d=f"M{px:.2f} {low:.2f}V{top:.2f}", stroke=one["line"]["color"], stroke_width=one["line"].get("width", 1),
        stroke_dasharray=_DASHES.get(one["line"].get("dash", "solid")),
    )  # fmt: skip
    return drawn if y.above else drawn + _line_name(one, x, y, ink)


def _line_name(one: dict[str, Any], x: _Axis, y: _Axis, ink: str) -> str:
    """Name a marked line: beside it on the side that has room, over the plot where names fill the rows."""
    words = _words(one.get("label", {}).get("text", ""))
    if one.get("type") != "line" or not words:
        return ""
    px, top = x.px(one["x0"]), y.end_px if one.get("yref") == "paper" else y.px(one["y1"])
    if y.above:
        return svg.text(px, y.end_px - 5, words, 11, ink, text_anchor="middle")
    right = px < (x.start_px + x.end_px) / 2
    return svg.text(px + (5 if right else -5), top + 12, words, 11, ink, text_anchor="start" if right else "end")


def _note(one: dict[str, Any], x: _Axis, y: _Axis, ink: str) -> str:
    if one.get("xref") != "paper":
        return svg.text(
            x.px(one["x"]),
            y.px(one["y"]) + 4,
            _words(one["text"]),
            float(one.get("font", {}).get("size", 12)),
            ink,
            text_anchor="start",
            font_weight="600",
        )
    px = x.start_px + one["x"] * (x.end_px - x.start_px)
    return svg.text(
        px, y.start_px + one["y"] * (y.end_px - y.start_px), _words(one["text"]), 13, ink, text_anchor="middle"
    )


def _legend(data: list[dict[str, Any]], left: float, top: float, width: float, ink: str, columns: int) -> str:
    out = []
    entries = [one for one in data if one.get("showlegend", True) and one.get("name") and one["type"] != "heatmap"]
    for k, one in enumerate(entries):
        px, py = left + (k % columns) * (width - left) / columns, top + 18 * (k // columns)
        line, marker = one.get("line", {}), one.get("marker", {})
        if "lines" in one.get("mode", "") or not marker:
            out.append(svg.el("path", d=f"M{px:.1f} {py:.1f}h24", stroke=line.get("color", ink), stroke_width=2,
                              stroke_dasharray=_DASHES.get(line.get("dash", "solid"))))  # fmt: skip
        else:
            out.append(_marker(marker.get("symbol", "square"), px + 12, py, 5, marker.get("color", ink)))
        out.append(svg.text(px + 30, py + 4, _words(one["name"]), 11, ink, limit=46))
    return "".join(out)
