"""Give missing samples a number."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from datasets.preprocess.base import Stage, Step, coerce_fields, meta, require, step


@step("fill")
@dataclass(frozen=True)
class Fill(Step):
    """Write ``value`` where a sample is missing, because networks cannot take NaN.

    The mask stays False there, and a note says which leads were missing and how much of the others. Every recipe
    ends with this step.
    """

    value: float = field(default=0.0, metadata=meta("What missing samples become."))

    def __post_init__(self) -> None:
        coerce_fields(self)
        require(abs(self.value) <= 1000, f"fill.value must be a small number, not {self.value}.")

    def apply(self, stage: Stage) -> Stage:
        if stage.mask.all():
            return stage
        missing = np.isnan(stage.signal)
        if not missing.any():
            return stage
        signal = np.where(missing, np.float32(self.value), stage.signal)
        share = missing.mean(axis=1)
        whole = [name for name, part in zip(stage.leads, share, strict=True) if part == 1]
        partly = [f"{name} {part:.1%}" for name, part in zip(stage.leads, share, strict=True) if 0 < part < 1]
        note = f"Missing samples were set to {self.value:g}:"
        note += f" all of {', '.join(whole)};" if whole else ""
        note += f" {', '.join(partly)};" if partly else ""
        return replace(stage, signal=signal, mask=stage.mask & ~missing).with_note(note.rstrip(";") + ".")
