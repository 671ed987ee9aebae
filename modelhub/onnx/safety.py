"""Look at an ONNX file before anything loads it.

The file's claims are read from the protocol buffer alone: no tensor is allocated, no other file is opened, nothing is
evaluated. Background: CVE-2022-25882, CVE-2024-27318 (external data that leaves its folder), CVE-2024-5187 and the
requirements V5.2 of the OWASP verification standard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, numpy_helper

from ecgportal.errors import UnsafeFile
from modelhub.architectures.person import INPUT
from modelhub.onnx.metadata import CONTRACT_KEY, contract_in, first_values
from modelhub.onnx.wire import check_wire

MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_NODES = 20_000
MAX_TENSORS = 50_000
MAX_TENSOR_ELEMENTS = 256 * 1024 * 1024
MAX_DIMENSIONS = 8
MAX_INPUTS = 64
MAX_METADATA_ENTRIES = 100
MAX_METADATA_BYTES = 1_000_000
MIN_OPSET, MAX_OPSET = 7, 24
MAX_IR_VERSION = 13

CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
ALLOWED_OPERATORS = frozenset(
    """
    Abs Acos Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast CastLike Ceil Celu Clip Concat
    Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout
    DynamicQuantizeLinear Einsum Elu
    Equal Erf Exp Expand Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LRN
    LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max
    MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul
    QuantizeLinear RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin
    Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK
    Transpose Trilu Unsqueeze Where Xor
    """.split()
)

# Domains that tools declare whether or not they use them; a declaration alone brings no operator along.
_DECLARED_BY_TOOLS = frozenset({"ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training", "com.microsoft", "com.microsoft.nchwc", "com.microsoft.experimental", "com.ms.internal.nhwc", "org.pytorch.aten"})  # fmt: skip

# Bits per element; packed 4-bit types count as one byte, which is on the safe side.
_BYTES: dict[int, int] = {
    TensorProto.FLOAT: 4, TensorProto.UINT8: 1, TensorProto.INT8: 1, TensorProto.UINT16: 2, TensorProto.INT16: 2,
    TensorProto.INT32: 4, TensorProto.INT64: 8, TensorProto.BOOL: 1, TensorProto.FLOAT16: 2, TensorProto.DOUBLE: 8,
    TensorProto.UINT32: 4, TensorProto.UINT64: 8, TensorProto.BFLOAT16: 2,
}  # fmt: skip
_GROWING = frozenset({"ConstantOfShape", "Expand", "Tile", "Range", "OneHot", "Resize", "Pad", "Reshape", "TopK"})
_VALUE_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


@dataclass(frozen=True)
class OnnxFacts:
    """What a checked file says about itself. ``None`` in a shape is a free axis."""

    opset: int
    ir_version: int
    n_nodes: int
    n_parameters: int
    operators: tuple[str, ...]
    input_name: str
    input_shape: tuple[int | None, ...]
    input_type: str
    output_name: str
    output_shape: tuple[int | None, ...]
    metadata: dict[str, str]
    repeated_metadata: dict[str, tuple[str, ...]]


def check_onnx(data: bytes, *, name: str = "The file") -> tuple[onnx.ModelProto, OnnxFacts]:
    """Return the parsed model and its facts, or raise UnsafeFile with the reason. ``name`` stands in the message."""
    try:
        return _check(data)
    except UnsafeFile as error:
        raise UnsafeFile(f"{name} was refused: {error.message}", code=error.code) from error


def _check(data: bytes) -> tuple[onnx.ModelProto, OnnxFacts]:
    if len(data) > MAX_FILE_BYTES:
        raise UnsafeFile(f"it has {len(data)} bytes; at most {MAX_FILE_BYTES} are read.", code="file_too_large")
    check_wire(data)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise UnsafeFile(
            "it is not a readable ONNX file: cut short, or of another kind. Read are .onnx, .safetensors, .pt and bundles.",
            code="not_onnx",
        ) from error
    if not model.graph.node or not model.graph.output:
        raise UnsafeFile("it holds no graph; it is not an ONNX model.", code="not_onnx")
    opset = _check_versions(model)
    metadata, repeated = _check_metadata(model)
    _check_graph(model.graph)
    inputs = _real_inputs(model.graph)
    contract = contract_in(metadata)
    person = contract is not None and contract.needs and len(inputs) == 2 and inputs[1].name == INPUT
    if len(inputs) != 1 and not person:
        raise UnsafeFile(
            f"it has {len(inputs)} inputs; a model of the portal takes the ECG alone.", code="unsupported_inputs"
        )
    first, output = inputs[0], model.graph.output[0]
    facts = OnnxFacts(
        opset=opset,
        ir_version=model.ir_version,
        n_nodes=len(model.graph.node),
        n_parameters=sum(math.prod(t.dims) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT),
        operators=tuple(sorted({node.op_type for node in model.graph.node})),
        input_name=first.name,
        input_shape=_shape(first),
        input_type=type_name(first.type.tensor_type.elem_type),
        output_name=output.name,
        output_shape=_shape(output),
        metadata=metadata,
        repeated_metadata=repeated,
    )
    return model, facts


def _check_versions(model: onnx.ModelProto) -> int:
    if not 3 <= model.ir_version <= MAX_IR_VERSION:
        raise UnsafeFile(f"its format version {model.ir_version} is not known here.", code="unknown_opset")
    if model.functions or model.training_info:
        raise UnsafeFile(
            "it defines functions or training steps of its own. Export it for inference, with its functions inlined.",
            code="custom_functions",
        )
    domains: dict[str, int] = {}
    used = {node.domain for node in model.graph.node}
    for entry in list(model.opset_import):
        if entry.domain in _DECLARED_BY_TOOLS:
            # Its operators, if any, are refused by name with the nodes.
            if entry.domain not in used:
                model.opset_import.remove(entry)
            continue
        if entry.domain not in ("", "ai.onnx"):
            raise UnsafeFile(
                f"it imports the custom domain {entry.domain[:80]!r}. Export it with the standard operators of ONNX only.",
                code="custom_domain",
            )
        domains.setdefault("", entry.version)
        if domains[""] != entry.version:
            raise UnsafeFile("it imports two versions of the standard operators.", code="unknown_opset")
    if not domains or not MIN_OPSET <= domains[""] <= MAX_OPSET:
        raise UnsafeFile(
            f"its operator set {domains.get('', 'is missing and')} is not one of {MIN_OPSET} to {MAX_OPSET}.",
            code="unknown_opset",
        )
    return domains[""]


def _check_metadata(model: onnx.ModelProto) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    if len(model.metadata_props) > MAX_METADATA_ENTRIES:
        raise UnsafeFile(f"it has {len(model.metadata_props)} metadata entries.", code="metadata_too_large")
    values: dict[str, list[str]] = {}
    for entry in model.metadata_props:
        if len(entry.key) > 1000 or len(entry.value) > MAX_METADATA_BYTES:
            raise UnsafeFile(
                f"its metadata entry {entry.key[:40]!r} has {len(entry.value)} characters; "
                f"at most {MAX_METADATA_BYTES} are read.",
                code="metadata_too_large",
            )
        values.setdefault(entry.key, []).append(entry.value)
    first_values((key, text) for key, texts in values.items() if key == CONTRACT_KEY for text in texts)
    # ONNX Runtime answers with the last of several values; so do files that tools have appended to.
    metadata = {key: texts[-1] for key, texts in values.items()}
    contract_in(metadata)
    repeated = {key: tuple(dict.fromkeys(texts)) for key, texts in values.items() if len(set(texts)) > 1}
    return metadata, repeated


def _check_graph(graph: GraphProto) -> None:
    if len(graph.node) > MAX_NODES:
        raise UnsafeFile(f"its graph has {len(graph.node)} nodes; at most {MAX_NODES} are run.", code="too_many_nodes")
    if len(graph.initializer) > MAX_TENSORS or len(graph.input) > MAX_TENSORS or len(graph.output) > MAX_INPUTS:
        raise UnsafeFile("its graph has too many tensors, inputs or outputs.", code="too_many_tensors")
    if graph.sparse_initializer:
        raise UnsafeFile("it holds sparse tensors, which are not read.", code="unsupported_tensor")
    for tensor in graph.initializer:
        check_tensor(tensor)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        _check_node(node)
        if node.op_type == "Constant" and node.output:
            constants.update((node.output[0], a.t) for a in node.attribute if a.HasField("t"))
    for node in graph.node:
        if node.op_type in _GROWING:
            _check_growth(node, constants)


def _check_node(node: NodeProto) -> None:
    if node.domain not in ("", "ai.onnx"):
        raise UnsafeFile(
            f"it uses the operator {node.op_type[:80]!r} of the custom domain {node.domain[:80]!r}. Export it with the "
            "standard operators of ONNX only, not optimised for one machine.",
            code="custom_domain",
        )
    if node.op_type in CONTROL_FLOW:
        raise UnsafeFile(f"it uses the control-flow operator {node.op_type}.", code="control_flow")
    if node.op_type not in ALLOWED_OPERATORS:
        raise UnsafeFile(
            f"it uses the operator {node.op_type[:80]!r}, which is not allowed.", code="operator_not_allowed"
        )
    for attribute in node.attribute:
        if (
            attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS)
            or attribute.graphs
            or attribute.HasField("g")
        ):
            raise UnsafeFile(f"its operator {node.op_type} holds a graph of its own.", code="control_flow")
        if attribute.sparse_tensors or attribute.HasField("sparse_tensor"):
            raise UnsafeFile("it holds sparse tensors, which are not read.", code="unsupported_tensor")
        if attribute.HasField("t"):
            check_tensor(attribute.t)
        for tensor in attribute.tensors:
            check_tensor(tensor)


def _check_growth(node: NodeProto, constants: dict[str, TensorProto]) -> None:
    """Refuse operators whose constant operand asks for a result far larger than any ECG model needs."""
    for name in node.input:
        tensor = constants.get(name)
        kinds = (TensorProto.INT64, TensorProto.INT32, *((TensorProto.FLOAT,) if node.op_type == "Resize" else ()))
        if tensor is None or tensor.data_type not in kinds:
            continue
        if math.prod(tensor.dims) > 64:
            continue
        product = 1.0
        for value in numpy_helper.to_array(tensor).ravel().tolist():
            product *= max(1.0, abs(float(value)))
        if not product <= MAX_TENSOR_ELEMENTS:
            raise UnsafeFile(
                f"its operator {node.op_type} asks for a result of {product:.3g} values.", code="result_too_large"
            )


def check_tensor(tensor: TensorProto) -> None:
    """Raise UnsafeFile unless the tensor lies in the file and its claims fit its bytes."""
    name = tensor.name[:80]
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        where = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        raise UnsafeFile(
            f"the tensor {name!r} lies in another file ({where[:80]!r}). Export the model as one file.",
            code="external_data",
        )
    if tensor.HasField("segment"):
        raise UnsafeFile(f"the tensor {name!r} is cut into segments.", code="unsupported_tensor")
    if tensor.data_type not in _BYTES:
        raise UnsafeFile(f"the tensor {name!r} has a type that is not read.", code="unsupported_tensor")
    if len(tensor.dims) > MAX_DIMENSIONS or any(size < 0 for size in tensor.dims):
        raise UnsafeFile(f"the tensor {name!r} has an impossible shape.", code="bad_tensor")
    count = math.prod(tensor.dims)
    if count > MAX_TENSOR_ELEMENTS:
        raise UnsafeFile(f"the tensor {name!r} claims {count} values.", code="bad_tensor")
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != count * _BYTES[tensor.data_type]:
            raise UnsafeFile(
                f"the tensor {name!r} claims {count} values but holds {len(tensor.raw_data)} bytes.", code="bad_tensor"
            )
        return
    held = sum(len(getattr(tensor, field)) for field in _VALUE_FIELDS)
    if tensor.string_data or held != count:
        raise UnsafeFile(f"the tensor {name!r} claims {count} values but holds {held}.", code="bad_tensor")


def _real_inputs(graph: GraphProto) -> list[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def type_name(element_type: int) -> str:
    """Return the name of a tensor's number type, or its number when it has none."""
    if element_type in TensorProto.DataType.values():
        return TensorProto.DataType.Name(element_type)
    return f"type {element_type}"


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        for dim in value.type.tensor_type.shape.dim
    )
