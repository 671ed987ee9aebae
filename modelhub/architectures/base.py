"""What all networks share: the interface, global pooling, the fully connected head.

Layers are written so that the same ``forward`` works on ``(batch, channels, samples)`` and, in the fast form of
``fast.py``, on ``(batch, channels, 1, samples)``: only the last axis is time, the second is channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EcgNetwork(nn.Module):
    """A network from ECG to logits.

    ``forward`` takes float32 ``(batch, n_leads, n_samples)`` in the unit of the model's contract and returns logits
    ``(batch, n_classes)``.
    """

    #: False where the forward pass cannot run with a height axis of one.
    has_2d_form = True
    #: False where one set of weights serves the length it was built for only.
    dynamic_length = True
    #: False where the forward pass reads values back from an accelerator, or draws by chance other than with torch.
    has_fixed_steps = True
    #: True where PyTorch's compiler was found to make training on an accelerator faster.
    worth_compiling = False
    #: Features of the person that ``forward`` takes as a second argument, ``(batch, n)``; 0 where it takes the ECG alone.
    n_person_features = 0

    def __init__(self, *, n_leads: int, n_samples: int, n_classes: int) -> None:
        super().__init__()
        self.n_leads = n_leads
        self.n_samples = n_samples
        self.n_classes = n_classes

    def head_modules(self) -> list[nn.Module]:
        """Return the layers that turn features into classes; training "head only" leaves the others as they are."""
        raise NotImplementedError

    def replace_head(self, n_classes: int) -> None:
        """Put a freshly initialised classification layer for ``n_classes`` outputs in place of the present one."""
        raise NotImplementedError

    def prepare(self, x: Tensor) -> None:
        """Take from training signals ``(records, n_leads, n_samples)`` what is settled before anything is learned; of most
        networks nothing is."""

    def idle_tensors(self) -> frozenset[str]:
        """Return the names of tensors that exist for the exchange of weights only and do not act on the output."""
        return frozenset()


class LinearHeadNetwork(EcgNetwork):
    """A network whose class layer is one linear layer called ``head``."""

    head: nn.Linear

    def head_modules(self) -> list[nn.Module]:
        return [self.head]

    def replace_head(self, n_classes: int) -> None:
        old = self.head
        self.head = nn.Linear(old.in_features, n_classes, bias=old.bias is not None, device=old.weight.device)
        self.n_classes = n_classes


def mean_over_time(x: Tensor) -> Tensor:
    """Average the last axis: ``(batch, channels[, 1], samples)`` -> ``(batch, channels)``."""
    return drop_height(x).mean(-1)


def max_over_time(x: Tensor) -> Tensor:
    """Take the maximum of the last axis: ``(batch, channels[, 1], samples)`` -> ``(batch, channels)``."""
    return drop_height(x).amax(-1)


def drop_height(x: Tensor) -> Tensor:
    """Return ``(batch, channels, samples)`` whether or not there is a height axis of one."""
    return x if x.dim() == 3 else x.squeeze(2)


def append_zero_channels(x: Tensor, before: int, after: int) -> Tensor:
    """Add channels of zeros in front of and behind those of ``x``."""
    parts = [x]
    if before:
        parts.insert(0, torch.zeros_like(x[:, :1]).repeat_interleave(before, dim=1))
    if after:
        parts.append(torch.zeros_like(x[:, :1]).repeat_interleave(after, dim=1))
    return torch.cat(parts, dim=1) if len(parts) > 1 else x


def conv(n_in: int, n_out: int, kernel: int, stride: int = 1, *, groups: int = 1, bias: bool = False) -> nn.Conv1d:
    """Return a convolution padded by half its kernel on both sides."""
    return nn.Conv1d(n_in, n_out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=bias)
