"""Fold normalisation and ReLU behind a concatenation into the convolutions in front of it.

A BatchNormalization in inference form is one factor and one offset per channel; behind a concatenation of
convolutions they can be moved into the convolutions' own weights, which saves passes over the data.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper


def fold_concatenations(model: onnx.ModelProto) -> None:
    """Fold every BatchNormalization (and a ReLU behind it) that follows a concatenation of convolutions, in place."""
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    producers = {name: node for node in graph.node for name in node.output}
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        concat = producers.get(norm.input[0])
        branches = _branches(concat, producers, tensors, uses)
        if concat is None or not branches or any(name not in tensors for name in norm.input[1:]):
            continue
        factor, offset = _affine(norm, tensors)
        start = 0
        for branch in branches:
            n_out = tensors[branch.input[1]].dims[0]
            part = slice(start, start + n_out)
            _absorb(graph, branch, tensors, factor[part], offset[part])
            start += n_out
        graph.node.remove(norm)
        concat.output[0] = norm.output[0]
        producers[norm.output[0]] = concat
        _move_relu(graph, concat, branches, uses)


def _branches(
    concat: onnx.NodeProto | None,
    producers: dict[str, onnx.NodeProto],
    tensors: dict[str, onnx.TensorProto],
    uses: Counter[str],
) -> list[onnx.NodeProto]:
    if concat is None or concat.op_type != "Concat" or uses[concat.output[0]] != 1:
        return []
    if next(a.i for a in concat.attribute if a.name == "axis") != 1:
        return []
    found = []
    for name in concat.input:
        node = producers.get(name)
        plain = node is not None and node.op_type == "Conv" and uses[name] == 1
        if not plain or node is None or any(weight not in tensors or uses[weight] != 1 for weight in node.input[1:]):
            return []
        found.append(node)
    return found


def _affine(norm: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> tuple[np.ndarray, np.ndarray]:
    scale, shift, mean, variance = (numpy_helper.to_array(tensors[name]).astype(np.float64) for name in norm.input[1:])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    factor = scale / np.sqrt(variance + epsilon)
    return factor, shift - mean * factor


def _absorb(
    graph: onnx.GraphProto,
    conv: onnx.NodeProto,
    tensors: dict[str, onnx.TensorProto],
    factor: np.ndarray,
    offset: np.ndarray,
) -> None:
    weight = numpy_helper.to_array(tensors[conv.input[1]])
    scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    tensors[conv.input[1]].CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), conv.input[1]))
    if len(conv.input) > 2 and conv.input[2]:
        bias = numpy_helper.to_array(tensors[conv.input[2]]) * factor + offset
        tensors[conv.input[2]].CopyFrom(numpy_helper.from_array(bias.astype(np.float32), conv.input[2]))
        return
    name = f"{conv.input[1]}__bias"
    tensor = graph.initializer.add()
    tensor.CopyFrom(numpy_helper.from_array(offset.astype(np.float32), name))
    del conv.input[2:]
    conv.input.append(name)


def _move_relu(
    graph: onnx.GraphProto, concat: onnx.NodeProto, branches: list[onnx.NodeProto], uses: Counter[str]
) -> None:
    name = concat.output[0]
    followers = [node for node in graph.node if name in node.input]
    if uses[name] != 1 or len(followers) != 1 or followers[0].op_type != "Relu":
        return
    relu = followers[0]
    position = next(i for i, node in enumerate(graph.node) if node.output[0] == name)
    concat.output[0] = relu.output[0]
    graph.node.remove(relu)
    for i, branch in enumerate(branches):
        inner = f"{branch.output[0]}__relu"
        concat.input[i] = inner
        graph.node.insert(position, helper.make_node("Relu", [branch.output[0]], [inner]))
