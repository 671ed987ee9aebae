"""What a run that trains the head, or the head first, leaves as it was."""

import copy

import numpy as np
import pytest
import torch

from modelhub.architectures.registry import build
from tests.training.fitting import Recorder, run
from tests.training.tiny import FS_HZ, TinyNet, tiny_parts, tiny_settings
from training.engine.callbacks import Callback
from training.engine.checkpoint import CheckpointStore
from training.engine.predict import predict
from training.engine.source import ArraySource
from training.problems.registry import get_problem


@pytest.mark.parametrize("form", ["tiny", "inception_time"])
def test_a_frozen_trunk_is_unchanged_bit_for_bit(form):
    if form == "tiny":
        net, parts, head = TinyNet(), tiny_parts(), "head."
    else:
        net = build("inception_time", n_leads=3, n_samples=64, fs_hz=FS_HZ, n_classes=2, seed=0)
        parts, head = tiny_parts(), "head."
    before = copy.deepcopy(net.state_dict())
    result = run(net, tiny_settings(mode="head", epochs=2), parts=parts)
    for name, tensor in result.best_state.items():
        same = torch.equal(tensor, before[name])
        assert same != name.startswith(head), name


def test_head_then_full_moves_the_trunk_only_in_the_second_stage(tmp_path):
    net = TinyNet()
    before = copy.deepcopy(net.state_dict())
    settings = tiny_settings(mode="head_then_full", epochs=4, head_epochs=2, ema_decay=0)
    trunks = []

    class Look(Callback):
        def on_epoch_end(self, row):
            state = CheckpointStore(tmp_path).load()[1]
            trunks.append(all(torch.equal(state[f"0/net/{k}"], before[k]) for k in before if k.startswith("trunk")))

    result = run(net, settings, checkpoint_dir=tmp_path, callbacks=[Look()])
    assert trunks == [True, True, False, False]
    assert [row["stage"] for row in result.history] == ["head", "head", "full_after_head", "full_after_head"]
    stopped = run(net, settings, checkpoint_dir=tmp_path, resume=False, callbacks=[Recorder(stop_at=7)])
    assert stopped.epochs == 2
    assert run(net, settings, checkpoint_dir=tmp_path).weights_hash == result.weights_hash


def test_batch_norm_of_a_frozen_trunk_stays_in_eval_mode():
    seen = []

    class Watch(TinyNet):
        def forward(self, x):
            if torch.is_grad_enabled():
                seen.append((self.trunk[1].training, self.trunk[3].training, self.head.training))
            return super().forward(x)

    run(Watch(), tiny_settings(mode="head", epochs=1))
    assert set(seen) == {(False, False, True)}


@pytest.mark.parametrize("name", ["resnet1d_wang", "xception_time", "s4d_128"])
@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_registered_networks_train_and_their_heads_alone_too(name, task):

    signals, targets = (
        np.random.default_rng(0).normal(size=(10, 12, 200)).astype(np.float32),
        np.eye(2, dtype=np.float32)[[0, 1] * 5],
    )
    net = build(name, n_leads=12, n_samples=200, fs_hz=FS_HZ, n_classes=2, seed=0)
    before = copy.deepcopy(net.state_dict())
    parts = ArraySource(signals[:6]), targets[:6], ArraySource(signals[6:]), targets[6:]
    result = run(net, tiny_settings(mode="head", epochs=1, batch_size=3), get_problem(task), parts)
    changed = {k for k, tensor in result.best_state.items() if not torch.equal(tensor, before[k])}
    assert changed and all(k.startswith("head.") for k in changed)
    net.load_state_dict(result.best_state)
    np.testing.assert_allclose(predict(net, parts[2]), result.validation_outputs, rtol=1e-3, atol=1e-3)
