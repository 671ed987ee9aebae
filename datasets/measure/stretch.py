"""Measurements of a stretch of a long recording, in the recording's own time."""

from __future__ import annotations

from dataclasses import replace

from datasets.ecg import Record
from datasets.measure.measure import Measurements, measure

# Longer recordings are measured stretch by stretch: one number for a day says little, and costs minutes.
WHOLE_S = 600.0
STRETCH_S = 60.0


def measure_at(record: Record, start_s: float = 0.0) -> Measurements:
    """Measure a record, or one minute of a record of more than ten.

    start_s: where that minute begins; moved into the record where needed. Times are seconds from the
    record's start, and ``method`` names the minute.
    """
    if record.duration_s <= WHOLE_S:
        return measure(record)
    first = round(max(0.0, min(start_s, record.duration_s - STRETCH_S)) * record.fs_hz)
    stop = min(record.n_samples, first + round(STRETCH_S * record.fs_hz))
    found = measure(replace(record, signal=record.signal[:, first:stop].copy()))
    shift_s = first / record.fs_hz
    return replace(
        found,
        r_peaks_s=tuple(round(t + shift_s, 5) for t in found.r_peaks_s),
        fiducials=tuple(
            {key: None if t is None else round(t + shift_s, 5) for key, t in beat.items()} for beat in found.fiducials
        ),
        method=f"{found.method} Measured on {shift_s:g} to {stop / record.fs_hz:g} s of {record.duration_s:g} s.",
    )
