"""Bring a foreign graph to operator set 17, the one that files of the portal have."""

from __future__ import annotations

import copy

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter

from ecgportal.errors import ParityError
from modelhub.runtime_words import EXPORT_AGAIN, logged

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
        return _lowered(model, version)
    try:
        return version_converter.convert_version(model, TARGET)
    except Exception as error:  # the converter is native code that raises bare RuntimeErrors and its own ConvertError.
        sentence = f"Its operators of version {version} cannot be converted to version {TARGET}. {EXPORT_AGAIN}"
        raise ParityError(logged(sentence, error), code="operator_not_supported") from error


def _lowered(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Undo what later operator sets changed in form, as far as float networks use it."""
    result = copy.deepcopy(model)
    graph = result.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], numpy_helper.to_array(a.t)) for a in node.attribute if a.name == "value")
    lowered: list[onnx.NodeProto] = []
    for node in graph.node:
        lowered.extend(_lower(node, constants, graph, version))
    del graph.node[:]
    graph.node.extend(lowered)
    del result.opset_import[:]
    result.opset_import.append(helper.make_opsetid("", TARGET))
    result.ir_version = min(result.ir_version, 8)
    del graph.value_info[:]
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError) as error:
        sentence = f"Brought from operator set {version} to {TARGET}, its graph does not hold together. {EXPORT_AGAIN}"
        raise ParityError(logged(sentence, error), code="operator_not_supported") from error
    return result


def _lower(
    node: onnx.NodeProto, constants: dict[str, np.ndarray], graph: onnx.GraphProto, version: int
) -> list[onnx.NodeProto]:
    """Return the nodes that do the same in the target's operator set."""
    kind = node.op_type
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if kind in _REDUCTIONS and len(node.input) > 1:
        _lower_reduction(node, constants)
    elif kind == "Gelu":
        return _gelu(node, graph, values.get("approximate", b"none") == b"tanh")
    elif kind == "Mish":
        soft, bent = (f"{node.output[0]}__{part}" for part in ("softplus", "tanh"))
        return [
            helper.make_node("Softplus", [node.input[0]], [soft]),
            helper.make_node("Tanh", [soft], [bent]),
            helper.make_node("Mul", [node.input[0], bent], [node.output[0]]),
        ]
    elif kind == "GroupNormalization":
        return _group_norm(node, constants, graph, values, version)
    elif kind == "Split":
        # Without sizes the parts are equal; a number that does not divide the axis shows in the parity check.
        _without(node, "num_outputs")
    elif kind == "Pad" and len(node.input) > 3 and node.input[3]:
        _lower_pad(node, constants, graph)
    elif kind == "Resize":
        if (
            values.get("antialias")
            or "axes" in values
            or values.get("keep_aspect_ratio_policy", b"stretch") != b"stretch"
        ):
            raise _cannot(node)
        _without(node, "antialias", "keep_aspect_ratio_policy")
    elif kind in ("AveragePool", "LpPool") and any(int(v) != 1 for v in values.get("dilations", [])):
        raise _cannot(node)
    elif kind in ("AveragePool", "LpPool"):
        _without(node, "dilations")
    elif kind in ("Cast", "CastLike", "QuantizeLinear", "DequantizeLinear"):
        _without(node, "saturate", "round_mode")
    return [node]


def _without(node: onnx.NodeProto, *names: str) -> None:
    for attribute in [a for a in node.attribute if a.name in names]:
        node.attribute.remove(attribute)


def _lower_reduction(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> None:
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


def _gelu(node: onnx.NodeProto, graph: onnx.GraphProto, tanh: bool) -> list[onnx.NodeProto]:
    """Write x Phi(x) with Erf, or its approximation with tanh, as exporters of earlier operator sets do."""
    x, y = node.input[0], node.output[0]

    def constant(name: str, value: float) -> str:
        full = f"{y}__{name}"
        graph.initializer.append(numpy_helper.from_array(np.array(value, dtype=np.float32), full))
        return full

    def step(kind: str, inputs: list[str], name: str) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [name])

    if tanh:
        nodes = [
            step("Mul", [x, x], f"{y}__2"), step("Mul", [f"{y}__2", x], f"{y}__3"),
            step("Mul", [f"{y}__3", constant("cubic", 0.044715)], f"{y}__4"), step("Add", [x, f"{y}__4"], f"{y}__5"),
            step("Mul", [f"{y}__5", constant("root", float(np.sqrt(2 / np.pi)))], f"{y}__6"), step("Tanh", [f"{y}__6"], f"{y}__7"),
        ]  # fmt: skip
    else:
        nodes = [
            step("Div", [x, constant("root", float(np.sqrt(2.0)))], f"{y}__6"),
            step("Erf", [f"{y}__6"], f"{y}__7"),
        ]
    return [
        *nodes, step("Add", [f"{y}__7", constant("one", 1.0)], f"{y}__8"), step("Mul", [x, f"{y}__8"], f"{y}__9"),
        step("Mul", [f"{y}__9", constant("half", 0.5)], y),
    ]  # fmt: skip


def _group_norm(
    node: onnx.NodeProto, constants: dict[str, np.ndarray], graph: onnx.GraphProto, values: dict, version: int
) -> list[onnx.NodeProto]:
    """Write a group norm as an instance norm over groups, followed by the channels' own scale and shift."""
    x, y = node.input[0], node.output[0]
    scale, shift = (constants.get(name) for name in node.input[1:3])
    groups = int(values["num_groups"])
    # Until operator set 20 there was one factor per group, and what exporters wrote there differed.
    if scale is None or shift is None or version < 21:
        raise _cannot(node)
    given: dict[str, np.ndarray] = {
        "groups": np.array([0, groups, -1], dtype=np.int64), "ones": np.ones(groups, np.float32), "zeros": np.zeros(groups, np.float32),
        "scale": scale.reshape(-1, 1), "shift": shift.reshape(-1, 1),
    }  # fmt: skip
    graph.initializer.extend(numpy_helper.from_array(value, f"{y}__{name}") for name, value in given.items())
    return [
        helper.make_node("Shape", [x], [f"{y}__shape"]),
        helper.make_node("Reshape", [x, f"{y}__groups"], [f"{y}__1"]),
        helper.make_node(
            "InstanceNormalization", [f"{y}__1", f"{y}__ones", f"{y}__zeros"], [f"{y}__2"], epsilon=float(values.get("epsilon", 1e-5))
        ),
        helper.make_node("Reshape", [f"{y}__2", f"{y}__shape"], [f"{y}__3"]),
        helper.make_node("Mul", [f"{y}__3", f"{y}__scale"], [f"{y}__4"]),
        helper.make_node("Add", [f"{y}__4", f"{y}__shift"], [y]),
    ]  # fmt: skip


def _lower_pad(node: onnx.NodeProto, constants: dict[str, np.ndarray], graph: onnx.GraphProto) -> None:
    """Write the pads of some axes as pads of all three."""
    pads, axes = (constants.get(node.input[place]) for place in (1, 3))
    if pads is None or axes is None or any(int(axis) not in (-3, -2, -1, 0, 1, 2) for axis in axes):
        raise _cannot(node)
    whole = np.zeros(6, dtype=np.int64)
    for place, axis in enumerate(int(axis) % 3 for axis in axes):
        whole[axis], whole[axis + 3] = pads[place], pads[place + len(axes)]
    name = f"{node.output[0]}__pads"
    graph.initializer.append(numpy_helper.from_array(whole, name))
    node.input[1] = name
    del node.input[3:]


def _cannot(node: onnx.NodeProto) -> ParityError:
    return ParityError(
        f"The operator {node.op_type} has a form that operator set {TARGET} does not know.",
        code="operator_not_supported",
    )
