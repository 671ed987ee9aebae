"""A linear model of fixed features that answers beside a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelhub.architectures.base import EcgNetwork
from modelhub.architectures.fixed_features import FixedFeatures


class Accompanied(EcgNetwork):
    """A network and a linear model of fixed features: ``share * network(x) + linear(features(x))``.

    Until the linear part is fitted (``training.engine.companion``) it says nothing and the network answers alone.
    """

    has_2d_form = False
    dynamic_length = False
    share: Tensor

    def __init__(self, network: EcgNetwork, *, fs_hz: float) -> None:
        super().__init__(n_leads=network.n_leads, n_samples=network.n_samples, n_classes=network.n_classes)
        self.network = network
        self.n_person_features = network.n_person_features
        self.features = FixedFeatures(n_leads=network.n_leads, n_samples=network.n_samples, fs_hz=fs_hz)
        self._renew()

    def _renew(self) -> None:
        self.linear = _silent(self.features.n_features, self.n_classes)
        self.register_buffer("share", torch.ones(()))

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        return self.linear(self.features(x)) + self.share * self.network(x, *others)

    def head_modules(self) -> list[nn.Module]:
        return [*self.network.head_modules(), self.linear]

    def class_layers(self) -> list[nn.Module]:
        return [*self.network.class_layers(), self.linear]

    def replace_head(self, n_classes: int) -> None:
        self.network.replace_head(n_classes)
        self.n_classes = n_classes
        self._renew()

    def idle_tensors(self) -> frozenset[str]:
        return frozenset(f"network.{name}" for name in self.network.idle_tensors())


def _silent(n_in: int, n_out: int) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(n_in, n_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
