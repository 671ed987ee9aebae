"""The ECG on calibrated paper as an interactive Plotly figure.

The axes are millimetres of paper, locked to each other, so the squares are square, one
zoom or pan moves all leads together, and a caliper needs only a division: ``layout.meta``
holds the cells, from which a script turns millimetres into seconds and millivolts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.ecg import Record
from viz.figures import overlays as over
from viz.figures.drawn_over import WAVE_COLOUR
from viz.figures.figure import typed
from viz.figures.header import FOOTER, strip_line
from viz.figures.palette import Paper, paper, theme
from viz.figures.paper import Cache, Cell, Page, minmax_index, off_paper, page, shown_samples, to_mm, view_start_s
from viz.figures.view import View

# Every sample of ten seconds in seven rows at 500 Hz, ends included.
_MAX_POINTS = 35_200
# How far beyond what is shown a row may lie whose trace can still be seen.
_REACH_MM = 40.0
_SYMBOLS = {"onset": "triangle-right", "peak": "circle", "offset": "triangle-left"}


@dataclass(frozen=True)
class Zoom:
    """The part of the paper that is shown, in the figure's own axes: x and -y in mm."""

    x_mm: tuple[float, float]
    y_mm: tuple[float, float]


def ecg_plotly(
    record: Record,
    view: View,
    overlays: over.Overlays | None = None,
    *,
    max_points: int = _MAX_POINTS,
    uirevision: str | None = None,
    zoom: Zoom | None = None,
) -> dict[str, Any]:
    """Return ``{"data", "layout"}`` for Plotly: x and -y in millimetres of paper.

    max_points: samples sent over all leads; more are thinned to minima and maxima, fewer are all
    sent, as ``x0`` and ``dx``. uirevision: key under which zoom and pan survive an update
    (default: layout, speed and gain). zoom: the part of the paper to show, None for all of it; where
    samples must be thinned, that part and half of its size around it get three of four.
    ``layout.meta.thinned`` tells whether any lead was thinned.
    """
    overlays = overlays or over.Overlays()
    sheet = page(record, view)
    colours = paper(view.paper, view.dark)
    cache: Cache = {}
    data: list[dict[str, Any]] = []
    if overlays.saliency is not None:
        data += _saliency_traces(sheet, overlays.saliency, view.dark)
    data.append(_pulse_trace(sheet, colours))
    leads = [_lead_trace(record, view, cell, colours, part, cache) for cell, part in _parts(sheet, zoom, max_points)]
    data += leads
    data += _mark_traces(over.marks(record, view, sheet, overlays, cache), view.dark)
    layout = _layout(record, view, sheet, colours, overlays, uirevision, cache)
    layout["meta"]["thinned"] = any(trace["meta"]["thinned"] for trace in leads)
    if zoom is not None:
        layout["xaxis"] = layout["xaxis"] | {"range": list(zoom.x_mm)}
        layout["yaxis"] = layout["yaxis"] | {"range": list(zoom.y_mm)}
    return {"data": data, "layout": layout}


@dataclass(frozen=True)
class _Part:
    """How many samples of a cell are sent: ``points`` in all of it, and ``near`` more between two times, in s."""

    points: int
    near: int = 0
    t0_s: float = 0.0
    t1_s: float = 0.0


def _parts(sheet: Page, zoom: Zoom | None, max_points: int) -> list[tuple[Cell, _Part]]:
    """Share the samples out among the cells by their length, those of the part that is shown first."""
    width_mm = max(sum(cell.width_mm for cell in sheet.cells), 1.0)
    if zoom is None:
        per_mm = max_points / width_mm
        return [(cell, _Part(max(16, int(per_mm * cell.width_mm)))) for cell in sheet.cells]
    (x0, x1), (y0, y1) = zoom.x_mm, zoom.y_mm
    # A move shows what is drawn; a trace of large waves reaches into the rows beside its own.
    x0, x1, y0, y1 = x0 - (x1 - x0) / 2, x1 + (x1 - x0) / 2, y0 - _REACH_MM, y1 + _REACH_MM
    shown_mm = [
        max(0.0, min(x1, cell.x0_mm + cell.width_mm) - max(x0, cell.x0_mm)) if y0 <= -cell.y0_mm <= y1 else 0.0
        for cell in sheet.cells
    ]
    far, near = max_points / 4 / width_mm, 3 * max_points / 4 / max(sum(shown_mm), 1.0)
    return [
        (cell, _Part(max(16, int(far * cell.width_mm)), int(near * mm), *(cell.t0_s + (x - cell.x0_mm) / cell.speed_mm_s for x in (x0, x1))))
        for cell, mm in zip(sheet.cells, shown_mm, strict=True)
    ]  # fmt: skip


def _chosen(t_s: np.ndarray, mv: np.ndarray, part: _Part) -> np.ndarray:
    """Return the indices of the samples that are sent."""
    if mv.size <= part.points + part.near or not part.near:
        return minmax_index(mv, part.points + part.near)
    first, stop = np.searchsorted(t_s, (part.t0_s, part.t1_s))
    return np.union1d(minmax_index(mv, part.points), first + minmax_index(mv[first:stop], part.near))


def _lead_trace(record: Record, view: View, cell: Cell, colours: Paper, part: _Part, cache: Cache) -> dict[str, Any]:
    t_s, mv = shown_samples(record, view, cell, cache)
    chosen = _chosen(t_s, mv, part)
    x, y = to_mm(cell, t_s[chosen], mv[chosen].astype(np.float64))
    even = chosen.size == mv.size > 0
    return {
        "type": "scatter",
        "mode": "lines",
        "name": cell.label,
        **({"x0": float(x[0]), "dx": view.speed_mm_s / record.fs_hz} if even else {"x": typed(x)}),
        "y": typed(-y),
        "hoverinfo": "skip",
        "connectgaps": False,
        "showlegend": False,
        "line": {"color": colours.trace, "width": 1.2},
        "meta": {
            "lead": cell.lead,
            "row": cell.row,
            "rhythm": cell.rhythm,
            "state": cell.state,
            "sign": cell.sign,
            "thinned": not even and mv.size > 0,
        },
    }


def _pulse_trace(sheet: Page, colours: Paper) -> dict[str, Any]:
    x: list[float | None] = []
    y: list[float | None] = []
    for points in sheet.pulses:
        x += [p[0] for p in points] + [None]
        y += [-p[1] for p in points] + [None]
    return {
        "type": "scatter", "mode": "lines", "name": "calibration 1 mV, 200 ms", "x": x, "y": y, "showlegend": False,
        "hoverinfo": "skip", "line": {"color": colours.trace, "width": 1.2},
        "meta": {"pulse": True},
    }  # fmt: skip


def _mark_traces(marks: list[over.Mark], dark: bool) -> list[dict[str, Any]]:
    series = theme(dark).series
    out = []
    for wave, colour in WAVE_COLOUR.items():
        mine = [mark for mark in marks if mark.wave == wave]
        if not mine:
            continue
        out.append({
            "type": "scatter", "mode": "markers", "name": f"{wave} wave" if wave != "QRS" else "QRS complex",
            "x": typed([m.x_mm for m in mine]), "y": typed([-m.y_mm for m in mine]),
            "customdata": [[round(m.t_s, 4), round(m.mv, 4), f"{m.lead} {m.wave} {m.place}"] for m in mine],
            "hovertemplate": "<b>%{customdata[2]}</b> %{customdata[0]:.3f} s, %{customdata[1]:.3f} mV<extra></extra>",
            "marker": {"color": series[colour], "symbol": [_SYMBOLS[m.place] for m in mine], "size": 7,
                       "line": {"width": 0.5, "color": theme(dark).ground}},
            "meta": {"overlay": wave},
        })  # fmt: skip
    return out


def _saliency_traces(sheet: Page, saliency: over.Saliency, dark: bool) -> list[dict[str, Any]]:
    colour = "255,180,60" if dark else "213,94,0"
    scale = [[0.0, f"rgba({colour},0)"], [1.0, f"rgba({colour},0.75)"]]
    out = []
    for k, band in enumerate(over.saliency_bands(sheet, saliency)):
        y0 = -band.cell.y0_mm
        out.append({
            "type": "heatmap", "name": f"saliency {band.cell.label}", "x": typed(band.edges_mm),
            "y": [y0 - over.BAND_MM, y0 + over.BAND_MM], "z": [np.round(band.values, 4).tolist()], "zmin": 0, "zmax": 1,
            "colorscale": scale, "showscale": k == 0, "hoverinfo": "skip", "meta": {"saliency": band.cell.lead},
            "colorbar": {"title": {"text": "saliency (share of the greatest)", "side": "top", "font": {"size": 11}}, "thickness": 8, "len": 0.3,
                         "orientation": "h", "x": 0, "xanchor": "left", "y": -0.02, "yanchor": "top"},
        })  # fmt: skip
    return out


def _layout(
    record: Record,
    view: View,
    sheet: Page,
    colours: Paper,
    overlays: over.Overlays,
    uirevision: str | None,
    cache: Cache,
) -> dict[str, Any]:
    w, h = sheet.width_mm, sheet.height_mm
    axis = {
        "showgrid": False, "zeroline": False, "showticklabels": False, "ticks": "", "constrain": "domain", "fixedrange": True,
    }  # fmt: skip
    x_title = f"time: 5 mm = {5 / view.speed_mm_s:g} s ({view.speed_mm_s:g} mm/s)"
    y_title = f"5 mm = {5 / view.gain_mm_mv:g} mV ({view.gain_mm_mv:g} mm/mV)"
    notes = list(sheet.notes)
    if off := off_paper(record, view, sheet, cache):
        notes.append(f"Beyond the paper: {', '.join(off)}.")
    return {
        "title": {"text": strip_line(record, view), "font": {"size": 12}},
        "xaxis": axis | {"range": [0, w], "title": {"text": x_title, "standoff": 4}},
        "yaxis": axis | {"range": [-h, 0], "title": {"text": y_title, "standoff": 4}, "scaleanchor": "x", "scaleratio": 1},
        "paper_bgcolor": colours.ground,
        "plot_bgcolor": colours.ground,
        "font": {"color": colours.ink, "size": 12},
        "margin": {"l": 28, "r": 8, "t": 34, "b": 44},
        # Moved by the view's own script, which knows the paper's edges, keys and fingers.
        "dragmode": False,
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": colours.ground, "font": {"color": colours.ink}},
        "legend": {"orientation": "h", "y": -0.06, "x": 0, "xanchor": "left"},
        "uirevision": uirevision or f"{view.layout}|{view.speed_mm_s:g}|{view.gain_mm_mv:g}|{view.window_s:g}",
        "annotations": _labels(sheet, colours) + _note_labels(sheet, overlays, colours) + [_footer(colours)],
        "shapes": _grid(sheet, colours) + _separators(sheet, colours) + _note_shapes(sheet, overlays, colours),
        "meta": {
            "unit": "mm", "speed_mm_s": view.speed_mm_s, "gain_mm_mv": view.gain_mm_mv, "width_mm": w, "height_mm": h,
            "notes": notes, "simultaneous": sheet.simultaneous, "start_s": view_start_s(record, view), "window_s": view.window_s,
            "duration_s": record.duration_s, "fs_hz": record.fs_hz,
            "cells": [
                {
                    "lead": c.lead, "label": c.label, "state": c.state, "computed": c.computed, "rhythm": c.rhythm,
                    "t0_s": c.t0_s, "t1_s": c.t1_s, "x0_mm": c.x0_mm, "y0_mm": -c.y0_mm, "width_mm": c.width_mm,
                    "sign": c.sign, "level_mv": c.level_mv, "row": c.row,
                }
                for c in sheet.cells
            ],
        },
    }  # fmt: skip


def _labels(sheet: Page, colours: Paper) -> list[dict[str, Any]]:
    words = {"missing": "not recorded", "empty": "no samples here", "flat": "flat line"}
    out = []
    for cell in sheet.cells:
        state = words.get(cell.state)
        name = f"<b>{_plain(cell.label)}{' *' if cell.computed else ''}</b>" + (f" <i>{state}</i>" if state else "")
        out.append({
            "x": cell.x0_mm + 1, "y": -(cell.y0_mm - 9.5), "xref": "x", "yref": "y", "text": name, "showarrow": False,
            "xanchor": "left", "yanchor": "middle", "font": {"size": 13, "color": colours.ink}, "name": f"label-{cell.label}",
        })  # fmt: skip
    return out


def _footer(colours: Paper) -> dict[str, Any]:
    return {
        "text": FOOTER, "xref": "paper", "yref": "paper", "x": 1, "y": 0, "yshift": -40, "xanchor": "right", "yanchor": "bottom",
        "showarrow": False, "font": {"size": 10, "color": colours.quiet}, "name": "footer",
    }  # fmt: skip


def _grid(sheet: Page, colours: Paper) -> list[dict[str, Any]]:
    """Draw the lines of 1 mm and of 5 mm as one path each: hundreds of lines of their own would make every zoom slow."""
    w, h = sheet.width_mm, sheet.height_mm

    def lines(step: int, but: int | None) -> str:
        xs = [x for x in range(0, int(w) + 1, step) if but is None or x % but]
        ys = [y for y in range(0, int(h) + 1, step) if but is None or y % but]
        return "".join(f"M{x},0V{-h:g}" for x in xs) + "".join(f"M0,{-y}H{w:g}" for y in ys)

    return [
        {"type": "path", "path": path, "layer": "below", "name": name, "line": {"color": colour, "width": 1}}
        for name, path, colour in (
            ("grid-1mm", lines(1, 5), colours.minor),
            ("grid-5mm", lines(5, None), colours.major),
        )
    ]


def _separators(sheet: Page, colours: Paper) -> list[dict[str, Any]]:
    ends = [(cell.x0_mm, cell.y0_mm) for cell in sheet.cells if cell.column > 0]
    path = "".join(f"M{x:g},{-(y - 8):g}V{-(y - 5):g}M{x:g},{-(y + 5):g}V{-(y + 8):g}" for x, y in ends)
    return (
        [{"type": "path", "path": path, "name": "separators", "line": {"color": colours.ink, "width": 1}}]
        if path
        else []
    )


def _note_shapes(sheet: Page, overlays: over.Overlays, colours: Paper) -> list[dict[str, Any]]:
    out = []
    for cell, left, right, _ in over.annotation_spans(sheet, overlays.annotations):
        out.append({
            "type": "rect" if right > left else "line", "x0": left, "x1": right, "y0": -(cell.y0_mm - over.BAND_MM),
            "y1": -(cell.y0_mm + over.BAND_MM), "line": {"color": colours.mark, "width": 1}, "fillcolor": colours.mark,
            "opacity": 0.25 if right > left else 1.0, "layer": "below",
        })  # fmt: skip
    return out


def _note_labels(sheet: Page, overlays: over.Overlays, colours: Paper) -> list[dict[str, Any]]:
    return [
        {
            "x": left, "y": -(cell.y0_mm + over.BAND_MM), "xref": "x", "yref": "y", "text": _plain(note.text)[:60],
            "hovertext": _plain(f"{note.text} {note.author}".strip()), "showarrow": False, "xanchor": "left",
            "yanchor": "bottom", "font": {"size": 10, "color": colours.mark}, "name": "annotation",
        }
        for cell, left, _, note in over.annotation_spans(sheet, overlays.annotations)
    ]  # fmt: skip


def _plain(words: str) -> str:
    """Plotly reads a few HTML tags in texts; what people wrote is shown as written."""
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
