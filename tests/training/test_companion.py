"""The linear companion: its features, what it is fitted to, and how it answers beside networks."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from datasets.beats import find_r_peaks
from datasets.simulate import simulate
from ecgportal.errors import InvalidInput
from modelhub.architectures.companion import Accompanied
from modelhub.architectures.fixed_features import FixedFeatures
from modelhub.architectures.registry import build
from modelhub.onnx.export import export_checked
from modelhub.onnx.load import load_own
from modelhub.runtime.predictor import load_predictor
from tests.modelhub.conftest import make_contract
from tests.training.fitting import Recorder, run
from tests.training.test_ensemble import GROUPS, ensemble
from tests.training.tiny import FS_HZ, parts_for, tiny_parts, tiny_settings
from training.engine import companion as engine
from training.engine.data import Data, Part
from training.engine.linear import PENALTIES, fit_linear
from training.engine.lr_finder import find_learning_rate
from training.engine.predict import predict
from training.engine.settings import FitSettings
from training.engine.source import ArraySource, Joined
from training.problems.base import LossOptions
from training.problems.registry import get_problem


def features_of(signal, fs_hz=100.0):
    made = FixedFeatures(n_leads=signal.shape[0], n_samples=signal.shape[1], fs_hz=fs_hz).eval()
    x = torch.from_numpy(np.ascontiguousarray(signal))[None]
    made.set_levels(x)
    found = made(x)[0]
    return dict(zip(made.views, found.split(list(made.views.values())), strict=True)), made


def accompanied(**options):
    return Accompanied(ensemble(**options), fs_hz=FS_HZ)


@pytest.mark.parametrize(("leads", "samples", "fs_hz"), [(12, 1000, 100.0), (1, 2500, 250.0), (3, 64, 100.0), (12, 5000, 500.0)])  # fmt: skip
def test_every_form_of_ecg_has_features_also_where_nothing_was_recorded(leads, samples, fs_hz):
    for signal in (np.zeros((leads, samples)), np.full((leads, samples), 0.7), np.random.default_rng(1).normal(size=(leads, samples))):  # fmt: skip
        views, made = features_of(signal.astype(np.float32), fs_hz)
        assert sum(len(view) for view in views.values()) == made.n_features
        assert all(torch.isfinite(view).all() for view in views.values())
        assert ("rhythm" in views) == (samples / fs_hz >= 3)


def test_the_rhythm_is_that_of_the_beats():
    for name, seed in (("SNR", 1), ("STACH", 2), ("AF", 3)):
        signal = simulate(name, seed, fs_hz=100).record.signal
        views, _ = features_of(signal)
        rr_s = np.diff(find_r_peaks(signal, 100.0)) / 100
        mean, sd, rmssd = views["rhythm"][:3].tolist()
        assert mean == pytest.approx(rr_s.mean(), abs=0.02) and sd == pytest.approx(rr_s.std(), abs=0.02)
        assert rmssd == pytest.approx(np.sqrt(np.mean(np.diff(rr_s) ** 2)), abs=0.03)


def test_the_mean_beat_is_the_beat_of_the_record():
    signal = simulate("SNR", 4, fs_hz=100).record.signal
    views, made = features_of(signal)
    peaks = find_r_peaks(signal, 100.0)
    peaks = peaks[(peaks >= made.before + 5) & (peaks < signal.shape[1] - made.after - 5)]
    mean = np.mean([signal[1, at - made.before : at + made.after + 1] for at in peaks], axis=0)
    found = views["beat"].reshape(12, -1)[1].numpy()
    # What is taken for the middle of the QRS complex may differ by some samples.
    assert max(np.corrcoef(np.roll(found, by), mean)[0, 1] for by in range(-8, 9)) > 0.97


def regular(p_at_s=0.2):
    """Ten beats of 1 s: a P wave of 0.1 mV at ``p_at_s`` of each, a QRS complex of 1 mV at 0.4 s, a T wave of 0.3 mV at 0.7 s."""
    time_s = np.arange(100) / 100
    beat = sum(
        h * np.exp(-(((time_s - at) / w) ** 2)) for h, at, w in ((0.1, p_at_s, 0.02), (1, 0.4, 0.015), (0.3, 0.7, 0.05))
    )
    return np.tile(beat, (3, 10)).astype(np.float32) * np.array([[1], [-0.7], [0.4]], np.float32)


def test_the_course_tells_where_waves_lie_whatever_their_sign():
    signal = regular()
    course, earlier = (features_of(x)[0]["course"].numpy() for x in (signal, regular(0.12)))
    np.testing.assert_allclose(features_of(-signal)[0]["course"].numpy(), course, atol=1e-5)
    # In steps of 20 ms: the P wave lies four earlier, and what lies behind it where it was.
    np.testing.assert_allclose(earlier[4:11], course[8:15], atol=0.3)
    np.testing.assert_allclose(earlier[16:50], course[16:50], atol=0.05)


def test_an_odd_beat_is_seen_by_its_form_and_its_time():
    signal = regular()
    odd = signal.copy()
    # The fifth beat comes 0.3 s early, wide and upside down.
    odd[:, 420:500] = 0
    wide = -1.5 * np.exp(-(((np.arange(60) - 30) / 7.0) ** 2))
    odd[:, 380:440] += wide.astype(np.float32) * np.array([[1], [-0.7], [0.4]], np.float32)
    plain, other = (features_of(x)[0]["odd beats"].numpy() for x in (signal, odd))
    largest, before, after = slice(0, 1), -2, -1
    assert other[largest] > plain[largest] + 2
    assert plain[before] == pytest.approx(1, abs=0.02) and plain[after] == pytest.approx(1, abs=0.02)
    assert other[before] < 0.8 and other[after] > 1.2


def test_an_answer_can_be_explained_where_leads_are_flat_and_beats_alike():
    for signal in (regular(), np.zeros((3, 1000), np.float32), np.full((3, 1000), 0.3, np.float32)):
        signal[1] = 0
        made = FixedFeatures(n_leads=3, n_samples=1000, fs_hz=100.0)
        x = torch.from_numpy(signal)[None].requires_grad_()
        made(x).sum().backward()
        assert torch.isfinite(x.grad).all()


def test_levels_are_taken_once_and_lie_between_the_responses():
    x = torch.randn(6, 3, 300)
    made = FixedFeatures(n_leads=3, n_samples=300, fs_hz=100.0)
    made.set_levels(x)
    levels = made.levels.clone()
    made.set_levels(10 * x)
    assert torch.equal(levels, made.levels)
    shares = made(x)[:, : made.views["kernels"]]
    assert 0.02 < float(shares.mean()) < 0.98 and float(shares.min()) >= 0 and float(shares.max()) <= 1


def test_it_says_nothing_until_it_is_fitted_and_its_network_is_the_one_it_would_be_alone():
    sizes = {"n_leads": 3, "n_samples": 300, "fs_hz": 100.0, "n_classes": 2, "seed": 5}
    together = build("xresnet1d18", **sizes, members=2, companion=True).eval()
    alone = build("xresnet1d18", **sizes, members=2).eval()
    x = torch.randn(3, 3, 300)
    assert torch.equal(together(x), alone(x))
    torch.nn.init.ones_(together.linear.weight)
    together.replace_head(4)
    together.eval()
    assert torch.equal(together(x), together.network(x)) and together(x).shape == (3, 4)


def test_it_leaves_as_one_onnx_file_that_answers_alike():
    contract = make_contract(architecture="xresnet1d18", config={"companion": True}, n_samples=600)
    module = build("xresnet1d18", n_leads=12, n_samples=600, fs_hz=100.0, n_classes=5, seed=1, companion=True).eval()
    signals = np.stack([simulate(name, 7, fs_hz=100, duration_s=6).record.signal for name in ("SNR", "AF", "LVH")])
    module.features.set_levels(torch.from_numpy(signals))
    torch.nn.init.normal_(module.linear.weight, std=0.05)
    data, difference = export_checked(module, contract, check_signals=signals)
    assert difference < 1e-4
    expected = torch.sigmoid(module(torch.from_numpy(signals))).detach().numpy()
    assert np.abs(load_predictor(data, contract, 1).predict(signals) - expected).max() < 1e-4
    assert load_own(data).contract.config == {"companion": True}


def test_each_view_is_a_ridge_regression_with_the_penalty_that_serves_records_it_has_not_seen():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 8)) * rng.uniform(0.5, 3, 8) + 2
    truth = (x @ rng.normal(size=(8, 1)) + rng.normal(size=(60, 1))).astype(np.float32)
    problem = get_problem("regression")
    rows = np.arange(60)
    data = Data(ArraySource(np.zeros((60, 1, 1), np.float32)), truth, truth, 40, (Part(rows[:40], rows[40:]),), rows[40:], False, ("a",), np.zeros(1), np.ones(1), ())  # fmt: skip
    found = fit_linear(
        x, {"only": 8}, data, np.zeros((20, 1), np.float32), problem.loss(truth, LossOptions()), is_classes=False, ask=lambda: None
    )  # fmt: skip
    z = (x - x[:40].mean(0)) / x[:40].std(0)
    tried = [Ridge(penalty * 8).fit(z[:40], truth[:40]) for penalty in PENALTIES]
    best = min(tried, key=lambda model: np.square(model.predict(z[40:]).ravel() - truth[40:, 0]).mean())
    answers = found.weights["only"] * best.predict(z[40:]).ravel()
    assert found.weights["only"] > 0.5
    np.testing.assert_allclose(found.outputs[:, 0] - found.outputs.mean(), answers - answers.mean(), atol=2e-3)
    np.testing.assert_allclose(x[40:] @ found.weight.T + found.bias, found.outputs, atol=2e-3)


def test_it_is_fitted_beside_the_networks_and_leaves_them_as_they_are():
    parts = tiny_parts()
    alone, told = run(ensemble(), parts=parts, groups=GROUPS), Recorder()
    both = run(accompanied(), parts=parts, groups=GROUPS, callbacks=[told])
    (said,) = [fact for fact in both.facts if "linear companion answers" in fact]
    assert f"networks reach AUROC {alone.history[alone.best_epoch - 1]['auroc_macro']:.3f}" in said
    assert both.notes == tuple(told.notes)
    for name, tensor in alone.best_state.items():
        assert torch.equal(tensor, both.best_state[f"network.{name}"])
    assert run(accompanied(), parts=parts, groups=GROUPS).weights_hash == both.weights_hash
    truth, loss = np.concatenate([parts[1], parts[3]]), get_problem("multilabel").loss(parts[1], LossOptions())
    before, after = (
        float(loss(torch.from_numpy(r.validation_outputs), torch.from_numpy(truth))) for r in (alone, both)
    )
    assert after < before
    net = accompanied()
    net.load_state_dict(both.best_state)
    answers = predict(net, Joined((parts[0], parts[2])))
    # Networks and ridge regressions of all folds answer for a record; judged is the one that had not seen it.
    assert np.corrcoef(answers.ravel(), both.validation_outputs.ravel())[0, 1] > 0.9
    assert len(both.thresholds) == 2


@pytest.mark.parametrize("kind", ["multiclass", "regression", "multilabel"])
def test_it_is_there_for_every_task_and_for_unknown_labels(kind):
    train, t, validation, v = parts_for(kind)
    problem = get_problem(kind)
    outputs = t.shape[1]
    result = run(accompanied(n_classes=outputs), problem=problem, parts=(train, t, validation, v), groups=GROUPS)
    net = accompanied(n_classes=outputs)
    net.load_state_dict(result.best_state)
    answers = predict(net, validation)
    assert np.isfinite(answers).all() and np.isfinite(result.validation_outputs).all()
    assert result.best_state["linear.weight"].any()
    if kind == "regression":
        # In the target's own unit.
        assert np.abs(answers - v).mean() < np.abs(v - v.mean()).mean()


def test_a_cancel_keeps_the_networks_and_a_large_dataset_has_no_companion(monkeypatch):
    class Late(Recorder):
        """Cancels when all epochs are done."""

        def should_stop(self):
            return "cancelled" if len(self.rows) == 5 else False

    stopped = run(accompanied(), parts=tiny_parts(), groups=GROUPS, callbacks=[Late()])
    assert stopped.stopped_reason == "cancelled" and stopped.epochs == 5
    assert not stopped.best_state["linear.weight"].any() and float(stopped.best_state["share"]) == 1.0
    monkeypatch.setattr(engine, "MOST_RECORDS", 50)
    large = run(accompanied(), parts=tiny_parts(), groups=GROUPS)
    assert not large.best_state["linear.weight"].any() and any("at most 50 records" in fact for fact in large.facts)


def test_the_rate_is_found_as_for_the_first_network_alone():
    train, t, *_ = tiny_parts()
    found = [
        find_learning_rate(net, train, t, get_problem("multilabel"), tiny_settings(), fs_hz=FS_HZ).to_json()
        for net in (accompanied(), ensemble(), ensemble().members[0])
    ]
    assert found[0] == found[1] == found[2]


def test_it_is_the_default_beside_fresh_ensembles_only():
    asked = [tiny_settings(), tiny_settings(companion="always"), tiny_settings(companion="never"), tiny_settings(mode="full")]  # fmt: skip
    assert [(s.has_companion(1), s.has_companion(3)) for s in asked] == [
        (False, True), (True, True), (False, False), (False, False)
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match="Linear companion"):
        FitSettings(companion="sometimes")
