"""XceptionTime (Rahimian et al. 2019, arXiv 1911.03803)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ecgportal.errors import InvalidInput
from modelhub.architectures.base import EcgNetwork, conv, mean_over_time
from modelhub.architectures.registry import architecture

_KERNELS = (39, 19, 9)
_BASE_WIDTH = 16
_POOLED_STEPS = 50


def separable(width: int, kernel: int) -> nn.Sequential:
    """One filter per channel over time, then a mixture of channels at each sample."""
    return nn.Sequential(conv(width, width, kernel, groups=width), conv(width, width, 1))


class XceptionModule(nn.Module):
    """Bottleneck, three separable convolutions and a pooled branch; four times ``width`` channels out."""

    def __init__(self, n_in: int, width: int) -> None:
        super().__init__()
        self.bottleneck = conv(n_in, width, 1)
        self.branches = nn.ModuleList(separable(width, kernel) for kernel in _KERNELS)
        self.pool = nn.MaxPool1d(3, stride=1, padding=1)
        self.pooled = conv(n_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.bottleneck(x)
        parts = [branch(narrow) for branch in self.branches]
        parts.append(self.pooled(self.pool(x)))
        return torch.cat(parts, dim=1)


class HeadBlock(nn.Sequential):
    """1x1 convolution, normalisation, ReLU."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(conv(n_in, n_out, 1), nn.BatchNorm1d(n_out), nn.ReLU())


class XceptionTime(EcgNetwork):
    """Four Xception modules, a shortcut around each pair, a convolutional head on 50 time steps.

    ``rectified`` gives the last block of the head its published BatchNorm and ReLU: logits are then never negative,
    which softmax tolerates and a sigmoid does not (no probability below one half). Without it the last block is a
    convolution with bias.
    """

    dynamic_length = False

    def __init__(self, *, n_leads: int, n_samples: int, n_classes: int, rectified: bool) -> None:
        super().__init__(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes)
        self.rectified = rectified
        widths = [_BASE_WIDTH * 2**i for i in range(4)]
        entry = [n_leads, *(4 * width for width in widths)]
        self.groups = nn.ModuleList()
        self.shortcuts = nn.ModuleList()
        for first in (0, 2):
            self.groups.append(
                nn.Sequential(*(XceptionModule(entry[i], widths[i]) for i in (first, first + 1))),
            )
            n_out = entry[first + 2]
            self.shortcuts.append(nn.Sequential(conv(entry[first], n_out, 1), nn.BatchNorm1d(n_out)))
        self.pool = nn.AvgPool1d(n_samples // _POOLED_STEPS)
        self.squeeze = nn.Sequential(HeadBlock(512, 256), HeadBlock(256, 128))
        self.head = self._head(n_classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.n_samples:
            raise InvalidInput(
                f"This XceptionTime was built for {self.n_samples} samples and got {x.shape[-1]}.", code="bad_length"
            )
        for group, shortcut in zip(self.groups, self.shortcuts):
            x = torch.relu(group(x) + shortcut(x))
        return mean_over_time(self.head(self.squeeze(self.pool(x))))

    def head_modules(self) -> list[nn.Module]:
        return [self.head]

    def replace_head(self, n_classes: int) -> None:
        device = next(self.head.parameters()).device
        self.head = self._head(n_classes).to(device)
        self.n_classes = n_classes

    def _head(self, n_classes: int) -> nn.Module:
        return HeadBlock(128, n_classes) if self.rectified else conv(128, n_classes, 1, bias=True)


@architecture(
    name="xception_time",
    title="XceptionTime",
    paper="Rahimian et al. 2019, arXiv 1911.03803",
    varies=("n_leads", "n_samples", "fs_hz", "n_classes"),
    parameters=401_365,
    million_macs=243.1,
    samples_step=50,
    dynamic_length=False,
    advice="Separable convolutions: half the arithmetic of InceptionTime; the length is fixed, a multiple of 50 samples.",
)
def xception_time(*, n_leads: int, n_samples: int, fs_hz: float, n_classes: int, rectified: bool = False) -> EcgNetwork:
    """Build XceptionTime. ``rectified`` gives the published head, for single-label tasks and weight import only."""
    return XceptionTime(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes, rectified=rectified)
