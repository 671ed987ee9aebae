"""Graph passes that turn a training-mode export into the graph that is published.

The published graph gives inference results in any runtime and yet keeps everything that further training needs:
every BatchNormalization with its own four tensors, every Dropout, every weight under its parameter's name.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper


def publishable(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in the published form.

    Exporters share equal tensors through Identity nodes; here each consumer gets its own tensor again, under the name
    it had. BatchNormalization answers with its running statistics, Dropout is the identity unless a training tool
    switches it on (an absent ``training_mode`` means inference).
    """
    result = copy.deepcopy(model)
    graph = result.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    alias: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Identity" and (node.input[0] in tensors or node.input[0] in alias):
            alias[node.output[0]] = alias.get(node.input[0], node.input[0])
        else:
            kept.append(node)
    used: set[str] = set()
    added: list[onnx.TensorProto] = []
    for node in kept:
        for position, name in enumerate(node.input):
            source = alias.get(name, name)
            if source not in tensors:
                continue
            if name in alias or source in used:
                own = copy.deepcopy(tensors[source])
                own.name = name if name in alias and name not in used else f"{source}__{len(added)}"
                added.append(own)
                node.input[position] = own.name
                used.add(own.name)
            else:
                used.add(source)
        to_inference(node)
    outputs = {value.name for value in graph.output}
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(added)
    keep = used | outputs
    remaining = [tensor for tensor in graph.initializer if tensor.name in keep]
    del graph.initializer[:]
    graph.initializer.extend(remaining)
    del graph.value_info[:]
    return result


def to_inference(node: onnx.NodeProto) -> bool:
    """Put a BatchNormalization or Dropout node into inference form; return whether it was in training form."""
    changed = False
    if node.op_type == "BatchNormalization":
        changed = len(node.output) > 1 or any(a.name == "training_mode" and a.i for a in node.attribute)
        del node.output[1:]
        for attribute in [a for a in node.attribute if a.name == "training_mode"]:
            node.attribute.remove(attribute)
    elif node.op_type == "Dropout":
        changed = len(node.input) > 2
        del node.output[1:]
        del node.input[2:]
    return changed


def set_tensors(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> list[str]:
    """Write values into the initializers of the same name, in place; return the names without an initializer.

    Tracing in training mode moves running statistics, so a published file takes its numbers from the module itself.
    """
    by_name = {tensor.name: tensor for tensor in model.graph.initializer}
    missing = []
    for name, value in values.items():
        tensor = by_name.get(name)
        if tensor is None or tuple(tensor.dims) != value.shape:
            missing.append(name)
        else:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return missing
