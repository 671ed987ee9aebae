"""Overlays on the server-drawn paper: saliency under the traces, annotations and fiducials over them."""

from __future__ import annotations

from datasets.ecg import Record
from viz.figures import overlays as over
from viz.figures import svg
from viz.figures.palette import Paper, theme
from viz.figures.paper import Cache, Page
from viz.figures.view import View

WAVE_COLOUR = {"P": 0, "QRS": 1, "T": 2}
SALIENCY_COLOUR = {False: "#d55e00", True: "#ffb43c"}


def under(sheet: Page, overlays: over.Overlays, dark: bool) -> str:
    """Draw what lies under the traces: saliency bands, the stronger the darker, and annotated spans."""
    out = []
    if overlays.saliency is not None:
        for band in over.saliency_bands(sheet, overlays.saliency):
            top = band.cell.y0_mm - over.BAND_MM
            for left, right, value in zip(band.edges_mm[:-1], band.edges_mm[1:], band.values, strict=True):
                if value >= 0.02:
                    out.append(
                        svg.el(
                            "rect", x=float(left), y=top, width=float(right - left), height=2 * over.BAND_MM,
                            fill=SALIENCY_COLOUR[dark], fill_opacity=0.6 * float(value), class_="ecg-saliency",
                        )
                    )  # fmt: skip
    return "".join(out)


def above(record: Record, view: View, sheet: Page, overlays: over.Overlays, colours: Paper, cache: Cache) -> str:
    """Draw what lies over the traces: annotations with their text, and fiducials as triangles and dots."""
    out = []
    for cell, left, right, note in over.annotation_spans(sheet, overlays.annotations):
        top = cell.y0_mm - over.BAND_MM
        out.append(
            svg.el(
                "rect", x=left, y=top, width=max(right - left, 0.3), height=2 * over.BAND_MM, fill=colours.mark,
                fill_opacity=0.22 if right > left else 1.0,
            )
        )  # fmt: skip
        words = f"{note.text} {note.author}".strip()
        out.append(svg.text(left + 0.5, cell.y0_mm + over.BAND_MM - 0.6, words, 2.4, colours.mark, limit=40))
    series = theme(view.dark).series
    shapes = {"onset": "m-0.9 -1l1.8 1l-1.8 1Z", "offset": "m0.9 -1l-1.8 1l1.8 1Z"}
    dot = "m-0.7 0a0.7 0.7 0 1 0 1.4 0a0.7 0.7 0 1 0 -1.4 0Z"
    marks = over.marks(record, view, sheet, overlays, cache)
    for wave, place in dict.fromkeys(over.FIDUCIALS.values()):
        drawn = [m for m in marks if (m.wave, m.place) == (wave, place)]
        path = "".join(f"M{svg.num(m.x_mm)} {svg.num(m.y_mm)}{shapes.get(place, dot)}" for m in drawn)
        if path:
            out.append(svg.el("path", d=path, fill=series[WAVE_COLOUR[wave]], class_=f"ecg-mark ecg-mark-{place}"))
    return "".join(out)
