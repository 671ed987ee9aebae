"""Medians, and maxima and means over a running window, by numpy alone: a reading process starts without SciPy."""

from __future__ import annotations

import numpy as np


def running_max(values: np.ndarray, size: int) -> np.ndarray:
    """Return the largest of the ``size`` (odd) values around each of ``values`` ``(n,)``; windows end with the array."""
    reach = size // 2
    found = np.full(len(values) + 2 * reach, -np.inf, dtype=values.dtype)
    found[reach : reach + len(values)] = values
    span = 1
    while 2 * span <= size:
        found = np.maximum(found[:-span], found[span:])
        span *= 2
    rest = size - span
    return np.maximum(found[: len(values)], found[rest : rest + len(values)])


def running_mean(values: np.ndarray, size: int) -> np.ndarray:
    """Return the mean of ``size`` values around each along the last axis; the array is mirrored at its ends.

    An even window reaches one value further to the left.
    """
    if size < 2:
        return values
    before, after = size // 2, (size - 1) // 2
    count = values.shape[-1]
    # One mirror image at each end is enough for windows that are no longer than the array.
    if max(before, after) > count:
        padding = [(0, 0)] * (values.ndim - 1) + [(before, after)]
        extended = np.pad(values, padding, mode="symmetric")
    else:
        ends = values[..., before - 1 :: -1] if before else values[..., :0], values[..., count - after :][..., ::-1]
        extended = np.concatenate((ends[0], values, ends[1]), axis=-1)
    sums = np.empty((*values.shape[:-1], count + size), dtype=np.float64)
    sums[..., 0] = 0
    np.cumsum(extended, axis=-1, dtype=np.float64, out=sums[..., 1:])
    return ((sums[..., size:] - sums[..., :-size]) / size).astype(values.dtype, copy=False)


def median(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the median along an axis of values without NaN; ``numpy.median`` spends most of its time on other cases."""
    count = values.shape[axis]
    middle = count // 2
    if count % 2:
        return np.take(np.partition(values, middle, axis=axis), middle, axis=axis)
    parted = np.partition(values, (middle - 1, middle), axis=axis)
    return (np.take(parted, middle - 1, axis=axis) + np.take(parted, middle, axis=axis)) / 2


def quantile(values: np.ndarray, share: float) -> float:
    """Return the value below which ``share`` of all values without NaN lie, by the nearest place below."""
    flat = values.reshape(-1)
    place = int(share * (flat.size - 1))
    return float(np.partition(flat, place)[place])
