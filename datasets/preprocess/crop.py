"""Cut long records."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from datasets.preprocess.base import OutputSpec, Stage, Step, coerce_fields, meta, require, step


@step("crop")
@dataclass(frozen=True)
class Crop(Step):
    """Cut a record to at most ``duration_s``: its middle (``centre``) or its beginning (``start``)."""

    duration_s: float = field(metadata=meta("Longest duration in seconds."))
    anchor: str = field(default="centre", metadata=meta("Which part is kept.", ("centre", "start")))

    def __post_init__(self) -> None:
        coerce_fields(self)
        require(
            0.05 <= self.duration_s <= 86400,
            f"crop.duration_s must lie between 0.05 and 86400 s, not {self.duration_s}.",
        )

    def spec(self, spec: OutputSpec) -> OutputSpec:
        if spec.fs_hz is None:
            return spec
        longest = round(self.duration_s * spec.fs_hz)
        return replace(
            spec,
            min_samples=min(spec.min_samples, longest),
            max_samples=longest if spec.max_samples is None else min(spec.max_samples, longest),
        )

    def apply(self, stage: Stage) -> Stage:
        longest, samples = round(self.duration_s * stage.fs_hz), stage.signal.shape[1]
        if samples <= longest:
            return stage
        start = (samples - longest) // 2 if self.anchor == "centre" else 0
        part = slice(start, start + longest)
        return replace(stage, signal=stage.signal[:, part], mask=stage.mask[:, part])
