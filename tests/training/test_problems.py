"""Task types: encoding, activation, losses against torch's own, thresholds."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ecgportal.errors import InvalidInput, TrainingFailed
from modelhub.contract import decided
from training.metrics.base import make_sample, metrics, score
from training.problems.base import LossOptions, sigmoid, softmax
from training.problems.losses import class_weights, positive_weights
from training.problems.registry import get_problem, problem_names
from training.problems.thresholds import f1_thresholds, f1_thresholds_of_one

ROOT = Path(__file__).resolve().parents[2]


def test_the_four_tasks_are_registered_and_describe_themselves():
    assert problem_names() == ["binary", "multiclass", "multilabel", "regression"]
    for name in problem_names():
        about = get_problem(name).describe()
        assert about["title"] and about["meaning"].endswith(".") and about["metrics"]
        for metric in (*about["metrics"], about["monitor"]):
            assert metric in metrics() or metric.rpartition("_")[0] in metrics()
    with pytest.raises(InvalidInput, match="multilabel"):
        get_problem("clustering")


def test_descriptions_encoding_and_metrics_load_no_torch():
    code = (
        "import sys; from training.problems.registry import get_problem; import training.metrics.report, "
        "training.engine.settings; get_problem('multilabel').encode([['a'], None], ('a', 'b')); "
        "assert 'torch' not in sys.modules and 'django' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_multilabel_encoding_keeps_unknown_apart_from_absent():
    encoded = get_problem("multilabel").encode([["b"], [], None, {"a": True}, {"a": False, "b": None}], ("a", "b"))
    np.testing.assert_array_equal(encoded.values, np.float32([[0, 1], [0, 0], [np.nan] * 2, [1, np.nan], [0, np.nan]]))
    np.testing.assert_array_equal(encoded.known, [True, True, False, True, True])
    assert encoded.notes == ("1 record without a known label will not be used.",)


def test_multiclass_encoding_needs_exactly_one_class():
    encoded = get_problem("multiclass").encode([["b"], ["a", "b"], None, [], ["c", "x"]], ("a", "b", "c"))
    np.testing.assert_array_equal(encoded.values[[0, 4]], np.float32([[0, 1, 0], [0, 0, 1]]))
    assert np.isnan(encoded.values[[1, 2, 3]]).all() and len(encoded.notes) == 2


def test_binary_encoding_against_the_rest_and_against_another_class():
    problem = get_problem("binary")
    labels = [["af"], ["sr"], [], ["af", "sr"], None]
    np.testing.assert_array_equal(problem.encode(labels, ("af",)).values[:, 0], np.float32([1, 0, 0, 1, np.nan]))
    two = problem.encode(labels, ("af", "sr"))
    np.testing.assert_array_equal(two.values[:, 0], np.float32([1, 0, np.nan, np.nan, np.nan]))
    assert two.names == ("af",) and problem.n_outputs(("af", "sr")) == 1


def test_regression_encoding_takes_numbers_and_unknowns():
    problem = get_problem("regression")
    values = problem.encode([61, None, float("nan"), [44.5], {"age": 7}], ("age",)).values[:, 0]
    np.testing.assert_array_equal(values, np.float32([61, np.nan, np.nan, 44.5, 7]))
    with pytest.raises(InvalidInput, match="not a number"):
        problem.encode([["old"]], ("age",))


@pytest.mark.parametrize(
    ("task", "classes"), [("multiclass", ("a",)), ("binary", ("a", "b", "c")), ("multilabel", ("a", "a"))]
)
def test_class_lists_that_do_not_fit_are_refused(task, classes):
    with pytest.raises(InvalidInput):
        get_problem(task).encode([["a"]], classes)


def test_a_label_that_is_neither_true_nor_false_is_refused():
    with pytest.raises(InvalidInput, match="class 'a'"):
        get_problem("multilabel").encode([{"a": 0.3}], ("a",))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_losses_equal_torchs_own_and_leave_out_the_unknown(seed):
    rng = np.random.default_rng(seed)
    out = torch.tensor(rng.normal(size=(12, 3)), dtype=torch.float32)
    t = (rng.random((12, 3)) < 0.5).astype(np.float32)
    unknown = rng.random((12, 3)) < 0.2
    unknown[0] = False
    masked = np.where(unknown, np.nan, t).astype(np.float32)
    plain = LossOptions()
    mine = get_problem("multilabel").loss(masked, plain)(out, torch.from_numpy(masked))
    known = torch.from_numpy(~unknown)
    torch.testing.assert_close(mine, F.binary_cross_entropy_with_logits(out[known], torch.from_numpy(t)[known]))
    index = rng.integers(0, 3, 12)
    hot = np.eye(3, dtype=np.float32)[index]
    hot[5] = np.nan
    keep = np.arange(12) != 5
    mine = get_problem("multiclass").loss(hot, plain)(out, torch.from_numpy(hot))
    torch.testing.assert_close(mine, F.cross_entropy(out[keep], torch.from_numpy(index)[keep]))
    smooth = get_problem("multiclass").loss(hot, LossOptions(label_smoothing=0.1))(out, torch.from_numpy(hot))
    torch.testing.assert_close(smooth, F.cross_entropy(out[keep], torch.from_numpy(index)[keep], label_smoothing=0.1))


def test_a_batch_without_any_known_target_costs_nothing_and_has_a_gradient():
    for task in problem_names():
        out = torch.randn(4, 1, requires_grad=True)
        unknown = torch.full((4, 1), float("nan"))
        value = get_problem(task).loss(np.array([[0.0], [1.0]], np.float32), LossOptions(focal_gamma=2.0))(out, unknown)
        value.backward()
        assert value.item() == 0 and torch.isfinite(out.grad).all()


def test_focal_loss_weighs_easy_records_less():
    t = torch.tensor([[1.0], [1.0]])
    easy, hard = torch.tensor([[4.0]]), torch.tensor([[-1.0]])
    loss = {g: get_problem("binary").loss(t.numpy(), LossOptions(focal_gamma=g)) for g in (0.0, 2.0)}
    assert loss[2.0](easy, t[:1]) / loss[0.0](easy, t[:1]) < 0.01 < loss[2.0](hard, t[:1]) / loss[0.0](hard, t[:1])


def test_class_weights():
    t = np.array([[1, 0], [0, 0], [0, 1], [0, np.nan]], np.float32)
    np.testing.assert_allclose(positive_weights(t, "balanced"), [3, 2])
    np.testing.assert_allclose(positive_weights(t, "sqrt"), np.sqrt([3, 2]))
    np.testing.assert_allclose(positive_weights(t, "none"), [1, 1])
    hot = np.eye(2, dtype=np.float32)[[0, 0, 0, 1]]
    weights = class_weights(hot, "balanced")
    assert weights[1] / weights[0] == pytest.approx(3) and (weights @ hot.sum(axis=0)) / 4 == pytest.approx(1)


def test_activations():
    x = np.array([[-1000.0, 0, 1000]])
    np.testing.assert_allclose(sigmoid(x), [[0, 0.5, 1]])
    np.testing.assert_allclose(softmax(x).sum(), 1)
    np.testing.assert_allclose(softmax(np.zeros((1, 4))), 0.25)


@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
@settings(max_examples=50, deadline=None)
def test_thresholds_are_always_usable(seed, n):
    rng = np.random.default_rng(seed)
    p, t = rng.random((n, 3)), (rng.random((n, 3)) < 0.2).astype(float)
    t[rng.random((n, 3)) < 0.1] = np.nan
    limits = f1_thresholds(p, t)
    assert limits.shape == (3,) and ((limits >= 0.02) & (limits <= 0.98)).all()


def test_thresholds_on_many_records_come_close_to_the_best_f1():
    rng = np.random.default_rng(0)
    t = (rng.random((4000, 1)) < 0.1).astype(float)
    p = sigmoid(rng.normal(2.5 * t - 3, 1))
    limits = f1_thresholds(p, t)
    found = score("f1_macro", make_sample(p, t, ["a"], "multilabel", thresholds=limits))
    best = max(
        score("f1_macro", make_sample(p, t, ["a"], "multilabel", thresholds=np.array([x])))
        for x in np.linspace(0.02, 0.98, 97)
    )
    assert found > best - 0.02


def test_thresholds_from_few_positives_stay_near_the_prior():
    p = np.full((40, 1), 0.3)
    p[0] = 0.97
    t = np.zeros((40, 1))
    t[0] = 1
    assert 0.35 < f1_thresholds(p, t)[0] < 0.9


def test_a_class_that_was_never_seen_is_hardly_ever_called():
    p = np.random.default_rng(1).uniform(0.2, 0.4, (60, 1))
    unknown, none = (f1_thresholds(p, np.full((60, 1), value)) for value in (np.nan, 0.0))
    assert (p >= none).mean() < 0.1 < (p >= unknown).mean()


@given(st.integers(0, 2**32 - 1), st.floats(0.03, 0.9), st.floats(-2.5, 2.5))
@settings(max_examples=40)
def test_thresholds_follow_probabilities_that_are_too_high_or_too_low(seed, prevalence, shift):
    """What is called depends on the order of the records, not on how sure the network pretends to be."""
    rng = np.random.default_rng(seed)
    t = (rng.random((300, 1)) < prevalence).astype(float)
    assume(0 < t.sum() < 300)
    logit = rng.normal(1.5 * t, 1) - 1 + np.log(prevalence / (1 - prevalence))
    true, moved = sigmoid(logit), sigmoid(logit + shift)
    # Away from the limits of thresholds both call the same records.
    limit, other = f1_thresholds(true, t), f1_thresholds(moved, t)
    assume(0.03 < limit[0] < 0.97 and 0.03 < other[0] < 0.97)
    assert ((true >= limit) != (moved >= other)).mean() <= 0.03


def test_a_frequent_class_is_not_called_everywhere():
    rng = np.random.default_rng(3)
    t = (rng.random((400, 1)) < 0.8).astype(float)
    p = sigmoid(rng.normal(2.5 * t - 1.5, 1))
    called = p >= f1_thresholds(p, t)
    assert (called[t < 0.5]).mean() < 0.3


def _classes(rng, n, shares, clearness):
    """Return calibrated probabilities ``(n, classes)`` and the truth drawn from them."""
    logit = rng.normal(0, clearness, (n, len(shares))) + np.log(shares)
    p = softmax(logit)
    return p, np.eye(len(shares))[(p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)]


def _weighted_f1(p, t, limits):
    return score("f1_weighted", make_sample(p, t, ["a", "b", "c", "d"], "multiclass", thresholds=limits))


@pytest.mark.parametrize("clearness", [0.7, 1.5])
def test_thresholds_of_one_class_come_close_to_the_best_f1_weighted(clearness):
    rng = np.random.default_rng(5)
    shares = np.array([0.62, 0.2, 0.13, 0.05])
    p, t = _classes(rng, 6000, shares, clearness)
    fresh, truth = _classes(rng, 6000, shares, clearness)
    limits = f1_thresholds_of_one(p, t)
    found, largest = _weighted_f1(fresh, truth, limits), _weighted_f1(fresh, truth, None)
    best = max(_weighted_f1(fresh, truth, rng.uniform(0, 0.5, 4)) for _ in range(400))
    assert found > largest + 0.005 and found > best - 0.01


@given(st.integers(0, 2**32 - 1), st.integers(1, 120))
@settings(max_examples=50, deadline=None)
def test_thresholds_of_one_class_are_always_usable(seed, n):
    rng = np.random.default_rng(seed)
    p, t = _classes(rng, n, rng.dirichlet(np.ones(4)) + 1e-6, 1.0)
    t[rng.random(n) < 0.2] = np.nan
    limits = f1_thresholds_of_one(p, t)
    assert limits.shape == (4,) and ((limits >= 0) & (limits <= 0.5)).all()
    assert np.isfinite(t).any() or not limits.any()


def test_classes_that_are_told_apart_perfectly_stay_so():
    t = np.eye(4)[np.arange(80) % 4]
    limits = f1_thresholds_of_one(0.97 * t + 0.01 * (1 - t), t)
    np.testing.assert_array_equal(decided(0.9 * t + 0.1 / 3 * (1 - t), limits, one_of_several=True), t > 0.5)


def test_what_is_risky_is_said():
    t = np.zeros((30, 3), np.float32)
    t[:10, 0], t[:2, 1] = 1, 1
    notes = get_problem("multilabel").check_trainable(t, ("a", "b", "c"))
    assert any("'b' has only 2 records" in n for n in notes) and any("no record has class 'c'" in n for n in notes)
    with pytest.raises(TrainingFailed):
        get_problem("multilabel").check_trainable(t[:, :2], ("a", "b", "c"))


def test_rare_classes_are_named_in_one_sentence():
    targets = np.zeros((40, 4), np.float32)
    targets[:20, 0], targets[:2, 1], targets[:3, 2] = 1, 1, 1
    [rare, absent] = get_problem("multilabel").check_trainable(targets, ["a", "b", "c", "d"])
    assert "b (2), c (3)" in rare and "class 'd'" in absent
    targets[:, 3] = 1
    assert "every record has class 'd'" in get_problem("multilabel").check_trainable(targets, ["a", "b", "c", "d"])[-1]
