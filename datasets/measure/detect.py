"""R peaks from all leads at once.

The slope energy of all leads in the QRS band is added up, so that one noisy or missing
lead neither hides nor invents beats. In the line of Pan and Tompkins 1985
(doi 10.1109/TBME.1985.325532), without its causal filters: nothing is delayed.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from scipy import ndimage
from scipy import signal as sps

from datasets.measure.spikes import pacing_spikes, without_spikes

_BAND_HZ = (6.0, 22.0)
_SMOOTH_S = 0.09
_REFRACTORY_S = 0.22
# Below this slope energy, as an amplitude in the QRS band, nothing is called a beat.
_FLOOR_MV = 0.015
# A beat's slope energy over the record's median: the least of one beat, and the least of the median beat.
_LEAST_CONTRAST, _LEAST_USUAL_CONTRAST = 2.2, 2.4
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
    x = filled(signal_mv[usable])
    energy = _stretch(_slope_energy(_coarse(x, fs_hz), fs_hz / _stride(fs_hz)), x.shape[1], _stride(fs_hz))
    distance = max(1, int(_REFRACTORY_S * fs_hz))
    peaks, _ = sps.find_peaks(np.pad(energy, 1), distance=distance)
    peaks = peaks - 1
    if not peaks.size:
        return nothing
    chosen = _choose(peaks, energy, fs_hz)
    if not chosen.size:
        return nothing
    return _refine(chosen, without_spikes(x, fs_hz, pacing_spikes(x, fs_hz, chosen)), fs_hz)


@lru_cache(maxsize=32)
def _band_pass(fs_hz: float) -> np.ndarray:
    nyquist = fs_hz / 2
    return sps.butter(2, [_BAND_HZ[0] / nyquist, min(_BAND_HZ[1] / nyquist, 0.95)], "bandpass", output="sos")


def _stride(fs_hz: float) -> int:
    """The QRS band needs no more than 200 samples a second."""
    return max(1, int(fs_hz // 200))


def _coarse(x: np.ndarray, fs_hz: float) -> np.ndarray:
    """Average neighbouring samples down to about 200 Hz."""
    stride = _stride(fs_hz)
    n = x.shape[1] // stride
    return x[:, : n * stride].reshape(x.shape[0], n, stride).mean(axis=2)


def _stretch(coarse: np.ndarray, n: int, stride: int) -> np.ndarray:
    """Bring a coarse curve back to ``n`` samples, each value at the middle of the samples it stands for."""
    if stride == 1:
        return coarse
    return np.interp(np.arange(n), np.arange(coarse.size) * stride + (stride - 1) / 2, coarse)


def _slope_energy(x: np.ndarray, fs_hz: float) -> np.ndarray:
    """Return the smoothed slope energy of all leads, in mV of the QRS band."""
    sos = _band_pass(fs_hz)
    x = x - np.median(x, axis=1, keepdims=True)
    pad = min(x.shape[1] - 1, int(fs_hz))
    band = sps.sosfiltfilt(sos, x, axis=1, padtype="odd", padlen=pad)
    scale = np.percentile(np.abs(band), 98, axis=1)
    usual = max(float(np.median(scale)), 1e-6)
    # A lead of excessive amplitude is turned down to the usual one; small leads stay small.
    band *= np.minimum(1.0, usual / np.maximum(scale, 1e-9))[:, None]
    slope = np.gradient(band, axis=1) * (fs_hz / (2 * np.pi * 12.0))
    width = max(3, int(_SMOOTH_S * fs_hz) | 1)
    power = ndimage.uniform_filter1d((slope**2).mean(axis=0), width, mode="nearest")
    return np.sqrt(np.maximum(power, 0))


def _choose(peaks: np.ndarray, energy: np.ndarray, fs_hz: float) -> np.ndarray:
    heights = energy[peaks]
    reference = _local_reference(peaks, heights, fs_hz)
    usual = float(np.median(energy))
    floor = max(_FLOOR_MV, _LEAST_CONTRAST * usual)
    accepted = (heights > 0.35 * reference) & (heights > floor)
    if not accepted.any() or float(np.median(heights[accepted])) < _LEAST_USUAL_CONTRAST * usual:
        return np.empty(0, dtype=np.int64)
    chosen = _drop_t_waves(peaks[accepted], energy, fs_hz)
    return _search_back(chosen, peaks, heights, reference, floor, fs_hz)


def _local_reference(peaks: np.ndarray, heights: np.ndarray, fs_hz: float) -> np.ndarray:
    """Return for each candidate the usual height of the beats around it: the median of the one-per-second maxima."""
    seconds = (peaks / fs_hz).astype(int)
    per_second = np.zeros(seconds[-1] + 1)
    np.maximum.at(per_second, seconds, heights)
    out = np.empty(heights.size)
    for second in np.unique(seconds):
        around = per_second[max(0, second - 5) : second + 6]
        around = np.sort(around[around > 0])
        # Well above the middle: in slow rhythms many seconds hold no beat.
        out[seconds == second] = around[int(0.7 * (around.size - 1) + 0.5)]
    return out


def _drop_t_waves(chosen: np.ndarray, energy: np.ndarray, fs_hz: float) -> np.ndarray:
    """Drop candidates that follow a beat within 360 ms with less than half of its slope energy."""
    kept: list[int] = []
    for peak in chosen.tolist():
        if kept and peak - kept[-1] < 0.36 * fs_hz and energy[peak] < 0.5 * energy[kept[-1]]:
            continue
        if kept and peak - kept[-1] < 0.36 * fs_hz and energy[kept[-1]] < 0.5 * energy[peak] and len(kept) > 1:
            # The smaller one came first: a P wave or noise before a beat.
            kept.pop()
        kept.append(peak)
    return np.array(kept, dtype=np.int64)


def _search_back(
    chosen: np.ndarray, peaks: np.ndarray, heights: np.ndarray, reference: np.ndarray, floor: float, fs_hz: float
) -> np.ndarray:
    """Look again, with a lower threshold, into pauses longer than 1.7 usual intervals."""
    if chosen.size < 3:
        return chosen
    usual = float(np.median(np.diff(chosen)))
    added = []
    for left, right in pairwise(chosen.tolist()):
        if right - left < 1.7 * usual:
            continue
        # Later than a T wave's steepest slope.
        inside = (peaks > left + 0.42 * fs_hz) & (peaks < right - 0.36 * fs_hz)
        inside &= (heights > 0.22 * reference) & (heights > 0.7 * floor)
        if inside.any():
            added.append(int(peaks[inside][np.argmax(heights[inside])]))
    return np.sort(np.concatenate([chosen, np.array(added, dtype=np.int64)])) if added else chosen


def _refine(chosen: np.ndarray, x: np.ndarray, fs_hz: float) -> np.ndarray:
    """Move each beat to the greatest RMS of the leads within 70 ms, above the level 250 ms around it."""
    reach, around = max(1, int(0.07 * fs_hz)), max(2, int(0.25 * fs_hz))
    n = x.shape[1]
    out = []
    for k in chosen.tolist():
        first, last = max(0, k - reach), min(n, k + reach + 1)
        level = np.median(x[:, max(0, k - around) : k + around : max(1, int(fs_hz // 100))], axis=1, keepdims=True)
        out.append(first + int(np.argmax(((x[:, first:last] - level) ** 2).sum(axis=0))))
    return np.unique(np.array(out, dtype=np.int64))
