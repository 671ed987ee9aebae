"""What may be drawn over the traces: wave boundaries, R peaks, annotations, saliency.

All times are seconds from the record's start, on the original signal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.ecg import Record
from viz.figures.paper import Cache, Cell, Page, shown_samples, to_mm
from viz.figures.view import View

# key of a beat's fiducials -> (wave, place)
FIDUCIALS: dict[str, tuple[str, str]] = {
    "p_on_s": ("P", "onset"), "p_peak_s": ("P", "peak"), "p_off_s": ("P", "offset"),
    "qrs_on_s": ("QRS", "onset"), "r_peak_s": ("QRS", "peak"), "qrs_off_s": ("QRS", "offset"),
    "t_on_s": ("T", "onset"), "t_peak_s": ("T", "peak"), "t_off_s": ("T", "offset"),
}  # fmt: skip
BAND_MM = 11.0


@dataclass(frozen=True, eq=False)
class Saliency:
    """How much each lead and time mattered to a model's answer.

    leads: names; values: ``(leads, bins)``, any scale; ``t0_s`` and ``t1_s``: the time that the bins cover
    evenly; target: the answer explained; method: for example "integrated gradients".
    """

    leads: tuple[str, ...]
    values: np.ndarray
    t0_s: float
    t1_s: float
    target: str = ""
    method: str = ""


@dataclass(frozen=True)
class Annotation:
    """A point (``t1_s`` None) or a span that somebody marked; ``lead`` None means all leads."""

    t0_s: float
    text: str
    t1_s: float | None = None
    lead: str | None = None
    author: str = ""


@dataclass(frozen=True, eq=False)
class Overlays:
    """Everything drawn over the traces; each part may be absent.

    fiducials: one mapping a beat with the keys of ``FIDUCIALS``, seconds or None (as in
    ``Measurements.to_json()["fiducials"]``).
    """

    r_peaks_s: Sequence[float] = ()
    fiducials: Sequence[Mapping[str, float | None]] = ()
    annotations: Sequence[Annotation] = ()
    saliency: Saliency | None = None


@dataclass(frozen=True)
class Mark:
    """One fiducial on one cell, in mm and in real units."""

    wave: str
    place: str
    lead: str
    x_mm: float
    y_mm: float
    t_s: float
    mv: float


def marks(record: Record, view: View, sheet: Page, overlays: Overlays, cache: Cache | None = None) -> list[Mark]:
    """Place every fiducial and R peak on the trace of every cell that shows its time."""
    wanted: list[tuple[str, str, float]] = []
    for beat in overlays.fiducials:
        wanted += [(*FIDUCIALS[key], float(t)) for key, t in beat.items() if key in FIDUCIALS and t is not None]
    known = {round(t, 4) for wave, place, t in wanted if (wave, place) == ("QRS", "peak")}
    wanted += [("QRS", "peak", float(t)) for t in overlays.r_peaks_s if round(float(t), 4) not in known]
    out = []
    for cell in sheet.cells:
        t_s, mv = shown_samples(record, view, cell, cache)
        if mv.size == 0:
            continue
        for wave, place, t in wanted:
            k = round((t - t_s[0]) * record.fs_hz)
            if 0 <= k < mv.size and cell.t0_s <= t < cell.t1_s and np.isfinite(mv[k]):
                x, y = to_mm(cell, t, float(mv[k]))
                out.append(Mark(wave, place, cell.lead, float(x), float(y), t, float(mv[k])))
    return out


@dataclass(frozen=True)
class Band:
    """Saliency along one cell: bin edges in mm and values scaled to [0, 1] over the whole record."""

    cell: Cell
    edges_mm: np.ndarray
    values: np.ndarray


def saliency_bands(sheet: Page, saliency: Saliency) -> list[Band]:
    """Cut the saliency to the cells. Values are absolute and divided by the greatest of all leads and times."""
    values = np.abs(np.asarray(saliency.values, dtype=np.float64))
    values = np.where(np.isfinite(values), values, 0.0)
    n = values.shape[1] if values.ndim == 2 else 0
    top = float(values.max()) if values.size else 0.0
    if n == 0 or top <= 0 or saliency.t1_s <= saliency.t0_s:
        return []
    edges_s = np.linspace(saliency.t0_s, saliency.t1_s, n + 1)
    out = []
    for cell in sheet.cells:
        if cell.lead not in saliency.leads or cell.state in ("missing", "empty"):
            continue
        inside = (edges_s[1:] > cell.t0_s) & (edges_s[:-1] < cell.t1_s)
        if inside.any():
            row = values[saliency.leads.index(cell.lead)][inside] / top
            first = int(np.flatnonzero(inside)[0])
            cut = np.clip(edges_s[first : first + row.size + 1], cell.t0_s, cell.t1_s)
            x, _ = to_mm(cell, cut, 0.0)
            out.append(Band(cell, np.asarray(x), row))
    return out


def annotation_spans(sheet: Page, annotations: Sequence[Annotation]) -> list[tuple[Cell, float, float, Annotation]]:
    """Return (cell, left mm, right mm, annotation) wherever a cell shows part of an annotation."""
    out: list[tuple[Cell, float, float, Annotation]] = []
    for note in annotations:
        end = note.t0_s if note.t1_s is None else note.t1_s
        for cell in sheet.cells:
            if (note.lead in (None, cell.lead)) and end >= cell.t0_s and note.t0_s < cell.t1_s:
                left, _ = to_mm(cell, max(note.t0_s, cell.t0_s), 0.0)
                right, _ = to_mm(cell, min(end, cell.t1_s), 0.0)
                out.append((cell, float(left), float(right), note))
    return out


def summary(overlays: Overlays) -> str:
    """Say in words what is drawn over the traces."""
    parts: list[str] = []
    beats: list[Any] = list(overlays.fiducials) or list(overlays.r_peaks_s)
    if beats:
        parts.append(f"{len(beats)} beats are marked.")
    if overlays.annotations:
        parts.append(f"{len(overlays.annotations)} annotations are drawn.")
    if overlays.saliency is not None:
        target = f" for {overlays.saliency.target}" if overlays.saliency.target else ""
        method = f" by {overlays.saliency.method}" if overlays.saliency.method else ""
        parts.append(f"Shading shows the saliency{target}{method}.")
    return " ".join(parts)
