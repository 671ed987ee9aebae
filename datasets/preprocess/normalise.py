"""Take level or scale out of a record."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from datasets.preprocess.base import OutputSpec, Stage, Step, coerce_fields, meta, require, step

_KINDS = ("none", "lead_zscore", "record_zscore", "min_max", "mean_std")


@step("normalise")
@dataclass(frozen=True)
class Normalise(Step):
    """Normalise by statistics of the recorded samples (mask True); missing samples stay missing.

    ``none``; ``lead_zscore``: mean 0 and standard deviation 1 per lead; ``record_zscore``: mean 0 per lead, one
    standard deviation for the record, so that the leads keep their proportions; ``min_max``: -1 to 1 per lead;
    ``mean_std``: subtract ``mean`` and divide by ``std``, one number for all leads or one per lead, in mV, as known
    from a training set. A divisor below ``floor_mv`` is taken as ``floor_mv``: the noise of a flat lead stays small.
    """

    kind: str = field(default="lead_zscore", metadata=meta("How to normalise.", _KINDS))
    mean: tuple[float, ...] = field(default=(), metadata=meta("Means in mV for mean_std."))
    std: tuple[float, ...] = field(default=(), metadata=meta("Standard deviations in mV for mean_std."))
    floor_mv: float = field(default=0.01, metadata=meta("Smallest divisor in mV."))

    def __post_init__(self) -> None:
        coerce_fields(self)
        require(0 < self.floor_mv <= 1, f"normalise.floor_mv must lie above 0 and at most at 1, not {self.floor_mv}.")
        if self.kind == "mean_std":
            require(bool(self.mean) and len(self.mean) == len(self.std), "mean_std needs mean and std of equal length.")
            require(all(np.isfinite(self.mean)), "normalise.mean must hold finite numbers.")
            require(all(0 < v < np.inf for v in self.std), "normalise.std must hold numbers above 0.")
        else:
            require(not self.mean and not self.std, "normalise takes mean and std for mean_std only.")

    def spec(self, spec: OutputSpec) -> OutputSpec:
        return spec if self.kind == "none" else replace(spec, unit="1", normalisation=self.kind)

    def apply(self, stage: Stage) -> Stage:
        if self.kind == "none":
            return stage
        if self.kind == "mean_std":
            require(
                len(self.mean) in (1, len(stage.leads)),
                f"mean_std has numbers for {len(self.mean)} leads; the record has {len(stage.leads)}.",
            )
            centre, width = np.array(self.mean)[:, None], np.array(self.std)[:, None]
        else:
            centre, width = self._own(stage)
        signal = ((stage.signal - centre) / np.maximum(width, self.floor_mv)).astype(np.float32)
        return replace(stage, signal=signal)

    def _own(self, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
        known = stage.mask & ~np.isnan(stage.signal)
        count = np.maximum(known.sum(axis=1, keepdims=True), 1)
        if self.kind == "min_max":
            low = np.where(known, stage.signal, np.inf).min(axis=1, keepdims=True)
            high = np.where(known, stage.signal, -np.inf).max(axis=1, keepdims=True)
            empty = ~known.any(axis=1, keepdims=True)
            low, high = np.where(empty, 0, low), np.where(empty, 0, high)
            return (low + high) / 2, (high - low) / 2
        values = np.where(known, stage.signal, 0).astype(np.float64)
        mean = values.sum(axis=1, keepdims=True) / count
        square = np.where(known, (values - mean) ** 2, 0).sum(axis=1, keepdims=True)
        if self.kind == "record_zscore":
            return mean, np.sqrt(square.sum() / max(int(known.sum()), 1))
        return mean, np.sqrt(square / count)
