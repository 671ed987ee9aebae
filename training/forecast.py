"""A power law through the points of a learning curve, and what more data would bring.

Learning curves of networks follow ``a - b * n ** -c`` over wide ranges (J. Hestness et al., "Deep learning scaling is
predictable, empirically", arXiv 1712.00409, 2017). The interval comes from fitting the law again to points that were drawn
within their own intervals; it does not hold the doubt whether the law goes on beyond the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy  # Its parts are slow to import and load when they are first used.

_DRAWS = 300
_FEWEST_SIZES = 4
# A 95 % interval is so many standard errors wide.
_WIDTH = 3.92
_LEAST_ERROR = 0.005


@dataclass(frozen=True)
class Point:
    """One training: records, the score and its 95 % interval (None where it could not be had)."""

    records: int
    score: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Forecast:
    """law: ``{"a", "b", "c"}`` of ``a - b * n ** -c`` (plus where lower is better). now, twice: figures with intervals at
    the largest number of records and at double of it. curve: ``[records, value, low, high]`` rows. reason: why there is none."""

    records: int
    law: dict[str, float] | None
    now: dict[str, float] | None
    twice: dict[str, float] | None
    curve: list[list[float]]
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def forecast(points: Sequence[Point], *, lower_is_better: bool = False, most: float | None = 1.0) -> Forecast:
    """Fit the law to points of at least four sizes. most: the best value that the score can have, None where open."""
    sizes = sorted({point.records for point in points})
    largest = sizes[-1] if sizes else 0
    if len(sizes) < _FEWEST_SIZES:
        reason = f"A forecast needs trainings on at least {_FEWEST_SIZES} sizes; {len(sizes)} could be scored."
        return Forecast(largest, None, None, None, [], reason)
    n = np.array([point.records for point in points], float)
    sign = -1.0 if lower_is_better else 1.0
    y = sign * np.array([point.score for point in points])
    errors = np.array([_error(point) for point in points])
    ceiling = most if most is not None and not lower_is_better else (0.0 if lower_is_better else np.inf)
    best = _fit(n, y, errors, ceiling)
    if best is None:
        return Forecast(largest, None, None, None, [], "No power law fits these points.")
    rng = np.random.default_rng(0)
    drawn = [_fit(n, y + rng.normal(0, errors), errors, ceiling) for _ in range(_DRAWS)]
    laws = np.array([law for law in drawn if law is not None])
    at = np.unique(np.geomspace(sizes[0], 2 * largest, 40).round())
    middle = _law(at, *best)
    spread = np.array([_law(at, *law) for law in laws])
    low, high = np.percentile(spread, [2.5, 97.5], axis=0)
    rows = [[float(x), *sorted_(sign, m, lo, hi)] for x, m, lo, hi in zip(at, middle, low, high, strict=True)]

    def figure(records: float) -> dict[str, float]:
        ends = np.percentile([_law(np.array([records]), *law)[0] for law in laws], [2.5, 97.5])
        value, lo, hi = sorted_(sign, float(_law(np.array([records]), *best)[0]), *map(float, ends))
        return {"value": value, "low": lo, "high": hi}

    law = {"a": float(sign * best[0]), "b": float(best[1]), "c": float(best[2])}
    return Forecast(largest, law, figure(largest), figure(2 * largest), rows)


def sorted_(sign: float, value: float, low: float, high: float) -> tuple[float, float, float]:
    """Return a value and its ends in the score's own direction."""
    ends = sorted((sign * low, sign * high))
    return sign * value, ends[0], ends[1]


def _error(point: Point) -> float:
    if point.low is None or point.high is None:
        return 0.05
    return max((point.high - point.low) / _WIDTH, _LEAST_ERROR)


def _law(n: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    return a - b * n**-c


def _slopes(n: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    """Return the derivatives of the law by ``a, b, c``, ``(points, 3)``."""
    power = n**-c
    return np.stack([np.ones_like(n), -power, b * np.log(n) * power], axis=1)


def _fit(n: np.ndarray, y: np.ndarray, errors: np.ndarray, ceiling: float) -> np.ndarray | None:
    """Return ``a, b, c`` with ``a`` not above the ceiling, by weighted least squares; None when it does not converge."""
    top = float(y.max())
    first = min(top + 0.02, ceiling) if np.isfinite(ceiling) else top + 0.02
    start = [first, max(first - float(y.min()), 1e-3) * float(n.min()) ** 0.5, 0.5]
    bounds = ([-np.inf, 0.0, 0.05], [max(ceiling, first) if np.isfinite(ceiling) else np.inf, np.inf, 2.0])
    try:
        found, _ = scipy.optimize.curve_fit(_law, n, y, p0=start, sigma=errors, bounds=bounds, jac=_slopes, maxfev=5000)
    except RuntimeError:
        return None
    return found
