"""Bring a foreign graph to operator set 17, the one that files of the portal have."""

from __future__ import annotations

import copy

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter

from ecgportal.errors import ParityError

TARGET = 17
_REDUCTIONS = frozenset(
    {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"}
)  # fmt: skip


def to_target(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in operator set 17; ParityError (``operator_not_supported``) names what cannot be converted."""
    version = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if version == TARGET:
        return model
    if version > TARGET:
        return _lowered(model)
    try:
        return version_converter.convert_version(model, TARGET)
    except Exception as error:  # the converter is native code that raises bare RuntimeErrors and its own ConvertError.
        reason = str(error).splitlines()[0][:200]
        raise ParityError(
            f"The operators of version {version} cannot be converted to version {TARGET}: {reason}.",
            code="operator_not_supported",
        ) from error


def _lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    """Undo what later operator sets changed in form, as far as float networks use it."""
    result = copy.deepcopy(model)
    graph = result.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], numpy_helper.to_array(a.t)) for a in node.attribute if a.name == "value")
    for node in graph.node:
        _lower(node, constants)
    del result.opset_import[:]
    result.opset_import.append(helper.make_opsetid("", TARGET))
    result.ir_version = min(result.ir_version, 8)
    del graph.value_info[:]
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ParityError(
            f"The model does not fit operator set {TARGET}: {reason}.", code="operator_not_supported"
        ) from error
    return result


def _lower(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> None:
    if node.op_type in _REDUCTIONS and len(node.input) > 1:
        name = node.input[1]
        if name and name not in constants:
            raise _cannot(node)
        if name:
            node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in constants[name].ravel()]))
        del node.input[1:]
        for attribute in [a for a in node.attribute if a.name == "noop_with_empty_axes"]:
            if attribute.i and not name:
                raise _cannot(node)
            node.attribute.remove(attribute)
    elif node.op_type == "Gelu" or (node.op_type == "Split" and any(a.name == "num_outputs" for a in node.attribute)):
        raise _cannot(node)
    elif node.op_type in ("Pad", "Resize") and len(node.input) > 3 and node.op_type == "Pad" and node.input[3]:
        raise _cannot(node)


def _cannot(node: onnx.NodeProto) -> ParityError:
    return ParityError(
        f"The operator {node.op_type} has a form that operator set {TARGET} does not know.",
        code="operator_not_supported",
    )
