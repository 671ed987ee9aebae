"""SE wide ResNet of the DSAIL_SNU team (Han et al., Computing in Cardiology 2021; Physiol. Meas. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelhub.architectures.base import LinearHeadNetwork, append_zero_channels, max_over_time
from modelhub.architectures.person import N_FEATURES, UNKNOWN
from modelhub.architectures.registry import architecture

_KERNEL = 15
_STRIDE = 4
_WIDTHS = (16, 32, 64, 128)
_BLOCKS_PER_GROUP = 3
_DROPOUT = 0.2
_REDUCTION = 16

METADATA_FEATURES = N_FEATURES


class SameConv(nn.Module):
    """Convolution without bias, padded by ``kernel - stride`` in all, the odd sample to the right."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        total = _KERNEL - stride
        self.padding = (total // 2, total - total // 2)
        self.conv = nn.Conv1d(n_in, n_out, _KERNEL, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding))


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from the channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // _REDUCTION)
        self.down = nn.Conv1d(channels, inner, 1, bias=False)
        self.up = nn.Conv1d(inner, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.up(torch.relu(self.down(x.mean(-1, keepdim=True)))))
        return x * gate


class Block(nn.Module):
    """Pre-activation residual block. ``shared`` applies the first activation to the shortcut as well."""

    def __init__(self, n_in: int, n_out: int, stride: int, *, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        self.added_channels = n_out - n_in
        self.norm1 = nn.BatchNorm1d(n_in)
        self.conv1 = SameConv(n_in, n_out, stride)
        self.norm2 = nn.BatchNorm1d(n_out)
        self.dropout = nn.Dropout(_DROPOUT)
        self.conv2 = SameConv(n_out, n_out)
        self.gate = SqueezeExcite(n_out)
        self.shorten = nn.MaxPool1d(stride) if stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        active = torch.relu(self.norm1(x))
        if self.shared:
            x = active
        y = self.dropout(torch.relu(self.norm2(self.conv1(active))))
        y = self.gate(self.conv2(y))
        return y + append_zero_channels(self.shorten(x), 0, self.added_channels)


class SeWideResNet(LinearHeadNetwork):
    """Twelve pre-activation blocks with squeeze-and-excite gates, global maximum, one linear layer.

    With ``metadata`` the forward pass takes a second tensor ``(batch, 5)``: age / 100, two indicators of sex, and
    two flags that say whether age and sex are given; without the tensor every person counts as unknown.
    """

    unknown_person: Tensor

    def __init__(self, *, n_leads: int, n_samples: int, n_classes: int, metadata: bool) -> None:
        super().__init__(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes)
        self.stem = SameConv(n_leads, _WIDTHS[0])
        blocks: list[nn.Module] = []
        n_in = _WIDTHS[0]
        for group, width in enumerate(_WIDTHS):
            for position in range(_BLOCKS_PER_GROUP):
                stride = _STRIDE if group > 0 and position == 0 else 1
                blocks.append(Block(n_in, width, stride, shared=not blocks))
                n_in = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm1d(n_in)
        self.dropout = nn.Dropout(_DROPOUT)
        self.metadata = metadata
        if metadata:
            self.n_person_features = METADATA_FEATURES
            self.register_buffer("unknown_person", torch.tensor([UNKNOWN]), persistent=False)
        self.head = nn.Linear(n_in + (METADATA_FEATURES if metadata else 0), n_classes)

    def forward(self, x: Tensor, person: Tensor | None = None) -> Tensor:
        x = self.blocks(self.stem(x))
        features = max_over_time(self.dropout(torch.relu(self.norm(x))))
        if self.metadata:
            if person is None:
                # Added to the features' zeros so that the batch size stays free in an exported graph.
                person = features[:, :METADATA_FEATURES] * 0 + self.unknown_person
            features = torch.cat([features, person], dim=1)
        return self.head(features)


@architecture(
    name="se_wrn",
    title="SE wide ResNet (CinC 2021)",
    paper="Han et al., Computing in Cardiology 2021; Physiological Measurement 2023",
    varies=("n_leads", "n_samples", "fs_hz", "n_classes"),
    parameters=1_811_717,
    million_macs=88.3,
    shortest_samples=64,
    advice="Second of 39 in the PhysioNet/CinC Challenge 2021; a fifth of InceptionTime's arithmetic.",
)
def se_wrn(*, n_leads: int, n_samples: int, fs_hz: float, n_classes: int) -> SeWideResNet:
    """Build the challenge network on the signal alone."""
    return SeWideResNet(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes, metadata=False)


@architecture(
    name="se_wrn_metadata",
    title="SE wide ResNet with age and sex (CinC 2021)",
    paper="Han et al., Computing in Cardiology 2021; Physiological Measurement 2023",
    varies=("n_leads", "n_samples", "fs_hz", "n_classes"),
    parameters=1_811_742,
    million_macs=88.3,
    shortest_samples=64,
    needs=("age", "sex"),
    advice="As the network without them; a person of unknown age or sex is given the training means and marked as imputed.",
)
def se_wrn_metadata(*, n_leads: int, n_samples: int, fs_hz: float, n_classes: int) -> SeWideResNet:
    """Build the challenge network with five features of the person beside the signal."""
    return SeWideResNet(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes, metadata=True)
