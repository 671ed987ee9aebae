"""Pacemaker spikes: found over all leads together and bridged, so that they pass for no wave."""

from __future__ import annotations

import numpy as np
import scipy  # Its parts are slow to import and load when they are first used.

# A spike is over within 4 ms on both sides of its peak; slower sampling does not show it as one.
_HALF_S = 0.004
_LEAST_FS_HZ = 400.0
# A narrow R wave of a single lead looks the same; a spike stands in most leads.
_LEAST_LEADS = 3
_LEAST_MV = 0.09
_NEIGHBOUR = 0.25
# Artefacts come singly; the spikes of a pacemaker come with most beats, at most this long before the R peak or after it.
_LEAST_SHARE, _BEFORE_S, _AFTER_S = 0.6, 0.14, 0.06
_BRIDGE_S = 0.008


def find_spikes(signal_mv: np.ndarray, fs_hz: float) -> np.ndarray:
    """Return the sample numbers of pacemaker spikes, int64 ascending.

    signal_mv: ``(leads, samples)`` millivolt without NaN. A spike stands out of the straight line between its
    neighbours 4 ms before and after by 0.09 mV (RMS over the leads), and what lies 4 ms beside it does not stand
    out of a 14 ms median by more than a quarter of that. Nothing is found below 400 Hz, nor in
    fewer than three leads.
    """
    nothing = np.empty(0, dtype=np.int64)
    half = round(_HALF_S * fs_hz)
    if fs_hz < _LEAST_FS_HZ or signal_mv.shape[0] < _LEAST_LEADS or signal_mv.shape[1] < 16 * half:
        return nothing
    middle = signal_mv[:, half:-half]
    bend = middle - 0.5 * (signal_mv[:, : -2 * half] + signal_mv[:, 2 * half :])
    size = np.einsum("ij,ij->j", bend, bend) / signal_mv.shape[0]
    high = np.flatnonzero(size > _LEAST_MV**2)
    if not high.size:
        return nothing
    found: list[int] = []
    for group in np.split(high, np.flatnonzero(np.diff(high) > 3 * half) + 1):
        at = int(group[np.argmax(size[group])]) + half
        if _is_spike(signal_mv, at, half):
            found.append(at)
    return np.array(found, dtype=np.int64)


def _is_spike(signal_mv: np.ndarray, at: int, half: int) -> bool:
    width = 3 * half + 1 - half % 2
    left, stop = at - 3 * width, at + 3 * width
    if left < 0 or stop > signal_mv.shape[1]:
        return False
    part = signal_mv[:, left:stop]
    rest = part - scipy.ndimage.median_filter(part, size=(1, width), mode="nearest")
    size = np.sqrt((rest**2).mean(axis=0))
    centre = 3 * width
    peak = float(size[centre - 1 : centre + 2].max())
    beside = float(max(size[centre - width : centre - half + 1].max(), size[centre + half : centre + width].max()))
    return peak >= _LEAST_MV and beside <= _NEIGHBOUR * peak


def pacing_spikes(signal_mv: np.ndarray, fs_hz: float, peaks: np.ndarray) -> np.ndarray:
    """Return the spikes of :func:`find_spikes` where at least six beats of ten have one, else none.

    peaks: sample numbers of the beats, ascending.
    """
    spikes = find_spikes(signal_mv, fs_hz)
    beats = np.asarray(peaks)
    if not spikes.size or not beats.size:
        return spikes[:0]
    following = np.minimum(np.searchsorted(spikes, beats - int(_BEFORE_S * fs_hz)), spikes.size - 1)
    gap = spikes[following] - beats
    paced = (gap >= -_BEFORE_S * fs_hz) & (gap <= _AFTER_S * fs_hz)
    return spikes if paced.mean() >= _LEAST_SHARE else spikes[:0]


def without_spikes(signal_mv: np.ndarray, fs_hz: float, spikes: np.ndarray) -> np.ndarray:
    """Return the signal with a straight line over 8 ms on both sides of each spike; the same array when there is none."""
    if not spikes.size:
        return signal_mv
    out = signal_mv.copy()
    reach, last = max(2, round(_BRIDGE_S * fs_hz)), signal_mv.shape[1] - 1
    for at in spikes.tolist():
        a, b = max(0, at - reach), min(last, at + reach)
        share = np.linspace(0, 1, b - a + 1)
        out[:, a : b + 1] = signal_mv[:, a, None] * (1 - share) + signal_mv[:, b, None] * share
    return out
