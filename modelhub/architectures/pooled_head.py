"""The head of the PTB-XL benchmark's residual networks (Strodthoff et al. 2021, doi 10.1109/jbhi.2020.3022989)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelhub.architectures.base import EcgNetwork, max_over_time, mean_over_time

_HIDDEN = 128


class PooledHead(nn.Module):
    """Maximum and mean over time, a hidden layer of 128, the class layer."""

    def __init__(self, channels: int, n_classes: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm1d(2 * channels)
        self.dropout1 = nn.Dropout(0.25)
        self.hidden = nn.Linear(2 * channels, _HIDDEN)
        self.norm2 = nn.BatchNorm1d(_HIDDEN)
        self.dropout2 = nn.Dropout(0.5)
        self.classes = nn.Linear(_HIDDEN, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([max_over_time(x), mean_over_time(x)], dim=1)
        x = torch.relu(self.hidden(self.dropout1(self.norm1(x))))
        return self.classes(self.dropout2(self.norm2(x)))


class PooledHeadNetwork(EcgNetwork):
    """A network that ends in ``head``, a ``PooledHead``."""

    head: PooledHead

    def head_modules(self) -> list[nn.Module]:
        return [self.head]

    def replace_head(self, n_classes: int) -> None:
        old = self.head
        fresh = PooledHead(old.hidden.in_features // 2, n_classes)
        initialise(fresh)
        self.head = fresh.to(old.classes.weight.device)
        self.n_classes = n_classes


def initialise(module: nn.Module) -> None:
    """He-normal weights for convolutions and linear layers, zero biases (in place)."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv1d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
