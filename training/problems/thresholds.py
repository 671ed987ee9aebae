"""Decision thresholds chosen on validation data."""

from __future__ import annotations

import numpy as np

from training.problems.base import sigmoid

# Pseudo-count of the prior: with this many positives the threshold lies half-way (in log-odds)
# between the prior and the best threshold found.
PRIOR_POSITIVES = 30.0
LOWEST, HIGHEST = 0.02, 0.98


def f1_thresholds(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return one threshold per output, ``(outputs,)`` in (0, 1), near the best F1 of its class.

    The threshold that maximises F1 on a small set is close to noise, so two things steady it: it is
    the centre of the plateau of thresholds whose F1 is nearly the best (within one error's worth),
    and it is shrunk in log-odds towards a prior by the number of positives. The prior is half the
    F1 that the probabilities promise of themselves: for calibrated probabilities the optimal
    threshold is half the optimal F1 (Lipton, Elkan, Naryanaswamy 2014, arXiv 1402.1892).

    probabilities: ``(records, outputs)``; targets: same shape, 0, 1 or NaN. Without a positive or
    a negative the prior alone is used.
    """
    probabilities = np.asarray(probabilities, np.float64)
    targets = np.asarray(targets, np.float64)
    return np.array([_one(p, t) for p, t in zip(probabilities.T, targets.T, strict=True)])


def _one(p: np.ndarray, t: np.ndarray) -> float:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    prior = _promised_threshold(p)
    known = np.isfinite(t)
    p, t = p[known], t[known] > 0.5
    positives = int(t.sum())
    if positives == 0 or positives == len(t):
        return float(np.clip(prior, LOWEST, HIGHEST))
    found = _plateau_centre(p, t)
    weight = positives / (positives + PRIOR_POSITIVES)
    return float(np.clip(sigmoid(np.asarray(weight * _logit(found) + (1 - weight) * _logit(prior))), LOWEST, HIGHEST))


def _logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def _promised_threshold(p: np.ndarray) -> float:
    """Return half the best expected F1, taking the probabilities at their word."""
    if len(p) == 0:
        return 0.5
    ordered = np.sort(p)[::-1]
    expected_f1 = 2 * np.cumsum(ordered) / (np.arange(1, len(p) + 1) + ordered.sum())
    return float(np.clip(expected_f1.max() / 2, 0.05, 0.5))


def _plateau_centre(p: np.ndarray, t: np.ndarray) -> float:
    """Return the middle, in log-odds, of the stretch around the best F1 that costs at most one error."""
    order = np.argsort(-p, kind="stable")
    p, t = p[order], t[order]
    hits = np.cumsum(t)
    taken = np.arange(1, len(p) + 1)
    last_of_tie = np.append(p[1:] != p[:-1], True)
    f1 = np.where(last_of_tie, 2 * hits / (taken + t.sum()), -1.0)
    best = int(f1.argmax())
    allowed = f1[best] - 1.0 / (taken[best] + t.sum())
    first = last = best
    while first > 0 and (f1[first - 1] >= allowed or f1[first - 1] < 0):
        first -= 1
    while last + 1 < len(p) and (f1[last + 1] >= allowed or f1[last + 1] < 0):
        last += 1
    low = p[last + 1] if last + 1 < len(p) else p[last] / 2
    return float(sigmoid(np.asarray((_logit(p[first]) + _logit(low)) / 2)))
