"""The geometry: 1 mV is 10 mm, 1 s is 25 mm, and every cell holds the lead that its label names."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.ecg import LEADS_12, Record
from ecgportal.errors import InvalidInput
from tests.viz.ecg_samples import distinct, drawn_traces, places
from viz.figures.ecg12 import ecg_plotly, ecg_svg
from viz.figures.figure import untyped
from viz.figures.filters import Filters
from viz.figures.interactive import Zoom
from viz.figures.paper import cells, from_mm, minmax_index, page, shown_samples, to_mm
from viz.figures.view import GAINS_MM_MV, LAYOUTS, SPEEDS_MM_S, View, from_query, to_query, usual_layout

# Written out by hand from the hospital standard, not read from the code.
EXPECTED_3X4 = [["I", "aVR", "V1", "V4"], ["II", "aVL", "V2", "V5"], ["III", "aVF", "V3", "V6"]]
EXPECTED_CABRERA = ["aVL", "I", "−aVR", "II", "aVF", "III"]


def test_standard_view_is_25_mm_a_second_and_10_mm_a_millivolt() -> None:
    cell = cells(distinct(), View())[0]
    x0, y0 = to_mm(cell, cell.t0_s, 0.0)
    x1, y1 = to_mm(cell, cell.t0_s + 1, 1.0)
    assert (x1 - x0, y0 - y1) == (25.0, 10.0)
    assert (x0, y0) == (cell.x0_mm, cell.y0_mm)


@pytest.mark.parametrize("speed", SPEEDS_MM_S)
@pytest.mark.parametrize("gain", GAINS_MM_MV)
def test_pulse_is_one_millivolt_and_200_ms_at_every_setting(speed: float, gain: float) -> None:
    sheet = page(distinct(), View(speed_mm_s=speed, gain_mm_mv=gain))
    assert len(sheet.pulses) == 4
    for points in sheet.pulses:
        xs, ys = np.array(points).T
        assert ys.max() - ys.min() == pytest.approx(gain)
        top = xs[ys == ys.min()]
        assert top.max() - top.min() == pytest.approx(0.2 * speed)
        assert xs.max() <= sheet.cells[0].x0_mm


def test_standard_layout_has_the_standard_leads_in_their_places() -> None:
    made = cells(distinct(), View())
    for cell in made[:12]:
        assert cell.label == EXPECTED_3X4[cell.row][cell.column]
        assert (cell.t0_s, cell.t1_s) == (2.5 * cell.column, 2.5 * (cell.column + 1))
    assert (made[12].label, made[12].t0_s, made[12].t1_s, made[12].rhythm) == ("II", 0, 10, True)


@pytest.mark.parametrize(
    ("leads", "layout"),
    [
        (LEADS_12, "3x4+rhythm"), (("I", "II", "V1"), "3x4+rhythm"), (("MLII", "V5"), "recorded"), (("II",), "recorded"),
        (("ECG1", "ECG2", "ECG3"), "recorded"),
    ],
)  # fmt: skip
def test_few_leads_get_a_row_each_and_nothing_empty(leads: tuple[str, ...], layout: str) -> None:
    assert usual_layout(leads) == layout
    record = Record(np.zeros((len(leads), 5000), np.float32), 500.0, leads)
    made = cells(record, View(layout="recorded"))
    assert [cell.lead for cell in made] == list(leads) and [cell.row for cell in made] == list(range(len(leads)))
    assert all((cell.t0_s, cell.t1_s, cell.state) == (0, 10, "flat") for cell in made)


def test_cabrera_shows_limb_leads_in_anatomical_order_with_avr_inverted() -> None:
    left = [cell for cell in cells(distinct(), View(layout="cabrera")) if cell.column == 0]
    assert [cell.label for cell in left] == EXPECTED_CABRERA
    assert [cell.sign for cell in left] == [1, 1, -1, 1, 1, 1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_svg_trace_of_each_cell_holds_the_lead_in_its_label(layout: str) -> None:
    record = distinct()
    view = View(layout=layout)
    made = cells(record, view)
    traces = drawn_traces(ecg_svg(record, view))
    assert [(lead, row) for lead, row, _ in traces] == [(cell.lead, cell.row) for cell in made]
    for cell, (_, _, lines) in zip(made, traces, strict=True):
        points = np.concatenate(lines)
        _check_points(record, cell, points[:, 0], points[:, 1], 0.012)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_plotly_trace_of_each_cell_holds_the_lead_in_its_label(layout: str) -> None:
    record = distinct()
    view = View(layout=layout)
    figure = ecg_plotly(record, view)
    traces = [one for one in figure["data"] if "lead" in one.get("meta", {})]
    for cell, trace in zip(cells(record, view), traces, strict=True):
        assert trace["name"] == cell.label
        y = -untyped(trace["y"])
        _check_points(record, cell, places(trace), y, 0.001)
        if layout not in ("12x1", "recorded"):
            assert y.size == round((cell.t1_s - cell.t0_s) * record.fs_hz) + (cell.t1_s < record.duration_s)
    labels = [one["text"] for one in figure["layout"]["annotations"] if one.get("name", "").startswith("label-")]
    assert labels == [f"<b>{cell.label}</b>" for cell in cells(record, view)]


def _check_points(record: Record, cell: object, x_mm: np.ndarray, y_mm: np.ndarray, tolerance_mm: float) -> None:
    """Go from drawn millimetres back to samples, by numbers written here and not by the code under test."""
    sign = -1 if cell.label.startswith("−") else 1  # type: ignore[attr-defined]
    lead = cell.label.lstrip("−")  # type: ignore[attr-defined]
    t_s = cell.t0_s + (x_mm - cell.x0_mm) / 25  # type: ignore[attr-defined]
    mv = sign * (cell.y0_mm - y_mm) / 10  # type: ignore[attr-defined]
    index = np.rint(t_s * record.fs_hz).astype(int)
    assert np.abs(t_s - index / record.fs_hz).max() * 25 < tolerance_mm + 1e-3
    assert np.abs(mv - record.signal[LEADS_12.index(lead)][index]).max() * 10 < tolerance_mm
    assert index.min() == round(cell.t0_s * record.fs_hz)  # type: ignore[attr-defined]


def test_a_page_of_more_samples_than_a_screen_holds_keeps_its_extremes() -> None:
    record = distinct(duration_s=60, fs_hz=1000)
    figure = ecg_plotly(record, View(layout="12x1", window_s=60))
    traces = [one for one in figure["data"] if "lead" in one.get("meta", {})]
    assert sum(places(one).size for one in traces) < 37_000
    for cell, trace in zip(cells(record, View(layout="12x1", window_s=60)), traces, strict=True):
        mv = (untyped(trace["y"]) + cell.y0_mm) / 10
        assert mv.max() == pytest.approx(record.lead(cell.lead).max(), abs=1e-4)
        assert mv.min() == pytest.approx(record.lead(cell.lead).min(), abs=1e-4)


@pytest.mark.parametrize(
    ("window_s", "fs_hz", "x_mm", "y_mm"),
    [(10, 500.0, (60.0, 120.0), (-150.0, -110.0)), (60, 1000.0, (700.0, 760.0), (-60.0, -20.0))],
)
def test_what_is_shown_of_a_thinned_page_has_all_its_samples(window_s: int, fs_hz: float, x_mm: Any, y_mm: Any) -> None:
    record = distinct(duration_s=window_s, fs_hz=fs_hz)
    view = View(layout="12x1", window_s=window_s)
    whole = ecg_plotly(record, view)
    zoomed = ecg_plotly(record, view, zoom=Zoom(x_mm, y_mm))
    assert whole["layout"]["meta"]["thinned"] and zoomed["layout"]["meta"]["thinned"]
    assert not ecg_plotly(distinct(), View(layout="3x4+rhythm"))["layout"]["meta"]["thinned"]
    traces = [one for one in zoomed["data"] if "lead" in one.get("meta", {})]
    assert sum(places(one).size for one in traces) < 1.1 * 35_200
    seen = 0
    for cell, trace in zip(cells(record, view), traces, strict=True):
        x = places(trace)
        _check_points(record, cell, x, -untyped(trace["y"]), 0.001)
        mv = (untyped(trace["y"]) + cell.y0_mm) / 10
        assert mv.max() == pytest.approx(record.lead(cell.lead).max(), abs=1e-4)
        if y_mm[0] <= -cell.y0_mm <= y_mm[1]:
            seen += 1
            inside = x[(x >= x_mm[0]) & (x <= x_mm[1])]
            assert np.diff(inside).max() == pytest.approx(25 / fs_hz, rel=0.02) and inside.size >= 59 / 25 * fs_hz
    assert seen >= 1


def test_plotly_axes_are_locked_so_that_squares_are_square() -> None:
    layout = ecg_plotly(distinct(), View())["layout"]
    assert layout["yaxis"]["scaleanchor"] == "x" and layout["yaxis"]["scaleratio"] == 1
    grid = {one["name"]: one["path"] for one in layout["shapes"] if one.get("name", "").startswith("grid")}
    w, h = layout["meta"]["width_mm"], layout["meta"]["height_mm"]
    across = {k: [int(x) for x in re.findall(rf"M(\d+),0V{-h:g}", grid[f"grid-{k}mm"])] for k in (1, 5)}
    down = {k: [-int(y) for y in re.findall(rf"M0,(-?\d+)H{w:g}", grid[f"grid-{k}mm"])] for k in (1, 5)}
    for lines, length in ((across, w), (down, h)):
        assert lines[5] == list(range(0, int(length) + 1, 5))
        assert sorted(lines[1] + lines[5]) == list(range(int(length) + 1))
    assert layout["meta"]["speed_mm_s"] == 25 and layout["meta"]["gain_mm_mv"] == 10


@given(
    st.floats(0, 10),
    st.floats(-60, 60),
    st.sampled_from(SPEEDS_MM_S),
    st.sampled_from(GAINS_MM_MV),
    st.sampled_from(list(LAYOUTS)),
)
@settings(max_examples=60, deadline=None)
def test_from_mm_inverts_to_mm(t_s: float, mv: float, speed: float, gain: float, layout: str) -> None:
    for cell in cells(distinct(duration_s=10), View(layout=layout, speed_mm_s=speed, gain_mm_mv=gain)):
        back = from_mm(cell, *to_mm(cell, t_s, mv))
        assert back == pytest.approx((t_s, mv), abs=1e-6)


def test_short_record_shows_the_same_time_in_every_column() -> None:
    sheet = page(distinct(duration_s=1.0), View())
    assert sheet.simultaneous
    assert {cell.t0_s for cell in sheet.cells} == {0.0}
    assert any("same time" in note for note in sheet.notes)
    for cell in sheet.cells:
        assert shown_samples(distinct(duration_s=1.0), View(), cell)[1].size == 500


def test_record_of_7_3_s_hides_no_lead() -> None:
    record = distinct(duration_s=7.3)
    for cell in cells(record, View()):
        assert shown_samples(record, View(), cell)[1].size > 1000


def test_leads_outside_the_twelve_get_rows_of_their_own() -> None:
    record = distinct((*LEADS_12, "X", "Y", "Z"))
    for layout in LAYOUTS:
        assert {cell.lead for cell in cells(record, View(layout=layout))} == set(record.leads)


def test_three_leads_leave_the_other_cells_marked_not_recorded() -> None:
    record = distinct(("I", "II", "V5"))
    states = {cell.lead: cell.state for cell in cells(record, View()) if not cell.rhythm}
    assert {lead for lead, state in states.items() if state == "recorded"} == {"I", "II", "V5"}
    assert {lead for lead, state in states.items() if state == "missing"} == set(LEADS_12) - {"I", "II", "V5"}


def test_rhythm_strip_falls_back_to_a_recorded_lead_and_names_it() -> None:
    strip = cells(distinct(("V1", "V2")), View(rhythm_lead="II"))[-1]
    assert strip.rhythm and strip.label == "V1" and strip.state == "recorded"


def test_start_is_kept_inside_the_record() -> None:
    record = distinct(duration_s=20)
    assert cells(record, View(start_s=999))[-1].t1_s == pytest.approx(20)
    assert cells(record, View(start_s=4))[0].t0_s == 4


@pytest.mark.parametrize("filters", [Filters(), Filters(high_pass_hz=0.5), Filters(low_pass_hz=150.0)])
def test_centred_view_centres_what_is_drawn(filters: Filters) -> None:
    base = distinct()
    record = Record(base.signal + 12.0, 500.0, LEADS_12)
    view = View(centred=True, filters=filters)
    for cell in cells(record, view):
        _, mv = shown_samples(record, view, cell)
        assert to_mm(cell, 0.0, float(np.median(mv)))[1] == pytest.approx(cell.y0_mm, abs=1e-3)


def test_centred_view_moves_the_median_to_the_baseline_and_says_so() -> None:
    record = distinct()
    record = Record(record.signal + 12.0, 500.0, LEADS_12)
    sheet = page(record, View(centred=True))
    for cell in sheet.cells:
        _, mv = shown_samples(record, View(), cell)
        assert to_mm(cell, 0.0, float(np.median(mv)))[1] == pytest.approx(cell.y0_mm, abs=1e-4)
    assert any("centred" in note for note in sheet.notes)


@given(
    st.lists(st.one_of(st.floats(-50, 50, width=32), st.just(float("nan"))), min_size=1, max_size=400),
    st.integers(4, 60),
)
@settings(max_examples=150, deadline=None)
def test_thinning_keeps_the_extremes_ends_and_gaps(values: list[float], most: int) -> None:
    y = np.array(values, dtype=np.float32)
    index = minmax_index(y, most)
    assert (np.diff(index) > 0).all() and index[0] == 0 and index[-1] == y.size - 1
    kept = y[index]
    if np.isfinite(y).any():
        assert np.nanmax(kept) == np.nanmax(y) and np.nanmin(kept) == np.nanmin(y)
    # A line through the kept samples breaks wherever a gap lies between them.
    for a, b in zip(index[:-1], index[1:], strict=True):
        if np.isfinite(y[a]) and np.isfinite(y[b]):
            assert np.isfinite(y[a : b + 1]).all()


def test_thinning_bounds_the_number_of_points() -> None:
    assert minmax_index(np.random.default_rng(0).standard_normal(50_000), 2_000).size <= 2_004


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layout", "4x3"), ("speed_mm_s", 30.0), ("gain_mm_mv", 0.0), ("paper", "green"), ("start_s", -1.0), ("start_s", float("nan")),
        ("window_s", 0.5), ("window_s", 61.0), ("rhythm_lead", ""), ("rhythm_lead", "x" * 33),
    ],
)  # fmt: skip
def test_view_refuses_what_is_not_offered(field: str, value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        View(**{field: value})  # type: ignore[arg-type]
    assert field in caught.value.fields


@pytest.mark.parametrize("query", [{"speed": "fast"}, {"gain": "1e999"}, {"lp": "35"}, {"start": "nan"}])
def test_query_with_a_bad_number_is_refused_with_its_field(query: dict[str, str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_query(query)
    assert caught.value.fields


views = st.builds(
    View,
    layout=st.sampled_from(list(LAYOUTS)),
    speed_mm_s=st.sampled_from(SPEEDS_MM_S),
    gain_mm_mv=st.sampled_from(GAINS_MM_MV),
    rhythm_lead=st.sampled_from(["II", "V1", "MLII"]),
    paper=st.sampled_from(["pink", "blue", "grey"]),
    dark=st.booleans(),
    filters=st.builds(
        Filters,
        high_pass_hz=st.sampled_from([None, 0.05, 0.5]),
        low_pass_hz=st.sampled_from([None, 40.0, 150.0]),
        notch_hz=st.sampled_from([None, 50.0]),
    ),
    start_s=st.floats(0, 1e5),
    window_s=st.floats(1, 60),
    centred=st.booleans(),
)


@given(views)
@settings(max_examples=100, deadline=None)
def test_a_view_survives_its_query(view: View) -> None:
    assert from_query(to_query(view)) == view


def test_default_view_has_an_empty_query_and_a_plus_may_arrive_as_a_blank() -> None:
    assert to_query(View()) == {}
    assert from_query({"layout": "3x4 rhythm", "unknown": "1"}) == View()
