"""Metrics against scikit-learn, their laws, and the shape of the report."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from ecgportal.errors import InvalidInput
from training.metrics.base import make_sample, metrics, metrics_for
from training.metrics.curves import curve_points
from training.metrics.intervals import auroc_interval, bootstrap_weights, design_effect, wilson
from training.metrics.report import evaluate


@st.composite
def predictions(draw, classes=3):
    """Probabilities with many ties, and truths that hold every class at least once and never always."""
    n = draw(st.integers(6, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    p = rng.integers(0, draw(st.integers(2, 30)), size=(n, classes)) / 30
    t = (rng.random((n, classes)) < 0.4).astype(float)
    t[0], t[1] = 1, 0
    return p, t


def values(name, p, t, task="multilabel", thresholds=None, weights=None):
    sample = make_sample(p, t, [str(i) for i in range(p.shape[1])], task, thresholds=thresholds)
    return metrics()[name].values(sample, sample.weight_of_one() if weights is None else weights)


@given(predictions())
@settings(max_examples=60, deadline=None)
def test_areas_f1_and_brier_agree_with_scikit_learn(case):
    p, t = case
    assert values("auroc", p, t)[0] == pytest.approx([sk.roc_auc_score(t[:, c], p[:, c]) for c in range(3)])
    assert values("auprc", p, t)[0] == pytest.approx([sk.average_precision_score(t[:, c], p[:, c]) for c in range(3)])
    assert values("brier", p, t)[0] == pytest.approx([np.mean((t[:, c] - p[:, c]) ** 2) for c in range(3)])
    called = p >= 0.5
    report = evaluate(p, t, ["a", "b", "c"], "multilabel", n_resamples=20)
    assert report.overall["f1_macro"].value == pytest.approx(sk.f1_score(t, called, average="macro", zero_division=0))
    assert report.overall["f1_weighted"].value == pytest.approx(
        sk.f1_score(t, called, average="weighted", zero_division=0)
    )
    assert values("sensitivity", p, t)[0] == pytest.approx(sk.recall_score(t, called, average=None))


@given(predictions(), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_a_weight_is_a_repeated_record(case, seed):
    p, t = case
    weights = np.random.default_rng(seed).integers(0, 4, size=len(p))
    weights[:2] = 1
    rows = np.repeat(np.arange(len(p)), weights)
    for metric in metrics_for("multilabel"):
        weighted = values(metric.name, p, t, weights=weights[None].astype(float))
        repeated = values(metric.name, p[rows], t[rows])
        np.testing.assert_allclose(weighted, repeated, atol=1e-12, equal_nan=True, err_msg=metric.name)


@given(predictions(), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_order_of_records_does_not_matter_and_bounds_hold(case, seed):
    p, t = case
    order = np.random.default_rng(seed).permutation(len(p))
    for metric in metrics_for("multilabel"):
        found = values(metric.name, p, t)
        np.testing.assert_allclose(found, values(metric.name, p[order], t[order]), atol=1e-12, equal_nan=True)
        known = found[np.isfinite(found)]
        assert (known >= metric.bounds[0]).all() and (known <= metric.bounds[1]).all(), metric.name


@given(predictions())
@settings(max_examples=30, deadline=None)
def test_auroc_laws(case):
    p, t = case
    area = values("auroc", p, t)
    np.testing.assert_allclose(values("auroc", 1 - p, t), 1 - area, atol=1e-12)
    np.testing.assert_allclose(values("auroc", p**3, t), area, atol=1e-12)
    np.testing.assert_allclose(values("auroc", p, 1 - t), 1 - area, atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(3, 60))
@settings(max_examples=30, deadline=None)
def test_regression_agrees_with_scikit_learn(seed, n):
    rng = np.random.default_rng(seed)
    truth = rng.normal(60, 15, size=(n, 1))
    guess = truth + rng.normal(0, 5, size=(n, 1))
    report = evaluate(guess, truth, ["age"], "regression", n_resamples=20)
    assert report.overall["mae"].value == pytest.approx(sk.mean_absolute_error(truth, guess))
    assert report.overall["rmse"].value == pytest.approx(math.sqrt(sk.mean_squared_error(truth, guess)))
    assert report.overall["r2"].value == pytest.approx(sk.r2_score(truth, guess))
    assert report.per_class["age"]["bias"].value == pytest.approx(float((guess - truth).mean()))


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "binary"])
def test_perfect_predictions_score_one_with_an_interval_that_admits_doubt(task):
    rng = np.random.default_rng(0)
    index = rng.integers(0, 3, 60)
    t = (
        np.eye(3)[index]
        if task == "multiclass"
        else (rng.random((60, 1 if task == "binary" else 3)) < 0.4).astype(float)
    )
    names = ["a", "b", "c"][: t.shape[1]]
    report = evaluate(t * 0.9 + 0.05, t, names, task)
    for key in ("f1_macro", "f1_weighted", "auroc_macro", "auprc_macro"):
        figure = report.overall[key]
        assert figure.value == pytest.approx(1.0) and figure.high == pytest.approx(1.0)
        assert 0.7 < figure.low < 0.99, key


def test_multiclass_confusion_and_f1_agree_with_scikit_learn():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, 200)
    p = rng.dirichlet(np.ones(4), 200) + 0.5 * np.eye(4)[truth]
    p /= p.sum(axis=1, keepdims=True)
    report = evaluate(p, truth, list("abcd"), "multiclass", n_resamples=50)
    assert report.confusion_matrix["matrix"] == sk.confusion_matrix(truth, p.argmax(axis=1)).tolist()
    assert report.overall["f1_macro"].value == pytest.approx(sk.f1_score(truth, p.argmax(axis=1), average="macro"))
    assert report.overall["auroc_macro"].value == pytest.approx(sk.roc_auc_score(truth, p, multi_class="ovr"))
    counts = report.confusion_matrix["per_class"]["b"]
    assert counts["tp"] + counts["fn"] == report.per_class["b"]["n_positive"] == int((truth == 1).sum())


def test_thresholds_of_several_classes_decide_together():
    rng = np.random.default_rng(3)
    truth, p, limits = rng.integers(0, 4, 200), rng.dirichlet(np.ones(4), 200), np.array([0.4, 0.0, 0.1, 0.3])
    report = evaluate(p, truth, list("abcd"), "multiclass", thresholds=limits, n_resamples=50)
    called = (p - limits).argmax(axis=1)
    assert report.confusion_matrix["matrix"] == sk.confusion_matrix(truth, called).tolist()
    assert report.overall["f1_weighted"].value == pytest.approx(sk.f1_score(truth, called, average="weighted"))
    assert [report.per_class[name]["threshold"] for name in "abcd"] == limits.tolist()
    assert report.method["decision"] == "largest probability less its threshold"
    largest = evaluate(p, truth, list("abcd"), "multiclass", n_resamples=50)
    assert largest.curves == report.curves and largest.per_class["a"]["threshold"] is None


def test_unknown_truths_are_left_out_per_class_and_per_record():
    rng = np.random.default_rng(2)
    p = rng.random((60, 2))
    t = (rng.random((60, 2)) < 0.5).astype(float)
    t[::3, 0] = np.nan
    t[:6] = np.nan
    report = evaluate(p, t, ["a", "b"], "multilabel", n_resamples=20)
    known = np.isfinite(t[:, 0])
    assert report.n == 54
    assert report.per_class["a"]["n"] == int(known.sum())
    assert report.per_class["a"]["auroc"].value == pytest.approx(sk.roc_auc_score(t[known, 0], p[known, 0]))
    assert evaluate(p[:, :1], np.nan_to_num(t[:, 0], nan=-1), ["a", "b"][:1], "binary", n_resamples=20).n == 60


def test_undefined_figures_are_null_with_a_reason():
    t = np.zeros((20, 2))
    t[:8, 0] = 1
    p = np.random.default_rng(0).random((20, 2)) * 0.4
    report = evaluate(p, t, ["here", "absent"], "multilabel").to_json()
    absent = report["per_class"]["absent"]
    assert absent["auroc"] == {"value": None, "low": None, "high": None, "reason": "No record has class 'absent'."}
    assert absent["sensitivity"]["value"] is None and absent["specificity"]["value"] == 1.0
    assert absent["ppv"]["reason"] == "No record was called 'absent'."
    assert report["auroc_macro"]["value"] == pytest.approx(report["per_class"]["here"]["auroc"]["value"])
    assert any("absent" in note for note in report["notes"])


def test_the_report_has_the_agreed_fields_and_is_plain_json():
    rng = np.random.default_rng(4)
    t = (rng.random((80, 3)) < 0.3).astype(float)
    p = np.clip(t * 0.3 + rng.random((80, 3)) * 0.7, 0, 1)
    report = evaluate(
        p, t, ["x", "y", "z"], "multilabel", groups=[f"s{i // 2}" for i in range(80)], thresholds=[0.4, 0.5, 0.6]
    ).to_json()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    wanted = {
        "n",
        "n_subjects",
        "f1_weighted",
        "f1_macro",
        "auroc_macro",
        "auprc_macro",
        "per_class",
        "confusion_matrix",
        "calibration",
    }
    assert wanted <= report.keys()
    assert (report["n"], report["n_subjects"]) == (80, 40)
    row = report["per_class"]["z"]
    assert {"n_positive", "f1", "auroc", "auprc", "sensitivity", "specificity", "threshold"} <= row.keys()
    assert row["threshold"] == 0.6
    for figure in (
        report["f1_weighted"],
        report["auroc_macro"],
        row["f1"],
        row["sensitivity"],
        report["calibration"]["brier"],
    ):
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert len(report["curves"]["x"]["roc"]["fpr"]) == len(report["curves"]["x"]["roc"]["tpr"])


def test_a_regression_report_says_why_it_has_no_f1():
    report = evaluate(np.array([1.0, 2, 3]), np.array([1.5, 2, 2]), ["qt"], "regression").to_json()
    assert report["f1_macro"]["value"] is None and "regression" in report["f1_macro"]["reason"]
    assert report["mae"]["value"] == pytest.approx(0.5)
    assert report["confusion_matrix"] is None


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    rng = np.random.default_rng(5)
    t, p = (rng.random((50, 1)) < 0.5).astype(float), rng.random((50, 1))
    first, again, other = (evaluate(p, t, ["a"], "binary", seed=s).overall["auroc_macro"] for s in (1, 1, 2))
    assert first == again != other


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = {"auroc": 0, "sensitivity": 0, "f1": 0}
    trials, shift = 150, 1.0
    truth = {"auroc": 0.7602, "sensitivity": 0.6915, "f1": 2 * 0.6915 / (1 + 0.6915 + 0.3085)}
    for trial in range(trials):
        rng = np.random.default_rng(1000 + trial)
        t = (rng.random(120) < 0.5).astype(float)
        score = rng.normal(t * shift - shift / 2)
        report = evaluate(1 / (1 + np.exp(-score)), t, ["a"], "binary", n_resamples=300, seed=trial)
        for name in covered:
            figure = report.per_class["a"][name]
            covered[name] += figure.low <= truth[name] <= figure.high
    # 150 trials at 95 % lie within 0.88 and 0.99 but for one time in a thousand.
    assert all(0.88 <= count / trials <= 0.995 for count in covered.values()), covered


def test_repeated_records_of_a_subject_do_not_narrow_the_interval():
    rng = np.random.default_rng(6)
    t = (rng.random(60) < 0.5).astype(float)
    p = np.clip(0.3 * t + 0.7 * rng.random(60), 0, 1)
    once = evaluate(p, t, ["a"], "binary", groups=np.arange(60)).per_class["a"]
    five = evaluate(np.repeat(p, 5), np.repeat(t, 5), ["a"], "binary", groups=np.repeat(np.arange(60), 5)).per_class[
        "a"
    ]
    for name in ("auroc", "sensitivity"):
        width = [row[name].high - row[name].low for row in (once, five)]
        assert width[1] == pytest.approx(width[0], rel=0.15), name


def test_wilson_matches_published_values():
    # Newcombe 1998, Stat Med 17:857, table I: 81/263, 15/148, 0/20, 1/29 by the score method without correction.
    for hits, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


def test_auroc_interval_is_honest_at_perfect_separation():
    low, high = auroc_interval(1.0, 10, 10)
    assert high == 1.0 and 0.6 < low < 0.9
    wide, narrow = auroc_interval(0.8, 10, 10), auroc_interval(0.8, 200, 200)
    assert wide[0] < narrow[0] < 0.8 < narrow[1] < wide[1]


def test_bootstrap_draws_whole_subjects():
    groups = np.array([0, 0, 0, 1, 2, 2])
    weights = np.concatenate(list(bootstrap_weights(groups, 50, 0)))
    assert weights.shape == (50, 6)
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 4] == weights[:, 5]).all()
    assert (weights[:, [0, 3, 4]].sum(axis=1) == 3).all()


def test_design_effect_of_copies_is_their_number():
    success = np.repeat(np.random.default_rng(0).random(200) < 0.4, 3)
    assert design_effect(success.astype(float), np.repeat(np.arange(200), 3)) == pytest.approx(3, rel=0.02)
    assert design_effect(success[::3].astype(float), np.arange(200)) == 1.0


def test_curves_are_real_operating_points_thinned_between_both_ends():
    rng = np.random.default_rng(7)
    t = (rng.random((5000, 1)) < 0.3).astype(float)
    p = np.clip(0.3 * t + rng.random((5000, 1)) * 0.7, 0, 1)
    points = curve_points(make_sample(p, t, ["a"], "binary"), 0)
    roc = points["roc"]
    assert 50 < len(roc["fpr"]) <= 201
    assert (roc["fpr"][0], roc["tpr"][0]) == (0, 0) and (roc["fpr"][-1], roc["tpr"][-1]) == (1, 1)
    middle = len(roc["fpr"]) // 2
    called = p[:, 0] >= roc["threshold"][middle] - 1e-6
    assert (called & (t[:, 0] == 1)).sum() / t.sum() == pytest.approx(roc["tpr"][middle], abs=2e-3)
    assert np.trapezoid(roc["tpr"], roc["fpr"]) == pytest.approx(sk.roc_auc_score(t, p), abs=2e-3)


@pytest.mark.parametrize(
    ("p", "t", "task", "words"),
    [
        ([[np.nan, 0.5]], [[1, 0]], "multilabel", "not finite"),
        ([[1.5, 0.5]], [[1, 0]], "multilabel", "between 0 and 1"),
        ([[0.5, 0.5]], [[np.nan, np.nan]], "multilabel", "nothing to evaluate"),
        ([[0.5, 0.5], [0.1, 0.2]], [[1, 0]], "multilabel", "do not fit"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_a_sentence(p, t, task, words):
    with pytest.raises(InvalidInput, match=words):
        evaluate(np.array(p), np.array(t), ["a", "b"], task)


def test_one_subject_gives_values_without_intervals():
    report = evaluate(np.array([0.2, 0.9, 0.6]), np.array([0.0, 1, 1]), ["a"], "binary", groups=["p", "p", "p"])
    figure = report.overall["auroc_macro"]
    assert figure.value == 1.0 and figure.low is None and "one subject" in figure.reason
