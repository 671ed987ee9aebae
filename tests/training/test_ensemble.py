"""Ensembles: trained member by member in step, cross-fitted by patient, stored, resumed and exported as one network."""

import numpy as np
import pytest
import torch

from ecgportal.errors import InvalidInput
from modelhub.architectures.base import LinearHeadNetwork, mean_over_time
from modelhub.architectures.ensemble import Ensemble
from modelhub.architectures.registry import build
from modelhub.contract import MOST_NETWORKS
from tests.training.fitting import MULTILABEL, Recorder, run, without_times
from tests.training.tiny import TinyNet, tiny_parts, tiny_settings
from training.engine.data import check_data
from training.engine.fit import fit
from training.engine.monitor import metrics_over_parts
from training.engine.network import weights_hash
from training.engine.predict import predict
from training.engine.source import ArraySource, Joined
from training.problems.registry import get_problem


class Small(LinearHeadNetwork):
    def __init__(self, seed=0, n_classes=2):
        super().__init__(n_leads=3, n_samples=64, n_classes=n_classes)
        tiny = TinyNet(n_classes, seed=seed)
        self.trunk, self.head = tiny.trunk, tiny.head

    def forward(self, x):
        return self.head(mean_over_time(self.trunk(x)))


def ensemble(n=3, **options):
    return Ensemble([Small(seed, **options) for seed in range(n)])


GROUPS = ([f"p{i // 2}" for i in range(40)], [f"q{i // 2}" for i in range(24)])


def test_the_ensemble_answers_with_the_mean_of_its_members_logits():
    net = ensemble().eval()
    x = torch.randn(4, 3, 64)
    torch.testing.assert_close(net(x), sum(member(x) for member in net.members) / 3)
    assert len(net.head_modules()) == 3
    net.replace_head(5)
    assert net(x).shape == (4, 5)
    built = build("xresnet1d18", n_leads=3, n_samples=200, fs_hz=100, n_classes=2, seed=1, members=2)
    alone = build("xresnet1d18", n_leads=3, n_samples=200, fs_hz=100, n_classes=2, seed=1)
    first, second = (weights_hash(member.state_dict()) for member in built.members)
    assert first == weights_hash(alone.state_dict()) != second
    with pytest.raises(InvalidInput, match="between 1 and 20"):
        build("xresnet1d18", n_leads=3, n_samples=200, fs_hz=100, n_classes=2, members=21)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("inception_time", {"members": 2}), ("xresnet1d18", {"companion": True, "members": 2}), ("xception_time", {"rectified": True}),
        ("linear", {}),
    ],
)  # fmt: skip
def test_a_head_is_put_into_another_order(name, config):
    net = build(name, n_leads=3, n_samples=200, fs_hz=100.0, n_classes=3, seed=1, **config).eval()
    for layer in net.class_layers():
        torch.nn.init.normal_(layer.weight)
    signals = torch.randn(4, 3, 200)
    with torch.no_grad():
        before = net(signals)
        assert net.reorder_head([2, 0, 1])
        torch.testing.assert_close(net(signals), before[:, [2, 0, 1]])


def test_a_head_whose_class_layer_cannot_be_told_stays_as_it_was():
    class Scaled(Small):
        def forward(self, x):
            return super().forward(x) * torch.tensor([1.0, 5.0, 9.0])

    net = Scaled(n_classes=3).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert not net.reorder_head([2, 0, 1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_cross_fitting_judges_every_record_by_a_member_that_has_not_learned_from_it():
    parts = tiny_parts()
    recorder = Recorder()
    result = run(ensemble(), parts=parts, groups=GROUPS, callbacks=[recorder])
    assert result.members == 3 and result.cross_fitted and len(result.validation_outputs) == 64
    assert recorder.info["members"] == 3 and recorder.info["cross_fitted"]
    assert [row["epoch"] for row in recorder.rows] == [1, 2, 3, 4, 5]
    net = ensemble()
    net.load_state_dict(result.best_state)
    everything = Joined((parts[0], parts[2]))
    each = np.stack([predict(member, everything) for member in net.members])
    close = np.isclose(each, result.validation_outputs, atol=1e-4).all(axis=2)
    assert (close.sum(axis=0) >= 1).all()
    assert len(result.thresholds) == 2


def test_the_folds_of_cross_fitting_keep_patients_together():
    train, t, validation, v = tiny_parts()
    data = check_data(train, t, validation, v, MULTILABEL, None, members=4, groups=[*GROUPS[0], *GROUPS[1]], seed=5)
    groups = np.array([*GROUPS[0], *GROUPS[1]])
    assert sorted(np.concatenate([part.validation for part in data.parts])) == list(range(64))
    for part in data.parts:
        assert not set(groups[part.train]) & set(groups[part.validation])
        assert len(part.train) + len(part.validation) == 64
        assert 0.1 < data.truth[part.validation].mean() / data.truth.mean() < 2
    age = np.random.default_rng(0).normal(60, 10, 64).astype(np.float32)
    data = check_data(
        train,
        age[:40],
        validation,
        age[40:],
        get_problem("regression"),
        None,
        members=4,
        groups=[*GROUPS[0], *GROUPS[1]],
    )
    means = [age[part.validation].mean() for part in data.parts]
    assert data.crossed and max(means) - min(means) < 8


def test_metrics_of_cross_fitting_are_means_over_the_members_parts():
    rng = np.random.default_rng(0)
    truth = np.tile([[0.0], [1.0]], (20, 1)).astype(np.float32)
    outputs = (truth + rng.normal(scale=0.1, size=truth.shape)).astype(np.float32)
    parts = [np.arange(0, 30), np.arange(30, 38), np.array([38])]
    # Each part is ranked without fault, on a scale of its own; the last, a single record, cannot be ranked.
    outputs[parts[1]] += 3
    binary = get_problem("binary")
    assert metrics_over_parts(binary, outputs, truth, ("A",), parts)["auroc_macro"] == 1.0
    assert metrics_over_parts(binary, outputs, truth, ("A",), [np.arange(40)])["auroc_macro"] < 0.99
    assert metrics_over_parts(binary, outputs, truth, ("A",), [parts[2]])["auroc_macro"] is None


def test_without_groups_the_members_share_the_validation_part():
    result = run(ensemble(2))
    assert result.members == 2 and not result.cross_fitted and len(result.validation_outputs) == 24
    net = ensemble(2)
    net.load_state_dict(result.best_state)
    np.testing.assert_allclose(predict(net, tiny_parts()[2]), result.validation_outputs, atol=1e-5)
    assert weights_hash(net.members[0].state_dict()) != weights_hash(net.members[1].state_dict())


def test_too_few_patients_to_deal_out_share_the_validation_part():
    result = run(ensemble(3), groups=(["a"] * 40, ["b"] * 24))
    assert result.members == 3 and not result.cross_fitted


def test_an_ensemble_resumes_bit_for_bit(tmp_path):
    whole = run(ensemble(), groups=GROUPS)
    with_stop = Recorder(stop_at=17, reason="interrupted")
    stopped = run(ensemble(), groups=GROUPS, checkpoint_dir=tmp_path, callbacks=[with_stop])
    assert stopped.stopped_reason == "interrupted"
    again = run(ensemble(), groups=GROUPS, checkpoint_dir=tmp_path)
    assert again.resumed_epoch == stopped.epochs > 0
    assert again.weights_hash == whole.weights_hash
    assert without_times(again.history) == without_times(whole.history)


def test_the_head_alone_of_an_ensemble_leaves_every_trunk_as_it_was():
    net = ensemble()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    result = run(net, tiny_settings(mode="head"), groups=GROUPS)
    for name, tensor in result.best_state.items():
        assert torch.equal(tensor, before[name]) == (".trunk." in name), name


def test_regression_by_an_ensemble_answers_in_the_unit_of_its_target():
    parts = tiny_parts()
    ages = [50 + 20 * t[:, 0] for t in (parts[1], parts[3])]
    net = ensemble(2, n_classes=1)
    result = fit(
        net, parts[0], ages[0], parts[2], ages[1], get_problem("regression"), tiny_settings(epochs=20), fs_hz=100.0, groups=GROUPS
    )  # fmt: skip
    net.load_state_dict(result.best_state)
    answers = predict(net, ArraySource(parts[2].signals))
    assert 45 < answers.mean() < 75 and np.abs(answers[:, 0] - ages[1]).mean() < 10


def test_the_default_number_of_members_follows_the_records():
    assert [tiny_settings().n_members(n) for n in (10, 160, 300, 1000, 20_000)] == [1, 3, 5, 3, 1]
    assert tiny_settings(mode="full").n_members(300) == 1 and tiny_settings(members=5).n_members(20_000) == 5


def test_an_ensemble_becomes_one_onnx_file():
    from modelhub.onnx.export import check_parity, export_onnx
    from tests.modelhub.conftest import make_contract

    net = build("xresnet1d18", n_leads=3, n_samples=200, fs_hz=100, n_classes=2, seed=1, members=2).eval()
    contract = make_contract(
        leads=("I", "II", "V1"), n_samples=200, fs_hz=100.0, classes=("A", "B"), architecture="xresnet1d18", config={"members": 2}
    )  # fmt: skip
    assert check_parity(net, export_onnx(net, contract), contract) < 1e-4


def test_as_many_networks_as_folds_can_be_are_one_model():
    assert len(ensemble(MOST_NETWORKS).members) == MOST_NETWORKS
