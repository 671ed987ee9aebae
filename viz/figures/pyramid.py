"""Long records: a min/max pyramid from which any stretch at any zoom is read in a few milliseconds.

Level k holds the minimum and the maximum of blocks of ``base * 4**k`` samples. A window is
read from the coarsest level that still gives the points asked for, so an overview of a day
costs as little as a page of ten seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecgportal.errors import InvalidInput
from viz.figures import charts
from viz.figures.figure import typed
from viz.figures.header import clock
from viz.figures.palette import paper

_BASE = 16
_FACTOR = 4


@dataclass(frozen=True, eq=False)
class Pyramid:
    """Minima and maxima per level, each ``(leads, blocks)`` float32; NaN where a block holds no sample.

    The samples themselves stay with the record: windows finer than the first level are read from it.
    """

    leads: tuple[str, ...]
    fs_hz: float
    n_samples: int
    lows: tuple[np.ndarray, ...]
    highs: tuple[np.ndarray, ...]

    def block(self, level: int) -> int:
        """Return how many samples a block of a level covers."""
        return int(_BASE * _FACTOR**level)


def build(signal_mv: np.ndarray, fs_hz: float, leads: Sequence[str]) -> Pyramid:
    """Build the pyramid of a signal ``(leads, samples)`` in mV; it takes about an eighth of the signal's memory.

    The signal may be a memory map; it is read once, in pieces.
    """
    n = signal_mv.shape[1]
    blocks = math.ceil(n / _BASE)
    low = np.empty((signal_mv.shape[0], blocks), dtype=np.float32)
    high = np.empty_like(low)
    step = _BASE * 65_536
    for start in range(0, n, step):
        part = np.asarray(signal_mv[:, start : start + step], dtype=np.float32)
        first = start // _BASE
        count = math.ceil(part.shape[1] / _BASE)
        low[:, first : first + count], high[:, first : first + count] = _fold(part, part, _BASE)
    lows, highs = [low], [high]
    while lows[-1].shape[1] > 4 * _FACTOR:
        low, high = _fold(lows[-1], highs[-1], _FACTOR)
        lows.append(low)
        highs.append(high)
    return Pyramid(tuple(leads), fs_hz, n, tuple(lows), tuple(highs))


def _fold(low: np.ndarray, high: np.ndarray, by: int) -> tuple[np.ndarray, np.ndarray]:
    short = -low.shape[1] % by
    if short:
        low, high = (np.pad(one, ((0, 0), (0, short)), constant_values=np.nan) for one in (low, high))
    shape = (low.shape[0], -1, by)
    # fmin and fmax pass over NaN, and give NaN only where there is nothing else.
    return np.fmin.reduce(low.reshape(shape), axis=2), np.fmax.reduce(high.reshape(shape), axis=2)


def read(
    pyramid: Pyramid, signal_mv: np.ndarray, lead: str, t0_s: float, t1_s: float, max_points: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
    """Return times (s) and voltages (mV) of a lead between two times, at most about ``max_points`` of them.

    Peaks keep their height: of every block the minimum and the maximum are given, at the block's middle.
    """
    if lead not in pyramid.leads:
        raise InvalidInput(f"Lead {lead[:20]} is not in this record, which holds {', '.join(pyramid.leads)}.")
    if not (math.isfinite(t0_s) and math.isfinite(t1_s) and t1_s > t0_s):
        raise InvalidInput(f"A window needs an end after its start, not {t0_s} to {t1_s} s.")
    first = max(0, math.floor(t0_s * pyramid.fs_hz))
    stop = min(pyramid.n_samples, math.ceil(t1_s * pyramid.fs_hz) + 1)
    row = pyramid.leads.index(lead)
    if stop <= first:
        return np.empty(0), np.empty(0, dtype=np.float32)
    if stop - first <= max_points:
        return np.arange(first, stop) / pyramid.fs_hz, np.asarray(signal_mv[row, first:stop], dtype=np.float32)
    # The finest level that stays within the points; between the samples and the first level, samples are folded here.
    level = next(
        (k for k in range(len(pyramid.lows)) if 2 * (stop - first) / pyramid.block(k) <= max_points),
        len(pyramid.lows) - 1,
    )
    block = pyramid.block(level)
    if level == 0:
        by = math.ceil(2 * (stop - first) / max_points)
        part = np.asarray(signal_mv[row : row + 1, first:stop], dtype=np.float32)
        low, high = (one[0] for one in _fold(part, part, by))
        return _zigzag(low, high, first, by, pyramid.fs_hz, stop)
    a, b = first // block, math.ceil(stop / block)
    return _zigzag(
        pyramid.lows[level][row, a:b],
        pyramid.highs[level][row, a:b],
        a * block,
        block,
        pyramid.fs_hz,
        pyramid.n_samples,
    )


def _zigzag(
    low: np.ndarray, high: np.ndarray, first: int, block: int, fs_hz: float, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lay minimum and maximum of each block after each other, at a third and two thirds of the block."""
    left = first + np.arange(low.size) * block
    width = np.minimum(block, stop - left)
    t_s = np.column_stack([left + width / 3, left + 2 * width / 3]).ravel() / fs_hz
    return t_s, np.column_stack([low, high]).ravel()


def overview_plotly(
    pyramid: Pyramid,
    signal_mv: np.ndarray,
    lead: str,
    window_s: tuple[float, float],
    *,
    dark: bool = False,
    paper_name: str = "pink",
    shown_s: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Return the overview strip of a record with the visible window shaded: ``{"data", "layout"}``.

    shown_s: the part of the record on the strip; None for all of it. Axes are real units (s, mV);
    ``layout.meta`` holds the lead, the window and the record's length.
    """
    colours = paper(paper_name, dark)
    whole_s = pyramid.n_samples / pyramid.fs_hz
    first_s, last_s = shown_s or (0.0, whole_s)
    t_s, mv = read(pyramid, signal_mv, lead, first_s, last_s, 3000)
    places = _clock_ticks(first_s, last_s)
    title = f"Overview, lead {lead}"
    layout = charts.layout(
        title, "time from the start (h:min:s)", "voltage (mV)", dark, uirevision=f"overview-{lead}-{first_s}-{last_s}", height=150, showlegend=False,
        margin={"l": 56, "r": 8, "t": 28, "b": 40}, dragmode="zoom", hovermode="x",
        x={"range": [first_s, last_s], "tickvals": places, "ticktext": [clock(t) for t in places]}, y={"fixedrange": True},
        shapes=[{
            "type": "rect", "x0": window_s[0], "x1": window_s[1], "y0": 0, "y1": 1, "yref": "paper", "fillcolor": colours.mark,
            "opacity": 0.25, "line": {"color": colours.mark, "width": 2}, "name": "window",
        }],
        paper_bgcolor=colours.ground, plot_bgcolor=colours.ground, meta={"lead": lead, "window_s": list(window_s), "duration_s": whole_s},
    )  # fmt: skip
    trace = {
        "type": "scatter", "mode": "lines", "name": lead, "x": typed(t_s), "y": typed(mv), "line": {"color": colours.trace, "width": 1},
        "hovertemplate": "%{x:.1f} s<extra></extra>",
    }  # fmt: skip
    return {"data": [trace], "layout": layout}


_TICK_STEPS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)


def _clock_ticks(first_s: float, last_s: float) -> list[float]:
    """Return at most eight round times between two times."""
    step = next((one for one in _TICK_STEPS_S if (last_s - first_s) / one <= 8), _TICK_STEPS_S[-1])
    return [float(k * step) for k in range(math.ceil(first_s / step), math.floor(last_s / step) + 1)]
