"""From the settings of a way of learning without labels to its layers."""

from __future__ import annotations

from torch import Tensor, nn

from training.engine.unlabelled.base import Objective
from training.engine.unlabelled.contrastive import NextWindow
from training.engine.unlabelled.masked import Reconstruction
from training.engine.unlabelled.settings import Contrastive, Method


def objective_for(how: Method, net: nn.Module, x: Tensor, fs_hz: float) -> Objective:
    """Build the layers that learning by ``how`` adds to ``net``; x: some records ``(records, leads, samples)`` in mV."""
    if isinstance(how, Contrastive):
        return NextWindow(how, net, x, fs_hz)
    return Reconstruction(how, net, x, fs_hz)
