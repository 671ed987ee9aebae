"""Every registered figure: a title, axes with units, a summary and a table; for nothing, one and many; light and dark."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.measure.measure import measure
from datasets.simulate import simulate
from ecgportal.errors import InvalidInput
from training.metrics.report import evaluate
from viz.figures import results as r
from viz.figures.beats import aligned_beats, aligned_beats_figure, median_beats_figure
from viz.figures.figure import Figure, registered, typed, untyped
from viz.figures.palette import OKABE_ITO, OKABE_ITO_DARK, contrast, theme

_RNG = np.random.default_rng(3)
_TRUTH = (_RNG.random(400) < 0.3).astype(int)
_SCORE = np.clip(0.35 * _TRUTH + 0.65 * _RNG.random(400), 0, 1)
HOSTILE = "<img src=x onerror=alert(1)>&\x00"


_REPORT = evaluate(_SCORE[:, None], _TRUTH[:, None], ["a"], "binary", n_resamples=200).to_json()


def _curves(kind: str, n: int) -> list[r.Curve]:
    kept = _REPORT["curves"]["a"][kind]
    x, y = ("fpr", "tpr") if kind == "roc" else ("recall", "precision")
    cuts = [np.inf if cut is None else cut for cut in kept["threshold"]]
    made = r.Curve("", kept[x], kept[y], cuts, 0.8, 0.7, 0.9, kept["low"], kept["high"], 0.5, 0.3, 120, 280)
    return [replace(made, name=f"label {k}") for k in range(n)]


def _reliability(name: str) -> r.Reliability:
    points = _REPORT["calibration"]["per_class"]["a"]["curve"]
    columns = ("mean_probability", "observed", "n", "low", "high")
    return r.Reliability(name, *([point[key] for point in points] for key in columns), 0.05, 0.2)


_SIM = {n: simulate("SNR", 2, fs_hz=250.0, duration_s=max(2.0, float(n))).record for n in (0, 1, 12)}
_MEASURED = {n: measure(record).to_json() if n else {} for n, record in _SIM.items()}


# name -> how to make it with n things in it
CASES: dict[str, Callable[[int, bool], Figure]] = {
    "aligned_beats": lambda n, dark: aligned_beats_figure(_SIM[n], _MEASURED[n], dark=dark),
    "median_beats": lambda n, dark: median_beats_figure(_MEASURED[n], dark=dark),
    "roc": lambda n, dark: r.roc(_curves("roc", n), dark=dark),
    "precision_recall": lambda n, dark: r.precision_recall(_curves("pr", n), dark=dark),
    "calibration": lambda n, dark: r.calibration([_reliability(f"l{k}") for k in range(n)], dark=dark),
    "confusion_matrix": lambda n, dark: r.confusion_matrix((np.eye(n) * 7 + 1).astype(int).tolist(), [f"c{k}" for k in range(n)], dark=dark),
    "confusion_per_label": lambda n, dark: r.confusion_per_label({f"c{k}": (5, 1, 2, 40) for k in range(n)}, dark=dark),
    "co_occurrence": lambda n, dark: r.co_occurrence((np.eye(n) * 9 + 2).astype(int).tolist(), [f"c{k}" for k in range(n)], dark=dark),
    "loss_curves": lambda n, dark: r.loss_curves({f"s{k}": [(e, 1 / (e + 1)) for e in range(n)] for k in range(n)}, best_epoch=0, dark=dark),
    "metric_curves": lambda n, dark: r.metric_curves({f"s{k}": [(e, e / (e + 1)) for e in range(n)] for k in range(n)}, dark=dark),
    "lr_finder": lambda n, dark: r.lr_finder(
        np.logspace(-6, 0, n).tolist() if n else [], [2.0] * n, smoothed=[1.9] * n, chosen=1e-3 if n else None, dark=dark
    ),
    "f1_per_class": lambda n, dark: r.f1_per_class(
        [r.Score(f"c{k}", 0.8, 0.7, 0.9, 30) for k in range(n)], macro=r.Score("macro", 0.8, 0.75, 0.85), dark=dark
    ),
    "binned_bars": lambda n, dark: r.binned_bars([(5.0 * k, 3 + k) for k in range(n)], width=5, unit="ms", quantity="QTc", quartiles=(1, 2, 3), dark=dark),
    "group_ranges": lambda n, dark: r.group_ranges([(f"g{k}", 20, (60, 70 + k, 80)) for k in range(n)], unit="bpm", quantity="Heart rate", by="sex", dark=dark),
    "effect_sizes": lambda n, dark: r.effect_sizes([(f"field {k}", "dv"[k % 2], 0.3 * k, "small") for k in range(n)], first="A", second="B", dark=dark),
    "cross_table": lambda n, dark: r.cross_table([[k + 1] * n for k in range(n)], [f"r{k}" for k in range(n)], [f"c{k}" for k in range(n)], dark=dark),
    "forest": lambda n, dark: r.forest({"Sex": [r.Score(f"part {k}", 0.8, 0.7, 0.9, 30) for k in range(n)]}, reference=r.Score("all", 0.8), dark=dark),
    "runs_comparison": lambda n, dark: r.runs_comparison(
        [r.Run(f"run {k}", {"AUROC": r.Score("AUROC", 0.9 - 0.01 * k, 0.8, 0.95), "F1": r.Score("F1", 0.7)}) for k in range(n)], dark=dark
    ),
    "count_bars": lambda n, dark: r.count_bars({f"label {k}": 10 * (k + 1) for k in range(n)}, total=1000, dark=dark),
    "histogram": lambda n, dark: r.histogram({f"g{k}": [20.0 + k, 40.0, None, 61.5] for k in range(n)}, unit="years", quantity="age", dark=dark),
    "embedding_map": lambda n, dark: r.embedding_map([(k, -k) for k in range(n)], groups=[f"g{k % 11}" for k in range(n)], dark=dark),
}  # fmt: skip


def test_every_registered_figure_is_examined_here() -> None:
    assert set(registered()) == set(CASES)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("n", [0, 1, 12])
@pytest.mark.parametrize("name", CASES)
def test_figure_keeps_the_contract(name: str, n: int, dark: bool) -> None:
    made = CASES[name](n, dark)
    layout = made.plotly["layout"]
    assert made.title and layout["title"]["text"] == made.title
    for axis in ("xaxis", "yaxis"):
        assert layout[axis]["title"]["text"]
    assert made.summary.strip().endswith(".")
    assert made.table and all(isinstance(head, str) and head for head in made.table[0])
    assert {len(row) for row in made.table} == {len(made.table[0])}
    assert (len(made.table) > 1) == (n > 0) and bool(made.plotly["data"]) == (n > 0)
    assert layout["paper_bgcolor"] == theme(dark).ground and layout["uirevision"]
    json.dumps(made.plotly, allow_nan=False)
    assert len(list(csv.reader(io.StringIO(made.csv())))) == len(made.table)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("n", [0, 1, 12])
@pytest.mark.parametrize("name", CASES)
def test_figure_is_drawn_without_script(name: str, n: int, dark: bool) -> None:
    made = CASES[name](n, dark)
    markup = r.figure_svg(made)
    root = ElementTree.fromstring(markup)
    tags = {one.tag.split("}")[1] for one in root.iter()}
    assert tags <= {"svg", "g", "path", "rect", "text", "title", "desc", "circle"}
    for one in root.iter():
        assert not [
            value
            for key, value in one.items()
            if key in ("d", "x", "y", "cx", "cy", "width", "height") and "nan" in value
        ]
    told = " ".join("".join(one.itertext()) for one in root.iter() if one.tag.endswith("text"))
    assert made.title in told
    if n:
        assert len([one for one in root.iter() if one.tag.split("}")[1] in ("path", "rect", "circle")]) > 2


@pytest.mark.parametrize("n", [1, 12])
@pytest.mark.parametrize("name", CASES)
def test_a_figure_for_a_telephone_keeps_its_words_inside_and_its_letters_large(name: str, n: int) -> None:
    made = CASES[name](n, False)
    root = ElementTree.fromstring(r.figure_svg(made, 330))
    assert root.get("viewBox").startswith("0 0 330 ")
    height = float(root.get("height"))
    for one in root:
        if not one.tag.endswith("}text") or one.get("transform"):
            continue
        words, x, y = "".join(one.itertext()), float(one.get("x")), float(one.get("y"))
        assert float(one.get("font-size")) >= 11 and 0 < y <= height
        # Letters are 6 px wide in the mean; an average may be off by a fifth.
        long = 5 * len(words)
        left = {"middle": x - long / 2, "end": x - long}.get(one.get("text-anchor", "start"), x)
        if "wide" not in made.plotly["layout"].get("meta", {}):
            assert left >= -6 and left + long <= 336, (words, left, left + long)


def test_numeric_axes_have_units_in_their_titles() -> None:
    for name, make in CASES.items():
        layout = make(12, False).plotly["layout"]
        for axis in ("xaxis", "yaxis"):
            if layout[axis].get("type") != "category" and "ticktext" not in layout[axis]:
                assert "(" in layout[axis]["title"]["text"], (name, axis)


def test_hostile_names_are_shown_as_written() -> None:
    made = r.roc([r.Curve(HOSTILE, [0, 1], [0, 1], area=0.5)])
    assert not any("<img" in str(one.get("name")) for one in made.plotly["data"])
    assert "<img" not in r.figure_svg(made) and "&lt;img" in r.figure_svg(made)
    bars = r.count_bars({HOSTILE: 3})
    assert "<img" not in json.dumps(bars.plotly)


def test_csv_never_starts_a_formula() -> None:
    cells = next(csv.reader(io.StringIO(Figure({}, "t", "s.", [["=1+1", "@x", "-a", "+b", "fine"]]).csv())))
    assert cells == ["'=1+1", "'@x", "'-a", "'+b", "fine"]


@pytest.mark.parametrize(("series", "dark"), [(OKABE_ITO, False), (OKABE_ITO_DARK, True)])
def test_first_series_colours_stand_out_from_the_ground(series: tuple[str, ...], dark: bool) -> None:
    for colour in series[:3]:
        assert contrast(colour, theme(dark).ground) >= 3


@pytest.mark.parametrize("chosen", [0.2, 0.5, 0.8])
def test_marked_threshold_lies_where_the_counts_put_it(chosen: float) -> None:
    point = replace(_curves("roc", 1)[0], chosen=chosen).at_chosen()
    assert point is not None
    called = _SCORE >= chosen
    # The curve is thinned to 200 points.
    assert point[0] == pytest.approx(called[_TRUTH == 0].mean(), abs=0.02)
    assert point[1] == pytest.approx(called[_TRUTH == 1].mean(), abs=0.02)


def test_interval_band_holds_the_curve() -> None:
    made = _curves("roc", 1)[0]
    # Where the curve rises upright, the band stands at its upper end.
    x, y, low, high = (np.array(one) for one in (made.x, made.y, made.low, made.high))
    top = np.append(np.diff(x) > 0, True)
    assert (low[top] <= y[top] + 0.02).all() and (y[top] <= high[top] + 0.02).all() and (high - low)[top].max() > 0.02


def test_one_class_only_gives_no_curve_but_a_sentence() -> None:
    made = r.roc([r.Curve("a", (), ())])
    assert not made.plotly["data"] and "at least one record" in made.summary


def test_confusion_matrix_counts_and_row_shares() -> None:
    made = r.confusion_matrix([[8, 2], [0, 5]], ["AF", "SNR"])
    assert made.plotly["data"][0]["text"] == [["8<br>80%", "2<br>20%"], ["0<br>0%", "5<br>100%"]]
    assert "13 of 15" in made.summary and "AF taken for SNR (2 records)" in made.summary
    with pytest.raises(InvalidInput):
        r.confusion_matrix([[1, 2]], ["a", "b"])


def test_live_updates_keep_the_zoom_and_another_run_does_not_inherit_it() -> None:
    first = r.loss_curves({"training": [(0, 1.0)]}, run="7").plotly["layout"]["uirevision"]
    later = r.loss_curves({"training": [(0, 1.0), (1, 0.5)]}, run="7").plotly["layout"]["uirevision"]
    other = r.loss_curves({"training": [(0, 1.0)]}, run="8").plotly["layout"]["uirevision"]
    assert first == later != other


def test_not_a_number_in_a_loss_is_a_gap_and_is_not_the_best() -> None:
    made = r.loss_curves({"training": [(0, 0.9), (1, float("nan")), (2, None), (3, 0.7)]})
    assert made.plotly["data"][0]["y"] == [0.9, None, None, 0.7]
    assert "lowest 0.7 at epoch 3" in made.summary


def test_histogram_counts_everything_once_and_says_what_is_unknown() -> None:
    made = r.histogram({"a": [1.0, 2.0, 3.0, None, float("nan")]}, unit="s", quantity="length", bins=2)
    assert sum(row[3] for row in made.table[1:]) == 3 and "2 unknown" in made.summary


def test_map_gives_the_ids_back_and_lumps_rare_groups() -> None:
    places = [(k, k) for k in range(100)]
    made = r.embedding_map(places, ids=[f"r{k}" for k in range(100)], groups=[f"g{k % 20}" for k in range(100)])
    ids = [one for trace in made.plotly["data"] for one in trace["customdata"]]
    assert sorted(ids) == sorted(f"r{k}" for k in range(100)) and len(made.plotly["data"]) == 8


@given(st.lists(st.floats(-1e6, 1e6, width=32), max_size=50))
def test_typed_arrays_survive(values: list[float]) -> None:
    assert untyped(typed(values)).tolist() == values
    pairs = np.array([values, values], dtype=np.float32).T
    assert np.array_equal(untyped(typed(pairs)), pairs)


def test_aligned_beats_hold_the_samples_around_each_peak() -> None:
    record = _SIM[12]
    t_s, beats = aligned_beats(record, "V2", [1.0, 6.0], 0.2, 0.3)
    assert beats.shape == (2, t_s.size) and t_s[50] == 0
    assert np.array_equal(beats[0], record.lead("V2")[200:326]) and np.array_equal(
        beats[1], record.lead("V2")[1450:1576]
    )
    cut = aligned_beats(record, "V2", [0.1], 0.2, 0.3)[1][0]
    assert np.isnan(cut[:25]).all() and np.isfinite(cut[25:]).all()
    with pytest.raises(InvalidInput):
        aligned_beats(record, "V9", [1.0])


def test_median_beats_of_all_leads_keep_one_scale() -> None:
    made = median_beats_figure(_MEASURED[12]).plotly
    beat = _MEASURED[12]["median_beat"]
    pitch = made["layout"]["meta"]["pitch_mv"]
    for k, (trace, row) in enumerate(zip(made["data"], beat["mv"], strict=True)):
        back = np.array(trace["y"], dtype=float) + (k % 3) * pitch
        assert np.allclose(back, np.array(row, dtype=float), atol=1e-4)


@pytest.mark.parametrize("name", ["roc", "precision_recall", "calibration"])
def test_more_curves_than_can_be_told_apart_get_a_panel_each(name: str) -> None:
    made = CASES[name](18, False)
    heads = made.plotly["layout"]["annotations"]
    drawn = [one for one in made.plotly["data"] if one.get("customdata")]
    assert len(drawn) == len({(head["x"], head["y"]) for head in heads}) == 18
    for one, head in zip(drawn, heads, strict=True):
        own = [[row[at] for row in one["customdata"]] for at in (1, 2)]
        # The name stands over the panel's left upper corner.
        np.testing.assert_allclose(untyped(one["x"]) - head["x"], own[0], atol=1e-4)
        np.testing.assert_allclose(untyped(one["y"]) - (head["y"] - 1.12), own[1], atol=1e-4)
    assert made.summary.startswith("18 classes. ") and len(made.summary) < 400


def test_names_under_a_wide_matrix_stand_upright_and_whole() -> None:
    names = [f"finding {k}" for k in range(20)]
    drawn = r.figure_svg(r.confusion_matrix((np.eye(20) * 7).astype(int).tolist(), names))
    texts = ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")
    assert set(names) <= {one.text for one in texts if "rotate(-90" in one.get("transform", "")}
