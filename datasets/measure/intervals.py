"""RR statistics, corrected QT and frontal axes: formulas with their sources."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# Below these net amplitudes a wave has no direction worth reporting.
_LEAST_NET_MV = {"p": 0.02, "qrs": 0.08, "t": 0.04}


def corrected_qt(qt_ms: float, rr_ms: float) -> dict[str, float]:
    """Return QTc in ms by four formulas for a QT and an RR interval in ms.

    Bazett 1920: QT / √RR. Fridericia 1920: QT / ∛RR. Framingham (Sagie 1992,
    doi 10.1016/0002-9149(92)90562-D): QT + 0.154 (1 - RR). Hodges 1983: QT + 1.75 ms (rate - 60).
    """
    rr_s = rr_ms / 1000
    return {
        "bazett": qt_ms / math.sqrt(rr_s),
        "fridericia": qt_ms / rr_s ** (1 / 3),
        "framingham": qt_ms + 154 * (1 - rr_s),
        "hodges": qt_ms + 1.75 * (60 / rr_s - 60),
    }


def rr_statistics(rr_ms: np.ndarray) -> dict[str, float]:
    """Return mean, median, sd (n - 1), rmssd, min and max in ms, and the number of intervals n.

    sd and rmssd are left out where there are too few intervals for them.
    """
    out = {
        "n": int(rr_ms.size), "mean": float(rr_ms.mean()), "median": float(np.median(rr_ms)), "min": float(rr_ms.min()),
        "max": float(rr_ms.max()),
    }  # fmt: skip
    if rr_ms.size >= 2:
        out["sd"] = float(rr_ms.std(ddof=1))
        out["rmssd"] = float(np.sqrt(np.mean(np.diff(rr_ms) ** 2)))
    return {name: value if name == "n" else round(value, 2) for name, value in out.items()}


def axis_degrees(leads: Sequence[str], beat_mv: np.ndarray, first: int, last: int, wave: str) -> float | None:
    """Return the frontal axis in degrees (-180 to 180) from the net amplitudes in I and aVF, or None without direction.

    beat_mv: ``(leads, samples)`` above the level before the QRS; first, last: the wave's samples. The net amplitude is
    the greatest upward plus the greatest downward deflection. aVF is taken from the record or from I and II
    (Goldberger: II - I/2), and weighted by 2/√3, as an augmented lead is shorter than a bipolar one.
    """
    rows = {
        name: beat_mv[leads.index(name), first : last + 1].astype(np.float64)
        for name in ("I", "II", "aVF")
        if name in leads
    }
    i, avf = rows.get("I"), rows.get("aVF")
    if avf is None and i is not None and "II" in rows:
        avf = rows["II"] - i / 2
    if i is None or avf is None or i.size < 3 or not (np.isfinite(i).all() and np.isfinite(avf).all()):
        return None
    x, up = (max(float(row.max()), 0.0) + min(float(row.min()), 0.0) for row in (i, avf))
    y = up * 2 / math.sqrt(3)
    if math.hypot(x, y) < _LEAST_NET_MV[wave]:
        return None
    return round(math.degrees(math.atan2(y, x)), 0) + 0.0
