"""Graph passes that bring what exporters write into the plain forms that converters know. No weight loses its node.

Exporters compute shapes, clip limits and the gate order of recurrent layers inside the graph. Where all that goes in is
constant, the result takes the nodes' place; weights that a convolution or a product uses as they are stay as they are.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

#: What is computed in advance has at most so many values; only recurrent weights may have more.
_SMALL = 4096
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
#: Inputs that must be weights, by operator; what computes them from constants is done in advance.
_WEIGHTS = dict.fromkeys(_RECURRENT, (1, 2, 3)) | {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2)}
_PASSING = frozenset({"Expand", "Slice", "Reshape", "Identity", "Transpose", "Unsqueeze", "Squeeze", "Gather", "Tile"})
_NEVER = frozenset({"Dropout", "BatchNormalization", "ConstantOfShape", *_RECURRENT})


def simplify(model: onnx.ModelProto) -> None:
    """Fold constants, free fixed batches in shapes, drop idle states of recurrent layers and dead nodes (in place)."""
    _fold_small(model)
    _settle_weights(model)
    drop_idle_states(model)
    _plain_reshapes(model)
    _plain_splits(model)
    _plain_pads(model)
    drop_dead(model.graph)


def settle_constants(model: onnx.ModelProto) -> None:
    """Write down what follows from the graph's own constants alone, as exporters spell shapes and slices (in place).

    No weight is touched, and nothing large is made of something small.
    """
    graph = model.graph
    settled: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        inputs = {name for name in node.input if name}
        if node.op_type == "Constant" or (node.op_type not in _NEVER and inputs and inputs <= settled):
            settled.update(node.output)
            nodes.append(node)
    wanted = sorted({n for node in graph.node if node.output[0] not in settled for n in node.input} & settled)
    answers = _evaluate(nodes, {}, wanted, list(model.opset_import)) if wanted else None
    if answers is None:
        return
    small = {name: value for name, value in zip(wanted, answers, strict=True) if value.size <= _SMALL}
    kept = [node for node in graph.node if not any(name in small for name in node.output)]
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in small.items())
    drop_dead(graph)


def drop_dead(graph: onnx.GraphProto) -> None:
    """Remove nodes that nothing uses, and the weights that only they used."""
    wanted = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if any(name in wanted for name in node.output):
            wanted.update(node.input)
            kept.append(node)
    if len(kept) == len(graph.node):
        return
    kept.reverse()
    del graph.node[:]
    graph.node.extend(kept)
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def free_reshapes(model: onnx.ModelProto, batch: int) -> None:
    """Let reshapes to a fixed batch follow the batch at hand (in place). batch: what the graph was written for."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for number, node in enumerate(model.graph.node):
        if node.op_type not in ("Reshape", "Expand") or node.input[1] not in tensors:
            continue
        shape = numpy_helper.to_array(tensors[node.input[1]]).copy()
        if shape.ndim != 1 or len(shape) < 2 or shape[0] != batch:
            continue
        if node.op_type == "Reshape":
            shape[0] = -1 if -1 not in shape else 0
        else:
            shape[0] = 1
        name = f"{node.input[1]}__free{number}"
        model.graph.initializer.append(numpy_helper.from_array(shape, name))
        node.input[1] = name


def _fold_small(model: onnx.ModelProto) -> None:
    graph = model.graph
    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer if _is_plain(t)}
    opsets = list(model.opset_import)
    kept: list[onnx.NodeProto] = []
    made: dict[str, np.ndarray] = {}
    for node in graph.node:
        value = _constant(node) if node.op_type == "Constant" else None
        if value is None and node.op_type not in _NEVER and len(node.output) == 1:
            inputs = [name for name in node.input if name]
            if inputs and all(name in known for name in inputs):
                value = _single([node], {name: known[name] for name in inputs}, node.output[0], opsets)
        if value is not None and value.size <= _SMALL:
            known[node.output[0]] = made[node.output[0]] = value
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input} | {value.name for value in graph.output}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in made.items() if name in used)
    del graph.value_info[:]


def _is_plain(tensor: onnx.TensorProto) -> bool:
    """Whole numbers and single values may be computed with; larger float tensors are weights."""
    size = int(np.prod(list(tensor.dims), dtype=np.int64))
    return size <= 1 or (size <= _SMALL and tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32))


def _constant(node: onnx.NodeProto) -> np.ndarray | None:
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            return numpy_helper.to_array(value)
        if attribute.name in ("value_float", "value_floats"):
            return np.asarray(value, dtype=np.float32)
        if attribute.name in ("value_int", "value_ints"):
            return np.asarray(value, dtype=np.int64)
    return None


def _evaluate(
    nodes: list[onnx.NodeProto], given: dict[str, np.ndarray], wanted: list[str], opsets: list[onnx.OperatorSetIdProto]
) -> list[np.ndarray] | None:
    """Return what nodes make of constants, or None when the reference implementation cannot tell."""
    if sum(value.size for value in given.values()) > 64 * 1024 * 1024:
        return None
    graph = helper.make_graph(
        nodes, "constants", [], [onnx.ValueInfoProto(name=name) for name in wanted],
        [numpy_helper.from_array(value, name) for name, value in given.items()],
    )  # fmt: skip
    try:
        answers: Any = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(wanted, {})
    except Exception:  # an operator that cannot be computed in advance stays in the graph as it is.
        return None
    return answers if all(isinstance(a, np.ndarray) and a.dtype != object for a in answers) else None


def _single(
    nodes: list[onnx.NodeProto], given: dict[str, np.ndarray], wanted: str, opsets: list[onnx.OperatorSetIdProto]
) -> np.ndarray | None:
    answers = _evaluate(nodes, given, [wanted], opsets)
    return None if answers is None else answers[0]


def _settle_weights(model: onnx.ModelProto) -> None:
    """Give layers their weights as tensors, where what goes into them is constant (in place)."""
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in [n for n in graph.node if n.op_type in _WEIGHTS]:
        for place in _WEIGHTS[node.op_type]:
            name = node.input[place] if place < len(node.input) else ""
            # Gemm may multiply two results; only what no input reaches is a weight.
            if name in producers:
                value = _computed(name, producers, tensors, list(model.opset_import))
                if value is not None:
                    made = f"{name}__weights"
                    if made not in tensors:
                        tensors[made] = numpy_helper.from_array(value, made)
                        graph.initializer.append(tensors[made])
                    node.input[place] = made


def drop_idle_states(model: onnx.ModelProto) -> None:
    """Let first states of recurrent layers that are zero be absent, which ties the graph to no batch (in place)."""
    producers = {name: node for node in model.graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [n for n in model.graph.node if n.op_type in _RECURRENT]:
        for place in range(5, min(7, len(node.input))):
            if node.input[place] and _is_zero(node.input[place], producers, tensors):
                node.input[place] = ""
        while node.input and not node.input[-1]:
            node.input.pop()
    drop_dead(model.graph)


def _computed(
    name: str,
    producers: dict[str, onnx.NodeProto],
    tensors: dict[str, onnx.TensorProto],
    opsets: list[onnx.OperatorSetIdProto],
) -> np.ndarray | None:
    nodes: list[onnx.NodeProto] = []
    given: dict[str, np.ndarray] = {}
    seen: set[str] = set()

    def collect(value: str) -> bool:
        if not value or value in seen:
            return True
        seen.add(value)
        if value in tensors:
            given[value] = numpy_helper.to_array(tensors[value])
            return True
        producer = producers.get(value)
        if producer is None or len(nodes) > 200 or not all(collect(source) for source in producer.input):
            return False
        nodes.append(producer)
        return True

    return _single(nodes, given, name, opsets) if collect(name) else None


def _is_zero(
    name: str, producers: dict[str, onnx.NodeProto], tensors: dict[str, onnx.TensorProto], depth: int = 0
) -> bool:
    if name in tensors:
        return not numpy_helper.to_array(tensors[name]).any()
    node = producers.get(name)
    if node is None or depth > 20:
        return False
    if node.op_type == "Constant":
        value = _constant(node)
        return value is not None and not value.any()
    if node.op_type == "ConstantOfShape":
        return not any(numpy_helper.to_array(a.t).any() for a in node.attribute if a.name == "value")
    if node.op_type in _PASSING:
        return _is_zero(node.input[0], producers, tensors, depth + 1)
    return node.op_type == "Concat" and all(_is_zero(part, producers, tensors, depth + 1) for part in node.input)


def _plain_reshapes(model: onnx.ModelProto) -> None:
    """Take ``allowzero`` off where the shape holds no zero: it makes no difference there."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        if node.op_type != "Reshape" or not any(a.name == "allowzero" and a.i for a in node.attribute):
            continue
        tensor = tensors.get(node.input[1])
        zero_free = tensor is None or numpy_helper.to_array(tensor).all()
        if zero_free and uses[node.input[1]]:
            del node.attribute[:]


def _plain_splits(model: onnx.ModelProto) -> None:
    """Write a split into one part as what it is (in place)."""
    for node in model.graph.node:
        if node.op_type == "Split" and len(node.output) == 1:
            node.op_type = "Identity"
            del node.input[1:]
            del node.attribute[:]


def _plain_pads(model: onnx.ModelProto) -> None:
    """Write automatic padding as numbers, where the length that is padded is known or makes no difference (in place)."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    sizes: dict[str, list[int]] | None = None
    for node in model.graph.node:
        values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        kind = values.get("auto_pad", b"NOTSET")
        if node.op_type not in ("Conv", "MaxPool", "AveragePool") or kind in (b"NOTSET", b""):
            continue
        if node.op_type == "Conv" and node.input[1] not in tensors:
            continue
        kernel = list(tensors[node.input[1]].dims)[2:] if node.op_type == "Conv" else list(values["kernel_shape"])
        strides, dilations = (list(values.get(name, [1] * len(kernel))) for name in ("strides", "dilations"))
        extents = [d * (k - 1) + 1 for d, k in zip(dilations, kernel)]
        if kind == b"VALID":
            totals = [0] * len(kernel)
        elif all(stride == 1 for stride in strides):
            totals = [extent - 1 for extent in extents]
        else:
            sizes = _sizes(model) if sizes is None else sizes
            lengths = sizes.get(node.input[0], [])
            if len(lengths) != len(kernel) or not all(lengths):
                continue
            totals = [max(0, (-(-n // s) - 1) * s + e - n) for n, s, e in zip(lengths, strides, extents)]
        small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
        pads = [*small, *large] if kind != b"SAME_LOWER" else [*large, *small]
        for attribute in [a for a in node.attribute if a.name in ("auto_pad", "pads")]:
            node.attribute.remove(attribute)
        node.attribute.append(helper.make_attribute("pads", pads))


def _sizes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Return the sizes of the axes behind the channels, by tensor, 0 where one is free."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # native code with errors of its own; what is not known stays as it is.
        return {}
    return {
        value.name: [max(0, dim.dim_value) for dim in value.type.tensor_type.shape.dim[2:]]
        for value in [*graph.value_info, *graph.input]
    }
