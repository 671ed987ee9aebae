"""What stands around the traces in words: header, strip line, and the text alternative of an ECG figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from datasets.ecg import LEADS_12, Record
from viz.figures.view import LAYOUTS, View

FOOTER = "Research use, not a medical device. Unconfirmed: requires physician over-read."

# Samples of each lead that are looked at to tell flat and empty leads.
_LOOKED_AT = 100_000
_SEX = {"F": "female", "M": "male", "f": "female", "m": "male"}


def header_columns(record: Record, view: View, header: Mapping[str, Any]) -> list[list[tuple[str, bool]]]:
    """Return three columns of header lines, each ``(words, bold)``.

    header keys, all optional: ``record`` (id), ``subject`` (key, never a name), ``recorded_at``, ``age`` (years),
    ``sex``, ``format``, ``quality`` (list of sentences), ``measurements`` (the JSON form of
    :class:`datasets.measure.measure.Measurements`), ``statements`` (list of sentences), ``model``
    (one line naming model, version, recipe and threshold). What is absent is written "unknown".
    """
    subject = header.get("subject") or record.meta.subject
    at = header.get("recorded_at") or record.meta.recorded_at
    age = header.get("age") if header.get("age") is not None else record.meta.age
    sex = header.get("sex") or record.meta.sex
    first = [
        (f"Record {header.get('record') or 'without id'}", True),
        (f"Subject {subject or 'unknown'}", False),
        (f"Recorded {at or 'at unknown time'}", False),
        (f"Age {_years(age)}, sex {_SEX.get(str(sex), str(sex)) if sex else 'unknown'}", False),
        (f"{record.fs_hz:g} Hz, {_length(record.duration_s)}, format {header.get('format') or 'unknown'}", False),
    ]
    third = [("Signal", True), (_missing_line(record), False)]
    third += [(str(line), False) for line in list(header.get("quality") or ())[:2]]
    statements = [str(line) for line in list(header.get("statements") or ())[:2]]
    if header.get("model"):
        third.append((str(header["model"]), False))
    third += [(line, False) for line in statements]
    return [first, _measured(header.get("measurements")), third]


def strip_line(record: Record, view: View) -> str:
    """Return the fixed line under the paper: speed, gain, filters, sampling rate, layout and what is shown."""
    from viz.figures.paper import view_start_s

    start_s = view_start_s(record, view)
    end_s = min(record.duration_s, start_s + view.window_s)
    return (
        f"{view.speed_mm_s:g} mm/s · {view.gain_mm_mv:g} mm/mV · {view.filters.label(record.fs_hz)} · "
        f"{record.fs_hz:g} Hz · {LAYOUTS[view.layout].title} · {_stretch(start_s, end_s)} of {_length(record.duration_s)}"
    )


def summary(record: Record, measurements: Any = None, *, view: View | None = None) -> str:
    """Return the text alternative of an ECG figure: leads, duration, rate, intervals, and what could not be measured.

    measurements: a ``Measurements`` or its JSON form, or None.
    """
    told = _as_mapping(measurements)
    missing = [name for name in LEADS_12 if name not in record.leads]
    empty, flat = _bad_leads(record)
    parts = [
        f"ECG of {_length(record.duration_s)} at {record.fs_hz:g} Hz with {len(record.leads)} leads: {', '.join(record.leads)}."
    ]
    if missing:
        parts.append(f"Not recorded: {', '.join(missing)}.")
    if record.computed:
        parts.append(f"Computed from others: {', '.join(record.computed)}.")
    if empty:
        parts.append(f"Without samples: {', '.join(empty)}.")
    if flat:
        parts.append(f"Flat: {', '.join(flat)}.")
    if view is not None:
        parts.append(
            f"Shown as {LAYOUTS[view.layout].title} at {view.speed_mm_s:g} mm/s and {view.gain_mm_mv:g} mm/mV, "
            f"{view.filters.label(record.fs_hz)}."
        )
    if told:
        parts += _measured_sentences(told)
    return " ".join(parts)


def _measured(measurements: Any) -> list[tuple[str, bool]]:
    told = _as_mapping(measurements)
    if not told:
        return [("Measurements", True), ("not measured", False)]
    qtc = told.get("qtc_ms") or {}
    axis = told.get("axis_deg") or {}
    bazett, fridericia = _show(qtc.get("bazett")), _show(qtc.get("fridericia"))
    return [
        (f"Rate {_show(told.get('heart_rate_bpm'), '/min')}", True),
        (f"PR {_show(told.get('pr_ms'), 'ms')} · QRS {_show(told.get('qrs_ms'), 'ms')}", False),
        (f"QT {_show(told.get('qt_ms'), 'ms')}", False),
        (f"QTc {bazett} Bazett, {fridericia} Fridericia (ms)", False),
        (f"Axes P {_show(axis.get('p'))}, QRS {_show(axis.get('qrs'))}, T {_show(axis.get('t'))} (degrees)", False),
    ]


_FIELD_NAMES = (
    ("heart_rate_bpm", "heart rate", "beats per minute"),
    ("pr_ms", "PR", "ms"),
    ("qrs_ms", "QRS", "ms"),
    ("qt_ms", "QT", "ms"),
)


def _measured_sentences(told: Mapping[str, Any]) -> list[str]:
    given = [f"{name} {told[key]:.0f} {unit}" for key, name, unit in _FIELD_NAMES if told.get(key) is not None]
    qtc = told.get("qtc_ms") or {}
    given += [f"QTc {name.capitalize()} {value:.0f} ms" for name, value in qtc.items() if value is not None]
    out = [f"Measured: {', '.join(given)}."] if given else []
    reasons = told.get("reasons") or {}
    named = {key: name for key, name, _ in _FIELD_NAMES}
    out += [
        f"{named[key][0].upper() + named[key][1:]} could not be measured: {why}"
        for key, why in reasons.items()
        if key in named
    ]
    if told.get("method"):
        out.append(f"Method: {told['method']}")
    return out


def _as_mapping(measurements: Any) -> Mapping[str, Any]:
    if measurements is None:
        return {}
    return measurements if isinstance(measurements, Mapping) else measurements.to_json()


def _show(value: float | None, unit: str = "") -> str:
    return "not measured" if value is None and unit else "–" if value is None else f"{value:.0f} {unit}".strip()


def _years(age: Any) -> str:
    return "unknown" if age is None else f"{float(age):g}"


def _length(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.4g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _stretch(start_s: float, end_s: float) -> str:
    if end_s < 600:
        return f"{round(start_s, 2):g}–{round(end_s, 2):g} s"
    return f"{clock(start_s)}–{clock(end_s)}"


def clock(seconds: float) -> str:
    """Write a time as hours, minutes and seconds, the way recordings of hours are read."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _missing_line(record: Record) -> str:
    missing = [name for name in LEADS_12 if name not in record.leads]
    return f"Leads not recorded: {', '.join(missing)}" if missing else "All 12 leads recorded or computed"


def _bad_leads(record: Record) -> tuple[list[str], list[str]]:
    part = record.signal
    if record.n_samples > _LOOKED_AT:
        # Long records are judged on stretches spread over them, so that most of the file is not read.
        starts = np.linspace(0, record.n_samples - 2000, _LOOKED_AT // 2000).astype(int)
        part = np.concatenate([record.signal[:, k : k + 2000] for k in starts.tolist()], axis=1)
    finite = np.isfinite(part)
    empty = [name for name, any_ in zip(record.leads, finite.any(axis=1), strict=True) if not any_]
    low = np.where(finite, part, np.inf).min(axis=1)
    high = np.where(finite, part, -np.inf).max(axis=1)
    flat = [name for name, a, b in zip(record.leads, low, high, strict=True) if b >= a and b - a < 1e-4]
    return empty, flat if record.n_samples > 1 else []
