"""Occlusion saliency lights up what the model looks at, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgportal.errors import InvalidInput
from modelhub.runtime.saliency import occlusion

V1 = 6


def late_v1(batch: np.ndarray) -> np.ndarray:
    """A model that looks only at lead V1 in the eighth and ninth second of ten; the second class is the opposite."""
    peak = batch[:, V1, 800:900].max(axis=1)
    return np.stack([peak, 1 - peak, np.full(len(batch), 0.5)], axis=1)


@pytest.fixture
def signal() -> np.ndarray:
    made = np.random.default_rng(0).normal(0, 0.05, (12, 1000)).astype(np.float32)
    made[:, 820] = 1.0
    return made


def test_a_model_that_looks_at_v1_late_lights_up_there(signal):
    found = occlusion(late_v1, signal)
    assert found.values.shape == (3, 12, 20)
    first, second, third = found.values
    assert np.unravel_index(first.argmax(), first.shape) == (V1, 16)
    assert first[V1, 16] > 0.8
    elsewhere = np.ones(first.shape, bool)
    elsewhere[V1, 16:18] = False
    assert not first[elsewhere].any()
    assert np.allclose(second, -first)
    assert not third.any()
    assert found.base == pytest.approx([1.0, 0.0, 0.5])
    assert list(found.edges[[0, 16, 17, 20]]) == [0, 800, 850, 1000]


def test_what_was_not_recorded_says_nothing(signal):
    mask = np.ones(signal.shape, bool)
    mask[:, 750:] = False
    asked = []

    def count(batch: np.ndarray) -> np.ndarray:
        asked.append(len(batch))
        return late_v1(batch)

    assert not occlusion(count, signal, mask=mask).values.any()
    assert sum(asked) == 1 + 12 * 15


@given(st.integers(1, 12), st.integers(1, 60), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_a_linear_model_gives_the_weighted_difference_to_the_median(leads, samples, windows):
    generator = np.random.default_rng(leads * 1000 + samples)
    signal = generator.normal(size=(leads, samples)).astype(np.float32)
    weights = generator.normal(size=(leads, samples))
    found = occlusion(lambda batch: (batch * weights).sum(axis=(1, 2))[:, None], signal, windows=windows)
    part = weights * (signal - np.median(signal, axis=1, keepdims=True))
    want = np.stack([part[:, a:b].sum(axis=1) for a, b in zip(found.edges[:-1], found.edges[1:])], axis=1)
    assert found.edges[0] == 0
    assert found.edges[-1] == samples
    assert np.allclose(found.values[0], want, atol=1e-4)


@pytest.mark.parametrize("bad", [np.zeros(5), np.zeros((0, 5)), np.full((2, 5), np.nan)])
def test_signals_that_cannot_be_explained(bad):
    with pytest.raises(InvalidInput):
        occlusion(late_v1, bad)
