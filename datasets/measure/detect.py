"""R peaks from all leads at once, for measurements: which leads to read, pieces of long records, when there are none."""

from __future__ import annotations

import numpy as np

from datasets.beats import find_standing_out, refine
from datasets.measure.spikes import pacing_spikes, without_spikes

# Closer beats are one.
_REFRACTORY_S = 0.22
# The steepness of the median beat over the record's median: below it nothing is called a beat.
_LEAST_CONTRAST = 2.4
_CHUNK_S = 600.0
_OVERLAP_S = 10.0


def detect_r_peaks(signal_mv: np.ndarray, fs_hz: float, usable: np.ndarray | None = None) -> np.ndarray:
    """Return the sample numbers of the R peaks, int64, ascending.

    signal_mv: ``(leads, samples)`` millivolt, NaN where nothing was recorded; usable: which rows to read, as
    :func:`usable_leads` gives it (a long record is judged again in each piece). Empty when no beat
    stands out: a flat or empty record, noise, or less than half a second of signal.
    """
    n = signal_mv.shape[1]
    step, overlap = int(_CHUNK_S * fs_hz), int(_OVERLAP_S * fs_hz)
    if n <= step + overlap:
        return _detect(signal_mv, fs_hz, usable)
    found = []
    for start in range(0, n, step):
        left, stop = max(0, start - overlap), min(n, start + step)
        peaks = _detect(signal_mv[:, left : min(n, stop + overlap)], fs_hz) + left
        found.append(peaks[(peaks >= start) & (peaks < stop)])
    peaks = np.concatenate(found)
    keep = np.ones(peaks.size, dtype=bool)
    keep[1:] = np.diff(peaks) > _REFRACTORY_S * fs_hz
    return peaks[keep]


def usable_leads(signal_mv: np.ndarray) -> np.ndarray:
    """Return which rows carry signal: at least half of the samples present, not flat, and not far noisier than the others.

    Noise is the median size of the second difference, which R peaks hardly move. A row is left out when it
    passes six times the rows' median by more than 0.02 mV, and only where three rows or more carry signal.
    """
    finite = np.isfinite(signal_mv)
    enough = finite.mean(axis=1) >= 0.5
    whole = bool(finite.all())
    low = (signal_mv if whole else np.where(finite, signal_mv, np.inf)).min(axis=1)
    high = (signal_mv if whole else np.where(finite, signal_mv, -np.inf)).max(axis=1)
    good = enough & (high - low > 1e-3)
    if good.sum() >= 3 and signal_mv.shape[1] >= 3:
        # A thousand places tell the noise as well as all of them.
        at = np.arange(1, signal_mv.shape[1] - 1, max(1, signal_mv.shape[1] // 1000))
        rows = signal_mv[good]
        bend = np.abs(rows[:, at + 1] - 2 * rows[:, at] + rows[:, at - 1])
        noise = np.array(
            [float(np.median(row)) if row.size else 0.0 for row in (one[np.isfinite(one)] for one in bend)]
        )
        good[np.flatnonzero(good)[noise > 6 * np.median(noise) + 0.02]] = False
    return good


def filled(signal_mv: np.ndarray) -> np.ndarray:
    """Return a float64 copy with gaps bridged linearly; rows without samples become zero."""
    out = np.array(signal_mv, dtype=np.float64)
    for k in np.flatnonzero(~np.isfinite(out).all(axis=1)):
        row = out[k]
        gaps = ~np.isfinite(row)
        at = np.arange(row.size)
        row[gaps] = 0.0 if gaps.all() else np.interp(at[gaps], at[~gaps], row[~gaps])
    return out


def _detect(signal_mv: np.ndarray, fs_hz: float, usable: np.ndarray | None = None) -> np.ndarray:
    nothing = np.empty(0, dtype=np.int64)
    if signal_mv.shape[1] < 0.5 * fs_hz or fs_hz < 50:
        return nothing
    if usable is None:
        usable = usable_leads(signal_mv)
    if not usable.any():
        return nothing
    x = filled(signal_mv[usable]).astype(np.float32)
    times_s = find_standing_out(x, fs_hz, _LEAST_CONTRAST)
    if not times_s.size:
        return nothing
    spikes = pacing_spikes(x, fs_hz, np.rint(times_s * fs_hz).astype(np.int64))
    return refine(without_spikes(x, fs_hz, spikes), fs_hz, times_s)
