"""Reading any stretch of a long record: never a lost peak, never more points than asked, gaps kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgportal.errors import InvalidInput
from viz.figures.figure import untyped
from viz.figures.pyramid import build, overview_plotly, read

_RNG = np.random.default_rng(5)
_LONG = np.cumsum(_RNG.standard_normal((2, 200_003)), axis=1).astype(np.float32) * 0.01
_LONG[1, 50_000:70_000] = np.nan
_PYRAMID = build(_LONG, 250.0, ("II", "V1"))


@given(st.floats(0, 790), st.floats(0.01, 800), st.integers(50, 4000), st.sampled_from([0, 1]))
@settings(max_examples=120, deadline=None)
def test_a_window_keeps_its_extremes_within_the_points_asked(t0_s: float, length_s: float, most: int, row: int) -> None:
    t_s, mv = read(_PYRAMID, _LONG, ("II", "V1")[row], t0_s, t0_s + length_s, most)
    first, stop = max(0, int(np.floor(t0_s * 250))), min(200_003, int(np.ceil((t0_s + length_s) * 250)) + 1)
    inside = _LONG[row, first:stop]
    assert t_s.size == mv.size <= most + 40
    assert (np.diff(t_s) > 0).all()
    if np.isfinite(inside).any():
        assert np.nanmax(mv) >= np.nanmax(inside) and np.nanmin(mv) <= np.nanmin(inside)
        # Blocks may reach over the window's ends by one block, not further.
        reach = max(16, 8 * (stop - first) // most)
        wider = _LONG[row, max(0, first - reach) : stop + reach]
        assert np.nanmax(mv) <= np.nanmax(wider) and np.nanmin(mv) >= np.nanmin(wider)


def test_short_windows_are_the_samples_themselves() -> None:
    t_s, mv = read(_PYRAMID, _LONG, "II", 100.0, 104.0)
    assert np.array_equal(mv, _LONG[0, 25_000:26_001]) and t_s[0] == 100.0 and t_s[-1] == 104.0


def test_a_gap_stays_a_gap_at_every_zoom() -> None:
    for most in (500, 1000, 5000):
        t_s, mv = read(_PYRAMID, _LONG, "V1", 0, 800, most)
        inside = (t_s > 205) & (t_s < 275)
        assert inside.any() and np.isnan(mv[inside]).all() and np.isfinite(mv[(t_s < 195) | (t_s > 285)]).all()


def test_overview_of_a_two_day_record_is_small_and_shows_the_window() -> None:
    n = 48 * 3600 * 100
    signal = np.zeros((1, n), dtype=np.float32)
    signal[0, n // 2] = 3.0
    figure = overview_plotly(build(signal, 100.0, ("II",)), signal, "II", (60.0, 70.0))
    y = untyped(figure["data"][0]["y"])
    assert y.size <= 3100 and y.max() == 3.0
    assert (figure["layout"]["shapes"][0]["x0"], figure["layout"]["shapes"][0]["x1"]) == (60.0, 70.0)
    assert (
        "(h:min:s)" in figure["layout"]["xaxis"]["title"]["text"]
        and "(mV)" in figure["layout"]["yaxis"]["title"]["text"]
    )


@pytest.mark.parametrize(("lead", "t0_s", "t1_s"), [("V9", 0, 1), ("II", 5, 5), ("II", float("nan"), 1)])
def test_a_bad_window_is_refused(lead: str, t0_s: float, t1_s: float) -> None:
    with pytest.raises(InvalidInput):
        read(_PYRAMID, _LONG, lead, t0_s, t1_s)


def test_a_window_behind_the_end_is_empty_and_tiny_records_work() -> None:
    assert read(_PYRAMID, _LONG, "II", 9000, 9010)[0].size == 0
    tiny = np.array([[1.0, 2.0]], dtype=np.float32)
    assert read(build(tiny, 500.0, ("II",)), tiny, "II", 0, 1)[1].tolist() == [1.0, 2.0]
