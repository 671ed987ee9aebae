"""Learning-rate schedules: pure functions of progress in [0, 1] to a factor of the peak rate."""

from __future__ import annotations

import math


def one_cycle(progress: float, warmup: float) -> float:
    """Cosine rise from 1/25 over the warm-up, cosine fall to 1e-4 of the start (Smith 2018, arXiv 1803.09820)."""
    start, end = 1 / 25, 1 / 25 * 1e-4
    if progress < warmup:
        return start + (1 - start) * _half_cosine(progress / warmup)
    return 1 + (end - 1) * _half_cosine((progress - warmup) / (1 - warmup))


def cosine(progress: float, warmup: float) -> float:
    """Linear rise from nearly zero, cosine fall to zero (Loshchilov and Hutter, arXiv 1608.03983)."""
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    return 1 - _half_cosine((progress - warmup) / (1 - warmup))


def constant(progress: float, warmup: float) -> float:
    """Linear rise, then level."""
    return max(progress / warmup, 1e-3) if progress < warmup else 1.0


SCHEDULES = {"one_cycle": one_cycle, "cosine": cosine, "constant": constant}


def _half_cosine(x: float) -> float:
    """Return 0 at 0, 1 at 1, level at both."""
    return (1 - math.cos(math.pi * min(max(x, 0.0), 1.0))) / 2
