"""A record in a few numbers and the shape of its beat, for distributions, outliers and maps of a dataset."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from datasets.ecg import Record
from datasets.measure.measure import Measurements, measure

# Raised when any number below is computed in another way: stored features of an older version are made again.
VERSION = 1
# The eight leads from which the other four of the twelve follow.
SHAPE_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
SHAPE_POINTS = 50
_BEFORE_S, _AFTER_S = 0.25, 0.45


@dataclass(frozen=True)
class Feature:
    """One number of a record. width: of a bar of its distribution, in ``unit``."""

    name: str
    title: str
    unit: str
    width: float


FEATURES = {
    one.name: one
    for one in (
        Feature("heart_rate_bpm", "Heart rate", "bpm", 5.0),
        Feature("rr_sd_ms", "RR variability (SD)", "ms", 20.0),
        Feature("pr_ms", "PR interval", "ms", 10.0),
        Feature("qrs_ms", "QRS duration", "ms", 5.0),
        Feature("qt_ms", "QT interval", "ms", 20.0),
        Feature("qtc_ms", "QTc (Fridericia)", "ms", 10.0),
        Feature("axis_deg", "QRS axis", "°", 15.0),
        Feature("amplitude_mv", "Largest QRS, peak to peak", "mV", 0.25),
        Feature("noise_mv", "Noise between beats", "mV", 0.005),
    )
}


@dataclass(frozen=True)
class Features:
    """values: by name of ``FEATURES``, None where it could not be measured; reason: why no beat was measured, or empty.

    shape: float16 ``(8, 50)``, the median beat of ``SHAPE_LEADS`` in mV from 0.25 s before to 0.45 s after its R peak;
    zero where a lead was not recorded; None without a median beat.
    """

    values: dict[str, float | None]
    shape: np.ndarray | None = field(default=None, repr=False)
    reason: str = ""


def features(record: Record, noise_mv: float | None = None) -> Features:
    """Measure one record. noise_mv: the noise of its leads as the quality report has it."""
    found = measure(record)
    rr = found.rr_ms or {}
    values: dict[str, float | None] = {
        "heart_rate_bpm": found.heart_rate_bpm, "rr_sd_ms": rr.get("sd"), "pr_ms": found.pr_ms, "qrs_ms": found.qrs_ms,
        "qt_ms": found.qt_ms, "qtc_ms": found.qtc_ms.get("fridericia"), "axis_deg": found.axis_deg.get("qrs"),
        "amplitude_mv": None, "noise_mv": noise_mv,
    }  # fmt: skip
    if found.median_beat is not None:
        rows = np.nan_to_num(np.asarray(found.median_beat["mv"], dtype=np.float32))
        values["amplitude_mv"] = round(float(np.ptp(rows, axis=1).max()), 3)
    shape = _shape(found)
    why = "" if found.median_beat else found.reasons.get("qrs_ms") or found.reasons.get("heart_rate_bpm", "")
    return Features({name: values[name] for name in FEATURES}, shape, why)


def _shape(found: Measurements) -> np.ndarray | None:
    beat = found.median_beat
    if beat is None:
        return None
    rows = np.asarray(beat["mv"], dtype=np.float32)
    time_s = np.arange(rows.shape[1]) / beat["fs_hz"] - beat["before_s"]
    grid = np.linspace(-_BEFORE_S, _AFTER_S, SHAPE_POINTS)
    shape = np.zeros((len(SHAPE_LEADS), SHAPE_POINTS), dtype=np.float16)
    for place, name in enumerate(SHAPE_LEADS):
        if name in beat["leads"]:
            row = np.nan_to_num(rows[beat["leads"].index(name)])
            # Beyond what fits, the beat is at rest.
            shape[place] = np.clip(np.interp(grid, time_s, row, left=0.0, right=0.0), -60.0, 60.0)
    return shape
