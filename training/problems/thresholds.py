"""Decision thresholds chosen on validation data."""

from __future__ import annotations

import numpy as np
import scipy  # Its parts are slow to import and load when they are first used.

from modelhub.contract import decided
from training.problems.base import sigmoid

# Pseudo-count of the prior: with this many records of the rarer side the threshold lies half-way (in log-odds)
# between the prior and the best threshold found.
PRIOR_RECORDS = 30.0
LOWEST, HIGHEST = 0.02, 0.98
# So many steps, each so far towards what is aimed at, until thresholds and what is predicted by them agree.
_TURNS, _STEP = 30, 0.3


def f1_thresholds(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return one threshold per output, ``(outputs,)`` in (0, 1), near the best mean of the F1 of the class and of the rest.

    For a rare class that is where its own F1 is best; for a frequent one, its own F1 alone would reward calling everything.
    The best threshold on a small set is close to noise, so two things steady it: it is the centre of the plateau of
    thresholds that are nearly as good (within one error's worth), and it is shrunk in log-odds towards a prior by the
    number of records of the rarer side. The prior is where the probabilities themselves promise the best mean, read after
    a shift in log-odds that lets their mean meet the share of positives: networks that learned briefly, or of rare
    classes, promise too much or too little.

    probabilities: ``(records, outputs)``; targets: same shape, 0, 1 or NaN. Without a positive or a negative the prior
    alone is used.
    """
    probabilities = np.asarray(probabilities, np.float64)
    targets = np.asarray(targets, np.float64)
    return np.array([_one(p, t) for p, t in zip(probabilities.T, targets.T, strict=True)])


def f1_thresholds_of_one(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return a threshold per class, ``(classes,)`` in [0, 0.5], for a task in which the class that exceeds its threshold the most is
    predicted, near the best mean of the classes' F1, each counted by its records.

    One more record for a class with positives ``n`` of which as many are predicted changes its F1 by ``(2 p - F1) / (2 n)``, and the
    mean counts it by ``n``: so the class with the largest ``p - F1 / 2`` gains the most, as a class by itself is best called from
    half of its F1 on (Lipton et al., arXiv 1402.1892). What is predicted sets the F1, so they are found in turns. The F1 is the one
    that was reached and the one that the probabilities promise, counted as ``PRIOR_RECORDS`` positives. Without known truths all are 0.

    probabilities: ``(records, classes)``; targets: same shape, one 1 in a row, or NaN.
    """
    p, t = np.asarray(probabilities, np.float64), np.asarray(targets, np.float64)
    known = np.isfinite(t).all(axis=1)
    p, t = p[known], t[known]
    limits = np.zeros(t.shape[1])
    if not len(p):
        return limits
    weight = t.sum(axis=0) / (t.sum(axis=0) + PRIOR_RECORDS)
    for _ in range(_TURNS):
        called = decided(p, limits, one_of_several=True)
        limits += _STEP * ((weight * _f1(t, called) + (1 - weight) * _f1(p, called)) / 2 - limits)
    return limits


def _f1(t: np.ndarray, called: np.ndarray) -> np.ndarray:
    """Return each class's F1 of what is called; t: 0 or 1, or the probability of 1."""
    return np.asarray(2 * (t * called).sum(axis=0) / np.maximum(t.sum(axis=0) + called.sum(axis=0), 1e-9))


def _one(p: np.ndarray, t: np.ndarray) -> float:
    if len(p) == 0:
        return 0.5
    p = np.clip(p, 1e-6, 1 - 1e-6)
    known = np.isfinite(t)
    positives, records = int((t[known] > 0.5).sum()), int(known.sum())
    # Half a record of either side: a share of nought is never certain.
    shift = _shift_to(p[known], (positives + 0.5) / (records + 1)) if records else 0.0
    promised = _moved(p, shift)
    prior = _moved(np.clip(_plateau_centre(promised, promised), 0.05, 0.95), -shift)
    fewer = min(positives, records - positives)
    if fewer == 0:
        return float(np.clip(prior, LOWEST, HIGHEST))
    found = _plateau_centre(p[known], (t[known] > 0.5).astype(float))
    weight = fewer / (fewer + PRIOR_RECORDS)
    between = weight * _log_odds(found) + (1 - weight) * _log_odds(prior)
    return float(np.clip(sigmoid(between), LOWEST, HIGHEST))


def _log_odds(p: np.ndarray | float) -> np.ndarray:
    return np.log(np.asarray(p) / (1 - np.asarray(p)))


def _moved(p: np.ndarray | float, shift: float) -> np.ndarray:
    """Return probabilities moved by ``shift`` in log-odds."""
    return sigmoid(_log_odds(p) + shift)


def _shift_to(p: np.ndarray, share: float) -> float:
    """Return the shift in log-odds by which the mean probability becomes ``share``."""
    return float(scipy.optimize.brentq(lambda shift: float(_moved(p, shift).mean()) - share, -40.0, 40.0))


def _plateau_centre(p: np.ndarray, t: np.ndarray) -> float:
    """Return the middle, in log-odds, of the stretch around the best mean F1 that costs at most one error.

    t: 0 or 1, or the probability of 1, for which the expected F1 is taken.
    """
    order = np.argsort(-p, kind="stable")
    p, t = p[order], t[order]
    hits, taken, total = np.cumsum(t), np.arange(1, len(p) + 1), t.sum()
    own = 2 * hits / (taken + total)
    left = len(p) - taken
    rest = 2 * (left - (total - hits)) / np.maximum(left + len(p) - total, 1e-9)
    last_of_tie = np.append(p[1:] != p[:-1], True)
    f1 = np.where(last_of_tie, (own + rest) / 2, -1.0)
    best = int(f1.argmax())
    allowed = f1[best] - 0.5 / (taken[best] + total)
    first = last = best
    while first > 0 and (f1[first - 1] >= allowed or f1[first - 1] < 0):
        first -= 1
    while last + 1 < len(p) and (f1[last + 1] >= allowed or f1[last + 1] < 0):
        last += 1
    low = p[last + 1] if last + 1 < len(p) else p[last] / 2
    return float(sigmoid((_log_odds(p[first]) + _log_odds(low)) / 2))
