"""The cost of a run: counts are exact, memory follows from the layers, and nothing is changed by asking."""

import numpy as np
import pytest
import torch

from ecgportal.errors import TrainingFailed
from modelhub.architectures.registry import build, mac_count
from tests.training.tiny import TinyNet, tiny_settings
from training.engine.estimate import estimate
from training.engine.network import weights_hash


def test_the_cost_of_a_known_network():
    net = build("xresnet1d18", n_leads=12, n_samples=1000, fs_hz=100.0, n_classes=5, seed=0)
    before, state = weights_hash(net.state_dict()), torch.get_rng_state()
    cost = estimate(
        net, tiny_settings(epochs=10, batch_size=8), n_leads=12, n_samples=1000, n_train=300, n_validation=50
    )
    assert cost.parameters == cost.trained_parameters == 364_933
    assert cost.macs == pytest.approx(mac_count(net, 12, 1000), rel=1e-3)
    assert cost.run_s == pytest.approx(10 * cost.epoch_s)
    assert cost.epoch_s == pytest.approx(300 / cost.records_per_s)
    assert cost.memory_bytes > 4 * 4 * cost.parameters
    assert weights_hash(net.state_dict()) == before and torch.equal(torch.get_rng_state(), state)


def test_memory_grows_with_the_batch_by_what_the_layers_keep():
    def memory(batch):
        settings = tiny_settings(batch_size=batch)
        return estimate(TinyNet(), settings, n_leads=3, n_samples=64, n_train=64, probe=False).memory_bytes

    per_record = (memory(64) - memory(32)) / 32
    # Input, and at least the input and the output of both convolutions' normalisations.
    assert 4 * 64 * (3 + 8 * 4) < per_record < 4 * 64 * (3 + 8 * 12)
    assert memory(1000) == memory(64)


def test_a_head_alone_keeps_little_and_the_finder_is_part_of_the_cost():
    size = {"n_leads": 3, "n_samples": 64, "n_train": 64, "n_validation": 8}
    whole = estimate(TinyNet(), tiny_settings(), **size, probe=False)
    head = estimate(TinyNet(), tiny_settings(mode="head"), **size, probe=False)
    assert head.trained_parameters == 18 and head.memory_bytes < whole.memory_bytes / 2
    assert whole.run_s is whole.epoch_s is whole.records_per_s is None
    timed = estimate(TinyNet(), tiny_settings(learning_rate=None), **size)
    assert timed.run_s > 5 * timed.epoch_s > 0
    two = estimate(TinyNet(), tiny_settings(mode="head_then_full"), **size)
    assert two.trained_parameters == two.parameters and two.run_s > 0


def test_a_network_that_does_not_fit_is_told():
    with pytest.raises(TrainingFailed, match="does not take signals with 12 leads"):
        estimate(TinyNet(), tiny_settings(), n_leads=12, n_samples=64, n_train=10)
    assert np.isfinite(estimate(TinyNet(), tiny_settings(), n_leads=3, n_samples=64, n_train=1).run_s)
