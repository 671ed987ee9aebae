"""Lengthen short records."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from datasets.preprocess.base import OutputSpec, Stage, Step, coerce_fields, meta, require, step


@step("expand")
@dataclass(frozen=True)
class Expand(Step):
    """Lengthen a record to at least ``duration_s``; the record stands at the beginning.

    ``zero``: the added samples are missing until ``fill`` gives them its value (0 unless the recipe says otherwise).
    ``repeat``: the record is repeated from its beginning. Either way the mask is False for what was added.
    """

    duration_s: float = field(metadata=meta("Shortest duration in seconds."))
    how: str = field(default="zero", metadata=meta("What is added.", ("zero", "repeat")))

    def __post_init__(self) -> None:
        coerce_fields(self)
        require(
            0.05 <= self.duration_s <= 86400,
            f"expand.duration_s must lie between 0.05 and 86400 s, not {self.duration_s}.",
        )

    def spec(self, spec: OutputSpec) -> OutputSpec:
        if spec.fs_hz is None:
            return spec
        shortest = round(self.duration_s * spec.fs_hz)
        return replace(
            spec,
            min_samples=max(spec.min_samples, shortest),
            max_samples=None if spec.max_samples is None else max(spec.max_samples, shortest),
        )

    def apply(self, stage: Stage) -> Stage:
        shortest, samples = round(self.duration_s * stage.fs_hz), stage.signal.shape[1]
        if samples >= shortest:
            return stage
        if self.how == "repeat":
            signal = np.take(stage.signal, np.arange(shortest) % samples, axis=1)
        else:
            signal = np.full((stage.signal.shape[0], shortest), np.nan, dtype=np.float32)
            signal[:, :samples] = stage.signal
        mask = np.zeros(signal.shape, dtype=bool)
        mask[:, :samples] = stage.mask
        how = "repeating it" if self.how == "repeat" else "samples marked as missing"
        note = f"The record lasts {samples / stage.fs_hz:.2f} s; it was expanded to {shortest / stage.fs_hz:.2f} s by {how}."
        return replace(stage, signal=signal, mask=mask).with_note(note)
