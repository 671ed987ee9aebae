"""Find QRS complexes over all leads together."""

from __future__ import annotations

import numpy as np

from datasets.preprocess._gaps import bridge
from datasets.preprocess._polyphase import resample
from datasets.running import median, running_max, running_mean

WORK_HZ = 100.0
_REFRACTORY_S = 0.24
_T_WAVE_S, _T_WAVE_SHARE = 0.40, 0.55
_EARLY_S, _EARLY_SHARE = 0.32, 0.75


def _energy(work: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
    """Return the steepness of the signal over all leads, float32 ``(samples at 100 Hz,)`` in mV per 20 ms.

    work: the signal at 100 Hz. Each lead counts with at most the steepness of a large QRS, so one lead with artefacts
    does not hide the others.
    """
    if work.shape[1] < 5:
        return np.zeros(work.shape[1], dtype=np.float32)
    slope = np.zeros_like(work)
    slope[:, 1:-1] = np.abs(work[:, 2:] - work[:, :-2])
    usual = _quantile(slope, 0.98)
    np.minimum(slope, 2.0 * np.maximum(usual, 1e-4), out=slope)
    level = float(median(usual[:, 0]))
    weight = 1 / np.maximum(usual, level * 0.5 + 1e-6)
    if missing is not None:
        weight = np.where(missing.mean(axis=1, keepdims=True) < 0.5, weight, 0)
    slope *= weight
    energy = np.sqrt(np.einsum("ij,ij->j", slope, slope) / len(slope)) * level
    return running_mean(energy.astype(np.float32), 9)


def _quantile(values: np.ndarray, share: float) -> np.ndarray:
    """Return each row's quantile ``(rows, 1)``, by the nearest place; long rows are thinned."""
    thin = values[:, :: max(1, values.shape[1] // 1000)]
    place = int(share * (thin.shape[1] - 1))
    return np.partition(thin, place, axis=1)[:, place : place + 1]


def find_r_peaks(signal: np.ndarray, fs_hz: float, slow: np.ndarray | None = None) -> np.ndarray:
    """Return the places of the QRS complexes as sample indices, int64 ascending; empty when there are none.

    A peak is where the leads together are farthest from their level around the beat. The method: slope over all leads
    at 100 Hz, smoothed over 90 ms, against a threshold from the record itself (after J. Pan and W. J. Tompkins, IEEE
    Trans Biomed Eng 1985;32:230-236), refractory time of 240 ms, small waves within 400 ms of a larger one left out.
    ``signal``: float32 mV ``(leads, samples)``; NaN allowed. ``slow``: the same at 100 Hz, where it is at hand.
    """
    if not len(signal):
        return np.zeros(0, dtype=np.int64)
    signal, missing = bridge(np.asarray(signal, dtype=np.float32))
    energy = _energy(resample(signal, fs_hz, WORK_HZ) if slow is None else slow, missing)
    return refine(signal, fs_hz, _candidates(energy) / WORK_HZ)


def find_standing_out(signal: np.ndarray, fs_hz: float, least_contrast: float) -> np.ndarray:
    """Return the times in s of the QRS complexes; none when the median one is less than ``least_contrast`` times as steep
    as the record's median.

    ``signal``: float32 mV ``(leads, samples)`` without gaps. What has no beats (noise, a slow wave) stays below 2.
    """
    energy = _energy(resample(signal, fs_hz, WORK_HZ), None)
    places = _candidates(energy)
    if not places.size or float(median(energy[places])) < least_contrast * float(median(energy)):
        return np.zeros(0)
    return places / WORK_HZ


def _candidates(energy: np.ndarray) -> np.ndarray:
    """Return the samples at 100 Hz at which the steepness of all leads says that QRS complexes lie, ascending."""
    if len(energy) < 30 or not energy.any():
        return np.zeros(0, dtype=np.int64)
    # The typical QRS: median of the largest value of each 1.5 s, which nearly always holds one.
    width = min(len(energy), int(1.5 * WORK_HZ))
    cells = energy[: len(energy) // width * width].reshape(-1, width).max(axis=1)
    typical, usual = float(median(cells)), float(median(energy))
    floor = max(0.35 * typical, 3.0 * usual if typical > 4 * usual else 0.0, 0.005)
    span = 2 * int(_REFRACTORY_S / 2 * WORK_HZ) + 1
    top = np.flatnonzero((energy == running_max(energy, span)) & (energy >= floor))
    return _without_t_waves(top, energy)


def _share_needed(samples: int) -> float:
    """Return how steep, against the complex before it, a wave must be to count as one: the sooner it comes, the steeper.

    The T wave of a paced beat can be more than half as steep; the beats of a tachycardia are all alike.
    """
    return _EARLY_SHARE if samples < _EARLY_S * WORK_HZ else _T_WAVE_SHARE


def _without_t_waves(places: np.ndarray, energy: np.ndarray) -> np.ndarray:
    kept: list[int] = []
    for place in places.tolist():
        if kept and place - kept[-1] < _T_WAVE_S * WORK_HZ:
            before = energy[kept[-1]]
            if place - kept[-1] < _REFRACTORY_S * WORK_HZ or energy[place] < _share_needed(place - kept[-1]) * before:
                if energy[place] > before:
                    kept[-1] = place
                continue
            if energy[place] > before / 0.40:
                kept[-1] = place
                continue
        kept.append(place)
    return np.array(kept, dtype=np.int64)


def refine(signal: np.ndarray, fs_hz: float, times_s: np.ndarray) -> np.ndarray:
    """Move each place to the largest spatial deflection within 70 ms, at the signal's own rate."""
    reach, around = max(1, round(0.07 * fs_hz)), max(2, round(0.15 * fs_hz))
    # A pacing spike lasts 2 ms; it must not pass for the peak.
    smooth = max(1, round(0.020 * fs_hz))
    samples = signal.shape[1]
    centres = np.minimum(np.rint(times_s * fs_hz).astype(np.int64), samples - 1)
    whole = (centres >= around) & (centres + around < samples)
    found = []
    if whole.any():
        windows = signal[:, centres[whole, None] + np.arange(-around, around + 1)]
        sizes = _deflection(windows, smooth)[:, around - reach : around + reach + 1]
        found.append(centres[whole] - reach + sizes.argmax(axis=1))
    for centre in centres[~whole].tolist():
        start, end = max(0, centre - around), min(samples, centre + around + 1)
        size = _deflection(signal[:, None, start:end], smooth)[0]
        low = max(0, centre - reach - start)
        found.append(np.array([start + low + int(size[low : centre + reach + 1 - start].argmax())]))
    return np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)


def _deflection(windows: np.ndarray, smooth: int) -> np.ndarray:
    """Return the squared distance from each window's mean over all leads, ``(beats, samples)``, smoothed."""
    parts = windows - windows.mean(axis=2, keepdims=True)
    return running_mean(np.einsum("lbs,lbs->bs", parts, parts), smooth)
