"""xresnet1d 18, 50, 101 (Strodthoff et al. 2021, doi 10.1109/jbhi.2020.3022989)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelhub.architectures.base import conv
from modelhub.architectures.pooled_head import PooledHead, PooledHeadNetwork, initialise
from modelhub.architectures.registry import architecture

_PLANES = 64
_KERNEL = 5
_STRIDES = (1, 2, 2, 2)


def conv_norm(
    n_in: int, n_out: int, kernel: int, stride: int = 1, *, relu: bool = True, zero: bool = False
) -> nn.Module:
    """Convolution, BatchNorm (its scale starting at zero when ``zero``), and ReLU unless told otherwise."""
    norm = nn.BatchNorm1d(n_out)
    if zero:
        nn.init.zeros_(norm.weight)
    layers: list[nn.Module] = [conv(n_in, n_out, kernel, stride), norm]
    if relu:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class Block(nn.Module):
    """Residual block: basic (two convolutions) for expansion 1, bottleneck (1x1, wide, 1x1) otherwise."""

    def __init__(self, n_in: int, planes: int, stride: int, expansion: int) -> None:
        super().__init__()
        n_out = planes * expansion
        if expansion == 1:
            self.path = nn.Sequential(
                conv_norm(n_in, planes, _KERNEL, stride),
                conv_norm(planes, n_out, _KERNEL, relu=False, zero=True),
            )
        else:
            self.path = nn.Sequential(
                conv_norm(n_in, planes, 1),
                conv_norm(planes, planes, _KERNEL, stride),
                conv_norm(planes, n_out, 1, relu=False, zero=True),
            )
        shortcut: list[nn.Module] = []
        if stride != 1:
            shortcut.append(nn.AvgPool1d(2, ceil_mode=True))
        if n_in != n_out:
            shortcut.append(conv_norm(n_in, n_out, 1, relu=False))
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.path(x) + self.shortcut(x))


class XResNet1d(PooledHeadNetwork):
    """Three-convolution stem, four stages of 64 planes, pooled head."""

    def __init__(
        self, *, n_leads: int, n_samples: int, n_classes: int, blocks: tuple[int, ...], expansion: int
    ) -> None:
        super().__init__(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes)
        self.stem = nn.Sequential(
            conv_norm(n_leads, 32, _KERNEL, 2),
            conv_norm(32, 32, _KERNEL),
            conv_norm(32, 64, _KERNEL),
            nn.MaxPool1d(3, stride=2, padding=1),
        )
        n_in = 64
        stages = []
        for count, stride in zip(blocks, _STRIDES):
            stage = []
            for position in range(count):
                stage.append(Block(n_in, _PLANES, stride if position == 0 else 1, expansion))
                n_in = _PLANES * expansion
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.head = PooledHead(n_in, n_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)))


@architecture(
    name="xresnet1d18",
    title="xresnet1d18",
    paper="Strodthoff et al. 2021, doi 10.1109/jbhi.2020.3022989",
    varies=("n_leads", "n_samples", "fs_hz", "n_classes"),
    parameters=364_933,
    million_macs=47.2,
    advice="Least arithmetic of all: good first choice on a CPU.",
)
def xresnet1d18(*, n_leads: int, n_samples: int, fs_hz: float, n_classes: int) -> XResNet1d:
    """Build xresnet1d with 2, 2, 2, 2 basic blocks."""
    return XResNet1d(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes, blocks=(2, 2, 2, 2), expansion=1)


@architecture(
    name="xresnet1d50",
    title="xresnet1d50",
    paper="Strodthoff et al. 2021, doi 10.1109/jbhi.2020.3022989",
    varies=("n_leads", "n_samples", "fs_hz", "n_classes"),
    parameters=953_989,
    million_macs=105.1,
    advice="Between xresnet1d18 and xresnet1d101 in cost.",
)
def xresnet1d50(*, n_leads: int, n_samples: int, fs_hz: float, n_classes: int) -> XResNet1d:
    """Build xresnet1d with 3, 4, 6, 3 bottleneck blocks."""
    return XResNet1d(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes, blocks=(3, 4, 6, 3), expansion=4)


@architecture(
    name="xresnet1d101",
    title="xresnet1d101",
    paper="Strodthoff et al. 2021, doi 10.1109/jbhi.2020.3022989",
    varies=("n_leads", "n_samples", "fs_hz", "n_classes"),
    parameters=1_872_261,
    million_macs=162.1,
    advice="The strongest convolutional network of the PTB-XL benchmark at a third of InceptionTime's arithmetic.",
)
def xresnet1d101(*, n_leads: int, n_samples: int, fs_hz: float, n_classes: int) -> XResNet1d:
    """Build xresnet1d with 3, 4, 23, 3 bottleneck blocks."""
    return XResNet1d(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes, blocks=(3, 4, 23, 3), expansion=4)
