"""Keep a band of frequencies."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import scipy  # Its parts are slow to import and load when they are first used.

from datasets.preprocess._gaps import bridge, reopen
from datasets.preprocess.base import Stage, Step, coerce_fields, meta, require, step


@step("bandpass")
@dataclass(frozen=True)
class Bandpass(Step):
    """Butterworth filter run forwards and backwards: zero phase, and -6 dB at both corners.

    A corner of 0 Hz (low) or at or above the Nyquist rate (high) is left out. For a diagnostic ECG the low corner of a
    zero-phase filter should be at most 0.67 Hz (P. Kligfield et al., Circulation 2007;115:1306-1324).
    """

    low_hz: float = field(default=0.5, metadata=meta("Lower corner in hertz, 0 for none."))
    high_hz: float = field(default=40.0, metadata=meta("Upper corner in hertz, 0 for none."))
    order: int = field(default=2, metadata=meta("Order of the filter before it is run twice, 1 to 8."))

    def __post_init__(self) -> None:
        coerce_fields(self)
        require(1 <= self.order <= 8, f"bandpass.order must lie between 1 and 8, not {self.order}.")
        require(self.low_hz >= 0 and self.high_hz >= 0, "bandpass takes corners of at least 0 Hz.")
        require(
            self.high_hz == 0 or self.high_hz > self.low_hz,
            f"bandpass needs its upper corner ({self.high_hz} Hz) above its lower one ({self.low_hz} Hz).",
        )

    def apply(self, stage: Stage) -> Stage:
        nyquist = stage.fs_hz / 2
        require(self.low_hz < nyquist, f"bandpass.low_hz is {self.low_hz} Hz; the signal ends at {nyquist:g} Hz.")
        high = self.high_hz if 0 < self.high_hz < nyquist else 0.0
        if not self.low_hz and not high:
            return stage
        kind = "bandpass" if self.low_hz and high else "highpass" if self.low_hz else "lowpass"
        corners = [self.low_hz, high] if kind == "bandpass" else (self.low_hz or high)
        sos = scipy.signal.butter(self.order, corners, kind, fs=stage.fs_hz, output="sos")
        return replace(stage, signal=zero_phase(sos, stage.signal, stage.fs_hz, self.low_hz or high))


def zero_phase(sos: np.ndarray, signal: np.ndarray, fs_hz: float, slowest_hz: float) -> np.ndarray:
    """Run second-order sections forwards and backwards over ``(leads, samples)``; gaps are bridged and reopened.

    The ends are continued by point reflection over one period of the slowest corner, as far as there is signal.
    """
    bridged, missing = bridge(signal)
    pad = min(int(fs_hz / slowest_hz), signal.shape[1] - 1)
    return reopen(scipy.signal.sosfiltfilt(sos, bridged.astype(np.float64), axis=1, padlen=pad), missing)
