"""Running windows and medians against SciPy and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from datasets.running import median, quantile, running_max, running_mean


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 80), st.integers(0, 12), st.integers(0, 1000))
def test_the_running_maximum_is_that_of_scipy(count: int, reach: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=count).astype(np.float32)
    size = 2 * reach + 1
    assert np.array_equal(running_max(values, size), maximum_filter1d(values, size))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 80), st.integers(1, 25), st.integers(0, 1000))
def test_the_running_mean_is_that_of_scipy(count: int, size: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(3, count)).astype(np.float32)
    expected = uniform_filter1d(values.astype(np.float64), size, axis=1)
    assert running_mean(values, size) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(5,), (6,), (3, 7), (3, 4, 8), (1, 1)])
def test_the_median_is_that_of_numpy(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape)
    for axis in range(len(shape)):
        assert np.array_equal(median(values, axis), np.median(values, axis=axis))


def test_the_quantile_is_one_of_the_values_below_its_place() -> None:
    values = np.random.default_rng(0).permutation(101).reshape(-1).astype(np.float32)
    assert [quantile(values, share) for share in (0, 0.25, 0.5, 0.951, 1)] == [0, 25, 50, 95, 100]
