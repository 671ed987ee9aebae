"""Rewrite the 1-D convolutions of an ONNX graph as 2-D convolutions of height one.

ONNX Runtime has fast blocked kernels for 2-D convolutions only; the same numbers come out about twice as fast. The
pass walks the graph once and keeps, for each tensor, the form it has: flat ``(batch, channels, samples)`` or lifted
``(batch, channels, 1, samples)``. Where an operator has no lifted form, its input is flattened again, which costs
nothing because both forms share their memory layout.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from modelhub.runtime.fold import fold_concatenations

_SAME = {
    "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "HardSigmoid", "HardSwish", "Softplus", "Erf", "Sqrt", "Exp",
    "Log", "Abs", "Neg", "Clip", "Identity", "Dropout", "BatchNormalization", "Cast",
}  # fmt: skip
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"}
_POOLS = {"MaxPool", "AveragePool"}
_GLOBAL_POOLS = {"GlobalAveragePool", "GlobalMaxPool"}
_AXES = "portal_height_axis"


def lift_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with 1-D convolutions and pools in 2-D form and norms folded; inputs and outputs are unchanged."""
    result = copy.deepcopy(model)
    fold_concatenations(result)
    _Lifter(result).run()
    return result


class _Lifter:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.tensors = {tensor.name: tensor for tensor in self.graph.initializer}
        self.constants = {node.output[0] for node in self.graph.node if node.op_type == "Constant"}
        self.scalars = {name for name, tensor in self.tensors.items() if not np.prod(list(tensor.dims), dtype=int) > 1}
        self.scalars |= self.constants & _scalar_constants(self.graph)
        self.lifted: set[str] = set()
        self.forms: dict[tuple[str, bool], str] = {}
        self.weights: dict[str, str] = {}
        self.out: list[onnx.NodeProto] = []

    def run(self) -> None:
        for node in self.graph.node:
            self._rewrite(node)
        for value in self.graph.output:
            if value.name in self.lifted:
                self._restore_output(value.name)
        del self.graph.node[:]
        self.graph.node.extend(self.out)
        del self.graph.value_info[:]
        if self.forms:
            self.graph.initializer.append(numpy_helper.from_array(np.array([2], dtype=np.int64), _AXES))

    def _rewrite(self, node: onnx.NodeProto) -> None:
        kind = node.op_type
        if kind == "Conv" and self._is_1d_conv(node):
            self._convolution(node)
        elif kind in _POOLS and self._is_1d_pool(node):
            self._pool(node)
        elif kind in _GLOBAL_POOLS and node.input[0] in self.lifted:
            self._take(node, lifted=True)
        elif kind in _SAME and node.input[0] in self.lifted:
            self._take(node, lifted=True)
        elif kind in _ELEMENTWISE and self._can_stay_lifted(node):
            self._take(node, lifted=True)
        elif kind == "Concat" and all(name in self.lifted for name in node.input):
            axis = next(a for a in node.attribute if a.name == "axis")
            axis.i = {0: 0, 1: 1, 2: 3, -1: -1, -2: 1, -3: 0}[axis.i]
            self._take(node, lifted=True)
        else:
            self._take(node, lifted=False)

    def _take(self, node: onnx.NodeProto, *, lifted: bool) -> None:
        for position, name in enumerate(node.input):
            if name in self.lifted and not lifted:
                node.input[position] = self._form(name, lifted=False)
        self.out.append(node)
        if lifted:
            self.lifted.add(node.output[0])

    def _can_stay_lifted(self, node: onnx.NodeProto) -> bool:
        some = any(name in self.lifted for name in node.input)
        return some and all(name in self.lifted or name in self.scalars for name in node.input)

    def _is_1d_conv(self, node: onnx.NodeProto) -> bool:
        weight = self.tensors.get(node.input[1])
        automatic = any(a.name == "auto_pad" and a.s not in (b"", b"NOTSET") for a in node.attribute)
        return weight is not None and len(weight.dims) == 3 and not automatic

    def _is_1d_pool(self, node: onnx.NodeProto) -> bool:
        values = {a.name: a for a in node.attribute}
        automatic = "auto_pad" in values and values["auto_pad"].s not in (b"", b"NOTSET")
        flags = "storage_order" in values and values["storage_order"].i != 0
        return len(values["kernel_shape"].ints) == 1 and len(node.output) == 1 and not automatic and not flags

    def _convolution(self, node: onnx.NodeProto) -> None:
        name = node.input[1]
        if name not in self.weights:
            value = numpy_helper.to_array(self.tensors[name])
            self.weights[name] = f"{name}__2d"
            self.graph.initializer.append(numpy_helper.from_array(value[:, :, None, :], self.weights[name]))
        node.input[1] = self.weights[name]
        self._widen(node)

    def _pool(self, node: onnx.NodeProto) -> None:
        self._widen(node)

    def _widen(self, node: onnx.NodeProto) -> None:
        node.input[0] = self._form(node.input[0], lifted=True)
        for attribute in node.attribute:
            old = list(attribute.ints)
            if attribute.name in ("kernel_shape", "strides", "dilations") and len(old) == 1:
                attribute.ints[:] = [1, old[0]]
            elif attribute.name == "pads" and len(old) == 2:
                attribute.ints[:] = [0, old[0], 0, old[1]]
        self.out.append(node)
        self.lifted.add(node.output[0])

    def _form(self, name: str, *, lifted: bool) -> str:
        if (name in self.lifted) == lifted:
            return name
        key = (name, lifted)
        if key not in self.forms:
            self.forms[key] = f"{name}__{'lifted' if lifted else 'flat'}"
            kind = "Unsqueeze" if lifted else "Squeeze"
            self.out.append(helper.make_node(kind, [name, _AXES], [self.forms[key]]))
        return self.forms[key]

    def _restore_output(self, name: str) -> None:
        inner = f"{name}__inner"
        for node in self.out:
            for names in (node.input, node.output):
                for position, value in enumerate(names):
                    if value == name:
                        names[position] = inner
        self.forms[(name, False)] = name
        self.out.append(helper.make_node("Squeeze", [inner, _AXES], [name]))


def _scalar_constants(graph: onnx.GraphProto) -> set[str]:
    found = set()
    for node in graph.node:
        if node.op_type != "Constant":
            continue
        for attribute in node.attribute:
            if attribute.name in ("value_float", "value_int"):
                found.add(node.output[0])
            elif attribute.name == "value" and attribute.t.data_type != TensorProto.UNDEFINED:
                if np.prod(list(attribute.t.dims), dtype=int) <= 1 and len(attribute.t.dims) <= 3:
                    found.add(node.output[0])
    return found
