"""Samples of 8 bits on a logarithmic scale: the mu-law and the A-law of ITU-T G.711 (tables 1 and 2), code to value.

The values are those of the recommendation's tables: up to 8031 (14 bits) by the mu-law, up to 4032 (13 bits) by the A-law.
"""

from __future__ import annotations

import numpy as np


def _mu_law() -> np.ndarray:
    """Codes are stored with all bits turned over; each of eight segments doubles the step, from 2 on."""
    codes = np.arange(256) ^ 0xFF
    segment, step = (codes >> 4) & 7, codes & 15
    size = ((2 * step + 33) << segment) - 33
    return np.where(codes & 0x80, -size, size).astype(np.int16)


def _a_law() -> np.ndarray:
    """Codes are stored with every other bit turned over; the first two segments have the same step, 2."""
    codes = np.arange(256) ^ 0x55
    segment, step = (codes >> 4) & 7, codes & 15
    size = np.where(segment == 0, 2 * step + 1, (2 * step + 33) << np.maximum(segment - 1, 0))
    return np.where(codes & 0x80, size, -size).astype(np.int16)


#: Value of each code, int16 ``(256,)``.
MU_LAW, A_LAW = _mu_law(), _a_law()
