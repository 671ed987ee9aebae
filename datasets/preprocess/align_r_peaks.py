"""Put an R peak at a fixed place."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from datasets.beats import find_r_peaks
from datasets.preprocess.base import Stage, Step, coerce_fields, meta, require, step


@step("align_r_peaks")
@dataclass(frozen=True)
class AlignRPeaks(Step):
    """Move the record so that its first QRS peak from ``at_s`` on lies at ``at_s`` seconds.

    What moves out at the beginning is lost, and as many samples are missing at the end; length and rate stay. A record
    without a QRS complex there is not moved, with a note.
    """

    at_s: float = field(default=0.5, metadata=meta("Where the first QRS peak shall lie, in seconds."))

    def __post_init__(self) -> None:
        coerce_fields(self)
        require(0 <= self.at_s <= 60, f"align_r_peaks.at_s must lie between 0 and 60 s, not {self.at_s}.")

    def apply(self, stage: Stage) -> Stage:
        goal = round(self.at_s * stage.fs_hz)
        peaks = find_r_peaks(stage.signal, stage.fs_hz)
        later = peaks[peaks >= goal]
        if not len(later):
            return stage.with_note(f"No QRS complex was found behind {self.at_s:g} s, so the record was not aligned.")
        shift = int(later[0]) - goal
        if not shift:
            return stage
        signal = np.full_like(stage.signal, np.nan)
        signal[:, :-shift] = stage.signal[:, shift:]
        mask = np.zeros_like(stage.mask)
        mask[:, :-shift] = stage.mask[:, shift:]
        return replace(stage, signal=signal, mask=mask)
