"""Judging honestly: thresholds and what they cost, parts of the records, two models on the same records."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as sk

from ecgportal.errors import InvalidInput
from training.metrics.base import make_sample
from training.metrics.curves import curve_points
from training.metrics.intervals import bootstrap_weights
from training.metrics.paired import matching, paired_differences
from training.metrics.subgroups import apart, subgroups
from training.metrics.thresholds import at_prevalence, consequences, suggestions

_RNG = np.random.default_rng(11)


def _data(n: int = 600, strength: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    truth = (_RNG.random((n, 2)) < 0.3).astype(float)
    scores = np.clip(strength * truth + (1 - strength) * _RNG.random((n, 2)), 0, 1)
    return scores, truth


def test_consequences_are_the_counts_of_the_records():
    p, t = _data()
    found = consequences(make_sample(p, t, ["a", "b"], "multilabel"), 1, 0.45)
    tn, fp, fn, tp = sk.confusion_matrix(t[:, 1], p[:, 1] >= 0.45).ravel()
    assert (found["tp"], found["fp"], found["fn"], found["tn"]) == (tp, fp, fn, tn)
    assert found["sensitivity"].value == pytest.approx(tp / (tp + fn))
    assert found["npv"].low < found["npv"].value < found["npv"].high
    assert sum(found["per_1000"].values()) == pytest.approx(1000 * (tp + fn + fp) / 600)


def test_a_threshold_that_nobody_reaches_leaves_the_ppv_undefined_with_a_reason():
    p, t = _data(50)
    found = consequences(make_sample(np.minimum(p, 0.9), t, ["a", "b"], "multilabel"), 0, 1.0)
    assert found["ppv"].value is None and "called" in found["ppv"].reason
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        consequences(make_sample(p, t, ["a", "b"], "multilabel"), 0, 1.2)


def test_suggested_thresholds_keep_their_promise():
    p, t = _data(2000)
    sample = make_sample(p, t, ["a", "b"], "multilabel")
    rules = suggestions(sample, 0)
    at = {name: consequences(sample, 0, cut) for name, cut in rules.items()}
    assert at["sensitivity_95"]["sensitivity"].value >= 0.95
    assert at["specificity_95"]["specificity"].value >= 0.95
    grid = [consequences(sample, 0, cut) for cut in np.linspace(0.05, 0.95, 40)]
    youden = at["youden"]["sensitivity"].value + at["youden"]["specificity"].value
    assert youden >= max(one["sensitivity"].value + one["specificity"].value for one in grid) - 1e-12
    best_f1 = sk.f1_score(t[:, 0], p[:, 0] >= rules["f1"])
    assert best_f1 >= max(sk.f1_score(t[:, 0], p[:, 0] >= cut) for cut in np.linspace(0.05, 0.95, 40)) - 1e-12
    assert suggestions(make_sample(p, np.ones_like(t), ["a", "b"], "multilabel"), 0) == {}


def test_predictive_values_follow_bayes_rule():
    ppv, npv = at_prevalence(0.9, 0.8, 0.01)
    assert ppv == pytest.approx(0.009 / (0.009 + 0.198)) and npv == pytest.approx(0.792 / (0.792 + 0.001))
    assert at_prevalence(0.0, 1.0, 0.5) == (None, 0.5)


def test_parts_are_judged_apart_and_small_ones_are_only_counted():
    good, truth = _data(400, 0.6)
    poor, other = _data(400, 0.05)
    sexes = ["female"] * 400 + ["male"] * 395 + [""] * 5
    found = subgroups(
        np.vstack([good, poor]), np.vstack([truth, other]), ["a", "b"], "multilabel",
        {"sex": sexes, "format": ["wfdb"] * 800}, groups=[f"s{k}" for k in range(800)],
    )  # fmt: skip
    assert list(found) == ["sex"]
    rows = {row["name"]: row for row in found["sex"]}
    assert list(rows) == ["female", "male", "unknown"]
    expected = sk.roc_auc_score(truth, good, average="macro")
    assert rows["female"]["auroc_macro"]["value"] == pytest.approx(expected)
    assert rows["male"]["per_class"]["b"]["sensitivity"]["low"] is not None
    assert "Fewer" in rows["unknown"]["reason"] and "auroc_macro" not in rows["unknown"]
    assert apart(found["sex"], "auroc_macro") == [("female", "male")]


def test_the_same_model_twice_differs_by_nothing():
    p, t = _data(300)
    sample = make_sample(p, t, ["a", "b"], "multilabel")
    for row in paired_differences(sample, sample, n_resamples=200):
        assert row["difference"].value == 0 and row["verdict"] is None


def test_a_paired_interval_is_narrower_than_two_of_its_own_and_finds_the_better_model():
    p, t = _data(800, 0.35)
    better = np.clip(p + 0.12 * t - 0.06, 0, 1)
    groups = np.repeat(np.arange(400), 2)
    first = make_sample(p, t, ["a", "b"], "multilabel", groups=groups)
    second = make_sample(better, t, ["a", "b"], "multilabel", groups=groups)
    rows = {(row["metric"], row["class"]): row for row in paired_differences(first, second, n_resamples=400)}
    auroc = rows["auroc", None]
    assert auroc["verdict"] == "second" and auroc["difference"].low > 0
    assert auroc["difference"].value == pytest.approx(
        sk.roc_auc_score(t, better, average="macro") - sk.roc_auc_score(t, p, average="macro")
    )
    alone = np.concatenate([
        [sk.roc_auc_score(t[:, 0], p[:, 0], sample_weight=row) for row in weights]
        for weights in bootstrap_weights(first.groups, 100, 1)
    ])  # fmt: skip
    own = np.quantile(alone, 0.975) - np.quantile(alone, 0.025)
    paired = rows["auroc", "a"]["difference"]
    assert paired.high - paired.low < own


def test_models_of_other_records_or_classes_are_not_compared():
    p, t = _data(40)
    first = make_sample(p, t, ["a", "b"], "multilabel")
    for other in (make_sample(p, t, ["a", "c"], "multilabel"), make_sample(p, 1 - t, ["a", "b"], "multilabel")):
        with pytest.raises(InvalidInput):
            paired_differences(first, other)


def test_matching_pairs_the_records_that_both_have():
    a, b = matching(["x", "y", "z"], ["z", "q", "x"])
    assert a.tolist() == [0, 2] and b.tolist() == [2, 0]


def test_a_curve_s_band_holds_it_and_its_threshold_stays_a_point():
    p, t = _data(900)
    sample = make_sample(p, t, ["a", "b"], "multilabel", thresholds=np.array([0.4321, 0.5]))
    weights = next(bootstrap_weights(sample.groups, 200, 0))
    roc = curve_points(sample, 0, 60, weights=weights, threshold=0.4321)["roc"]
    called = p[:, 0] >= 0.4321
    point = (called[t[:, 0] == 0].mean(), called[t[:, 0] == 1].mean())
    assert min(abs(x - point[0]) + abs(y - point[1]) for x, y in zip(roc["fpr"], roc["tpr"])) < 1e-5
    # Where the curve rises upright, the band stands at its upper end.
    top = np.append(np.diff(roc["fpr"]) > 0, True)
    low, y, high = (np.array(roc[key])[top] for key in ("low", "tpr", "high"))
    assert (low <= y + 0.02).all() and (y <= high + 0.02).all() and (high - low).max() > 0.05
