"""Display filters: zero phase, honest about what they do, and never applied unless asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.ecg import LEADS_12, Record
from ecgportal.errors import InvalidInput
from viz.figures.filters import WARN_40_HZ, Filters, apply_filters
from viz.figures.paper import cells, shown_samples
from viz.figures.view import View


def _tone(frequency_hz: float, fs_hz: float = 500.0, seconds: float = 20.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency_hz * np.arange(int(fs_hz * seconds)) / fs_hz)[None]


def _gain(filters: Filters, frequency_hz: float) -> float:
    middle = slice(4000, 6000)
    return float(np.abs(apply_filters(_tone(frequency_hz), 500.0, filters)[0, middle]).max())


@pytest.mark.parametrize(
    ("filters", "kept_hz", "removed_hz"),
    [
        (Filters(low_pass_hz=40.0), 10, 120), (Filters(low_pass_hz=150.0), 60, 240), (Filters(high_pass_hz=0.5), 5, 0.1),
        (Filters(notch_hz=50.0), 40, 50), (Filters(notch_hz=60.0), 45, 60),
    ],
)  # fmt: skip
def test_pass_band_stays_and_stop_band_goes(filters: Filters, kept_hz: float, removed_hz: float) -> None:
    assert _gain(filters, kept_hz) == pytest.approx(1, abs=0.05)
    assert _gain(filters, removed_hz) < 0.1


@pytest.mark.parametrize(("filters", "edge_hz"), [(Filters(low_pass_hz=40.0), 40), (Filters(high_pass_hz=0.5), 0.5)])
def test_the_named_frequency_is_where_3_db_are_lost(filters: Filters, edge_hz: float) -> None:
    t = np.arange(60_000) / 500
    out = apply_filters(np.sin(2 * np.pi * edge_hz * t)[None], 500.0, filters)[0, 20_000:40_000]
    assert np.sqrt(2) * out.std() == pytest.approx(10 ** (-3 / 20), abs=0.02)


@given(
    st.floats(2, 20), st.sampled_from([Filters(0.5, 40.0, 50.0), Filters(low_pass_hz=100.0), Filters(notch_hz=60.0)])
)
@settings(max_examples=40, deadline=None)
def test_phase_is_zero(frequency_hz: float, filters: Filters) -> None:
    x = _tone(frequency_hz)[0, 3000:7000]
    y = apply_filters(_tone(frequency_hz), 500.0, filters)[0, 3000:7000]
    lags = range(-5, 6)
    best = max(lags, key=lambda lag: float(np.dot(x[10:-10], y[10 + lag : y.size - 10 + lag])))
    assert best == 0


def test_a_symmetric_pulse_keeps_its_place_and_symmetry() -> None:
    pulse = np.zeros((1, 2001))
    pulse[0, 1000] = 1
    out = apply_filters(pulse, 500.0, Filters(low_pass_hz=40.0))[0]
    assert int(out.argmax()) == 1000 and np.allclose(out[900:1101], out[900:1101][::-1], atol=1e-6)


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=60), st.floats(51, 1000))
@settings(max_examples=60, deadline=None)
def test_any_length_and_rate_gives_finite_values_of_the_same_shape(values: list[float], fs_hz: float) -> None:
    x = np.array([values], dtype=np.float32)
    out = apply_filters(x, fs_hz, Filters(0.5, 150.0, 60.0))
    assert out.shape == x.shape and out.dtype == np.float32 and np.isfinite(out).all()


def test_gaps_stay_gaps_and_empty_leads_stay_empty() -> None:
    x = np.vstack([_tone(5), np.full((1, 10_000), np.nan)])
    x[0, 100:200] = np.nan
    out = apply_filters(x, 500.0, Filters(low_pass_hz=40.0))
    assert np.array_equal(np.isnan(out), np.isnan(x))


def test_level_survives_a_low_pass_and_goes_with_a_high_pass() -> None:
    x = _tone(5) + 7.0
    assert apply_filters(x, 500.0, Filters(low_pass_hz=40.0)).mean() == pytest.approx(7, abs=0.01)
    assert abs(apply_filters(x, 500.0, Filters(high_pass_hz=0.5)).mean()) < 0.01


def test_off_is_off_and_the_record_is_never_written() -> None:
    record = Record(np.tile(_tone(50)[:, :5000], (12, 1)), 500.0, LEADS_12)
    before = record.signal.copy()
    cell = cells(record, View())[-1]
    assert np.array_equal(shown_samples(record, View(), cell)[1], before[1])
    filtered = shown_samples(record, View(filters=Filters(notch_hz=50.0)), cell)[1]
    assert np.abs(filtered[1000:4000]).max() < 0.05
    assert np.array_equal(record.signal, before)


def test_a_window_of_a_long_record_is_filtered_as_the_whole_would_be() -> None:
    rng = np.random.default_rng(2)
    record = Record(rng.standard_normal((12, 30_000)).astype(np.float32), 500.0, LEADS_12)
    filters = Filters(0.5, 40.0, 50.0)
    strip = cells(record, View(start_s=25, filters=filters))[-1]
    t_s, mv = shown_samples(record, View(start_s=25, filters=filters), strip)
    whole = apply_filters(record.signal[1:2], 500.0, filters)[0]
    assert np.abs(mv - whole[np.rint(t_s * 500).astype(int)]).max() < 0.01


def test_label_says_the_band_in_force_and_what_the_rate_does_not_allow() -> None:
    assert Filters().label(500) == "no display filter"
    assert Filters(0.05, 150.0, 50.0).label(500) == "0.05–150 Hz, 50 Hz notch (zero phase)"
    assert Filters(low_pass_hz=150.0).label(250).endswith("low-pass 150 Hz not possible")
    assert Filters(low_pass_hz=40.0).warnings() == [WARN_40_HZ] and not Filters(low_pass_hz=150.0).warnings()
    with pytest.raises(InvalidInput):
        Filters(low_pass_hz=35.0)
