"""Reduce a record to one representative beat."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace

import numpy as np

from datasets.beats import find_r_peaks
from datasets.preprocess.base import OutputSpec, Stage, Step, coerce_fields, meta, require, step


@step("median_beat")
@dataclass(frozen=True)
class MedianBeat(Step):
    """Replace the record by the median of its beats, sample by sample, from ``before_s`` in front of the QRS peak to
    ``after_s`` behind it.

    Beats that reach over the ends, and beats that do not resemble the others (correlation with the first median below
    0.8), are left out. Without any whole beat the result is missing throughout, with a note.
    """

    before_s: float = field(default=0.35, metadata=meta("Seconds in front of the QRS peak."))
    after_s: float = field(default=0.55, metadata=meta("Seconds behind the QRS peak."))

    def __post_init__(self) -> None:
        coerce_fields(self)
        require(0.05 <= self.before_s <= 2, f"median_beat.before_s must lie between 0.05 and 2 s, not {self.before_s}.")
        require(0.05 <= self.after_s <= 2, f"median_beat.after_s must lie between 0.05 and 2 s, not {self.after_s}.")

    def _length(self, fs_hz: float) -> tuple[int, int]:
        return round(self.before_s * fs_hz), round(self.after_s * fs_hz)

    def spec(self, spec: OutputSpec) -> OutputSpec:
        if spec.fs_hz is None:
            return spec
        samples = sum(self._length(spec.fs_hz))
        return replace(spec, min_samples=samples, max_samples=samples)

    def apply(self, stage: Stage) -> Stage:
        before, after = self._length(stage.fs_hz)
        peaks = find_r_peaks(stage.signal, stage.fs_hz)
        peaks = peaks[(peaks >= before) & (peaks + after <= stage.signal.shape[1])]
        if not len(peaks):
            shape = (len(stage.leads), before + after)
            empty = replace(stage, signal=np.full(shape, np.nan, np.float32), mask=np.zeros(shape, bool))
            return empty.with_note("No whole beat was found, so there is no median beat.")
        rows = peaks[:, None] + np.arange(-before, after)
        beats, masks = stage.signal[:, rows], stage.mask[:, rows]
        with warnings.catch_warnings():
            # A lead that is missing in all beats stays missing.
            warnings.simplefilter("ignore", RuntimeWarning)
            median = np.nanmedian(beats, axis=1)
            alike = _alike(beats, median)
            if alike.any() and not alike.all():
                median = np.nanmedian(beats[:, alike], axis=1)
                masks = masks[:, alike]
        note = f"Median of {masks.shape[1]} beats of {len(peaks)}."
        return replace(stage, signal=median.astype(np.float32), mask=np.asarray(masks.any(axis=1))).with_note(note)


def _alike(beats: np.ndarray, median: np.ndarray) -> np.ndarray:
    """Return which beats ``(leads, beats, samples)`` correlate with the median by at least 0.8 over all leads."""
    known = np.nan_to_num(beats - np.nanmean(beats, axis=2, keepdims=True))
    model = np.nan_to_num(median - np.nanmean(median, axis=1, keepdims=True))
    product = np.einsum("lbs,ls->b", known, model)
    size = np.sqrt(np.einsum("lbs,lbs->b", known, known) * np.square(model).sum())
    return product >= 0.8 * np.maximum(size, 1e-12)
