"""Take mains hum out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import scipy  # Its parts are slow to import and load when they are first used.

from datasets.preprocess.bandpass import zero_phase
from datasets.preprocess.base import Stage, Step, coerce_fields, meta, require, step


@step("notch")
@dataclass(frozen=True)
class Notch(Step):
    """Second-order notch at ``mains_hz`` and its first harmonics below the Nyquist rate, zero phase.

    ``width_hz`` is the width at -3 dB of one run. A signal whose Nyquist rate is not above ``mains_hz`` is unchanged.
    """

    mains_hz: float = field(default=50.0, metadata=meta("Mains frequency in hertz, 50 or 60 in practice."))
    width_hz: float = field(default=2.0, metadata=meta("Width of the notch in hertz."))
    harmonics: int = field(default=1, metadata=meta("How many multiples of the mains frequency are taken out."))

    def __post_init__(self) -> None:
        coerce_fields(self)
        require(10 <= self.mains_hz <= 400, f"notch.mains_hz must lie between 10 and 400 Hz, not {self.mains_hz}.")
        require(0.1 <= self.width_hz <= 10, f"notch.width_hz must lie between 0.1 and 10 Hz, not {self.width_hz}.")
        require(1 <= self.harmonics <= 5, f"notch.harmonics must lie between 1 and 5, not {self.harmonics}.")

    def apply(self, stage: Stage) -> Stage:
        sections = [
            scipy.signal.tf2sos(*scipy.signal.iirnotch(rate, rate / self.width_hz, fs=stage.fs_hz))
            for rate in self.mains_hz * np.arange(1, self.harmonics + 1)
            if rate < 0.49 * stage.fs_hz
        ]
        if not sections:
            return stage
        return replace(stage, signal=zero_phase(np.concatenate(sections), stage.signal, stage.fs_hz, self.width_hz))
