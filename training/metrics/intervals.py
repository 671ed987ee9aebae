"""95 % intervals: resampling of subjects, and closed forms where there are good ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from training.metrics.base import Figure, Interval, Sample

Z = 1.959963984540054
MAX_CELLS = 4_000_000


def bootstrap_weights(groups: np.ndarray, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield record weights ``(some, records)``, in all ``n_resamples`` rows.

    Whole subjects are drawn with replacement, so a subject's records stay together and repeated
    recordings do not narrow the interval (cluster bootstrap). Rows come in pieces of bounded size.
    """
    rng = np.random.default_rng(seed)
    n_groups = int(groups.max()) + 1
    rows = max(1, MAX_CELLS // max(len(groups), n_groups))
    share = np.full(n_groups, 1.0 / n_groups)
    done = 0
    while done < n_resamples:
        count = min(rows, n_resamples - done)
        yield rng.multinomial(n_groups, share, size=count).astype(np.float64)[:, groups]
        done += count


def wilson(successes: float, n: float) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927); ``n`` may be an effective, broken number."""
    p = min(max(successes / n, 0.0), 1.0)
    centre = p + Z * Z / (2 * n)
    half = Z * np.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    # At 0 and n the exact bound is 0 or 1; rounding must not exclude the value itself.
    return float(min(max(0.0, (centre - half) / scale), p)), float(max(min(1.0, (centre + half) / scale), p))


def design_effect(success: np.ndarray, groups: np.ndarray) -> float:
    """Return how much clustering within subjects widens the variance of a proportion, at least 1.

    Ratio estimator over clusters (Rao and Scott 1992, Biometrics 48:577). Without repeated
    subjects it is 1.
    """
    n = len(success)
    _, index = np.unique(groups, return_inverse=True)
    m = int(index.max()) + 1
    if m == n or m < 2:
        return 1.0
    p = success.mean()
    if p in (0.0, 1.0):
        # All alike: no variance to see. Count subjects, not records.
        return n / m
    residual = np.bincount(index, weights=success - p)
    clustered = m / (m - 1) * (residual**2).sum() / n**2
    return float(max(1.0, clustered / (p * (1 - p) / n)))


def proportion(success: np.ndarray, groups: np.ndarray) -> Interval:
    """Wilson interval of a proportion over records, with the number of records divided by the design effect."""
    n = len(success) / design_effect(success.astype(np.float64), groups)
    return wilson(float(success.mean()) * n, n)


def auroc_interval(value: float, positives: int, negatives: int) -> Interval:
    """Return Newcombe's interval of an AUROC (2006, Stat Med 25:559, method 5).

    It solves ``|a - value| = z sqrt(V(a))`` with Hanley and McNeil's variance; unlike resampling
    it stays honest at a perfect separation.
    """
    star = (positives + negatives) / 2 - 1

    def variance(a: float) -> float:
        return a * (1 - a) * (1 + star * (1 - a) / (2 - a) + star * a / (1 + a)) / (positives * negatives)

    def solve(inside: float, outside: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            if (middle - value) ** 2 <= Z * Z * variance(middle):
                inside = middle
            else:
                outside = middle
        return inside

    return solve(value, 0.0), solve(value, 1.0)


def interval_from_resamples(
    value: float, resamples: np.ndarray, how: str, bounds: tuple[float, float]
) -> tuple[Interval | None, str | None]:
    """Return (interval, None) or (None, reason) from bootstrap values, NaN where undefined.

    ``percentile``: 2.5 % and 97.5 % quantiles. ``basic``: reflected at the value, for statistics whose
    resamples lie to one side of it. Resamples that do not vary give no interval.
    """
    defined = resamples[np.isfinite(resamples)]
    if len(defined) < max(20, len(resamples) // 2):
        return None, "Undefined in most resamples, so no interval can be given."
    low, high = np.quantile(defined, [0.025, 0.975])
    if high - low < 1e-12:
        return None, "Every resample gave the same value, so no interval can be given."
    if how == "basic":
        low, high = 2 * value - high, 2 * value - low
    low, high = min(max(low, bounds[0]), value), max(min(high, bounds[1]), value)
    return (float(low), float(high)), None


def figure(
    value: float, interval: Interval | None, why_no_interval: str | None = None, why_undefined: str | None = None
) -> Figure:
    """Assemble a figure; a value that is not finite becomes None with its reason."""
    if not np.isfinite(value):
        return Figure(None, None, None, why_undefined or "Not defined for these records.")
    if interval is None:
        return Figure(float(value), None, None, why_no_interval)
    return Figure(float(value), float(interval[0]), float(interval[1]))


def class_successes(sample: Sample, column: int, of: str) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(success, subjects)`` of the records that a proportion is taken over.

    of: ``sensitivity`` (over true positives' class), ``specificity``, ``ppv`` or ``npv``.
    """
    truth, called = sample.truth[:, column], sample.decided[:, column]
    rows, success = {
        "sensitivity": (truth > 0.5, called),
        "specificity": (truth <= 0.5, ~called),
        "ppv": (called & np.isfinite(truth), truth > 0.5),
        "npv": (~called & np.isfinite(truth), truth <= 0.5),
    }[of]
    return success[rows], sample.groups[rows]
