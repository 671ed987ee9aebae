"""The ECG on calibrated paper: drawn at the server as SVG, and (``ecg_plotly``) as an interactive figure.

Both take their geometry from :mod:`viz.figures.paper`.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from datasets.ecg import Record
from viz.figures import drawn_over, svg
from viz.figures import overlays as over
from viz.figures.header import FOOTER, header_columns, strip_line, summary
from viz.figures.interactive import ecg_plotly
from viz.figures.overlays import Overlays
from viz.figures.palette import Paper, paper
from viz.figures.paper import Cache, Cell, Page, minmax_index, off_paper, page, shown_samples, to_mm
from viz.figures.view import View

__all__ = ["Overlays", "View", "ecg_plotly", "ecg_svg", "ecg_thumbnail_svg", "summary"]

# One step of path data in mm: 2 µV at 10 mm/mV, 0.8 ms at 25 mm/s.
PATH_UNIT_MM = 0.02
MAX_POINTS = 26_000
# A first picture on a screen needs no more than two points per pixel and row.
SCREEN_POINTS = 9_000
_MARGIN_MM = 4.0
_LINE_MM = 4.2


def ecg_svg(
    record: Record,
    view: View,
    header: Mapping[str, Any] | None = None,
    *,
    overlays: Overlays | None = None,
    width: str = "100%",
    uid: str = "ecg",
    max_points: int = MAX_POINTS,
) -> str:
    """Draw the record as one SVG element: header, paper with grid, pulses, traces and labels, footer.

    header: see :func:`viz.figures.header.header_columns`; what it does not hold is written "unknown".
    width: an SVG length or percentage, or ``"true"`` for true size in print (millimetres).
    uid: prefix of the title's and description's ids, unique on the page that embeds the picture.
    max_points: samples drawn over all leads; the default gives 200 KB at most. Traces are thinned to the
    minimum and maximum of narrow bins.
    """
    header, overlays = header or {}, overlays or Overlays()
    sheet = page(record, view)
    cache: Cache = {}
    colours = paper(view.paper, view.dark)
    columns = header_columns(record, view, header)
    notes = _wrapped([*_page_notes(record, view, sheet, cache), over.summary(overlays)], sheet.width_mm)
    top = _MARGIN_MM + _LINE_MM * max(len(column) for column in columns) + 2
    foot = top + sheet.height_mm
    total_w = sheet.width_mm + 2 * _MARGIN_MM
    total_h = foot + _LINE_MM * (2 + len(notes)) + _MARGIN_MM
    body = [
        el_title(uid, header, record, view),
        svg.el("rect", width=total_w, height=total_h, fill=colours.ground, class_="ecg-ground"),
        _header(columns, sheet.width_mm, colours),
        _paper(record, view, sheet, colours, top, cache, overlays, max_points),
        _footer(record, view, notes, foot, sheet.width_mm, colours),
    ]
    size = {"width": f"{total_w:g}mm", "height": f"{total_h:g}mm"} if width == "true" else {"width": width}
    return svg.el(
        "svg", "".join(body), xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {total_w:g} {total_h:g}", **size,
        role="img", aria_labelledby=f"{uid}-title {uid}-desc", font_family=svg.FONT, class_="ecg-paper",
    )  # fmt: skip


def ecg_thumbnail_svg(record: Record, *, dark: bool = False, label: str | None = None, width: str = "100%") -> str:
    """Draw a 12-lead miniature for galleries: 3 × 4, first 10 s at most, no header, a few KB."""
    view = View(layout="3x4", dark=dark, paper="grey", window_s=float(min(10.0, max(1.0, record.duration_s))))
    sheet = page(record, view)
    colours = paper("grey", dark)
    lines = []
    for cell in sheet.cells:
        if path := _trace_path(record, view, cell, 160):
            lines.append(svg.el("path", d=path))
        word = {"missing": " not recorded", "empty": " no samples", "flat": " flat"}.get(cell.state, "")
        lines.append(svg.text(cell.x0_mm + 1, cell.y0_mm - 8, cell.label + word, 6, colours.quiet, limit=20))
    traces = svg.el(
        "g", "".join(line for line in lines if line.startswith("<path")), transform=f"scale({PATH_UNIT_MM})", fill="none",
        stroke=colours.trace, stroke_width=0.7 / PATH_UNIT_MM, stroke_linejoin="round", stroke_linecap="round",
    )  # fmt: skip
    words = "".join(line for line in lines if line.startswith("<text"))
    name = label or "ECG miniature"
    return svg.el(
        "svg",
        svg.el("title", escape(svg.clean(name, 200)))
        + svg.el("rect", width=sheet.width_mm, height=sheet.height_mm, fill=colours.ground)
        + traces + words,
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {sheet.width_mm:g} {sheet.height_mm:g}", width=width,
        role="img", aria_label=svg.clean(name, 200), font_family=svg.FONT, class_="ecg-thumbnail",
    )  # fmt: skip


def el_title(uid: str, header: Mapping[str, Any], record: Record, view: View) -> str:
    """Return the title and description elements that a screen reader reads."""
    name = header.get("record") or "unnamed record"
    title = f"ECG {name}, {len(record.leads)} leads, {record.duration_s:.1f} s"
    told = summary(record, header.get("measurements"), view=view)
    return svg.el("title", escape(svg.clean(title, 200)), id=f"{uid}-title") + svg.el(
        "desc", escape(svg.clean(told, 2000)), id=f"{uid}-desc"
    )


def _page_notes(record: Record, view: View, sheet: Page, cache: Cache) -> list[str]:
    notes = list(sheet.notes)
    if off := off_paper(record, view, sheet, cache):
        notes.append(f"Beyond the paper: {', '.join(off)}; choose a lower gain or the centred view.")
    return notes


def _wrapped(notes: list[str], width_mm: float) -> list[str]:
    per_line = int(width_mm / 1.42)
    lines: list[str] = []
    for note in filter(None, notes):
        for part in [note[k : k + per_line] for k in range(0, len(note), per_line)]:
            if lines and len(lines[-1]) + 1 + len(part) <= per_line:
                lines[-1] += " " + part
            else:
                lines.append(part)
    return lines


def _header(columns: list[list[tuple[str, bool]]], width_mm: float, colours: Paper) -> str:
    out = []
    column_mm = width_mm / len(columns)
    limit = int(column_mm / 1.62)
    for c, lines in enumerate(columns):
        for k, (words, strong) in enumerate(lines):
            out.append(
                svg.text(
                    _MARGIN_MM + c * column_mm, _MARGIN_MM + _LINE_MM * (k + 0.75), words, 3.1, colours.ink, limit=limit,
                    font_weight="bold" if strong else None,
                )
            )  # fmt: skip
    return svg.el("g", "".join(out), class_="ecg-header")


def _footer(record: Record, view: View, notes: list[str], y: float, width_mm: float, colours: Paper) -> str:
    left, right = _MARGIN_MM, _MARGIN_MM + width_mm
    out = [
        svg.text(left, y + 4, strip_line(record, view), 3.1, colours.ink, class_="ecg-strip-line"),
        svg.text(
            right, y + 4 + _LINE_MM * (1 + len(notes)), FOOTER, 2.9, colours.ink, text_anchor="end", font_weight="bold"
        ),
    ]
    for k, note in enumerate(notes):
        out.append(svg.text(left, y + 4 + _LINE_MM * (k + 1), note, 2.7, colours.quiet))
    return svg.el("g", "".join(out), class_="ecg-footer")


def _paper(
    record: Record, view: View, sheet: Page, colours: Paper, top: float, cache: Cache, overlays: Overlays, max_points: int,
) -> str:  # fmt: skip
    """The paper is an inner svg element: it clips the traces at the paper's edge without a clip path's id."""
    per_mm = max_points / max(sum(cell.width_mm for cell in sheet.cells), 1.0)
    traces, words = [], []
    for cell in sheet.cells:
        if path := _trace_path(record, view, cell, int(per_mm * cell.width_mm), cache):
            traces.append(svg.el("path", d=path, class_="ecg-trace", data_lead=cell.lead, data_row=cell.row))
        words.append(_cell_words(cell, colours))
    pulses = "".join(
        svg.el(
            "path",
            d=svg.polyline_path(np.array(points)[:, 0], np.array(points)[:, 1], PATH_UNIT_MM),
            class_="ecg-pulse",
        )
        for points in sheet.pulses
    )
    inked = svg.el(
        "g", pulses + "".join(traces), transform=f"scale({PATH_UNIT_MM})", fill="none", stroke=colours.trace,
        stroke_width=0.28 / PATH_UNIT_MM, stroke_linejoin="round", stroke_linecap="round", class_="ecg-ink",
    )  # fmt: skip
    w, h = sheet.width_mm, sheet.height_mm
    return svg.el(
        "svg",
        _grid(w, h, colours) + drawn_over.under(sheet, overlays, view.dark) + _separators(sheet, colours) + inked
        + drawn_over.above(record, view, sheet, overlays, colours, cache) + "".join(words), x=_MARGIN_MM, y=top,
        width=w, height=h, viewBox=f"0 0 {w:g} {h:g}", class_="ecg-sheet",
    )  # fmt: skip


def _trace_path(record: Record, view: View, cell: Cell, max_points: int, cache: Cache | None = None) -> str:
    t_s, mv = shown_samples(record, view, cell, cache)
    if mv.size == 0:
        return ""
    chosen = minmax_index(mv, max(max_points, 16))
    x, y = to_mm(cell, t_s[chosen], mv[chosen].astype(np.float64))
    return svg.polyline_path(x, y, PATH_UNIT_MM)


def _grid(w: float, h: float, colours: Paper) -> str:
    def lines(step: int, skip: int | None) -> str:
        xs = [x for x in range(0, int(w) + 1, step) if skip is None or x % skip]
        ys = [y for y in range(0, int(h) + 1, step) if skip is None or y % skip]
        return "".join(f"M{x} 0V{h:g}" for x in xs) + "".join(f"M0 {y}H{w:g}" for y in ys)

    return svg.el(
        "path", d=lines(1, 5), stroke=colours.minor, stroke_width=0.1, fill="none", class_="ecg-grid-1mm"
    ) + svg.el("path", d=lines(5, None), stroke=colours.major, stroke_width=0.18, fill="none", class_="ecg-grid-5mm")


def _separators(sheet: Page, colours: Paper) -> str:
    """Short strokes between neighbouring segments of a row, as on printed ECGs."""
    marks = [
        f"M{svg.num(cell.x0_mm)} {svg.num(cell.y0_mm - 5)}v-3m0 10v3"
        for cell in sheet.cells
        if cell.column > 0 and not cell.rhythm
    ]
    return svg.el("path", d="".join(marks), stroke=colours.ink, stroke_width=0.35, fill="none") if marks else ""


def _cell_words(cell: Cell, colours: Paper) -> str:
    name = cell.label + (" *" if cell.computed else "")
    x, y = cell.x0_mm + 1.2, cell.y0_mm - 8.2
    out = svg.text(
        x, y, name, 3.6, colours.ink, limit=16, font_weight="bold", class_="ecg-lead",
        stroke=colours.ground, stroke_width=0.8, paint_order="stroke",
    )  # fmt: skip
    words = {"missing": "not recorded", "empty": "no samples here", "flat": "flat line"}.get(cell.state)
    if words:
        out += svg.text(x, y + 5.5, words, 3.0, colours.quiet, font_style="italic", class_=f"ecg-{cell.state}")
    return out
