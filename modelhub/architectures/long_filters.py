"""Convolutions along time with long filters, whose weight gradient is computed in a way that suits processors.

The kernels that PyTorch has for the weight gradient of a long filter take two (dense) to twenty times (depthwise) as long
as the forward pass. The same sums come faster out of shorter filters or products of matrices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: From this length on the way round is faster.
SHORTEST = 16
#: Up to this length the kernel for dense filters is fast.
_FAST_LENGTH = 12


class LongFilterConv2d(nn.Conv2d):
    """A ``(1, k)`` convolution in channels-last memory; values and gradients are those of ``Conv2d``."""

    def forward(self, input: Tensor) -> Tensor:
        answer: Tensor = _LongFilters.apply(input, self.weight, self.groups)
        return answer


def is_long(conv: nn.Conv1d) -> bool:
    """Tell whether a convolution is one of those that :class:`LongFilterConv2d` stands for."""
    length = conv.kernel_size[0]
    return (
        (conv.groups == 1 or conv.groups == conv.in_channels == conv.out_channels)
        and length >= SHORTEST
        and length % 2 == 1
        and (conv.stride, conv.dilation, conv.padding) == ((1,), (1,), (length // 2,))
        and conv.bias is None
    )


class _LongFilters(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.groups = groups
        return torch.conv2d(x, weight, padding=(0, weight.shape[3] // 2), groups=groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        length = weight.shape[3]
        of_x, of_weight = None, None
        if ctx.needs_input_grad[0]:
            of_x = _gradients(x, gradient, weight, length // 2, ctx.groups, (True, False))[0]
        if ctx.needs_input_grad[1]:
            along = dense_gradient if ctx.groups == 1 else depthwise_gradient
            found = along(x.squeeze(2).transpose(1, 2), gradient.squeeze(2).transpose(1, 2), length)
            of_weight = found.reshape(weight.shape)
        return of_x, of_weight, None


def _gradients(
    x: Tensor, gradient: Tensor, weight: Tensor, padding: int, groups: int, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], [0, padding], [1, 1], False, [0, 0], groups, [*wanted, False]
    )
    return of_x, of_weight


def dense_gradient(x: Tensor, gradient: Tensor, length: int) -> Tensor:
    """Return the filters' gradient ``(out, in, length)`` for input ``(records, samples, in)`` and output gradient alike.

    Every r samples are taken for one sample with r times the channels. Outputs and inputs are then joined by a
    filter of about ``length / r`` steps, in whose gradient each of the r places of an output holds a shifted copy of the
    gradient sought.
    """
    (n_records, n_samples, n_in), n_out = x.shape, gradient.shape[2]
    step = next(r for r in range(1, length + 1) if _steps(length, r) <= _FAST_LENGTH)
    steps, count = _steps(length, step), -(-n_samples // step)
    seen = _padded(x, length // 2, (count + steps - 1) * step).view(n_records, -1, step * n_in)
    given = _padded(gradient, 0, count * step).view(n_records, -1, step * n_out)
    shape = x.new_empty(step * n_out, step * n_in, 1, steps)
    seen, given = (part.unsqueeze(1).permute(0, 3, 1, 2) for part in (seen, given))
    of_steps = _gradients(seen, given, shape, 0, 1, (False, True))[1]
    # Axes: place and channel of the output, channel of the input, distance from the output's group of samples.
    places = of_steps.reshape(step, n_out, step, n_in, steps).permute(0, 1, 3, 4, 2).reshape(step, n_out, n_in, -1)
    return torch.stack([places[i, :, :, i : i + length] for i in range(step)]).sum(0)


def _steps(length: int, step: int) -> int:
    """Return how many groups of ``step`` samples the outputs of one group reach."""
    return -(-(length + step - 1) // step)


def depthwise_gradient(x: Tensor, gradient: Tensor, length: int) -> Tensor:
    """Return the filters' gradient ``(channels, length)`` for input and output gradient ``(records, samples, channels)``.

    Time is cut into blocks of ``length - 1`` samples. The input that one block of outputs saw lies in two blocks of the
    padded input; the products of the output block's gradient with both hold, along their diagonals, the filter's gradient.
    """
    (_, n_samples, n_channels), block = x.shape, length - 1
    count = -(-n_samples // block) + 1
    seen = _by_channel(_padded(x, length // 2, count * block), block)
    given = _by_channel(_padded(gradient, 0, count * block), block).transpose(1, 2)
    # The last block of each record is padding, so that pairs of blocks never join two records.
    products = torch.cat([torch.bmm(given, seen), torch.bmm(given[:, :, :-1], seen[:, 1:])], dim=2)
    diagonals = products.as_strided((n_channels, block, length), (2 * block * block, 2 * block + 1, 1))
    return diagonals.sum(1)


def _by_channel(x: Tensor, block: int) -> Tensor:
    """Return ``(channels, blocks of all records, block)``."""
    n_channels = x.shape[2]
    # A transposition of two axes is several times as fast as the same one of three.
    return x.view(-1, n_channels).t().contiguous().view(n_channels, -1, block)


def _padded(x: Tensor, before: int, total: int) -> Tensor:
    """Return ``(records, total, channels)``, dense, with zeros around the samples."""
    if x.shape[1] == total and x.is_contiguous():
        return x
    wide = x.new_zeros(len(x), total, x.shape[2])
    wide[:, before : before + x.shape[1]] = x
    return wide
