"""How far two collections lie apart: effect sizes with the words that go with them."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Cohen 1988, Statistical Power Analysis for the Behavioral Sciences: small, medium, large.
_D = (0.2, 0.5, 0.8)
_V = (0.1, 0.3, 0.5)
_WORDS = ("negligible", "small", "medium", "large")


def cohens_d(mean_a: float, sd_a: float, mean_b: float, sd_b: float) -> float | None:
    """Return (b - a) in units of the pooled standard deviation, both collections counted alike; None without spread."""
    pooled = math.sqrt((sd_a**2 + sd_b**2) / 2)
    return (mean_b - mean_a) / pooled if pooled > 0 else None


def cramers_v(first: Sequence[int], second: Sequence[int]) -> float | None:
    """Return Cramér's V (0 alike, 1 apart) of two rows of counts over the same categories; None when one is empty."""
    a, b = sum(first), sum(second)
    if not a or not b:
        return None
    total = a + b
    chi2 = 0.0
    for x, y in zip(first, second, strict=True):
        column = x + y
        if column:
            for seen, row in ((x, a), (y, b)):
                expected = row * column / total
                chi2 += (seen - expected) ** 2 / expected
    return math.sqrt(chi2 / total)


def word(effect: float, kind: str) -> str:
    """Return ``negligible``, ``small``, ``medium`` or ``large`` for an effect of kind ``d`` or ``v``."""
    limits = _D if kind == "d" else _V
    return _WORDS[sum(abs(effect) >= limit for limit in limits)]
