"""Beats on top of each other: all beats of a lead aligned at their R peaks, and the median beat of every lead."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datasets.ecg import Record
from ecgportal.errors import InvalidInput
from viz.figures import charts
from viz.figures.figure import Figure, figure, typed
from viz.figures.palette import theme

_MOST_BEATS, _MOST_BEATS_A_LEAD = 120, 24
_BOUNDARIES = ("p_on_s", "p_off_s", "qrs_on_s", "qrs_off_s", "t_on_s", "t_off_s")
_WAVE_COLOUR = {"p": 0, "qrs": 1, "t": 2}


def aligned_beats(
    record: Record, lead: str, r_peaks_s: Sequence[float], before_s: float = 0.35, after_s: float = 0.6
) -> tuple[np.ndarray, np.ndarray]:
    """Return times from the R peak (s) and the beats of a lead, ``(beats, samples)`` mV; NaN outside the record."""
    if lead not in record.leads:
        raise InvalidInput(f"Lead {lead[:20]} is not in this record, which holds {', '.join(record.leads)}.")
    before, after = round(before_s * record.fs_hz), round(after_s * record.fs_hz)
    offsets = np.arange(-before, after + 1)
    at = np.rint(np.asarray(r_peaks_s, dtype=float) * record.fs_hz).astype(np.int64)[:, None] + offsets
    inside = (at >= 0) & (at < record.n_samples)
    row = record.lead(lead)
    return offsets / record.fs_hz, np.where(inside, row[np.clip(at, 0, record.n_samples - 1)], np.nan)


@figure("aligned_beats")
def aligned_beats_figure(
    record: Record,
    measurements: Mapping[str, Any],
    *,
    lead: str | None = None,
    dark: bool = False,
    title: str = "Beats aligned at the R peak",
) -> Figure:
    """Draw every beat of a lead over the others, with the median beat and its boundaries.

    measurements: JSON form of the record's measurements. lead: None takes II, else the first lead.
    """
    name = lead or ("II" if "II" in record.leads else record.leads[0])
    x_title, y_title = "time from the R peak (s)", f"lead {name} (mV)"
    heads: list[Any] = ["time from the R peak (s)", "median beat (mV)"]
    peaks = list(measurements.get("r_peaks_s") or ())
    if not peaks:
        why = (measurements.get("reasons") or {}).get("heart_rate_bpm") or "No R peak was found."
        return charts.empty(title, x_title, y_title, dark, f"beats-{name}", heads, why)
    kept = [peaks[k] for k in charts.thin(len(peaks), _MOST_BEATS)]
    t_s, beats = aligned_beats(record, name, kept)
    beat = measurements.get("median_beat")
    onset_s = (beat or {}).get("fiducials_s", {}).get("qrs_on_s")
    if onset_s is not None:
        # The same zero level as the median beat: just before the QRS.
        before = (t_s >= onset_s - 0.022) & (t_s <= onset_s - 0.002)
        if before.any():
            beats = beats - beats[:, before].mean(axis=1, keepdims=True)
            y_title = f"lead {name} above the level before the QRS (mV)"
    gap = np.full((len(kept), 1), np.nan)
    # All beats are one trace with gaps between them: a hundred traces would be slow to draw.
    data: list[dict[str, Any]] = [{
        "type": "scatter", "mode": "lines", "name": f"{len(kept)} beats", "x": typed(np.tile(np.append(t_s, np.nan), len(kept))),
        "y": typed(np.hstack([beats, gap]).ravel()), "line": {"color": theme(dark).quiet, "width": 1}, "opacity": 0.5, "hoverinfo": "skip",
    }]  # fmt: skip
    table: list[list[Any]] = [heads]
    told = [f"{len(kept)} of {len(peaks)} beats of lead {name} lie on top of each other."]
    shapes: list[dict[str, Any]] = []
    if beat and name in beat["leads"]:
        at, row = _median_row(beat, name)
        data.append(
            charts.curve(
                "median beat",
                at.tolist(),
                row.tolist(),
                0,
                dark,
                hovertemplate="%{x:.3f} s: %{y:.3f} mV<extra></extra>",
            )
        )
        table += [list(pair) for pair in zip(charts.numbers(at), charts.numbers(row), strict=True)]
        shapes = _boundary_lines(beat["fiducials_s"], dark)
        told.append(_boundaries_told(beat))
    if len(table) == 1:
        table += [[charts.number(t), None] for t in t_s]
    frame = charts.layout(title, x_title, y_title, dark, uirevision=f"beats-{name}", shapes=shapes)
    return Figure({"data": data, "layout": frame}, title, " ".join(told), table)


@figure("median_beats")
def median_beats_figure(
    measurements: Mapping[str, Any],
    *,
    record: Record | None = None,
    dark: bool = False,
    title: str = "Median beat per lead",
) -> Figure:
    """Draw the median beat of every lead in a grid of four columns at one common scale, with the wave boundaries.

    record: where given, its beats lie under the medians, aligned at their R peaks.
    """
    x_title, y_title = "time from the R peak (s)", "voltage (mV)"
    beat = measurements.get("median_beat")
    heads: list[Any] = ["time from the R peak (s)", *[f"{name} (mV)" for name in (beat or {}).get("leads", [])]]
    if not beat or not beat["leads"]:
        why = (measurements.get("reasons") or {}).get("qrs_ms") or "There is no median beat."
        return charts.empty(title, x_title, y_title, dark, "median-beats", heads, why)
    rows = [_median_row(beat, name)[1] for name in beat["leads"]]
    at = _median_row(beat, beat["leads"][0])[0]
    n_columns = min(4, len(rows))
    width, height = (at[-1] - at[0]) * 1.1, _pitch_mv(rows)
    data, notes = [], []
    shapes: list[dict[str, Any]] = []
    n_rows = math.ceil(len(rows) / n_columns)
    for k, (name, row) in enumerate(zip(beat["leads"], rows, strict=True)):
        # Down the columns, as on paper: I, II, III, then aVR, aVL, aVF.
        dx, dy = (k // n_rows) * width, -(k % n_rows) * height
        if record is not None and name in record.leads:
            data.append(_under(record, name, measurements, (dx, dy), dark))
        data.append({
            "type": "scatter", "mode": "lines", "name": charts.plain(name, 20), "showlegend": False, "x": charts.numbers(at + dx),
            "y": charts.numbers(row + dy), "customdata": [[charts.number(t, 4), charts.number(v, 4)] for t, v in zip(at, row, strict=True)],
            "line": {"color": theme(dark).ink, "width": 1.5},
            "hovertemplate": f"<b>{charts.plain(name, 20)}</b> %{{customdata[0]}} s, %{{customdata[1]}} mV<extra></extra>",
        })  # fmt: skip
        notes.append(
            {
                "x": at[0] + dx,
                "y": dy + 0.4 * height,
                "text": f"<b>{charts.plain(name, 20)}</b>",
                "showarrow": False,
                "xanchor": "left",
            }
        )
        for line in _boundary_lines(beat["fiducials_s"], dark):
            shapes.append(
                line
                | {
                    "x0": line["x0"] + dx,
                    "x1": line["x1"] + dx,
                    "y0": dy - 0.45 * height,
                    "y1": dy + 0.3 * height,
                    "yref": "y",
                }
            )
    table = [heads] + [charts.numbers([t, *values]) for t, *values in zip(at, *rows, strict=True)]
    x_title, y_title = f"{x_title}; columns are {width:.2f} s apart", f"{y_title}; rows are {height:.2f} mV apart"
    shown = {"showticklabels": False, "ticks": "", "showgrid": False}
    frame = charts.layout(
        title, x_title, y_title, dark, uirevision="median-beats", x=shown, y=shown, annotations=notes, shapes=shapes
    )
    frame["meta"] = {"pitch_s": width, "pitch_mv": height}
    told = f"Median of {beat['n_beats']} beats in {len(rows)} leads, all at one scale. {_boundaries_told(beat)}"
    return Figure({"data": data, "layout": frame}, title, told, table)


def _under(
    record: Record, lead: str, measurements: Mapping[str, Any], shift: tuple[float, float], dark: bool
) -> dict[str, Any]:
    """Return the beats of a lead as one faint trace, at the zero level of the median beat."""
    peaks = list(measurements["r_peaks_s"])
    beat = measurements["median_beat"]
    kept = [peaks[k] for k in charts.thin(len(peaks), _MOST_BEATS_A_LEAD)]
    t_s, beats = aligned_beats(
        record, lead, kept, beat["before_s"], len(beat["mv"][0]) / beat["fs_hz"] - beat["before_s"]
    )
    step = max(1, round(record.fs_hz / 125))
    beats = _levelled(t_s, beats, beat)[:, ::step]
    t_s = t_s[::step]
    gap = np.full((len(kept), 1), np.nan)
    return {
        "type": "scatter", "mode": "lines", "name": f"beats of {lead}", "showlegend": False, "hoverinfo": "skip",
        "x": typed(np.tile(np.append(t_s, np.nan), len(kept)) + shift[0]), "y": typed(np.hstack([beats, gap]).ravel() + shift[1]),
        "line": {"color": theme(dark).quiet, "width": 0.6}, "opacity": 0.45,
    }  # fmt: skip


def _levelled(t_s: np.ndarray, beats: np.ndarray, beat: Mapping[str, Any]) -> np.ndarray:
    """Return the beats above their level just before the QRS, where the median beat says when it begins."""
    onset_s = beat["fiducials_s"].get("qrs_on_s")
    if onset_s is None:
        return beats
    before = (t_s >= onset_s - 0.022) & (t_s <= onset_s - 0.002)
    return beats - beats[:, before].mean(axis=1, keepdims=True) if before.any() else beats


def _pitch_mv(rows: list[np.ndarray]) -> float:
    spans = [float(np.nanmax(row) - np.nanmin(row)) for row in rows if np.isfinite(row).any()]
    return max(1.0, 1.1 * max(spans, default=1.0))


def _median_row(beat: Mapping[str, Any], lead: str) -> tuple[np.ndarray, np.ndarray]:
    row = np.array([np.nan if v is None else v for v in beat["mv"][beat["leads"].index(lead)]], dtype=float)
    return np.arange(row.size) / beat["fs_hz"] - beat["before_s"], row


def _boundary_lines(marks: Mapping[str, float], dark: bool) -> list[dict[str, Any]]:
    return [
        {
            "type": "line", "x0": marks[key], "x1": marks[key], "y0": 0, "y1": 1, "yref": "paper", "name": key,
            "line": {"color": charts.colour(_WAVE_COLOUR[key.split("_")[0]], dark), "width": 1, "dash": "dash" if "_on_" in key else "dot"},
        }
        for key in _BOUNDARIES
        if key in marks
    ]  # fmt: skip


def _boundaries_told(beat: Mapping[str, Any]) -> str:
    marks = beat["fiducials_s"]
    parts = []
    for wave in ("p", "qrs", "t"):
        on, off = marks.get(f"{wave}_on_s"), marks.get(f"{wave}_off_s")
        if on is not None and off is not None:
            parts.append(f"{wave.upper()} from {1000 * on:.0f} to {1000 * off:.0f} ms")
    return f"Boundaries from the R peak: {', '.join(parts)}." if parts else "No wave boundaries were found."
