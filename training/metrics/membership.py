"""How far a model gives away which records it was trained on."""

from __future__ import annotations

import numpy as np
import scipy  # Its parts are slow to import and load when they are first used.

from training.metrics.base import Figure
from training.metrics.intervals import auroc_interval, figure

#: Above this chance of telling a training record from another one, a report warns.
WARN_ABOVE = 0.6


def record_losses(predicted: np.ndarray, truth: np.ndarray, task: str) -> np.ndarray:
    """Return one loss per record, ``(records,)``: cross-entropy of probabilities, or squared error for a regression.

    predicted, truth: ``(records, outputs)``, truth NaN where unknown. The mean over the known outputs; NaN for a
    record without any.
    """
    known = np.isfinite(truth)
    filled = np.where(known, truth, 0.0)
    if task == "regression":
        losses = (predicted - filled) ** 2
    else:
        p = np.clip(np.asarray(predicted, dtype=np.float64), 1e-7, 1 - 1e-7)
        losses = -np.log(p) * filled if task == "multiclass" else -(filled * np.log(p) + (1 - filled) * np.log1p(-p))
    counts = known.sum(axis=1)
    return np.divide((losses * known).sum(axis=1), counts, out=np.full(len(truth), np.nan), where=counts > 0)


def membership(trained_on: np.ndarray, held_back: np.ndarray, subjects: tuple[int, int] | None = None) -> Figure:
    """Return the chance that a record of the training part has a smaller loss than a held-back one, with its interval.

    0.5 is a model that treats both alike; 1 is one whose training records can be told from others without error
    (the loss attack of Yeom et al. 2018, arXiv 1709.01604; stronger attacks exist, so this is a lower bound).
    trained_on, held_back: losses per record of :func:`record_losses`. subjects: how many stand behind each part, for
    the width of the interval; by default every record is one.
    """
    inside, outside = trained_on[np.isfinite(trained_on)], held_back[np.isfinite(held_back)]
    if not len(inside) or not len(outside):
        return Figure(None, None, None, "There are no records of one of the parts to compare.")
    ranks = scipy.stats.rankdata(np.concatenate([inside, outside]))
    above = ranks[len(inside) :].sum() - len(outside) * (len(outside) + 1) / 2
    value = float(above / (len(inside) * len(outside)))
    return figure(value, auroc_interval(value, *(subjects or (len(inside), len(outside)))))
