"""The fast form of a network for training on a CPU: 2-D convolutions of height one in channels-last memory.

The numbers are the same up to rounding; on CPUs the training step takes about half the time. Weights go back to the
1-D network under the same names.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ecgportal.errors import InvalidInput
from modelhub.architectures.base import EcgNetwork
from modelhub.architectures.grouped_samples import GroupedConv2d, suits
from modelhub.architectures.long_filters import LongFilterConv2d, is_long


def as_2d(module: EcgNetwork, *, on_processor: bool = True) -> nn.Module:
    """Return a copy of the network in its fast form, or the network itself where it has none (S4D).

    on_processor: False for an accelerator, which needs another form of long filters.

    The copy has ``head_modules``, ``replace_head``, ``state_dict_1d`` and ``load_state_dict_1d``; it takes the same
    input and gives the same output. The parameters are new tensors: make the optimiser after the conversion.
    """
    return FastForm(module, on_processor=on_processor) if module.has_2d_form else module


class FastForm(nn.Module):
    """A network whose layers have a height axis of one."""

    def __init__(self, module: EcgNetwork, *, on_processor: bool = True) -> None:
        super().__init__()
        self.net, self._on_processor = copy.deepcopy(module), on_processor
        _convert_children(self.net, on_processor)
        _channels_last(self.net)

    @property
    def n_classes(self) -> int:
        return self.net.n_classes

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        lifted = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        return self.net(lifted, *others).flatten(1)

    @property
    def worth_compiling(self) -> bool:
        return self.net.worth_compiling

    @property
    def has_fixed_steps(self) -> bool:
        return self.net.has_fixed_steps

    def head_modules(self) -> list[nn.Module]:
        return self.net.head_modules()

    def replace_head(self, n_classes: int) -> None:
        """Put a fresh class layer in place, as the 1-D network does."""
        self.net.replace_head(n_classes)
        _convert_children(self.net, self._on_processor)
        _channels_last(self.net)

    def state_dict_1d(self) -> dict[str, Tensor]:
        """Return the weights under the names and in the shapes of the 1-D network."""
        lifted = _lifted_weights(self.net)
        return {
            name: (value.squeeze(2) if name in lifted else value).detach().clone(memory_format=torch.contiguous_format)
            for name, value in self.net.state_dict().items()
        }

    def load_state_dict_1d(self, state: dict[str, Tensor]) -> None:
        """Take the weights of the 1-D network; every name must be there."""
        lifted = _lifted_weights(self.net)
        self.net.load_state_dict({n: v.unsqueeze(2) if n in lifted else v for n, v in state.items()}, strict=True)


def _channels_last(net: nn.Module) -> None:
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)


def _lifted_weights(net: nn.Module) -> set[str]:
    return {f"{name}.weight" for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d)}


def _convert_children(module: nn.Module, on_processor: bool) -> None:
    for name, child in module.named_children():
        replacement = _converted(child, on_processor)
        if replacement is None:
            _convert_children(child, on_processor)
        else:
            module.register_module(name, replacement.train(child.training))


def _pair(value: int | tuple[int, ...], neutral: int) -> tuple[int, int]:
    return (neutral, value if isinstance(value, int) else value[0])


def _converted(layer: nn.Module, on_processor: bool) -> nn.Module | None:
    if isinstance(layer, nn.Conv1d):
        return _convolution(layer, on_processor)
    if isinstance(layer, nn.BatchNorm1d):
        return _norm(layer)
    if isinstance(layer, nn.MaxPool1d):
        return nn.MaxPool2d(
            _pair(layer.kernel_size, 1),
            _pair(layer.stride, 1),
            _pair(layer.padding, 0),
            _pair(layer.dilation, 1),
            ceil_mode=layer.ceil_mode,
        )
    if isinstance(layer, nn.AvgPool1d):
        return nn.AvgPool2d(
            _pair(layer.kernel_size, 1),
            _pair(layer.stride, 1),
            _pair(layer.padding, 0),
            layer.ceil_mode,
            layer.count_include_pad,
        )
    if isinstance(layer, nn.ConstantPad1d):
        return nn.ConstantPad2d((*layer.padding, 0, 0), layer.value)
    return None


def _convolution(layer: nn.Conv1d, on_processor: bool) -> nn.Conv2d:
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise InvalidInput(f"A convolution with {layer.padding_mode} padding has no fast form.", code="no_fast_form")
    kind: type[nn.Conv2d] = nn.Conv2d
    if on_processor and is_long(layer):
        kind = LongFilterConv2d
    elif not on_processor and suits(layer):
        kind = GroupedConv2d
    wide = kind(
        layer.in_channels,
        layer.out_channels,
        _pair(layer.kernel_size, 1),
        _pair(layer.stride, 1),
        _pair(layer.padding, 0),
        _pair(layer.dilation, 1),
        layer.groups,
        layer.bias is not None,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    with torch.no_grad():
        wide.weight.copy_(layer.weight.unsqueeze(2))
        if layer.bias is not None and wide.bias is not None:
            wide.bias.copy_(layer.bias)
    for name, value in layer.named_parameters():
        wide.get_parameter(name).requires_grad_(value.requires_grad)
    return wide


def _norm(layer: nn.BatchNorm1d) -> nn.Module:
    """Return a norm for both forms: ``(batch, channels)`` in the head stays one-dimensional."""
    norm = AnyBatchNorm(
        layer.num_features,
        layer.eps,
        layer.momentum,
        layer.affine,
        layer.track_running_stats,
        device=layer.weight.device,
    )
    norm.load_state_dict(layer.state_dict())
    for name, value in layer.named_parameters():
        norm.get_parameter(name).requires_grad_(value.requires_grad)
    return norm


class AnyBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the second axis of an input with any number of further axes."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 3, 4):
            raise ValueError(f"expected 2 to 4 axes, got {input.dim()}")
