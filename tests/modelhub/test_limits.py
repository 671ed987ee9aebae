"""What a network states of the signals that it can be built for is what it takes."""

from __future__ import annotations

import pytest
import torch

from ecgportal.errors import InvalidInput
from modelhub.architectures.catalog import built_in
from modelhub.architectures.facts import ArchitectureFacts
from modelhub.architectures.registry import build


@pytest.mark.parametrize("name", built_in())
def test_a_network_takes_the_sizes_that_it_states_and_refuses_the_others(name):
    facts = built_in()[name]
    near = {facts.shortest_samples - 1, facts.shortest_samples, facts.samples_step, facts.samples_step + 1, 130}
    for n_samples in sorted(near - {0}):
        sizes = {"n_leads": 1, "n_samples": n_samples, "fs_hz": 50.0}
        sentence = facts.misfit(**sizes)
        if sentence is not None:
            with pytest.raises(InvalidInput) as told:
                build(name, **sizes, n_classes=3)
            assert told.value.message.startswith(sentence) and str(n_samples) in sentence
            continue
        with torch.no_grad():
            answer = build(name, **sizes, n_classes=3, seed=0).eval()(torch.randn(2, 1, n_samples))
        assert answer.shape == (2, 3) and torch.isfinite(answer).all()


def test_what_does_not_vary_is_named_with_what_it_has_to_be():
    facts = ArchitectureFacts("x", "Net", "", ("n_classes",), 1, 1.0)
    assert facts.misfit(n_leads=12, n_samples=1000, fs_hz=100.0) is None
    assert facts.misfit(n_leads=8, n_samples=1000, fs_hz=500.0) == "Net takes 12 leads, not 8; 100 Hz, not 500."
