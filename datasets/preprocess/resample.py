"""Change the sampling rate."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from datasets.preprocess import _polyphase
from datasets.preprocess._gaps import bridge, reopen
from datasets.preprocess.base import OutputSpec, Stage, Step, coerce_fields, meta, require, step


@step("resample")
@dataclass(frozen=True)
class Resample(Step):
    """Resample to ``fs_hz`` with a linear-phase anti-alias filter: flat to 80 %, closed from 100 % of the lower
    Nyquist rate. Ends are continued by point reflection. An output sample is missing where its nearest input sample is.
    """

    fs_hz: float = field(metadata=meta("Samples per second, 20 to 4000."))

    def __post_init__(self) -> None:
        coerce_fields(self)
        require(20 <= self.fs_hz <= 4000, f"resample.fs_hz must lie between 20 and 4000 Hz, not {self.fs_hz}.")

    def spec(self, spec: OutputSpec) -> OutputSpec:
        if spec.fs_hz is None:
            return replace(spec, fs_hz=self.fs_hz, min_samples=1, max_samples=None)
        shortest = _polyphase.resampled_length(spec.min_samples, spec.fs_hz, self.fs_hz)
        longest = spec.max_samples and _polyphase.resampled_length(spec.max_samples, spec.fs_hz, self.fs_hz)
        return replace(spec, fs_hz=self.fs_hz, min_samples=shortest, max_samples=longest)

    def apply(self, stage: Stage) -> Stage:
        if stage.fs_hz == self.fs_hz:
            return stage
        if stage.mask.all():
            signal = _polyphase.resample(stage.signal, stage.fs_hz, self.fs_hz)
            return replace(stage, signal=signal, fs_hz=self.fs_hz, mask=np.ones(signal.shape, dtype=bool))
        bridged, missing = bridge(stage.signal)
        signal = _polyphase.resample(bridged, stage.fs_hz, self.fs_hz)
        change = _polyphase.ratio(stage.fs_hz, self.fs_hz)
        place = np.arange(signal.shape[1]) * change.denominator
        nearest = np.minimum((2 * place + change.numerator) // (2 * change.numerator), stage.signal.shape[1] - 1)
        signal = reopen(signal.copy(), None if missing is None else missing[:, nearest])
        return replace(stage, signal=signal, fs_hz=self.fs_hz, mask=stage.mask[:, nearest])
