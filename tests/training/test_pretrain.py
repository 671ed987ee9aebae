"""Learning without labels: it learns its task, touches the trunk alone, resumes bit for bit, and says what it cannot do."""

import numpy as np
import pytest
import torch

from ecgportal.errors import InvalidInput, JobCancelled, TrainingFailed
from modelhub.architectures.registry import build
from tests.training.test_fit import Recorder
from tests.training.tiny import QUIET, TinyNet, tiny_settings
from training.engine.pretrain import pretrain
from training.engine.source import ArraySource

SETTINGS = tiny_settings(epochs=24, batch_size=16, learning_rate=0.02, augmentation=QUIET)


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
    return pretrain(net or TinyNet(), source or hearts(), settings, **({"fs_hz": 100.0, "window_s": 1.0} | options))


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


def test_what_cannot_be_is_told():
    with pytest.raises(InvalidInput, match="Choose shorter windows"):
        learn(window_s=2.0)
    with pytest.raises(TrainingFailed, match="There are 4 records"):
        learn(source=hearts(4))
    with pytest.raises(InvalidInput, match="must be positive"):
        learn(window_s=0.0)
    with pytest.raises(JobCancelled):
        learn(callbacks=[Recorder(stop_at=0)])
