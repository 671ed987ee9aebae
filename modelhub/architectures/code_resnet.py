"""The residual network of the CODE study (Ribeiro et al. 2020, Nature Communications)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecgportal.errors import InvalidInput
from modelhub.architectures.base import LinearHeadNetwork
from modelhub.architectures.registry import architecture

_KERNEL = 16
_WIDTHS = (64, 128, 196, 256, 320)
_FACTOR = 4
_TOTAL_FACTOR = _FACTOR ** (len(_WIDTHS) - 1)


class SameConv(nn.Module):
    """Convolution without bias that gives ``samples / stride`` samples, the odd padding to the right."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        total = _KERNEL - stride
        self.padding = (total // 2, total - total // 2)
        self.conv = nn.Conv1d(n_in, n_out, _KERNEL, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding))


class Unit(nn.Module):
    """Residual unit that shortens by four; returns the activated output and the sum the next shortcut takes."""

    def __init__(self, n_in: int, n_out: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = SameConv(n_in, n_out)
        self.norm1 = nn.BatchNorm1d(n_out)
        self.dropout1 = nn.Dropout(dropout)
        self.conv2 = SameConv(n_out, n_out, _FACTOR)
        self.shorten = nn.MaxPool1d(_FACTOR)
        self.widen = nn.Conv1d(n_in, n_out, 1, bias=False)
        self.norm2 = nn.BatchNorm1d(n_out)
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, x: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        y = self.dropout1(torch.relu(self.norm1(self.conv1(x))))
        total = self.conv2(y) + self.widen(self.shorten(shortcut))
        return self.dropout2(torch.relu(self.norm2(total))), total


class CodeResNet(LinearHeadNetwork):
    """Stem, four residual units, one linear layer on the flattened features.

    The record is padded with zeros at its end to a multiple of 256 samples.
    """

    dynamic_length = False

    def __init__(self, *, n_leads: int, n_samples: int, n_classes: int, dropout: float) -> None:
        super().__init__(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes)
        steps = -(-n_samples // _TOTAL_FACTOR)
        self.padding = steps * _TOTAL_FACTOR - n_samples
        self.stem = SameConv(n_leads, _WIDTHS[0])
        self.norm = nn.BatchNorm1d(_WIDTHS[0])
        self.units = nn.ModuleList(Unit(a, b, dropout) for a, b in pairwise(_WIDTHS))
        self.head = nn.Linear(_WIDTHS[-1] * steps, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.n_samples:
            raise InvalidInput(
                f"This CODE ResNet was built for {self.n_samples} samples and got {x.shape[-1]}.", code="bad_length"
            )
        x = torch.relu(self.norm(self.stem(F.pad(x, (0, self.padding)))))
        shortcut = x
        for unit in self.units:
            x, shortcut = unit(x, shortcut)
        return self.head(x.flatten(1))


@architecture(
    name="code_resnet",
    title="CODE ResNet",
    paper="Ribeiro et al. 2020, Nature Communications 11:1760",
    varies=("n_leads", "n_samples", "fs_hz", "n_classes"),
    parameters=6_397_589,
    million_macs=456.5,
    dynamic_length=False,
    advice="Made for 400 Hz and 10 s of a very large cohort; the length is fixed when it is built.",
)
def code_resnet(*, n_leads: int, n_samples: int, fs_hz: float, n_classes: int, dropout: float = 0.2) -> CodeResNet:
    """Build the CODE network. ``dropout`` 0.2 as in the paper."""
    return CodeResNet(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes, dropout=dropout)
