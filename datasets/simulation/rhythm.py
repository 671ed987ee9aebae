"""When the heart beats: sinus rhythm with its variability, fibrillation, flutter, pacing, and early beats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAD_IN_S = 2.5
TAIL_S = 1.5


@dataclass(frozen=True)
class Rhythm:
    """Beats from before the record's start to behind its end.

    times_s: nominal R times ``(beats,)``; kinds: ``N``, ``A`` (early atrial), ``V`` (early ventricular) per beat;
    rr_s: the interval that governs each beat's QT; flutter_hz: rate of the flutter waves, 0 without.
    """

    times_s: np.ndarray
    kinds: tuple[str, ...]
    rr_s: np.ndarray
    flutter_hz: float = 0.0


_RATES_BPM = {
    "SNR": (62.0, 96.0), "SB": (41.0, 57.0), "STACH": (104.0, 145.0), "SA": (62.0, 82.0), "PACE": (60.0, 75.0),
}  # fmt: skip


def _sinus(rhythm: str, rng: np.random.Generator, duration_s: float, respiration_hz: float) -> np.ndarray:
    """Return R times with respiratory and 0.1 Hz variability; the mean rate stays inside the rhythm's limits."""
    rr = 60.0 / rng.uniform(*_RATES_BPM[rhythm])
    depth = {"SA": rng.uniform(0.13, 0.20), "STACH": 0.008, "PACE": 0.0}.get(rhythm, rng.uniform(0.01, 0.04))
    slow = 0.0 if rhythm == "PACE" else rng.uniform(0.005, 0.02)
    jitter = 0.0005 if rhythm == "PACE" else 0.006
    # Sinus arrhythmia follows the breath; at a fast breath it would be averaged away between two beats.
    breath_hz = min(respiration_hz, 0.25) if rhythm == "SA" else respiration_hz
    phases = rng.uniform(0, 2 * np.pi, 2)
    times, now = [], -LEAD_IN_S + rng.uniform(0, rr)
    while now < duration_s + TAIL_S + 2 * rr:
        times.append(now)
        modulation = depth * np.sin(2 * np.pi * breath_hz * now + phases[0])
        modulation += slow * np.sin(2 * np.pi * 0.1 * now + phases[1])
        now += rr * (1 + modulation + jitter * np.clip(rng.standard_normal(), -2.5, 2.5))
    found = np.array(times)
    inside = (found >= 0) & (found <= duration_s)
    if inside.sum() < 3:
        return found
    # Counted over the record itself, the mean interval is the drawn one.
    measured = np.diff(found[inside]).mean()
    return found[0] + (found - found[0]) * (rr / measured)


def _fibrillation(rng: np.random.Generator, duration_s: float) -> np.ndarray:
    rr = 60.0 / rng.uniform(62.0, 135.0)
    count = int((duration_s + LEAD_IN_S + TAIL_S) / rr * 1.6) + 8
    shape = 1 / rng.uniform(0.20, 0.30) ** 2
    intervals = np.maximum(rng.gamma(shape, rr / shape, count), 0.34)
    return -LEAD_IN_S + np.cumsum(intervals)


def _flutter(rng: np.random.Generator, duration_s: float) -> tuple[np.ndarray, float]:
    flutter_hz = rng.uniform(4.4, 5.4)
    ratios = [(2,), (4,), (3, 4), (2, 4), (4, 4, 3)][rng.integers(5)]
    count = int((duration_s + LEAD_IN_S + TAIL_S) * flutter_hz / 2) + 8
    intervals = np.resize(ratios, count) / flutter_hz * (1 + 0.004 * rng.standard_normal(count))
    return -LEAD_IN_S + np.cumsum(intervals), flutter_hz


def _pick(times: np.ndarray, rng: np.random.Generator, duration_s: float, count: int) -> list[int]:
    """Choose up to ``count`` beats that are not neighbours and lie well inside the record."""
    usable = [i for i in range(2, len(times) - 2) if 0.9 < times[i] < duration_s - 0.9]
    chosen: list[int] = []
    for index in rng.permutation(usable):
        if len(chosen) < count and all(abs(int(index) - other) > 2 for other in chosen):
            chosen.append(int(index))
    return sorted(chosen)


def draw(conditions: tuple[str, ...], rng: np.random.Generator, duration_s: float, respiration_hz: float) -> Rhythm:
    """Draw the beats of a record of ``duration_s`` seconds."""
    flutter_hz = 0.0
    if "AF" in conditions:
        times = _fibrillation(rng, duration_s)
    elif "AFL" in conditions:
        times, flutter_hz = _flutter(rng, duration_s)
    else:
        rhythm = next(name for name in conditions if name in _RATES_BPM)
        times = _sinus(rhythm, rng, duration_s, respiration_hz)
    kinds = ["N"] * len(times)
    base_rr = np.diff(times).mean()
    per_ten_s = max(1, round(duration_s / 10))
    if "PAC" in conditions:
        for index in _pick(times, rng, duration_s, per_ten_s * int(rng.integers(1, 3))):
            early = times[index] - (times[index - 1] + rng.uniform(0.60, 0.74) * (times[index] - times[index - 1]))
            # The sinus node is reset: everything after the early beat moves with it.
            times[index:] -= early
            kinds[index] = "A"
    if "PVC" in conditions:
        free = _pick(times, rng, duration_s, per_ten_s * int(rng.integers(1, 4)))
        for index in [i for i in free if kinds[i] == "N" and kinds[i - 1] == "N" and kinds[i + 1] == "N"]:
            # The sinus node runs on: the pause behind the early beat is fully compensatory.
            coupling = max(0.36, rng.uniform(0.55, 0.68) * (times[index] - times[index - 1]))
            times[index] = min(times[index], times[index - 1] + coupling)
            kinds[index] = "V"
    intervals = np.diff(times, prepend=times[0] - base_rr)
    # Repolarisation follows the last interval and, more slowly, the mean rate.
    rr = 0.3 * np.clip(intervals, 0.3, 2.0) + 0.7 * base_rr
    return Rhythm(times, tuple(kinds), rr, flutter_hz)


def atrial_dipole(
    conditions: tuple[str, ...], rhythm: Rhythm, time_s: np.ndarray, rng: np.random.Generator
) -> np.ndarray | None:
    """Return the dipole ``(samples, 3)`` of fibrillatory or flutter waves in mV, or None.

    Fibrillatory waves: 5 to 8 Hz with drifting rate and size, largest in V1 (M. Stridh and L. Sornmo, IEEE Trans
    Biomed Eng 2001;48:105-111). Flutter waves: negative saw teeth in II, III, aVF, positive in V1.
    """
    if "AFL" in conditions:
        phase = 2 * np.pi * rhythm.flutter_hz * (time_s - rhythm.times_s[0]) + rng.uniform(0, 2 * np.pi)
        wave = sum(np.sin(k * phase) / k for k in (1, 2, 3)) * rng.uniform(0.09, 0.16)
        return wave[:, None] * np.array([0.02, -1.0, -0.55])
    if "AF" not in conditions:
        return None
    total = np.zeros((len(time_s), 3))
    size = rng.uniform(0.06, 0.14)
    for vector, part in (((-0.30, 0.35, -0.75), 1.0), ((0.25, 0.45, 0.15), 0.5)):
        drift_hz, drift_phase, start = rng.uniform(0.1, 0.4), rng.uniform(0, 6.28), rng.uniform(0, 6.28)
        rate = rng.uniform(5.0, 7.6) + rng.uniform(0.2, 0.5) * np.sin(2 * np.pi * drift_hz * time_s + drift_phase)
        phase = start + 2 * np.pi * np.cumsum(rate) * (time_s[1] - time_s[0] if len(time_s) > 1 else 0.0)
        swell = 1 + 0.35 * np.sin(2 * np.pi * rng.uniform(0.15, 0.5) * time_s + rng.uniform(0, 6.28))
        wave = swell * sum(np.sin(k * phase) / k for k in (1, 2, 3)) * 0.8
        total += size * part * wave[:, None] * np.array(vector)
    return total
