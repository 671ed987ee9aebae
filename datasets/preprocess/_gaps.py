"""Bridge gaps, so that a filter's answer beside a gap is defined, and open them again afterwards."""

from __future__ import annotations

import numpy as np


def bridge(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the signal ``(leads, samples)`` with NaN runs interpolated, and the mask of NaN (None without any).

    Inside a lead the bridge is a straight line; before the first and behind the last sample it holds their value.
    A lead without any sample becomes 0.
    """
    missing = np.isnan(signal)
    if not missing.any():
        return signal, None
    bridged = signal.copy()
    places = np.arange(signal.shape[1])
    for row in np.flatnonzero(missing.any(axis=1)):
        have = ~missing[row]
        bridged[row, ~have] = np.interp(places[~have], places[have], signal[row, have]) if have.any() else 0.0
    return bridged, missing


def reopen(signal: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
    """Return float32 with NaN at the places that were missing; ``signal`` must be the caller's own array."""
    signal = np.asarray(signal, dtype=np.float32)
    if missing is not None:
        signal[missing] = np.nan
    return signal
