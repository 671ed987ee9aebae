"""Make a foreign graph take the portal's input and give logits.

Everything is written into the graph itself, so that prediction, training and later exports treat the input alike.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ecgportal.errors import UnsafeFile
from modelhub.onnx.passes import to_inference
from modelhub.onnx.safety import type_name
from modelhub.onnx.simplify import drop_dead

_MAX_LEADS = 64
_MIXING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger", "LSTM", "GRU", "RNN", "Einsum"})  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """How a file takes its ECG: leads and samples (None where free), and the shape it wants them in."""

    n_leads: int
    n_samples: int | None
    transposed: bool
    extra_axis: int | None
    element_type: int


def layout_of(model: onnx.ModelProto) -> Layout:
    """Find leads and samples in the input's shape; UnsafeFile (``input_mismatch``) explains what does not fit."""
    value = _signal_input(model)
    if not value.type.HasField("tensor_type"):
        raise _mismatch("its input is a sequence, map or optional value, not a tensor")
    if any(d.HasField("dim_value") and d.dim_value == 0 for d in value.type.tensor_type.shape.dim):
        raise _mismatch("its input has an axis of length zero")
    shape = [
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim
    ]
    element = value.type.tensor_type.elem_type
    if element not in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16):
        raise _mismatch(f"it takes {type_name(element).lower()} numbers, not floating-point ones")
    extra = None
    if len(shape) == 4 and 1 in shape[1:]:
        extra = 1 + shape[1:].index(1)
        shape = shape[:extra] + shape[extra + 1 :]
    if len(shape) != 3:
        raise _mismatch(
            f"its input has {len(shape)} axes; an ECG has three: records, leads, samples. Export it with an input of that "
            "shape"
        )
    second, third = shape[1], shape[2]
    if second is not None and second <= _MAX_LEADS and (third is None or third > second):
        return Layout(second, third, False, extra, element)
    if third is not None and third <= _MAX_LEADS and (second is None or second > third):
        return Layout(third, second, True, extra, element)
    said = ", ".join("free" if size is None else str(size) for size in shape)
    raise _mismatch(
        f"its input of shape ({said}) does not tell leads from samples. Export it with the number of leads fixed"
    )


def repair(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Return a copy with BatchNormalization and Dropout in inference form and how many were not.

    Files exported in training mode exist: run as they are, they normalise by the batch at hand and drop activations.
    """
    result = copy.deepcopy(model)
    changed = sum(to_inference(node) for node in result.graph.node)
    return result, changed


def keep_one_output(model: onnx.ModelProto, n_classes: int | None) -> str | None:
    """Leave the output that answers, in place; return a sentence where there were several.

    n_classes: how many numbers it should have, where that is known. Otherwise the first output of numbers counts that no
    other is made of.
    """
    outputs = list(model.graph.output)
    if len(outputs) == 1:
        return None
    numbers = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
    fitting = [value for value in outputs if value.type.tensor_type.elem_type in numbers] or outputs
    exact = [value for value in fitting if n_classes is not None and _width(value) == n_classes]
    within = {name for value in fitting for name in _sources(model, value.name)}
    last = [value for value in fitting if value.name not in within]
    chosen = (exact or last or fitting)[0]
    del model.graph.output[:]
    model.graph.output.append(chosen)
    drop_dead(model.graph)
    names = ", ".join(f"{value.name[:80]}: {_width(value) or 'any'}" for value in outputs)
    return (
        f"The file has {len(outputs)} outputs ({names} numbers); {chosen.name[:80]} is taken, the others are left out."
    )


def _sources(model: onnx.ModelProto, name: str) -> set[str]:
    """Return the names of all that a value is made of."""
    producers = {output: node for node in model.graph.node for output in node.output}
    found: set[str] = set()
    waiting = [name]
    while waiting:
        node = producers.get(waiting.pop())
        new = set(node.input) - found if node is not None else set()
        found |= new
        waiting.extend(new)
    return found


def _width(value: onnx.ValueInfoProto) -> int | None:
    """Return how many numbers an output has for each record, or None where a size is free."""
    dims = value.type.tensor_type.shape.dim[1:]
    return math.prod(dim.dim_value for dim in dims) if dims and all(dim.dim_value > 0 for dim in dims) else None


def strip_activation(model: onnx.ModelProto) -> str | None:
    """Remove a softmax or sigmoid at the very end, in place; return ``softmax``, ``sigmoid`` or None."""
    output = model.graph.output[0].name
    producers = {name: node for node in model.graph.node for name in node.output}
    last = producers.get(output)
    kinds = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
    if last is None or last.op_type not in kinds or any(output in node.input for node in model.graph.node):
        return None
    if any(a.name == "axis" and a.i not in (1, -1) for a in last.attribute):
        return None
    model.graph.node.remove(last)
    _rename(model.graph, last.input[0], output)
    return kinds[last.op_type]


def activation_inside(model: onnx.ModelProto) -> str | None:
    """Return ``softmax`` or ``sigmoid`` where one lies between the last layer that mixes features and the output."""
    producers = {name: node for node in model.graph.node for name in node.output}
    waiting, seen = [model.graph.output[0].name], set()
    while waiting:
        node = producers.get(waiting.pop())
        if node is None or node.op_type in _MIXING or id(node) in seen:
            continue
        seen.add(id(node))
        if node.op_type in ("Softmax", "Sigmoid", "HardSigmoid"):
            return "softmax" if node.op_type == "Softmax" else "sigmoid"
        waiting.extend(node.input)
    return None


def one_row_per_record(model: onnx.ModelProto) -> None:
    """Give the output the shape ``(records, numbers)``, in place."""
    value = model.graph.output[0]
    inner = f"{value.name}__as_it_came"
    _rename(model.graph, value.name, inner)
    shape = numpy_helper.from_array(np.array([0, -1], dtype=np.int64), "ecg_portal_row")
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("Reshape", [inner, "ecg_portal_row"], [value.name]))
    value.type.tensor_type.ClearField("shape")
    value.type.tensor_type.shape.dim.add().dim_param = "batch"
    value.type.tensor_type.shape.dim.add()


def adapt_input(model: onnx.ModelProto, layout: Layout, *, scale: float = 1.0, standardizer: str = "None") -> list[str]:
    """Put nodes in front of the graph that turn float32 ``(batch, leads, samples)`` in mV into what the file wants.

    scale: factor from millivolt. standardizer: ``None``, ``minMax`` (-1..1) or ``meanStd`` over the whole record.
    Returns sentences about what was put in front.
    """
    graph = model.graph
    value = _signal_input(model)
    wanted = value.name
    nodes: list[onnx.NodeProto] = []
    notes: list[str] = []
    current = "ecg_portal_signal"

    def step(kind: str, *others: str, **attributes: Any) -> None:
        nonlocal current
        name = f"ecg_portal_{len(nodes)}"
        nodes.append(helper.make_node(kind, [current, *others], [name], **attributes))
        current = name

    if scale != 1.0:
        graph.initializer.append(numpy_helper.from_array(np.array(scale, dtype=np.float32), "ecg_portal_scale"))
        step("Mul", "ecg_portal_scale")
        notes.append(f"The input is multiplied by {scale:g}: the file takes microvolt.")
    if standardizer != "None":
        current = _standardize(graph, nodes, current, standardizer)
        notes.append(f"Each record is standardised as a whole ({standardizer}), as the file asks.")
    if layout.transposed:
        step("Transpose", perm=[0, 2, 1])
        notes.append("The input's leads and samples are exchanged for the file.")
    if layout.extra_axis is not None:
        axis = np.array([layout.extra_axis], dtype=np.int64)
        graph.initializer.append(numpy_helper.from_array(axis, "ecg_portal_axis"))
        step("Unsqueeze", "ecg_portal_axis")
        notes.append("An axis of one is added to the input for the file.")
    if layout.element_type != TensorProto.FLOAT:
        step("Cast", to=layout.element_type)
        notes.append("The input is converted to the file's number type.")
    if not nodes:
        return notes
    nodes[-1].output[0] = wanted
    old = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *old])
    graph.input.remove(value)
    shape: list[str | int | None] = ["batch", layout.n_leads, layout.n_samples or "samples"]
    graph.input.insert(0, helper.make_tensor_value_info("ecg_portal_signal", TensorProto.FLOAT, shape))
    return notes


def free_batch(model: onnx.ModelProto) -> int | None:
    """Give the first axis of input and output a free size, in place; return the size that it had, if it was fixed."""
    dims = _signal_input(model).type.tensor_type.shape.dim
    fixed = dims[0].dim_value if dims and dims[0].HasField("dim_value") and dims[0].dim_value > 0 else None
    for value in (_signal_input(model), model.graph.output[0]):
        dims = value.type.tensor_type.shape.dim
        if dims:
            dims[0].dim_param = "batch"
    del model.graph.value_info[:]
    return fixed


def _standardize(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], current: str, kind: str) -> str:
    def node(op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"ecg_portal_{op.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def constant(name: str, number: float) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(number, dtype=np.float32), name))
        return name

    floor = constant("ecg_portal_floor", 1e-6)
    if kind == "minMax":
        low = node("ReduceMin", [current], axes=[1, 2], keepdims=1)
        high = node("ReduceMax", [current], axes=[1, 2], keepdims=1)
        width = node("Max", [node("Sub", [high, low]), floor])
        unit = node("Div", [node("Sub", [current, low]), width])
        doubled = node("Mul", [unit, constant("ecg_portal_two", 2.0)])
        return node("Sub", [doubled, constant("ecg_portal_one", 1.0)])
    centred = node("Sub", [current, node("ReduceMean", [current], axes=[1, 2], keepdims=1)])
    variance = node("ReduceMean", [node("Mul", [centred, centred])], axes=[1, 2], keepdims=1)
    return node("Div", [centred, node("Max", [node("Sqrt", [variance]), floor])])


def _signal_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    weights = {tensor.name for tensor in model.graph.initializer}
    return next(value for value in model.graph.input if value.name not in weights)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                if name == old:
                    names[position] = new


def _mismatch(reason: str) -> UnsafeFile:
    return UnsafeFile(f"The model cannot take the portal's ECGs: {reason}.", code="input_mismatch")
