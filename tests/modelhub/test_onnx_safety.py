"""ONNX files that mean harm are refused before anything loads them."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ecgportal.errors import UnsafeFile
from modelhub.onnx.metadata import parse_target_keys
from modelhub.onnx.safety import check_onnx
from modelhub.onnx.wire import check_wire


def model(
    nodes=None,
    tensors=None,
    *,
    opset: int = 17,
    domain: str = "",
    shape=("batch", 12, 1000),
    kind=TensorProto.FLOAT,
    **props,
):
    """A small valid model, with parts exchanged."""
    tensors = [numpy_helper.from_array(np.ones((1,), np.float32), "w")] if tensors is None else tensors
    nodes = nodes or [helper.make_node("Mul", ["x", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info("y", kind, list(shape))],
        tensors,
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)])
    built.ir_version = 8
    for key, value in props.items():
        entry = built.metadata_props.add()
        entry.key, entry.value = key, value
    return built


def external(**fields: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in fields.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def refused(built, code: str, match: str | None = None) -> None:
    data = built if isinstance(built, bytes) else built.SerializeToString()
    with pytest.raises(UnsafeFile, match=match) as caught:
        check_onnx(data, name="evil.onnx")
    assert caught.value.code == code
    assert caught.value.message.startswith("evil.onnx was refused: ")


def test_an_ordinary_file_passes_with_its_facts():
    _, facts = check_onnx(model(scale="milliVolt").SerializeToString())
    assert (facts.opset, facts.n_nodes, facts.n_parameters) == (17, 1, 1)
    assert facts.input_shape == (None, 12, 1000)
    assert facts.metadata == {"scale": "milliVolt"}


@pytest.mark.parametrize(
    "location",
    [
        "../../etc/passwd",
        "sub/../../x",
        "/etc/passwd",
        "file:///etc/passwd",
        "\\\\host\\share\\x",
        "a\x00b",
        "link.bin",
        "weights.bin",
    ],
)
def test_external_data_is_refused_wherever_it_points(location, monkeypatch):
    monkeypatch.setattr("builtins.open", lambda *_a, **_k: pytest.fail("a file was opened"))
    refused(model(tensors=[external(location=location)]), "external_data", "lies in another file")


@pytest.mark.parametrize(
    "fields", [{"location": "w", "offset": "-1"}, {"location": "w", "length": "9" * 30}, {"strange": "x"}]
)
def test_external_data_with_odd_fields_is_refused(fields):
    refused(model(tensors=[external(**fields)]), "external_data")


def test_external_data_hidden_in_a_constant_or_without_its_flag_is_refused():
    node = helper.make_node("Constant", [], ["w"])
    attribute = node.attribute.add()
    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
    attribute.t.CopyFrom(external(location="../x"))
    refused(model([node, helper.make_node("Mul", ["x", "w"], ["y"])], []), "external_data")
    unflagged = external(location="../x")
    unflagged.data_location = TensorProto.DEFAULT
    refused(model(tensors=[unflagged]), "external_data")


def test_custom_domains_and_unknown_versions_are_refused():
    refused(model(domain="com.evil"), "custom_domain", "com.evil")
    refused(
        model([helper.make_node("FusedConv", ["x", "w"], ["y"], domain="com.microsoft")]), "custom_domain", "FusedConv"
    )
    refused(model(opset=99), "unknown_opset", "99")
    refused(model(opset=3), "unknown_opset")


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan"])
def test_control_flow_is_refused_by_name(operator):
    refused(model([helper.make_node(operator, ["x"], ["y"])]), "control_flow", operator)


def test_operators_outside_the_list_and_hidden_graphs_are_refused():
    refused(model([helper.make_node("NonMaxSuppression", ["x"], ["y"])]), "operator_not_allowed", "NonMaxSuppression")
    node = helper.make_node("Relu", ["x"], ["y"])
    node.attribute.append(helper.make_attribute("body", model().graph))
    refused(model([node]), "control_flow")
    with_function = model()
    with_function.functions.add().name = "f"
    refused(with_function, "custom_functions")


def test_too_many_nodes_are_refused_quickly():
    refused(model([helper.make_node("Relu", ["x"], ["y"])] * 20_001), "too_many_nodes")
    # A graph of 32 MB that would become gigabytes of objects: empty nodes of two bytes.
    body = b"\x0a\x00" * 16_000_000
    length = bytearray()
    size = len(body)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    started = time.process_time()
    refused(b"\x08\x08\x3a" + bytes(length) + body, "too_many_nodes")
    assert time.process_time() - started < 30


@pytest.mark.parametrize(
    "dims,raw,code",
    [
        ([2**40], b"\0" * 8, "bad_tensor"),
        ([2**20, 2**20], b"", "bad_tensor"),
        ([-1], b"", "bad_tensor"),
        ([3], b"\0" * 8, "bad_tensor"),
        ([1] * 9, b"\0" * 4, "bad_tensor"),
    ],
)
def test_tensors_must_hold_what_they_claim(dims, raw, code):
    refused(model(tensors=[TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=raw)]), code, "'w'")


def test_tensors_of_strange_types_are_refused():
    refused(
        model(tensors=[TensorProto(name="w", data_type=TensorProto.STRING, dims=[1], string_data=[b"x"])]),
        "unsupported_tensor",
    )
    refused(model(tensors=[TensorProto(name="w", data_type=99, dims=[1], raw_data=b"1234")]), "unsupported_tensor")


def test_a_result_that_would_fill_the_memory_is_refused():
    size = numpy_helper.from_array(np.array([2**20, 2**20], np.int64), "w")
    refused(model([helper.make_node("ConstantOfShape", ["w"], ["y"])], [size]), "result_too_large", "ConstantOfShape")
    refused(model([helper.make_node("Expand", ["x", "w"], ["y"])], [size]), "result_too_large")


def test_metadata_has_limits_and_is_never_evaluated():
    refused(model(target_keys="x" * 10_000_000), "metadata_too_large", "target_keys")
    built = model(target_keys="__import__('os').system('id')")
    _, facts = check_onnx(built.SerializeToString())
    with pytest.raises(UnsafeFile, match="was not evaluated") as caught:
        parse_target_keys(facts.metadata["target_keys"])
    assert "__import__" in caught.value.message


def test_repeated_metadata_is_reported_and_the_last_counts():
    built = model(target_keys="['a']")
    entry = built.metadata_props.add()
    entry.key, entry.value = "target_keys", "['b']"
    _, facts = check_onnx(built.SerializeToString())
    assert facts.metadata["target_keys"] == "['b']"
    assert facts.repeated_metadata == {"target_keys": ("['a']", "['b']")}


@pytest.mark.parametrize(
    "text,n_outputs",
    [
        ("['a', 'a']", None),
        ("['a', 'b']", 3),
        ("[]", None),
        ("'abc'", None),
        ("[1.5]", None),
        ("{'a': 1}", None),
        ("[['a']]", None),
        ("(" * 5000, None),
        ("['" + "a" * 100_000 + "']", None),
        ("['']", None),
    ],
)
def test_class_names_must_be_a_plain_list(text, n_outputs):
    with pytest.raises(UnsafeFile):
        parse_target_keys(text, n_outputs)


def test_class_names_in_the_form_of_exchangeai():
    assert parse_target_keys("['NORM', \"it's\", 3]", 3) == ("NORM", "it's", "3")


@pytest.mark.parametrize("data", [b"", b"hello", b"\x80\x04.", b"PK\x03\x04", b"\x08\x08"])
def test_other_files_are_no_models(data):
    refused(data, "not_onnx")


@given(st.binary(max_size=200))
def test_noise_is_refused_not_crashed_on(data):
    with pytest.raises(UnsafeFile):
        check_onnx(data)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_one_changed_byte_never_crashes(position, value):
    data = bytearray(model(scale="milliVolt").SerializeToString())
    data[position % len(data)] = value
    try:
        check_onnx(bytes(data))
    except UnsafeFile as error:
        assert error.message


def test_the_count_of_parts_is_linear_in_the_file():
    assert check_wire(model().SerializeToString()) < 100
