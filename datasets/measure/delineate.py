"""Onset, peak and offset of P, QRS and T on the original signal.

QRS boundaries are read from the spatial velocity, the length of the vector of all leads'
slopes; P and T from the leads above the level just before each QRS, seen along the
direction in which they vary most. With one lead both reduce to that lead. Slopes are taken
with Gaussian derivatives, which are symmetric: nothing is delayed. Boundaries are where the
slope falls to a share of its greatest value, as in Martínez 2004 (doi
10.1109/TBME.2003.821031); the shares below were set on the cardiologists' boundaries of LUDB
(doi 10.1109/ACCESS.2020.3029211). P waves that lie elsewhere than in most beats are looked
for once more, and a QRS does not begin before the pacemaker's spike that starts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy  # Its parts are slow to import and load when they are first used.

from datasets.measure.spikes import pacing_spikes, without_spikes

Wave = tuple[int, int, int]
TWave = tuple[int | None, int, int]


@dataclass(frozen=True)
class Beat:
    """One beat in sample numbers; a wave is (onset, peak, offset), None where it was not found.

    A T wave that rises out of a raised or lowered ST segment has no onset: None.
    """

    r_peak: int
    qrs: tuple[int, int] | None
    p: Wave | None
    t: TWave | None


# Widths of the Gaussian derivatives. These and the shares below were set on every second record of LUDB.
_QRS_SIGMA_S, _P_SIGMA_S, _T_SIGMA_S, _SMOOTH_S = 0.0094, 0.0134, 0.0313, 0.0118
# Shares of the greatest slope: above the first a sample surely belongs to the QRS; boundaries lie at the others.
_QRS_SURE, _QRS_ONSET, _QRS_OFFSET = 0.170, 0.086, 0.176
# A single lead often starts and ends flatter than all together, and has less noise in its slope than their sum.
_ONE_LEAD_SIGMA_S, _ONE_LEAD_ONSET, _ONE_LEAD_OFFSET = 0.007, 0.03, 0.07
_P_ONSET, _P_OFFSET, _T_ONSET, _T_OFFSET = 0.65, 0.875, 0.70, 0.65
# The stretch after the QRS offset from which the direction of T is taken, and that before the onset for P.
_T_FROM_S, _T_UNTIL_S = 0.04, 0.36
_P_FROM_S, _P_UNTIL_S = 0.206, 0.030
# Slopes are near zero at the peaks inside a QRS; pauses up to this length do not end it.
_QRS_GAP_S = 0.03
_QRS_BEFORE_S, _QRS_AFTER_S = 0.13, 0.18
_P_REACH_S, _P_FAR_REACH_S, _P_FAR_RATIO = 0.30, 0.42, 1.3
# P waves farther than this from where most beats have theirs are looked for again, within the margin of that place.
_P_USUAL_S, _P_MARGIN_S = 0.025, 0.060
# QRS follows a pacemaker's spike by this much at least.
_SPIKE_REACH_S, _SPIKE_TAIL_S = 0.14, 0.016
_QT_LONGEST = 0.52
_LEAST_P_MV, _LEAST_T_MV = 0.008, 0.03


def delineate(signal_mv: np.ndarray, fs_hz: float, r_peaks: np.ndarray) -> list[Beat]:
    """Return one :class:`Beat` per R peak.

    signal_mv: ``(leads, samples)`` millivolt without NaN, one row or several; r_peaks: ascending
    sample numbers. Waves cut off by the record's ends are None.
    """
    x = np.asarray(signal_mv, dtype=np.float64)
    peaks = [int(r) for r in r_peaks]
    if not peaks or x.shape[1] < 0.2 * fs_hz:
        return [Beat(r, None, None, None) for r in peaks]
    spikes = pacing_spikes(x, fs_hz, np.array(peaks))
    x, starts = without_spikes(x, fs_hz, spikes), _paced_starts(spikes, peaks, fs_hz)
    alone = x.shape[0] == 1
    sigma = (_ONE_LEAD_SIGMA_S if alone else _QRS_SIGMA_S) * fs_hz
    slopes = scipy.ndimage.gaussian_filter1d(x, sigma, axis=1, order=1, mode="nearest") * fs_hz
    velocity = np.sqrt((slopes**2).mean(axis=0))
    shares = (_ONE_LEAD_ONSET, _ONE_LEAD_OFFSET) if alone else (_QRS_ONSET, _QRS_OFFSET)
    bounds = [_qrs(velocity, peaks, k, fs_hz, shares, starts[k]) for k in range(len(peaks))]
    rows = _above_pq(x, bounds, peaks, fs_hz)
    p_curve = (
        _direction(rows, [(b[0] - int(_P_FROM_S * fs_hz), b[0] - int(_P_UNTIL_S * fs_hz)) for b in bounds if b], fs_hz)
        @ rows
    )
    t_curve = (
        _direction(rows, [(b[1] + int(_T_FROM_S * fs_hz), b[1] + int(_T_UNTIL_S * fs_hz)) for b in bounds if b], fs_hz)
        @ rows
    )
    return _waves(_without_qrs(p_curve, bounds, fs_hz), _without_qrs(t_curve, bounds, fs_hz), bounds, peaks, fs_hz)


def _paced_starts(spikes: np.ndarray, peaks: list[int], fs_hz: float) -> list[int]:
    """Return for each beat the sample before which its QRS cannot begin: after the spike that paces it, else 0."""
    starts = []
    for r in peaks:
        before = spikes[(spikes <= r) & (spikes >= r - _SPIKE_REACH_S * fs_hz)]
        starts.append(int(before[-1] + _SPIKE_TAIL_S * fs_hz) if before.size else 0)
    return starts


def _qrs(
    velocity: np.ndarray, peaks: list[int], k: int, fs_hz: float, shares: tuple[float, float], start: int = 0
) -> tuple[int, int] | None:
    r, n = peaks[k], velocity.size
    left, right = max(start, r - int(_QRS_BEFORE_S * fs_hz), 0), min(n - 1, r + int(_QRS_AFTER_S * fs_hz))
    if k:
        left = max(left, (r + peaks[k - 1]) // 2)
    if k + 1 < len(peaks):
        right = min(right, (r + peaks[k + 1]) // 2)
    near = velocity[max(left, r - int(0.08 * fs_hz)) : min(right, r + int(0.10 * fs_hz)) + 1]
    top = float(near.max()) if near.size else 0.0
    if top <= 0:
        return None
    gap = max(1, int(_QRS_GAP_S * fs_hz))
    onset = r - _edge(velocity[left : r + 1][::-1], top * _QRS_SURE, top * shares[0], gap)
    offset = r + _edge(velocity[r : right + 1], top * _QRS_SURE, top * shares[1], gap)
    # A boundary at the end of the record was not seen, only the record's end.
    if onset <= 1 or offset >= n - 2 or offset - onset < 0.02 * fs_hz:
        return None
    return onset, offset


def _edge(slope: np.ndarray, sure: float, low: float, gap: int) -> int:
    """Walk outwards from the R peak: past the last sure sample, then down to ``low`` or to the first rise."""
    above = np.flatnonzero(slope >= sure)
    last = 0
    if above.size:
        jumps = np.flatnonzero(np.diff(above) > gap)
        last = int(above[jumps[0]] if jumps.size else above[-1]) if above[0] <= gap else 0
    rest = slope[last:]
    stop = (rest[:-1] <= low) | ((np.diff(rest) > 0) & (rest[:-1] < sure))
    first = np.flatnonzero(stop)
    return last + (int(first[0]) if first.size else max(0, rest.size - 1))


def _above_pq(x: np.ndarray, bounds: list[tuple[int, int] | None], peaks: list[int], fs_hz: float) -> np.ndarray:
    """Return the smoothed leads above their level just before each QRS."""
    onsets = [b[0] if b else r - int(0.06 * fs_hz) for b, r in zip(bounds, peaks, strict=True)]
    n, half, back = x.shape[1], max(1, int(0.008 * fs_hz)), int(0.012 * fs_hz)
    at = np.clip(np.array(onsets) - back, 0, n - 1)
    levels = np.stack([x[:, max(0, a - half) : a + half + 1].mean(axis=1) for a in at.tolist()], axis=1)
    smooth = scipy.ndimage.gaussian_filter1d(x, _SMOOTH_S * fs_hz, axis=1, mode="nearest")
    time = np.arange(n)
    for row, level in zip(smooth, levels, strict=True):
        row -= np.interp(time, at, level)
    return smooth


def _direction(rows: np.ndarray, spans: list[tuple[int, int]], fs_hz: float) -> np.ndarray:
    """Return the unit vector of leads along which the given stretches vary most (first principal component).

    Along it a wave keeps its sign, so that a T wave which crosses zero after a depressed ST segment, or a P wave of
    two phases, is seen whole.
    """
    if rows.shape[0] == 1:
        return np.ones(1)
    step = max(1, int(fs_hz // 125))
    after = [rows[:, max(0, first) : max(0, last) : step] for first, last in spans]
    parts = np.concatenate(after, axis=1) if after else rows
    if parts.shape[1] == 0:
        parts = rows
    _, vectors = np.linalg.eigh(parts @ parts.T)
    return vectors[:, -1]


def _without_qrs(curve: np.ndarray, bounds: list[tuple[int, int] | None], fs_hz: float) -> np.ndarray:
    """Bridge each QRS with a line, so that its slopes do not reach into P and T."""
    margin = int(0.010 * fs_hz)
    for bound in bounds:
        if bound:
            a, b = max(0, bound[0] - margin), min(curve.size - 1, bound[1] + margin)
            curve[a : b + 1] = np.linspace(curve[a], curve[b], b - a + 1)
    return curve


def _waves(
    p_curve: np.ndarray, t_curve: np.ndarray, bounds: list[tuple[int, int] | None], peaks: list[int], fs_hz: float
) -> list[Beat]:
    n = p_curve.size
    p_slope = scipy.ndimage.gaussian_filter1d(p_curve, _P_SIGMA_S * fs_hz, order=1, mode="nearest") * fs_hz
    t_slope = scipy.ndimage.gaussian_filter1d(t_curve, _T_SIGMA_S * fs_hz, order=1, mode="nearest") * fs_hz
    p_smooth, t_smooth = (
        scipy.ndimage.gaussian_filter1d(one, 0.008 * fs_hz, mode="nearest") for one in (p_curve, t_curve)
    )
    beats: list[Beat] = []
    for k, (r, qrs) in enumerate(zip(peaks, bounds, strict=True)):
        if qrs is None:
            beats.append(Beat(r, None, None, None))
            continue
        after = peaks[k + 1] - r if k + 1 < len(peaks) else r - peaks[k - 1] if k else int(0.8 * fs_hz)
        end = min(n - 1, r + int(_QT_LONGEST * np.sqrt(after * fs_hz)))
        if k + 1 < len(peaks):
            following = bounds[k + 1]
            end = min(end, (following[0] if following else peaks[k + 1]) - int(0.05 * fs_hz))
        t = _t_wave(t_smooth, t_slope, qrs[1] + int(0.03 * fs_hz), end, fs_hz)
        beats.append(Beat(r, qrs, None, None if t is None or _outside(t[0], t[2], n) else t))
    near, far = (_with_p(beats, p_smooth, p_slope, reach_s, fs_hz) for reach_s in (_P_REACH_S, _P_FAR_REACH_S))
    # The nearer look is the surer one, unless the farther one shows clearly larger waves: P waves a long time before.
    with_p = far if _p_height(far, p_smooth) > _P_FAR_RATIO * _p_height(near, p_smooth) else near
    return _with_usual_p(with_p, p_smooth, p_slope, fs_hz)


def _with_p(beats: list[Beat], level: np.ndarray, slope: np.ndarray, reach_s: float, fs_hz: float) -> list[Beat]:
    """Return the beats with their P waves, looked for from ``reach_s`` before the R peak on, after the T wave before it."""
    out = []
    for k, beat in enumerate(beats):
        p = None
        if beat.qrs:
            start = max(0, beat.r_peak - int(reach_s * fs_hz))
            if k:
                before = beats[k - 1]
                start = max(start, before.t[2] if before.t else before.r_peak + int(0.2 * fs_hz))
            p = _p_wave(level, slope, start, beat.qrs[0], fs_hz)
            p = None if p is None or _outside(p[0], p[2], level.size) else p
        out.append(Beat(beat.r_peak, beat.qrs, p, beat.t))
    return out


def _p_height(beats: list[Beat], level: np.ndarray) -> float:
    """Return the median height of the P waves above their ends, a beat without one counted as zero."""
    heights = [abs(2 * level[b.p[1]] - level[b.p[0]] - level[b.p[2]]) if b.p else 0.0 for b in beats if b.qrs]
    return float(np.median(heights)) if heights else 0.0


def _with_usual_p(beats: list[Beat], level: np.ndarray, slope: np.ndarray, fs_hz: float) -> list[Beat]:
    """Look again for P waves that lie elsewhere than those of most beats, within 60 ms of where these have it.

    Left alone where there is no usual place: fewer than four P waves, or half of them more than 25 ms from their median.
    """
    leads_in = {k: b.qrs[0] - b.p[1] for k, b in enumerate(beats) if b.p and b.qrs}
    if len(leads_in) < 4:
        return beats
    usual = float(np.median(list(leads_in.values())))
    if np.median([abs(v - usual) for v in leads_in.values()]) > _P_USUAL_S * fs_hz:
        return beats
    spans = [
        (b.qrs[0] - b.p[0], b.qrs[0] - b.p[2])
        for k, b in enumerate(beats)
        if b.p and b.qrs and abs(leads_in[k] - usual) <= _P_USUAL_S * fs_hz
    ]
    before, after = np.median(spans, axis=0)
    margin = _P_MARGIN_S * fs_hz
    out = []
    for k, beat in enumerate(beats):
        if beat.qrs and abs(leads_in.get(k, 1e9) - usual) > _P_USUAL_S * fs_hz:
            first, last = int(beat.qrs[0] - before - margin), int(min(beat.qrs[0], beat.qrs[0] - after + margin))
            p = _p_wave(level, slope, first, last, fs_hz) if first > 0 else None
            beat = Beat(beat.r_peak, beat.qrs, p if p else beat.p, beat.t)
        out.append(beat)
    return out


def _outside(first: int | None, last: int, n: int) -> bool:
    """Say whether a wave touches the record's first or last sample."""
    return (first is not None and first <= 1) or last >= n - 2


def _p_wave(level: np.ndarray, slope: np.ndarray, first: int, last: int, fs_hz: float) -> Wave | None:
    """Find the P wave between two samples: the strongest pair of slopes of opposite sign."""
    w = slope[first : last + 1]
    runs = _slopes(w, int(0.06 * fs_hz))
    if len(runs) < 2:
        return None
    a, b = _strongest(w, runs)
    onset, peak, offset = a - _fall(w[: a + 1][::-1], _P_ONSET), _turn(w, a, b), b + _fall(w[b:], _P_OFFSET)
    height = max(abs(level[first + peak] - level[first + onset]), abs(level[first + peak] - level[first + offset]))
    if height < _LEAST_P_MV or offset - onset < 0.03 * fs_hz:
        return None
    return first + onset, first + peak, first + offset


def _t_wave(level: np.ndarray, slope: np.ndarray, first: int, last: int, fs_hz: float) -> TWave | None:
    """Find the T wave between two samples; without a rising slope of its own it has no onset."""
    w = slope[first : last + 1]
    runs = _slopes(w, int(0.06 * fs_hz))
    if not runs:
        return None
    if len(runs) == 1:
        a, b = None, runs[0]
        peak = int(np.argmax(np.abs(level[first : first + b + 1])))
    else:
        a, b = _strongest(w, runs)
        peak = _turn(w, a, b)
    offset = b + _fall(w[b:], _T_OFFSET)
    onset = None if a is None else a - _fall(w[: a + 1][::-1], _T_ONSET)
    height = abs(level[first + peak] - level[first + offset])
    if onset is not None:
        height = max(height, abs(level[first + peak] - level[first + onset]))
    if height < _LEAST_T_MV or offset - (onset or 0) < 0.06 * fs_hz:
        return None
    return None if onset is None else first + onset, first + peak, first + offset


def _slopes(w: np.ndarray, shortest: int) -> list[int]:
    """Return the strongest extreme of each stretch of one sign, weak ones left out."""
    if w.size <= shortest:
        return []
    turns = np.diff(w)
    extremes = np.flatnonzero((turns[:-1] * turns[1:] <= 0) & (turns[:-1] != 0)) + 1
    extremes = extremes[np.abs(w[extremes]) > 0.15 * np.abs(w).max()]
    runs: list[int] = []
    for e in extremes.tolist():
        if runs and (w[runs[-1]] > 0) == (w[e] > 0):
            if abs(w[e]) > abs(w[runs[-1]]):
                runs[-1] = e
        else:
            runs.append(e)
    return runs


def _strongest(w: np.ndarray, runs: list[int]) -> tuple[int, int]:
    """Return the neighbouring pair of opposite slopes that is strong on both sides."""
    pairs = list(pairwise(runs))
    strengths = [2 * min(abs(w[a]), abs(w[b])) + 0.5 * max(abs(w[a]), abs(w[b])) for a, b in pairs]
    return pairs[int(np.argmax(strengths))]


def _turn(w: np.ndarray, a: int, b: int) -> int:
    """Return where the slope changes sign between two samples: the wave's peak."""
    change = np.flatnonzero(np.signbit(w[a:b]) != np.signbit(w[a + 1 : b + 1]))
    return a + (int(change[0]) if change.size else (b - a) // 2)


def _fall(slope: np.ndarray, share: float) -> int:
    """Return how many samples it takes the slope to fall to a share of its first value, or to change sign."""
    signed = slope if slope[0] >= 0 else -slope
    low = np.flatnonzero(signed <= share * signed[0])
    return int(low[0]) if low.size else slope.size - 1
