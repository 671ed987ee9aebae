"""Beats that look alike: the dominant shape, the median beat, and whether P waves belong to the beats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # Its parts are slow to import and load when they are first used.

from datasets.measure.delineate import Beat

_QRS_HALF_S = 0.10
_SAME_SHAPE = 0.85
_BEFORE_S, _AFTER_S = 0.35, 0.60
_P_SPAN_S = 0.22
# At most this many beats enter a correlation matrix.
_MOST_BEATS = 200


def windows(x: np.ndarray, centres: np.ndarray, before: int, after: int) -> np.ndarray:
    """Cut ``(beats, leads, before + after)`` around the centres; NaN outside the record."""
    padded = np.pad(x, ((0, 0), (before, after)), constant_values=np.nan)
    at = np.asarray(centres)[:, None] + np.arange(before + after)[None]
    return padded[:, at].transpose(1, 0, 2)


def dominant_beats(x: np.ndarray, fs_hz: float, beats: list[Beat]) -> tuple[np.ndarray, float]:
    """Return which beats share the dominant QRS shape, and the median correlation of all beats with it.

    x: ``(leads, samples)`` millivolt. Shapes are compared over 100 ms on both sides of the R peak,
    all leads together. Of two equally frequent shapes the narrower QRS is taken as dominant.
    """
    n = len(beats)
    if n == 0:
        return np.zeros(0, dtype=bool), 0.0
    half = max(2, int(_QRS_HALF_S * fs_hz))
    stride = max(1, int(fs_hz // 250))
    cut = windows(x, np.array([b.r_peak for b in beats]), half, half)[:, :, ::stride]
    cut = cut - np.nanmean(cut, axis=2, keepdims=True)
    flat = np.nan_to_num(cut.reshape(n, -1))
    norm = np.linalg.norm(flat, axis=1)
    flat = flat / np.maximum(norm, 1e-12)[:, None]
    # Many beats are judged against a spread of them; the matrix stays small.
    among = np.unique(np.linspace(0, n - 1, min(n, _MOST_BEATS)).astype(int))
    alike = flat[among] @ flat.T
    votes = (alike >= _SAME_SHAPE).sum(axis=1).astype(float)
    widths = np.array([(beats[k].qrs[1] - beats[k].qrs[0]) / fs_hz if beats[k].qrs else 0.5 for k in among])
    leader = int(np.argmax(votes - np.minimum(widths, 0.9)))
    chosen = alike[leader] >= _SAME_SHAPE
    template = np.median(flat[chosen], axis=0)
    strength = np.linalg.norm(template)
    agreement = flat @ template / strength if strength > 0 else np.zeros(n)
    return chosen, float(np.median(agreement))


@dataclass(frozen=True)
class MedianBeat:
    """The sample-wise median of the dominant beats, aligned at their R peaks.

    mv: ``(leads, samples)`` float32 millivolt above the level before the QRS; the R peak lies ``before_s``
    after the first sample. NaN where no beat reached.
    """

    mv: np.ndarray
    before_s: float
    n_beats: int


def median_beat(signal_mv: np.ndarray, fs_hz: float, beats: list[Beat], chosen: np.ndarray) -> MedianBeat | None:
    """Return the median of the chosen beats that have QRS boundaries; None without any."""
    used = [b for b, take in zip(beats, chosen, strict=True) if take and b.qrs]
    if not used:
        return None
    before, after = int(_BEFORE_S * fs_hz), int(_AFTER_S * fs_hz)
    whole = [b for b in used if b.r_peak >= before and b.r_peak + after <= signal_mv.shape[1]]
    # Beats cut off by the record's ends are used only where there are few others.
    used = whole if len(whole) >= 3 else used
    cut = windows(signal_mv, np.array([b.r_peak for b in used]), before, after)
    onset = int(np.median([b.r_peak - b.qrs[0] for b in used if b.qrs]))
    gap, half = int(0.012 * fs_hz), max(1, int(0.008 * fs_hz))
    a = max(0, before - onset - gap - half)
    with np.errstate(all="ignore"):
        level = _nanmedian(cut[:, :, a : a + 2 * half + 1], axis=2)
        mv = _nanmedian(cut - level[:, :, None], axis=0)
    return MedianBeat(mv.astype(np.float32), before / fs_hz, len(used))


def _nanmedian(x: np.ndarray, axis: int) -> np.ndarray:
    if np.isfinite(x).all():
        return np.median(x, axis=axis)
    import warnings

    with warnings.catch_warnings():
        # A lead without samples gives NaN, which is the answer wanted.
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmedian(x, axis=axis)


@dataclass(frozen=True)
class PEvidence:
    """How surely P waves precede the beats.

    similarity: median correlation of the stretch before each QRS with their median; strength: power of the
    median stretch over the median power by which a beat differs from it; spread_s: median absolute deviation of PR.
    repeats: how alike the stretch is to the one 160 to 300 ms earlier (0 to 1): flutter waves follow each other,
    P waves do not.
    """

    similarity: float
    strength: float
    spread_s: float
    share_found: float
    per_beat: np.ndarray
    repeats: float = 0.0


def p_evidence(x: np.ndarray, fs_hz: float, beats: list[Beat]) -> PEvidence:
    """Judge the 220 ms before the QRS of the given beats (the dominant ones) on all leads together."""
    nothing = PEvidence(0.0, 0.0, float("inf"), 0.0, np.zeros(len(beats)))
    span, skip = int(_P_SPAN_S * fs_hz), int(0.008 * fs_hz)
    rows = [k for k, b in enumerate(beats) if b.qrs and b.qrs[0] - skip - span >= 0]
    if len(rows) < 2:
        return nothing
    smooth = scipy.ndimage.gaussian_filter1d(x, 0.006 * fs_hz, axis=1, mode="nearest")
    cut = np.stack([smooth[:, beats[k].qrs[0] - skip - span : beats[k].qrs[0] - skip] for k in rows])  # type: ignore[index]
    edge = max(2, int(0.010 * fs_hz))
    left, right = cut[:, :, :edge].mean(axis=2), cut[:, :, -edge:].mean(axis=2)
    ramp = np.linspace(0, 1, span)
    flat = (cut - left[:, :, None] - (right - left)[:, :, None] * ramp).reshape(len(rows), -1)
    middle = np.median(flat, axis=0)
    # Medians, so that a few early beats whose P lies in the T before them do not hide the others'.
    noise = float(np.median(((flat - middle) ** 2).sum(axis=1)))
    norms = np.linalg.norm(flat, axis=1) * np.linalg.norm(middle)
    similar = np.where(norms > 0, flat @ middle / np.maximum(norms, 1e-12), 0.0)
    per_beat = np.zeros(len(beats))
    per_beat[rows] = similar
    pr = np.array([(b.qrs[0] - b.p[0]) / fs_hz for b in beats if b.qrs and b.p])
    spread = float(np.median(np.abs(pr - np.median(pr)))) if pr.size else float("inf")
    return PEvidence(
        float(np.median(similar)), float((middle**2).sum() / max(noise, 1e-12)), spread, pr.size / max(1, len(rows)), per_beat,
        _repeats(smooth, fs_hz, [beats[k].qrs[0] - skip for k in rows]),  # type: ignore[index]
    )  # fmt: skip


def _repeats(smooth: np.ndarray, fs_hz: float, ends: list[int]) -> float:
    """Return the greatest correlation of the median 200 ms before the QRS with the same leads 160 to 300 ms earlier.

    0 where there is no such peak inside that range, or where the two differ in size by more than half:
    a T wave before a P wave does.
    """
    span, first, last = int(0.20 * fs_hz), int(0.16 * fs_hz), int(0.30 * fs_hz)
    ends = [end for end in ends if end >= span + last]
    if len(ends) < 2:
        return 0.0
    # 250 samples a second are enough to compare waves of this length.
    stride = max(1, int(fs_hz // 250))
    cut = np.median(np.stack([smooth[:, end - span - last : end : stride] for end in ends]), axis=0)
    span, first, last = span // stride, first // stride, last // stride

    def level(part: np.ndarray) -> np.ndarray:
        return (part - part.mean(axis=1, keepdims=True)).ravel()

    now = level(cut[:, -span:])
    size = float(np.linalg.norm(now))
    found = []
    for lag in range(first, last, max(1, int(0.008 * fs_hz / stride))):
        then = level(cut[:, cut.shape[1] - span - lag : cut.shape[1] - lag])
        other = float(np.linalg.norm(then))
        fits = size > 0 and 0.67 < other / size < 1.5
        found.append(float(now @ then) / (size * other) if fits and other > 0 else 0.0)
    best = int(np.argmax(found))
    return found[best] if 0 < best < len(found) - 1 else 0.0
