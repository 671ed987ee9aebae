"""InceptionTime (Fawaz et al. 2019, arXiv 1909.04939)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelhub.architectures.base import EcgNetwork, LinearHeadNetwork, conv, mean_over_time
from modelhub.architectures.registry import architecture

_KERNELS = (39, 19, 9)
_FILTERS = 32


class InceptionModule(nn.Module):
    """Bottleneck, three parallel convolutions of different reach, and a pooled branch; four times 32 channels out."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.bottleneck = conv(n_in, _FILTERS, 1)
        self.branches = nn.ModuleList(conv(_FILTERS, _FILTERS, kernel) for kernel in _KERNELS)
        self.pool = nn.MaxPool1d(3, stride=1, padding=1)
        self.pooled = conv(n_in, _FILTERS, 1)
        self.norm = nn.BatchNorm1d(4 * _FILTERS)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.bottleneck(x)
        parts = [branch(narrow) for branch in self.branches]
        parts.append(self.pooled(self.pool(x)))
        return torch.relu(self.norm(torch.cat(parts, dim=1)))


class InceptionTime(LinearHeadNetwork):
    """Six inception modules with a shortcut around each group of three, global average pooling, one linear layer."""

    worth_compiling = True

    def __init__(self, *, n_leads: int, n_samples: int, n_classes: int, dropout: float) -> None:
        super().__init__(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes)
        width = 4 * _FILTERS
        self.groups = nn.ModuleList()
        self.shortcuts = nn.ModuleList()
        for n_in in (n_leads, width):
            self.groups.append(
                nn.Sequential(InceptionModule(n_in), InceptionModule(width), InceptionModule(width)),
            )
            norm = nn.BatchNorm1d(width)
            self.shortcuts.append(norm if n_in == width else nn.Sequential(conv(n_in, width, 1), norm))
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.head = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        for group, shortcut in zip(self.groups, self.shortcuts):
            x = torch.relu(group(x) + shortcut(x))
        return self.head(self.dropout(mean_over_time(x)))


@architecture(
    name="inception_time",
    title="InceptionTime",
    paper="Fawaz et al. 2019, arXiv 1909.04939",
    varies=("n_leads", "n_samples", "fs_hz", "n_classes"),
    parameters=457_605,
    million_macs=454.9,
    advice="Strong all-round choice for 12-lead ECGs of 10 s; the paper averages five of them with different seeds.",
)
def inception_time(*, n_leads: int, n_samples: int, fs_hz: float, n_classes: int, dropout: float = 0.0) -> EcgNetwork:
    """Build InceptionTime. ``dropout`` acts on the pooled features; the paper uses none."""
    return InceptionTime(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes, dropout=dropout)
