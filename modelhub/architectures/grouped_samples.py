"""Convolutions of few channels along time in a form that suits the matrix units of accelerators.

Those multiply matrices of 64 columns and more; a filter over 32 channels leaves them half empty. In channels-last memory some
samples that follow each other lie like one sample with as many times the channels, and a filter over such groups, in which
each place of an output holds a shifted copy of the filter, gives the same sums.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

#: So many channels a group of samples has.
WIDTH = 128
#: From this length on the way round is faster.
SHORTEST = 9


class GroupedConv2d(nn.Conv2d):
    """A ``(1, k)`` convolution in channels-last memory; values and gradients are those of ``Conv2d``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.step = WIDTH // self.in_channels
        self.register_buffer("places", _places(self.kernel_size[1], self.step), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        places: Tensor = self.get_buffer("places")
        # Axes: place of the output, place of the input, distance of their groups, place in the filter.
        wide = torch.einsum("pqjk,ock->poqcj", places.to(self.weight.dtype), self.weight.squeeze(2))
        wide = wide.reshape(self.step * self.out_channels, self.step * self.in_channels, 1, -1)
        n_samples = input.shape[3]
        count = -(-n_samples // self.step)
        if n_samples % self.step:
            input = pad(input, (0, count * self.step - n_samples))
        groups = input.permute(0, 2, 3, 1).reshape(len(input), 1, count, -1).permute(0, 3, 1, 2)
        found = torch.conv2d(
            groups, wide.contiguous(memory_format=torch.channels_last), padding=(0, places.shape[2] // 2)
        )
        return (
            found.permute(0, 2, 3, 1).reshape(len(input), 1, -1, self.out_channels).permute(0, 3, 1, 2)[..., :n_samples]
        )


def suits(conv: nn.Conv1d) -> bool:
    """Tell whether a convolution is one of those that :class:`GroupedConv2d` stands for."""
    length = conv.kernel_size[0]
    return (
        conv.groups == 1
        and conv.in_channels in (16, 32, 64)
        and length >= SHORTEST
        and length % 2 == 1
        and (conv.stride, conv.dilation, conv.padding) == ((1,), (1,), (length // 2,))
        and conv.bias is None
    )


def _places(length: int, step: int) -> Tensor:
    """Return ``(step, step, groups, length)``: 1 where an output's place sees an input's place, in a group at that distance,
    through that place of the filter."""
    half = length // 2
    reach = -(-half // step)
    output, seen, group, place = torch.meshgrid(
        torch.arange(step), torch.arange(step), torch.arange(-reach, reach + 1), torch.arange(length), indexing="ij"
    )
    return (step * group + seen - output + half == place).float()
