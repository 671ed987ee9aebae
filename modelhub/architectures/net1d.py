"""Net1D (Hong et al. 2020), the network of ECGFounder (arXiv 2410.04133), and a small form of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelhub.architectures.base import LinearHeadNetwork, append_zero_channels, mean_over_time
from modelhub.architectures.registry import architecture

_KERNEL = 16
_GROUP_WIDTH = 16


class SameConv(nn.Module):
    """Convolution with bias that gives ``ceil(samples / stride)`` samples for stride 1 or 2.

    For an even kernel the same padding serves every length: where "same" padding would be one sample shorter on the
    right, the window does not reach that sample.
    """

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.padding = ((kernel - 1) // 2, kernel // 2)
        self.conv = nn.Conv1d(n_in, n_out, kernel, stride=stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding) if self.padding[1] else x)


class Activate(nn.Sequential):
    """BatchNorm, Swish, Dropout."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__(nn.BatchNorm1d(channels), nn.SiLU(), nn.Dropout(dropout))


class Gate(nn.Module):
    """Squeeze-and-excite gate with half the channels inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, channels // 2)
        self.up = nn.Linear(channels // 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.up(F.silu(self.down(mean_over_time(x)))))
        return x * gate.unflatten(1, (-1,) + (1,) * (x.dim() - 2))


class Block(nn.Module):
    """1x1, grouped convolution of 16 samples, 1x1, gate; the shortcut is shortened and padded with zero channels.

    The very first block follows the stem's activation directly: its own ``before`` exists for the exchange of weights
    and is not applied.
    """

    def __init__(self, n_in: int, n_out: int, stride: int, dropout: float, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.before = Activate(n_in, dropout)
        self.conv1 = SameConv(n_in, n_out, 1)
        self.middle = Activate(n_out, dropout)
        self.conv2 = SameConv(n_out, n_out, _KERNEL, stride, groups=n_out // _GROUP_WIDTH)
        self.after = Activate(n_out, dropout)
        self.conv3 = SameConv(n_out, n_out, 1)
        self.gate = Gate(n_out)
        # A last single sample is compared with a zero.
        self.pool = nn.Sequential(nn.ConstantPad1d((0, 1), 0.0), nn.MaxPool1d(2)) if stride == 2 else nn.Identity()
        added = n_out - n_in
        self.added = (added // 2, added - added // 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.middle(self.conv1(x if self.first else self.before(x))))
        y = self.gate(self.conv3(self.after(y)))
        return y + append_zero_channels(self.pool(x), *self.added)


class Net1D(LinearHeadNetwork):
    """Stem at half the rate, stages that halve the length, mean over time, one linear layer."""

    def __init__(
        self,
        *,
        n_leads: int,
        n_samples: int,
        n_classes: int,
        base: int,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        dropout: float,
    ) -> None:
        super().__init__(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes)
        self.stem = nn.Sequential(SameConv(n_leads, base, _KERNEL, 2), nn.BatchNorm1d(base), nn.SiLU())
        stages = []
        n_in = base
        for stage, (width, count) in enumerate(zip(widths, blocks)):
            layers = []
            for position in range(count):
                stride = 2 if position == 0 else 1
                layers.append(Block(n_in, width, stride, dropout, first=stage == position == 0))
                n_in = width
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(n_in, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(mean_over_time(self.stages(self.stem(x))))

    def idle_tensors(self) -> frozenset[str]:
        prefix = "stages.0.0.before."
        return frozenset(name for name in self.state_dict() if name.startswith(prefix))


@architecture(
    name="net1d",
    title="Net1D (ECGFounder size)",
    paper="Hong et al. 2020; Li et al. 2024, arXiv 2410.04133",
    varies=("n_leads", "n_samples", "fs_hz", "n_classes"),
    parameters=30_670_389,
    million_macs=242.4,
    advice="For large collections or for the weights of ECGFounder: 30 million parameters.",
)
def net1d(*, n_leads: int, n_samples: int, fs_hz: float, n_classes: int, dropout: float = 0.1) -> Net1D:
    """Build Net1D in the size of ECGFounder."""
    return Net1D(
        n_leads=n_leads,
        n_samples=n_samples,
        n_classes=n_classes,
        base=64,
        widths=(64, 160, 160, 400, 400, 1024, 1024),
        blocks=(2, 2, 2, 3, 3, 4, 4),
        dropout=dropout,
    )


@architecture(
    name="net1d_s",
    title="Net1D-S",
    paper="Hong et al. 2020, reduced for small collections",
    varies=("n_leads", "n_samples", "fs_hz", "n_classes"),
    parameters=742_149,
    million_macs=35.6,
    advice="Net1D's design for collections of a few thousand ECGs.",
)
def net1d_s(*, n_leads: int, n_samples: int, fs_hz: float, n_classes: int, dropout: float = 0.1) -> Net1D:
    """Build the small Net1D: four stages of two blocks."""
    return Net1D(
        n_leads=n_leads,
        n_samples=n_samples,
        n_classes=n_classes,
        base=32,
        widths=(32, 64, 128, 256),
        blocks=(2, 2, 2, 2),
        dropout=dropout,
    )
