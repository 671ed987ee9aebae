"""Take baseline wander out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import scipy  # Its parts are slow to import and load when they are first used.

from datasets.preprocess._gaps import bridge, reopen
from datasets.preprocess._polyphase import resample
from datasets.preprocess.bandpass import zero_phase
from datasets.preprocess.base import Stage, Step, coerce_fields, meta, require, step

_TRACK_HZ = 50.0


@step("remove_baseline")
@dataclass(frozen=True)
class RemoveBaseline(Step):
    """Subtract the slow course of each lead.

    ``highpass``: second-order Butterworth, zero phase, -6 dB at ``corner_hz``. ``median``: medians over 0.2 s and then
    0.6 s, which leave QRS and T waves out of the estimate and keep the ST segment (P. de Chazal, M. O'Dwyer, R. B.
    Reilly, IEEE Trans Biomed Eng 2004;51:1196-1206), computed at 50 Hz. ``mean``: the lead's mean only.
    """

    method: str = field(default="highpass", metadata=meta("How the course is found.", ("highpass", "median", "mean")))
    corner_hz: float = field(default=0.5, metadata=meta("Corner of the high-pass in hertz."))

    def __post_init__(self) -> None:
        coerce_fields(self)
        require(
            0.05 <= self.corner_hz <= 2, f"remove_baseline.corner_hz must lie in 0.05 to 2 Hz, not {self.corner_hz}."
        )

    def apply(self, stage: Stage) -> Stage:
        if self.method == "highpass":
            sos = scipy.signal.butter(2, self.corner_hz, "highpass", fs=stage.fs_hz, output="sos")
            return replace(stage, signal=zero_phase(sos, stage.signal, stage.fs_hz, self.corner_hz))
        bridged, missing = bridge(stage.signal)
        if self.method == "mean":
            known = ~np.isnan(stage.signal)
            sums = np.where(known, stage.signal, 0).sum(axis=1, keepdims=True, dtype=np.float64)
            course = sums / np.maximum(known.sum(axis=1, keepdims=True), 1)
        else:
            course = _median_course(bridged, stage.fs_hz)
        return replace(stage, signal=reopen((bridged - course).astype(np.float32), missing))


def _median_course(signal: np.ndarray, fs_hz: float) -> np.ndarray:
    slow = resample(signal, fs_hz, _TRACK_HZ)
    for seconds in (0.2, 0.6):
        slow = scipy.ndimage.median_filter(slow, size=(1, 2 * int(seconds * _TRACK_HZ / 2) + 1), mode="nearest")
    places, known = np.arange(signal.shape[1]) / fs_hz, np.arange(slow.shape[1]) / _TRACK_HZ
    return np.stack([np.interp(places, known, row) for row in slow]) if len(slow) else signal
