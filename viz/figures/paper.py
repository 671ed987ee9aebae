"""The geometry of ECG paper: which lead lies where, and how time and voltage become millimetres.

One geometry serves the server-drawn SVG, the interactive figure and the tests.
Positions are millimetres from the paper's top left corner, x to the right and y
downwards; the paper's grid starts at that corner. The default is 25 mm/s and
10 mm/mV (IEC 60601-2-25; AHA/ACCF/HRS 2007, doi 10.1161/CIRCULATIONAHA.106.180200).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from datasets.ecg import Record
from viz.figures.filters import apply_filters
from viz.figures.view import LAYOUTS, View

PULSE_S = 0.2
PULSE_MV = 1.0
_LEAD_IN_MM = 5.0
_PITCH_MM = {1: 40.0, 2: 40.0, 3: 30.0, 4: 30.0, 5: 30.0, 6: 25.0}
_GAIN_FACTOR = {2.5: 0.6, 5.0: 0.8, 10.0: 1.0, 20.0: 1.4}
# Filters need a run-in on both sides of what is shown.
_FILTER_MARGIN_S = 5.0


@dataclass(frozen=True)
class Cell:
    """One stretch of one lead on the paper.

    ``t0_s`` to ``t1_s`` is the record's time shown; ``(x0_mm, y0_mm)`` is where ``t0_s`` at
    ``level_mv`` lies (0 unless the view is centred). ``sign`` is -1 for an inverted lead.
    ``state`` is ``recorded``, ``flat``, ``empty`` (only NaN here) or ``missing`` (no such lead).
    """

    lead: str
    label: str
    t0_s: float
    t1_s: float
    x0_mm: float
    y0_mm: float
    width_mm: float
    sign: int
    speed_mm_s: float
    gain_mm_mv: float
    row: int
    column: int
    state: str = "recorded"
    computed: bool = False
    rhythm: bool = False
    level_mv: float = 0.0


@dataclass(frozen=True)
class Page:
    """The paper with its cells. ``pulses`` are the calibration pulses' outlines, one per row, in mm."""

    width_mm: float
    height_mm: float
    cells: tuple[Cell, ...]
    pulses: tuple[tuple[tuple[float, float], ...], ...]
    simultaneous: bool
    notes: tuple[str, ...] = field(default=())


def to_mm(cell: Cell, t_s: Any, mv: Any) -> tuple[Any, Any]:
    """Place a time (s, from the record's start) and a voltage (mV) on the paper; works on arrays."""
    x = cell.x0_mm + (t_s - cell.t0_s) * cell.speed_mm_s
    y = cell.y0_mm - cell.sign * (mv - cell.level_mv) * cell.gain_mm_mv
    return x, y


def from_mm(cell: Cell, x_mm: Any, y_mm: Any) -> tuple[Any, Any]:
    """The inverse of :func:`to_mm`: time in s and voltage in mV."""
    t_s = cell.t0_s + (x_mm - cell.x0_mm) / cell.speed_mm_s
    mv = cell.level_mv + (cell.y0_mm - y_mm) / (cell.sign * cell.gain_mm_mv)
    return t_s, mv


def cells(record: Record, view: View) -> list[Cell]:
    """Return the cells of a view, row by row from left to right, the rhythm strips last."""
    return list(page(record, view).cells)


def page(record: Record, view: View) -> Page:
    """Lay the record out on paper.

    With several columns each column shows the next window of the same stretch of time,
    as hospital systems print it. A record too short to reach into the last column shows
    the same window in every column instead; the page's notes say which it is.
    """
    layout = LAYOUTS[view.layout]
    rows = _rows(record, layout.rows) if layout.rows else [(name,) for name in record.leads]
    n_columns = len(rows[0])
    start_s = view_start_s(record, view)
    column_s = view.window_s / n_columns
    available_s = record.duration_s - start_s
    simultaneous = n_columns > 1 and available_s < view.window_s - 0.2 * column_s
    pulse_mm = _ceil5(_LEAD_IN_MM + PULSE_S * view.speed_mm_s + 2)
    strips = [_strip_lead(record, name or view.rhythm_lead) for name in layout.strips]
    pitch_mm = _ceil5(_PITCH_MM.get(len(rows) + len(strips), 20.0) * _GAIN_FACTOR[view.gain_mm_mv])
    baselines = [_ceil5(pitch_mm * 0.6) + row * pitch_mm for row in range(len(rows) + len(strips))]
    made = []
    for r, names in enumerate(rows):
        for c, name in enumerate(names):
            if name:
                t0_s = start_s if simultaneous else start_s + c * column_s
                x0_mm = pulse_mm + c * column_s * view.speed_mm_s
                made.append(_cell(record, view, name, t0_s, column_s, x0_mm, baselines[r], r, c, False))
    for k, name in enumerate(strips):
        r = len(rows) + k
        made.append(_cell(record, view, name, start_s, view.window_s, pulse_mm, baselines[r], r, 0, True))
    return Page(
        width_mm=_ceil5(pulse_mm + view.window_s * view.speed_mm_s),
        height_mm=baselines[-1] + _ceil5(pitch_mm * 0.5),
        cells=tuple(made),
        pulses=tuple(_pulse(view, y) for y in baselines),
        simultaneous=simultaneous,
        notes=tuple(_notes(view, made, n_columns, column_s, simultaneous)),
    )


def view_start_s(record: Record, view: View) -> float:
    """Return where the view starts, kept inside the record so that the page is full where it can be."""
    return float(min(view.start_s, max(0.0, record.duration_s - view.window_s)))


Cache = dict[str, tuple[int, np.ndarray]]


def shown_samples(record: Record, view: View, cell: Cell, cache: Cache | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return times (s) and voltages (mV, float32, display filters applied) of the samples that a cell shows.

    Both arrays are empty where the lead was not recorded or the cell lies behind the record's end. A ``cache`` that
    is kept between the calls for one record and view lets each lead be filtered once.
    """
    if cell.lead not in record.leads:
        return np.empty(0), np.empty(0, dtype=np.float32)
    first = max(0, math.ceil(cell.t0_s * record.fs_hz - 1e-6))
    stop = min(record.n_samples, math.floor(cell.t1_s * record.fs_hz + 1e-6) + 1)
    if stop <= first:
        return np.empty(0), np.empty(0, dtype=np.float32)
    row = record.signal[record.leads.index(cell.lead)]
    if view.filters.is_on:
        left, part = _filtered_lead(record, view, cell.lead, cache if cache is not None else {})
        mv = part[first - left : stop - left]
    else:
        mv = row[first:stop]
    return np.arange(first, stop) / record.fs_hz, mv


def _filtered_lead(record: Record, view: View, lead: str, cache: Cache) -> tuple[int, np.ndarray]:
    """Return the first sample's number and the filtered samples of the page's stretch of a lead, with its run-in."""
    if lead not in cache:
        start_s = view_start_s(record, view)
        left = max(0, int((start_s - _FILTER_MARGIN_S) * record.fs_hz))
        stop = int((start_s + view.window_s + _FILTER_MARGIN_S) * record.fs_hz) + 2
        cache[lead] = (left, apply_filters(record.lead(lead)[None, left:stop], record.fs_hz, view.filters)[0])
    return cache[lead]


def _rows(record: Record, standard: tuple[tuple[str, ...], ...]) -> list[tuple[str, ...]]:
    """Add rows for leads outside the twelve, so that nothing recorded is hidden."""
    shown = {name.removeprefix("-") for row in standard for name in row}
    others = [name for name in record.leads if name not in shown]
    n = len(standard[0])
    rows = list(standard)
    for k in range(0, len(others), n):
        extra = tuple(others[k : k + n])
        rows.append(extra + ("",) * (n - len(extra)))
    return rows


def _strip_lead(record: Record, wanted: str) -> str:
    """Return the lead of a rhythm strip: the wanted one, else the best that was recorded."""
    for name in (wanted, "II", "I", "V1", "V5", "MLII", *record.leads):
        if name in record.leads and _has_samples(record, name):
            return name
    return wanted


def _has_samples(record: Record, name: str) -> bool:
    row = record.lead(name)
    # A look at a spread of samples is enough to choose a strip, also in a two-day record.
    return bool(np.isfinite(row[:: max(1, row.size // 5000)]).any())


def _cell(
    record: Record, view: View, name: str, t0_s: float, length_s: float, x0_mm: float, y0_mm: float,
    row: int, column: int, rhythm: bool,
) -> Cell:  # fmt: skip
    lead, sign = name.removeprefix("-"), -1 if name.startswith("-") else 1
    bare = Cell(
        lead=lead, label=("−" if sign < 0 else "") + lead, t0_s=t0_s, t1_s=t0_s + length_s, x0_mm=x0_mm, y0_mm=y0_mm,
        width_mm=length_s * view.speed_mm_s, sign=sign, speed_mm_s=view.speed_mm_s, gain_mm_mv=view.gain_mm_mv,
        row=row, column=column, computed=lead in record.computed, rhythm=rhythm,
    )  # fmt: skip
    if lead not in record.leads:
        return replace(bare, state="missing")
    mv = shown_samples(record, View(layout=view.layout), bare)[1]
    mv = mv[np.isfinite(mv)]
    if mv.size == 0:
        return replace(bare, state="empty")
    level_mv = 0.0
    if view.centred:
        # The level of what is drawn: a high-pass has already taken most of it away.
        drawn = shown_samples(record, view, bare)[1] if view.filters.is_on else mv
        level_mv = float(np.nanmedian(drawn))
    flat = mv.size > 1 and float(mv.max() - mv.min()) < 1e-4
    return replace(bare, state="flat" if flat else "recorded", level_mv=level_mv)


def _pulse(view: View, y0_mm: float) -> tuple[tuple[float, float], ...]:
    """Outline the 1 mV, 200 ms pulse through the same transform as the traces."""
    flat = Cell(
        "", "", 0.0, PULSE_S, _LEAD_IN_MM, y0_mm, PULSE_S * view.speed_mm_s, 1, view.speed_mm_s, view.gain_mm_mv, 0, 0
    )
    corners = [(0.0, 0.0), (0.0, PULSE_MV), (PULSE_S, PULSE_MV), (PULSE_S, 0.0)]
    points = [to_mm(flat, t, mv) for t, mv in corners]
    return ((points[0][0] - 2, y0_mm), *points, (points[-1][0] + 2, y0_mm))


def _notes(view: View, made: list[Cell], n_columns: int, column_s: float, simultaneous: bool) -> list[str]:
    notes = []
    if n_columns > 1 and simultaneous:
        notes.append(
            f"Every column shows the same time: the record is too short for successive {column_s:g} s windows."
        )
    elif n_columns > 1:
        notes.append(f"Columns are successive {column_s:g} s windows of the same {view.window_s:g} s.")

    def named(states: tuple[str, ...]) -> str:
        return ", ".join(dict.fromkeys(cell.label for cell in made if cell.state in states))

    if text := named(("missing",)):
        notes.append(f"Not recorded: {text}.")
    if text := named(("empty",)):
        notes.append(f"No samples here: {text}.")
    if text := named(("flat",)):
        notes.append(f"Flat line: {text}.")
    if text := ", ".join(dict.fromkeys(cell.label for cell in made if cell.computed)):
        notes.append(f"Computed from I and II (marked *): {text}.")
    if view.gain_mm_mv != 10:
        notes.append(f"Non-standard gain: {view.gain_mm_mv:g} mm/mV.")
    if view.speed_mm_s != 25:
        notes.append(f"Non-standard speed: {view.speed_mm_s:g} mm/s.")
    if view.centred:
        notes.append("Each trace is centred on its median; the offset is not shown.")
    return notes + view.filters.warnings()


def off_paper(record: Record, view: View, sheet: Page, cache: Cache | None = None) -> list[str]:
    """Name the leads whose trace leaves the paper, with their range in mV."""
    out: dict[str, str] = {}
    for cell in sheet.cells:
        mv = shown_samples(record, view, cell, cache)[1]
        mv = mv[np.isfinite(mv)]
        if mv.size == 0 or cell.lead in out:
            continue
        _, y = to_mm(cell, 0.0, np.array([mv.min(), mv.max()]))
        if y.min() < 0 or y.max() > sheet.height_mm:
            out[cell.lead] = f"{cell.label} ({mv.min():.1f} to {mv.max():.1f} mV)"
    return list(out.values())


def minmax_index(values: np.ndarray, max_points: int) -> np.ndarray:
    """Choose samples so that no peak loses height: sorted indices of every bin's minimum and maximum.

    About ``max_points`` samples are chosen, all of them when there are no more. Values may hold NaN; a gap keeps its edges and one NaN, so that a line drawn through
    the chosen samples breaks where the signal does.
    """
    n = values.size
    if n <= max(max_points, 4):
        return np.arange(n)
    per_bin = math.ceil(2 * n / max_points)
    n_bins = math.ceil(n / per_bin)
    finite = np.isfinite(values)
    filled = np.full(n_bins * per_bin, np.inf)
    filled[:n][finite] = values[finite]
    low = filled.reshape(n_bins, per_bin)
    high = np.where(np.isinf(low), -np.inf, low)
    base = np.arange(n_bins) * per_bin
    chosen = [base + low.argmin(axis=1), base + high.argmax(axis=1), np.array([0, n - 1])]
    change = np.flatnonzero(np.diff(finite))
    chosen += [change, change + 1]
    index = np.unique(np.concatenate(chosen))
    return index[index < n]


def _ceil5(mm: float) -> float:
    return 5.0 * math.ceil(mm / 5.0 - 1e-9)
