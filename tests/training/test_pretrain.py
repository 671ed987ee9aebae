"""Learning without labels: it learns its task, touches the trunk alone, resumes bit for bit, and says what it cannot do."""

import copy

import numpy as np
import pytest
import torch

from datasets.simulate import simulate_dataset
from ecgportal.errors import InvalidInput, JobCancelled, TrainingFailed
from modelhub.architectures.registry import build
from tests.training.fitting import Recorder
from tests.training.tiny import QUIET, TinyNet, tiny_settings
from training.engine.fit import fit
from training.engine.predict import predict
from training.engine.pretrain import pretrain
from training.engine.settings import FitSettings
from training.engine.source import ArraySource, Subset
from training.engine.unlabelled.masked import hide
from training.engine.unlabelled.settings import Contrastive, Masked, method_from, to_json
from training.metrics.base import make_sample, score
from training.problems.registry import get_problem

SETTINGS = tiny_settings(epochs=24, batch_size=16, learning_rate=0.02, augmentation=QUIET)

MASKED = Masked(span_s=0.5)


def hearts(n=96, samples=400, seed=0):
    """Pulse trains with a rate, height and width of each record's own, ``(n, 3, samples)``."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / 100
    x = rng.normal(scale=0.1, size=(n, 3, samples))
    for record in x:
        period, height, width = rng.uniform(0.5, 1.0), rng.uniform(0.5, 1.5), rng.uniform(0.02, 0.06)
        for beat in np.arange(rng.uniform(0, period), samples / 100, period):
            record += height * np.array([[1], [0.6], [-0.5]]) * np.exp(-0.5 * ((t - beat) / width) ** 2)
    return ArraySource(x.astype(np.float32))


def learn(settings=SETTINGS, net=None, source=None, **options):
    return pretrain(
        net or TinyNet(), source or hearts(), settings, **({"fs_hz": 100.0, "how": Contrastive(window_s=1.0)} | options)
    )


def test_windows_are_told_apart_better_than_by_guessing():
    result = learn()
    assert result.stopped_reason == "finished" and len(result.history) == 24
    first, last = result.history[0], result.history[-1]
    assert last["chance"] == pytest.approx(1 / 16)
    assert last["accuracy"] > 2 * last["chance"] and last["train_loss"] < first["train_loss"]


def test_the_trunk_learns_and_the_head_stays():
    net, state = TinyNet(), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    result = learn(net=net)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert torch.equal(result.state[name], tensor) == name.startswith("head"), name
    assert torch.equal(torch.get_rng_state(), state)
    net.load_state_dict(result.state)


def test_the_same_seed_gives_the_same_weights_also_after_an_interruption(tmp_path):
    whole = learn()
    stop = Recorder(stop_at=26, reason="interrupted")
    stopped = learn(checkpoint_dir=tmp_path, callbacks=[stop])
    assert stopped.stopped_reason == "interrupted" and len(stopped.history) == 4 == len(stop.rows) and stop.ended == 1
    resumed = learn(checkpoint_dir=tmp_path)
    assert resumed.resumed_epoch == 4 and resumed.weights_hash == whole.weights_hash != stopped.weights_hash
    with pytest.raises(TrainingFailed, match="other settings"):
        learn(tiny_settings(seed=8), checkpoint_dir=tmp_path)


@pytest.mark.parametrize("name", ["xresnet1d18", "se_wrn"])
def test_a_registered_network_learns_in_its_fast_form(name):
    net = build(name, n_leads=3, n_samples=400, fs_hz=100.0, n_classes=2, seed=0)
    result = learn(tiny_settings(epochs=1, batch_size=16), net=net, source=hearts(32))
    net.load_state_dict(result.state)
    assert torch.isfinite(net(torch.zeros(2, 3, 400))).all()


def test_hidden_samples_are_told_better_than_by_the_mean_on_records_that_were_not_learned_from():
    result = learn(how=MASKED, held_back=hearts(32, seed=9))
    first, last = result.history[0], result.history[-1]
    # 1 is what predicting the mean of each lead leaves.
    assert last["val_loss"] < 0.9 < first["val_loss"] and last["train_loss"] < 0.9
    assert last["explained"] == pytest.approx(1 - last["train_loss"], abs=0.02)
    state, before = result.state, TinyNet().state_dict()
    assert {name for name in state if torch.equal(state[name], before[name])} == {"head.weight", "head.bias"}


def test_what_is_held_back_is_only_judged():
    settings = tiny_settings(epochs=2, batch_size=16, augmentation=QUIET)
    alone = learn(settings, how=MASKED)
    assert "val_loss" not in alone.history[0]
    assert learn(settings, how=MASKED, held_back=hearts(16, seed=9)).weights_hash == alone.weights_hash


def test_masked_learning_resumes_bit_for_bit(tmp_path):
    settings = tiny_settings(epochs=4, batch_size=16)
    whole = learn(settings, how=MASKED)
    learn(settings, how=MASKED, checkpoint_dir=tmp_path, callbacks=[Recorder(stop_at=14, reason="interrupted")])
    resumed = learn(settings, how=MASKED, checkpoint_dir=tmp_path)
    assert resumed.resumed_epoch == 2 and resumed.weights_hash == whole.weights_hash
    with pytest.raises(TrainingFailed, match="other settings"):
        learn(settings, how=Masked(hidden=0.5), checkpoint_dir=tmp_path)


def test_spans_of_all_leads_and_whole_leads_are_hidden():
    x = torch.zeros(200, 12, 1000)
    hidden = hide(x, Masked(span_s=0.5, hidden=0.4, hidden_leads=0.3), 100.0, torch.Generator().manual_seed(1))
    in_time = hidden.all(1)
    assert abs(float(in_time.float().mean()) - 0.4) < 0.05
    starts = (in_time[:, 1:] & ~in_time[:, :-1]).sum(1)
    # Every hidden stretch lasts half a second or a multiple of it, except where the record cuts it.
    assert int(in_time[:, 50:950].sum(1).max()) <= 500 and int(starts.max()) <= 9
    whole = hidden.all(2).sum(1)
    assert 0 < float(whole.float().mean()) < 12 * 0.35 and int(whole.max()) <= 6
    one = hide(x[:, :1], Masked(hidden_leads=0.9), 100.0, torch.Generator().manual_seed(1))
    assert not one.all(2).any(), "the only lead is never hidden as a whole"


@pytest.mark.parametrize("name", ["se_wrn", "xresnet1d18", "xception_time"])
def test_registered_networks_learn_to_reconstruct(name):
    """The first pools before its head with gates on the way, the second inside it, the third takes one length only."""
    net = build(name, n_leads=3, n_samples=400, fs_hz=100.0, n_classes=2, seed=0)
    result = learn(tiny_settings(epochs=1, batch_size=16), net=net, source=hearts(32), how=MASKED)
    moved = [n for n, t in net.state_dict().items() if n.endswith("weight") and not torch.equal(t, result.state[n])]
    heads = [n for n in net.state_dict() if n.startswith("head") and n.endswith("weight")]
    trunk = [n for n in net.state_dict() if n.endswith("weight") and n not in heads and n not in net.idle_tensors()]
    assert set(trunk) <= set(moved) and not set(heads) & set(moved)


@pytest.mark.slow
def test_a_trunk_from_reconstruction_serves_few_labels_better_than_random_weights():
    """Simulated ECGs of a clinic's mix; the trunk stays as it is, and a linear head learns from sixty labels."""
    ecgs = list(simulate_dataset(420, 5, fs_hz=100.0))
    signals = ArraySource(np.stack([ecg.record.signal for ecg in ecgs]).astype(np.float32))
    names = ("AF", "SB", "LVH", "RBBB", "LBBB")
    truth = np.array([[float(name in ecg.conditions) for name in names] for ecg in ecgs], np.float32)
    labelled, others, problem = np.arange(200, 260), np.arange(260, 420), get_problem("multilabel")

    def judged(net, seed):
        settings = FitSettings(
            mode="head", epochs=20, batch_size=16, learning_rate=1e-2, threads=1, ema_decay=0.0, seed=seed
        )
        done = fit(net, Subset(signals, labelled), truth[labelled], None, None, problem, settings, fs_hz=100.0)
        net.load_state_dict(done.best_state)
        answers = problem.activate(predict(net.eval(), Subset(signals, others)))
        return score("auroc_macro", make_sample(answers, truth[others], names, "multilabel"))

    gains = []
    for seed in (0, 1):
        net = build("xresnet1d18", n_leads=12, n_samples=1000, fs_hz=100.0, n_classes=5, seed=seed)
        settings = FitSettings(epochs=20, batch_size=16, threads=1, seed=seed)
        learned = pretrain(net, Subset(signals, np.arange(200)), settings, fs_hz=100.0, how=Masked())
        chance = judged(copy.deepcopy(net), seed)
        net.load_state_dict(learned.state)
        gains.append((chance, judged(net, seed)))
    print("AUROC with random weights and with the trunk:", gains)
    assert all(after > before for before, after in gains)


def test_learning_goes_on_in_smaller_batches_when_memory_runs_out(tmp_path):
    class Small(TinyNet):
        def forward(self, x):
            if self.training and len(x) > 8:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(x)

    recorder = Recorder()
    settings = tiny_settings(epochs=2, batch_size=16, augmentation=QUIET)
    result = learn(settings, net=Small(), how=MASKED, callbacks=[recorder], checkpoint_dir=tmp_path)
    assert result.stopped_reason == "finished" and recorder.notes == list(result.notes)
    assert result.notes == ("Memory ran out; the network now learns from batches of 8 records.",)

    class Tiny(TinyNet):
        def forward(self, x):
            if self.training:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(x)

    with pytest.raises(TrainingFailed, match="Choose a smaller network"):
        learn(settings, net=Tiny(), how=MASKED)


def test_settings_of_a_way_of_learning_are_checked_by_name():
    assert method_from({}) == Contrastive() and method_from({"window_s": 1.5}).window_s == 1.5
    assert method_from(to_json(MASKED)) == MASKED
    for wrong, field in [
        ({"method": "telepathy"}, "method"), ({"method": ["masked"]}, "method"), ({"method": "masked", "window_s": 2}, "window_s"),
        ({"method": "masked", "hidden": 1.5}, "hidden"), ({"method": "masked", "span_s": float("nan")}, "span_s"), ({"ahead": True}, "ahead"),
    ]:  # fmt: skip
        with pytest.raises(InvalidInput) as error:
            method_from(wrong)
        assert set(error.value.fields) == {f"pretraining.{field}"}


def test_what_cannot_be_is_told():
    with pytest.raises(InvalidInput, match="Choose shorter spans"):
        learn(how=Masked(span_s=2.0))
    with pytest.raises(InvalidInput, match="Choose a batch size of at least 4"):
        learn(tiny_settings(batch_size=1))
    empty = ArraySource(np.full((16, 3, 400), np.nan, np.float32))
    for how in (Contrastive(window_s=1.0), MASKED):
        with pytest.raises(TrainingFailed, match="3 leads|1 leads"):
            learn(how=how, source=ArraySource(np.zeros((16, 1, 400), np.float32)))
        with pytest.raises(TrainingFailed, match="None of the records"):
            learn(tiny_settings(epochs=1), how=how, source=empty)
    with pytest.raises(InvalidInput, match="no features over time"):
        learn(net=build("code_resnet", n_leads=3, n_samples=400, fs_hz=100.0, n_classes=2, seed=0), how=MASKED)
    with pytest.raises(InvalidInput, match="Choose shorter windows"):
        learn(how=Contrastive(window_s=2.0))
    with pytest.raises(TrainingFailed, match="There are 4 records"):
        learn(source=hearts(4))
    with pytest.raises(InvalidInput, match="positive"):
        learn(fs_hz=0.0)
    with pytest.raises(JobCancelled):
        learn(callbacks=[Recorder(stop_at=0)])
