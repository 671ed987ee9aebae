"""resnet1d_wang: three wide basic blocks (Wang et al. 2017 in the form of Strodthoff et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelhub.architectures.base import conv
from modelhub.architectures.pooled_head import PooledHead, PooledHeadNetwork, initialise
from modelhub.architectures.registry import architecture

_WIDTH = 128


class Block(nn.Module):
    """Two convolutions of 5 and 3 samples with a shortcut."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(_WIDTH, _WIDTH, 5, stride)
        self.norm1 = nn.BatchNorm1d(_WIDTH)
        self.conv2 = conv(_WIDTH, _WIDTH, 3)
        self.norm2 = nn.BatchNorm1d(_WIDTH)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(conv(_WIDTH, _WIDTH, 1, stride), nn.BatchNorm1d(_WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class ResNet1dWang(PooledHeadNetwork):
    """Stem of 7 samples without pooling, three blocks of 128 channels, pooled head."""

    def __init__(self, *, n_leads: int, n_samples: int, n_classes: int) -> None:
        super().__init__(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes)
        self.stem = nn.Sequential(conv(n_leads, _WIDTH, 7), nn.BatchNorm1d(_WIDTH), nn.ReLU())
        self.blocks = nn.Sequential(Block(1), Block(2), Block(2))
        self.head = PooledHead(_WIDTH, n_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


@architecture(
    name="resnet1d_wang",
    title="resnet1d_wang",
    paper="Strodthoff et al. 2021, doi 10.1109/jbhi.2020.3022989",
    varies=("n_leads", "n_samples", "fs_hz", "n_classes"),
    parameters=473_349,
    million_macs=252.4,
    advice="Best of the PTB-XL benchmark on the five superclasses with under half a million parameters.",
)
def resnet1d_wang(*, n_leads: int, n_samples: int, fs_hz: float, n_classes: int) -> ResNet1dWang:
    """Build resnet1d_wang."""
    return ResNet1dWang(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes)
