"""Operators that onnx2torch does not know, registered with it on import, and its import without torchvision.

onnx2torch imports torchvision for two detection operators that no ECG network has. Where torchvision is missing or
was built for another torch, a stand-in takes its place that fails when one of the two is used.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types
from typing import Any

import torch
from torch import Tensor, fx, nn

from ecgportal.errors import ParityError
from modelhub.architectures.fast import AnyBatchNorm


def _without_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError):
        for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
            del sys.modules[name]
        package, operators = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")

        def missing(*_arguments: Any, **_options: Any) -> Tensor:
            raise ParityError("Detection operators of torchvision are not available.", code="operator_not_supported")

        for module in (package, operators):
            module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        operators.__dict__.update(nms=missing, roi_align=missing)
        package.__dict__.update(ops=operators, __version__="0")
        sys.modules |= {"torchvision": package, "torchvision.ops": operators}


_without_torchvision()

from onnx2torch.node_converters import registry as _registry  # noqa: E402
from onnx2torch.node_converters.registry import add_converter  # noqa: E402
from onnx2torch.onnx_graph import OnnxGraph  # noqa: E402
from onnx2torch.onnx_node import OnnxNode  # noqa: E402
from onnx2torch.utils.common import (  # noqa: E402
    OnnxMapping,
    OnnxToTorchModule,
    OperationConverterResult,
    get_const_value,
    onnx_mapping_from_node,
)


class GlobalMaxPool(nn.Module, OnnxToTorchModule):
    """Maximum over all axes behind the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(tuple(range(2, x.dim())), keepdim=True)


class CastLike(nn.Module, OnnxToTorchModule):
    """Convert to another tensor's type."""

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        return x.to(like.dtype)


class Trilu(nn.Module, OnnxToTorchModule):
    """Upper or lower triangle."""

    def __init__(self, upper: bool) -> None:
        super().__init__()
        self.upper = upper

    def forward(self, x: Tensor, k: Tensor | None = None) -> Tensor:
        diagonal = 0 if k is None else int(k)
        return torch.triu(x, diagonal) if self.upper else torch.tril(x, diagonal)


class DynamicLayerNorm(nn.Module, OnnxToTorchModule):
    """LayerNorm whose scale comes from the graph."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return nn.functional.layer_norm(x, weight.shape, weight, bias, self.epsilon)


class MaxPool(nn.Module, OnnxToTorchModule):
    """Maximum over windows of the last one or two axes, with padding that never wins."""

    def __init__(self, kernel: list[int], stride: list[int], pads: list[int], dilation: list[int], ceil: bool) -> None:
        super().__init__()
        self.kernel, self.stride, self.dilation, self.ceil = kernel, stride, dilation, ceil
        rank = len(kernel)
        starts, ends = pads[:rank], pads[rank:]
        even = starts == ends and all(2 * pad <= size for pad, size in zip(starts, kernel))
        self.padding = starts if even else [0] * rank
        # ONNX lists all starts, then all ends; torch pads the last axis first.
        self.pads = [] if even else [side for axis in reversed(range(rank)) for side in (starts[axis], ends[axis])]

    def forward(self, x: Tensor) -> Tensor:
        if self.pads:
            x = nn.functional.pad(x, self.pads, value=float("-inf"))
        pool = nn.functional.max_pool1d if len(self.kernel) == 1 else nn.functional.max_pool2d
        return pool(x, self.kernel, self.stride, self.padding, self.dilation, self.ceil)


class Recurrent(nn.Module, OnnxToTorchModule):
    """GRU, LSTM or plain recurrent layer in ONNX's layout: ``(time, batch, features)`` to ``(time, directions, batch, hidden)``."""

    def __init__(self, inner: nn.GRU | nn.LSTM | nn.RNN, n_outputs: int) -> None:
        super().__init__()
        self.inner, self.n_outputs = inner, n_outputs

    def forward(self, x: Tensor, *states: Tensor) -> Tensor | tuple[Tensor, ...]:
        start: Any = None
        if states:
            start = (states[0], states[1]) if isinstance(self.inner, nn.LSTM) else states[0]
        y, last = self.inner(x, start)
        directions = 2 if self.inner.bidirectional else 1
        y = y.reshape(y.size(0), y.size(1), directions, -1).transpose(1, 2)
        answers = (y, last[0], last[1]) if isinstance(self.inner, nn.LSTM) else (y, last)
        return answers[: self.n_outputs] if self.n_outputs > 1 else y


@add_converter(operation_type="GlobalMaxPool", version=1)
def _global_max_pool(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
    return OperationConverterResult(GlobalMaxPool(), onnx_mapping_from_node(node))


@add_converter(operation_type="CastLike", version=15)
def _cast_like(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
    return OperationConverterResult(CastLike(), onnx_mapping_from_node(node))


@add_converter(operation_type="Trilu", version=14)
def _trilu(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
    return OperationConverterResult(Trilu(bool(node.attributes.get("upper", 1))), onnx_mapping_from_node(node))


# The converter that comes with the package fails for a symbolic shape and the last axis.
for _key in [k for k in _registry._CONVERTER_REGISTRY if k.operation_type == "LayerNormalization"]:
    del _registry._CONVERTER_REGISTRY[_key]


@add_converter(operation_type="LayerNormalization", version=17)
def _layer_norm(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    names = node.input_values
    if node.attributes.get("axis", -1) == -1 and all(name in graph.initializers for name in names[1:]):
        weight = graph.initializers[names[1]].to_torch()
        norm = nn.LayerNorm(tuple(weight.shape), epsilon, bias=len(names) > 2)
        with torch.no_grad():
            norm.weight.copy_(weight)
            if len(names) > 2:
                norm.bias.copy_(graph.initializers[names[2]].to_torch())
        return OperationConverterResult(norm, OnnxMapping(inputs=(names[0],), outputs=node.output_values))
    return OperationConverterResult(DynamicLayerNorm(epsilon), onnx_mapping_from_node(node))


# The converters that come with the package need the input's rank, which shape inference does not always find, and
# make a Dropout whose rate is an input of the graph.
_REPLACED = {("BatchNormalization", 15), ("MaxPool", 12), ("Dropout", 13)}
for _key in [k for k in _registry._CONVERTER_REGISTRY if (k.operation_type, k.version) in _REPLACED]:
    del _registry._CONVERTER_REGISTRY[_key]


@add_converter(operation_type="MaxPool", version=12)
def _max_pool(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
    attributes = node.attributes
    kernel = list(attributes["kernel_shape"])
    rank = len(kernel)
    automatic = attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "")
    if rank > 2 or automatic or len(node.output_values) > 1 or attributes.get("storage_order", 0):
        raise NotImplementedError("MaxPool with these options")
    pool = MaxPool(
        kernel,
        list(attributes.get("strides", [1] * rank)),
        list(attributes.get("pads", [0] * (2 * rank))),
        list(attributes.get("dilations", [1] * rank)),
        bool(attributes.get("ceil_mode", 0)),
    )
    return OperationConverterResult(pool, onnx_mapping_from_node(node))


@add_converter(operation_type="Dropout", version=13)
def _dropout(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
    names = node.input_values
    ratio = float(get_const_value(names[1], graph)) if len(names) > 1 and names[1] else 0.5
    return OperationConverterResult(nn.Dropout(ratio), OnnxMapping(inputs=(names[0],), outputs=node.output_values))


@add_converter(operation_type="BatchNormalization", version=15)
def _batch_norm(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
    names = node.input_values
    if node.attributes.get("training_mode", 0) or not all(name in graph.initializers for name in names[1:]):
        raise NotImplementedError("BatchNormalization whose statistics are computed in the graph")
    scale, shift, mean, variance = (graph.initializers[name].to_torch() for name in names[1:])
    norm = AnyBatchNorm(
        scale.shape[0],
        eps=float(node.attributes.get("epsilon", 1e-5)),
        # ONNX weighs the old value, torch the new one.
        momentum=1 - float(node.attributes.get("momentum", 0.9)),
    )
    norm.load_state_dict(
        {
            "weight": scale,
            "bias": shift,
            "running_mean": mean,
            "running_var": variance,
            "num_batches_tracked": torch.tensor(0),
        }
    )
    return OperationConverterResult(norm, OnnxMapping(inputs=(names[0],), outputs=node.output_values))


def _usual(activations: list[str] | None, kind: str) -> bool:
    """Tell whether a recurrent layer has the activations that torch's has."""
    usual = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "RNN": ["Tanh"]}[kind]
    return not activations or list(activations) in (usual, usual * 2)


def _recurrent(node: OnnxNode, graph: OnnxGraph, kind: str) -> OperationConverterResult:
    names = node.input_values
    attributes = node.attributes
    direction = attributes.get("direction", "forward")
    plain = direction != "reverse" and not attributes.get("clip") and not attributes.get("layout", 0)
    lengths = len(names) > 4 and bool(names[4])
    known = all(name in graph.initializers for name in names[1:4] if name)
    reset = attributes.get("linear_before_reset", 0)
    if (
        not plain
        or lengths
        or not known
        or not _usual(attributes.get("activations"), kind)
        or (kind == "GRU" and not reset)
        or len(names) > 7
    ):
        raise NotImplementedError(f"{kind} with these options")
    w, r = (graph.initializers[name].to_torch() for name in names[1:3])
    hidden = int(attributes["hidden_size"])
    bidirectional = direction == "bidirectional"
    has_bias = len(names) > 3 and bool(names[3])
    make: Any = {"GRU": nn.GRU, "LSTM": nn.LSTM, "RNN": nn.RNN}[kind]
    inner = make(w.shape[2], hidden, bias=has_bias, bidirectional=bidirectional)
    # ONNX orders the gates z r h and i o f c; torch orders them r z n and i f g o.
    order = {"GRU": [1, 0, 2], "LSTM": [0, 2, 3, 1], "RNN": [0]}[kind]

    def gates(value: Tensor) -> Tensor:
        blocks = value.split(hidden)
        return torch.cat([blocks[i] for i in order])

    with torch.no_grad():
        for side in range(2 if bidirectional else 1):
            end = "_reverse" if side else ""
            getattr(inner, f"weight_ih_l0{end}").copy_(gates(w[side]))
            getattr(inner, f"weight_hh_l0{end}").copy_(gates(r[side]))
            if has_bias:
                first, second = graph.initializers[names[3]].to_torch()[side].chunk(2)
                getattr(inner, f"bias_ih_l0{end}").copy_(gates(first))
                getattr(inner, f"bias_hh_l0{end}").copy_(gates(second))
    states = tuple(name for name in names[5:7] if name)
    # Absent outputs at the end have empty names; the layer answers only with what is named.
    named = len(node.output_values) - next((i for i, n in enumerate(reversed(node.output_values)) if n), 0)
    return OperationConverterResult(
        Recurrent(inner, named), OnnxMapping(inputs=(names[0], *states), outputs=node.output_values)
    )


@add_converter(operation_type="GRU", version=14)
def _gru(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
    return _recurrent(node, graph, "GRU")


@add_converter(operation_type="RNN", version=14)
def _rnn(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
    return _recurrent(node, graph, "RNN")


@add_converter(operation_type="LSTM", version=14)
def _lstm(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
    return _recurrent(node, graph, "LSTM")


# Layers whose constant inputs are settings, such as a scale of time, and no weights.
_SETTINGS_ONLY = frozenset({"OnnxResize", "OnnxPadDynamic"})


def promote(module: fx.GraphModule) -> fx.GraphModule:
    """Make trainable the float weights that the conversion keeps as constants (MatMul and Add operands), in place."""
    constants = getattr(module, "initializers", None)
    if isinstance(constants, nn.Module):
        settings = _settings_of(module)
        for name, value in list(constants.named_buffers(recurse=False)):
            if value.is_floating_point() and value.numel() > 1 and name not in settings:
                delattr(constants, name)
                constants.register_parameter(name, nn.Parameter(value.clone()))
    return module


def _settings_of(module: fx.GraphModule) -> set[str]:
    """Return the names of constants that only settle how a layer works."""
    found = set()
    for node in module.graph.nodes:
        users = [user for user in node.users if user.op == "call_module"]
        kinds = {type(module.get_submodule(str(user.target))).__name__ for user in users}
        if node.op == "get_attr" and len(users) == len(node.users) and kinds and kinds <= _SETTINGS_ONLY:
            found.add(str(node.target).split(".")[-1])
    return found
