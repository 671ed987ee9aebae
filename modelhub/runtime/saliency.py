"""Which part of an ECG a model's answer rests on: occlusion, lead by lead and window by window. Needs no torch.

A window of one lead is replaced by the lead's median, and the change of the answer is noted (occlusion sensitivity,
Zeiler and Fergus 2014, doi 10.1007/978-3-319-10590-1_53). It asks the model only for answers, so it works for any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ecgportal.errors import InvalidInput

METHOD = "occlusion by the lead's median"
WINDOWS = 20
# Answers asked for at once: bounds the memory (12 leads x 5000 samples x 64 are 15 MB).
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Occlusion:
    """values: ``(classes, leads, windows)``, the answer with the window minus the answer without it: above 0 where the
    window speaks for the class, below 0 where it speaks against it; base: the answer itself, ``(classes,)``; edges:
    first sample of each window and the end, ``(windows + 1,)``."""

    values: np.ndarray
    base: np.ndarray
    edges: np.ndarray


def occlusion(
    predict: Callable[[np.ndarray], np.ndarray],
    signal: np.ndarray,
    *,
    windows: int = WINDOWS,
    mask: np.ndarray | None = None,
    progress: Callable[[float], None] | None = None,
) -> Occlusion:
    """Return how much each window of each lead supports each answer.

    predict: float32 ``(n, leads, samples)`` to ``(n, classes)``. signal: float32 ``(leads, samples)`` as the model takes
    it, finite. windows: parts of equal length, at most one a sample. mask: True for recorded samples; the median is
    taken over them, and a window without any is 0, as nothing is known about what was not recorded.
    InvalidInput for a signal of another shape or with values that are not finite.
    """
    if signal.ndim != 2 or 0 in signal.shape or not np.isfinite(signal).all():
        raise InvalidInput("Saliency needs a signal of finite values with leads and samples.")
    leads, samples = signal.shape
    count = max(1, min(windows, samples))
    edges = np.linspace(0, samples, count + 1).round().astype(int)
    recorded = np.ones(signal.shape, dtype=bool) if mask is None else mask
    level = [float(np.median(row[known])) if known.any() else 0.0 for row, known in zip(signal, recorded, strict=True)]
    base = np.asarray(predict(signal[None].astype(np.float32)), dtype=np.float64)[0]
    wanted = [(lead, k) for lead in range(leads) for k in range(count) if recorded[lead, edges[k] : edges[k + 1]].any()]
    values = np.zeros((base.size, leads, count))
    for start in range(0, len(wanted), _BATCH):
        part = wanted[start : start + _BATCH]
        batch = np.repeat(signal[None].astype(np.float32), len(part), axis=0)
        for row, (lead, k) in enumerate(part):
            batch[row, lead, edges[k] : edges[k + 1]] = level[lead]
        answers = np.asarray(predict(batch), dtype=np.float64)
        for (lead, k), answer in zip(part, answers, strict=True):
            values[:, lead, k] = base - answer
        if progress is not None:
            progress((start + len(part)) / len(wanted))
    return Occlusion(values, base, edges)
