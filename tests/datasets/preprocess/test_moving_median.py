"""The moving median against scipy's two-dimensional filter, with gaps."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import median_filter

from datasets.ecg import LEADS_12
from datasets.preprocess.base import Stage
from datasets.preprocess.moving_median import MovingMedian
from datasets.simulate import simulate


def test_the_median_over_two_seconds_is_taken_out_of_each_lead():
    signal = simulate("SNR", 3, fs_hz=100).record.signal + np.linspace(-1, 1, 1000, dtype=np.float32)
    stage = Stage(signal, 100.0, LEADS_12, np.ones(signal.shape, bool))
    expected = signal - median_filter(signal, size=(1, 201), mode="reflect")
    found = MovingMedian(2.0).apply(stage).signal
    assert np.abs(found - expected).max() < 1e-6
    assert np.abs(np.median(found, axis=1)).max() < 0.05
    holed = signal.copy()
    holed[2, 100:120] = np.nan
    opened = MovingMedian(2.0).apply(Stage(holed, 100.0, LEADS_12, ~np.isnan(holed))).signal
    assert np.isnan(opened[2, 100:120]).all() and np.isfinite(opened[0]).all()
