"""Model files in the forms in which other programs write them: read exactly, or refused with what to do."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ecgportal.errors import UnsafeFile
from modelhub.importing import Incoming, examine
from modelhub.runtime.predictor import load_predictor
from modelhub.runtime_words import words_for
from tests.modelhub.conftest import beats

LEADS, CLASSES = ["I", "II", "V2"], ["a", "b", "c", "d"]
SAID = {"leads": LEADS, "classes": CLASSES, "fs_hz": 100.0}
SIGNALS = beats(3, 3, 200)


class Small(nn.Module):
    """A small network, with whatever is made of its features and logits as the answer."""

    def __init__(self, answer: Callable | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.answer = nn.Conv1d(3, 8, 9, stride=2), nn.Linear(8, 4), answer

    def forward(self, x):
        features = torch.relu(self.conv(x)).mean(-1)
        return self.answer(features, self.head(features)) if self.answer else self.head(features)


def exported(module: nn.Module, outputs: tuple[str, ...] = ("y",)) -> bytes:
    buffer = io.BytesIO()
    torch.onnx.export(
        module.eval(), (torch.zeros(2, 3, 200),), buffer, dynamo=False, opset_version=17, input_names=["x"], output_names=list(outputs),
        dynamic_axes={"x": {0: "b"}},
    )  # fmt: skip
    return buffer.getvalue()


def changed(data: bytes, change: Callable[[onnx.ModelProto], object]) -> bytes:
    model = onnx.load_model_from_string(data)
    change(model)
    return model.SerializeToString()


def as_file(data: bytes, output: str) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([output], {session.get_inputs()[0].name: SIGNALS})[0])


def predicted(found: Incoming) -> np.ndarray:
    assert found.contract is not None, found.checks["questions"]
    return load_predictor(found.main, found.contract, 1).predict(SIGNALS)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values.astype(np.float64)))


@pytest.mark.parametrize(
    "answer,outputs,wanted",
    [
        (lambda features, logits: (logits, features), ("y", "f"), "y"),
        (lambda features, logits: (features, logits), ("f", "y"), "y"),
        (lambda features, logits: (torch.sigmoid(logits), logits), ("p", "y"), "y"),
        (lambda features, logits: (logits.argmax(1), logits), ("label", "y"), "y"),
    ],
    ids=["features last", "features first", "probabilities first", "label first"],
)
def test_of_several_outputs_the_one_with_the_classes_answers_and_is_named(answer, outputs, wanted):
    data = exported(Small(answer), outputs)
    found = examine(data, "a.onnx", SAID | {"task": "multilabel"})
    assert np.abs(predicted(found) - sigmoid(as_file(data, wanted))).max() < 1e-5
    assert "prediction_only" not in found.checks
    assert any("2 outputs" in note and "is taken" in note for note in found.checks["notes"])


def test_without_names_the_output_that_no_other_is_made_of_answers():
    data = exported(Small(lambda features, logits: (features, logits)), ("f", "y"))
    found = examine(data, "a.onnx", {})
    assert found.checks["n_outputs"] == 4
    assert "outputs (f: 8, y: 4 numbers); y is taken" in found.checks["notes"][0]
    assert "name as many classes as that one has" in found.checks["questions"]["classes"]


@pytest.mark.parametrize(
    "answer,classes",
    [
        (lambda features, logits: logits[:, 0], ["a"]),
        (lambda features, logits: logits[:, None], CLASSES),
        (lambda features, logits: logits[:, :, None], CLASSES),
    ],
    ids=["one number", "axis before", "axis behind"],
)
def test_axes_of_one_around_the_answer_are_taken_off(answer, classes):
    data = exported(Small(answer))
    found = examine(data, "a.onnx", SAID | {"classes": classes, "task": "multilabel"})
    assert np.abs(predicted(found) - sigmoid(as_file(data, "y").reshape(3, -1))).max() < 1e-5
    assert "prediction_only" not in found.checks


def test_answers_along_time_are_refused_with_what_to_do():
    data = exported(Small(lambda features, logits: logits[:, :, None].expand(-1, -1, 50)))
    with pytest.raises(UnsafeFile, match=r"\(2, 4, 50\).*one number for each class"):
        examine(data, "a.onnx", SAID | {"task": "multilabel"})


def test_a_log_softmax_is_a_softmax():
    data = exported(Small(lambda features, logits: torch.log_softmax(logits, 1)))
    found = examine(data, "a.onnx", SAID)
    assert found.contract.task == "multiclass"
    assert np.abs(predicted(found) - np.exp(as_file(data, "y"))).max() < 1e-5


@pytest.mark.parametrize(
    "answer,task",
    [
        (lambda features, logits: torch.sigmoid(logits).clamp(1e-6, 1 - 1e-6), "multilabel"),
        (lambda features, logits: (torch.sigmoid(logits) + torch.sigmoid(2 * logits)) / 2, "multilabel"),
        (lambda features, logits: torch.softmax(logits, 1).clamp(min=1e-6), "multiclass"),
    ],
    ids=["clipped", "mean of two", "softmax clipped"],
)
def test_probabilities_are_taken_as_they_are_and_not_trained(answer, task):
    data = exported(Small(answer))
    found = examine(data, "a.onnx", SAID)
    assert (found.contract.output, found.contract.task) == ("probabilities", task)
    assert np.abs(predicted(found) - as_file(data, "y")).max() < 1e-6
    assert "without its last activation" in found.checks["prediction_only"]


def test_a_gate_before_the_last_layer_is_no_probability():
    data = exported(Small(lambda features, logits: logits * torch.sigmoid(logits) * 5))
    found = examine(data, "a.onnx", SAID | {"task": "multilabel"})
    assert found.contract.output == "logits"
    assert np.abs(predicted(found) - sigmoid(as_file(data, "y"))).max() < 1e-5


@pytest.mark.parametrize(
    "answer,task,right",
    [
        (lambda features, logits: torch.softmax(logits, 1), "multilabel", "multiclass"),
        (lambda features, logits: torch.sigmoid(logits), "multiclass", "multilabel"),
    ],
)
def test_a_task_that_the_end_of_the_file_contradicts_is_asked_again(answer, task, right):
    found = examine(exported(Small(answer)), "a.onnx", SAID | {"task": task})
    assert found.contract is None
    assert f"Say {right}" in found.checks["questions"]["task"]


def test_a_regression_keeps_its_last_activation():
    data = exported(Small(lambda features, logits: torch.sigmoid(logits)))
    found = examine(data, "a.onnx", SAID | {"task": "regression"})
    assert np.abs(predicted(found) - as_file(data, "y")).max() < 1e-6


def keras_like(stride: int = 2) -> bytes:
    """Write a graph as tf2onnx does: samples before leads, a height of one, automatic padding with strides."""
    draw = np.random.default_rng(1).normal
    tensors = {
        "w": draw(0, 0.2, (8, 3, 1, 7)), "v": draw(0, 0.2, (8, 8, 1, 4)), "d": draw(0, 0.3, (8, 4)), "bias": np.zeros(4),
    }  # fmt: skip
    nodes = [
        helper.make_node("Reshape", ["in:0", "to"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "w"], ["c"], auto_pad="SAME_UPPER", strides=[1, stride]),
        helper.make_node("MaxPool", ["c"], ["m"], auto_pad="SAME_UPPER", kernel_shape=[1, 2], strides=[1, stride]),
        helper.make_node("Conv", ["m", "v"], ["e"], auto_pad="SAME_LOWER", strides=[1, 3]),
        helper.make_node("Transpose", ["e"], ["n"], perm=[0, 2, 3, 1]),
        helper.make_node("Squeeze", ["n", "axis"], ["s"]),
        helper.make_node("ReduceMean", ["s"], ["g"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["g", "d"], ["p"]),
        helper.make_node("Add", ["p", "bias"], ["y"]),
    ]
    shapes = {"to": np.array([-1, 1, 200, 3]), "axis": np.array([1])}
    graph = helper.make_graph(
        nodes, "tf2onnx", [helper.make_tensor_value_info("in:0", TensorProto.FLOAT, ["unk__1", 200, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["unk__2", 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()]
        + [numpy_helper.from_array(value, name) for name, value in shapes.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7).SerializeToString()


def test_a_graph_of_keras_with_strides_and_automatic_padding_is_trainable():
    data = keras_like()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"in:0": SIGNALS.transpose(0, 2, 1).copy()})[0]
    found = examine(data, "a.onnx", SAID | {"task": "multilabel"})
    assert np.abs(predicted(found) - sigmoid(expected)).max() < 1e-5
    assert "prediction_only" not in found.checks


def test_a_quantised_file_predicts_exactly_and_says_why_it_is_not_trained(tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    (tmp_path / "a.onnx").write_bytes(exported(Small()))
    quantize_dynamic(tmp_path / "a.onnx", tmp_path / "q.onnx")
    data = (tmp_path / "q.onnx").read_bytes()
    found = examine(data, "q.onnx", SAID | {"task": "multilabel"})
    assert "DynamicQuantizeLinear" in found.checks["prediction_only"]
    assert np.abs(predicted(found) - sigmoid(as_file(data, "y"))).max() < 1e-5


def test_domains_that_tools_declare_without_use_are_harmless():
    def declare(model):
        for domain in ("ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"):
            model.opset_import.append(helper.make_opsetid(domain, 1))

    data = exported(Small())
    found = examine(changed(data, declare), "a.onnx", SAID | {"task": "multilabel"})
    assert np.abs(predicted(found) - sigmoid(as_file(data, "y"))).max() < 1e-5


def test_operators_of_other_domains_are_named_with_what_to_do():
    def classify(model):
        model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
        model.graph.node.append(helper.make_node("ZipMap", ["y"], ["z"], domain="ai.onnx.ml"))

    with pytest.raises(UnsafeFile, match=r"'ZipMap' of the custom domain 'ai.onnx.ml'. Export it with the standard"):
        examine(changed(exported(Small()), classify), "a.onnx", SAID)


def sequence(model):
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    model.graph.input[0].CopyFrom(helper.make_value_info("x", kind))


def not_a_number(model):
    weight = next(t for t in model.graph.initializer if t.name == "conv.weight")
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def no_length(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 0


def all_free(model):
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        dim.dim_param = "any"


@pytest.mark.parametrize(
    "change,words",
    [
        (sequence, "a sequence, map or optional value"),
        (not_a_number, "'conv.weight' hold values that are not numbers"),
        (no_length, "an axis of length zero"),
        (all_free, "number of leads fixed"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(change, words):
    with pytest.raises(UnsafeFile, match=words):
        examine(changed(exported(Small()), change), "a.onnx", SAID)


@pytest.mark.parametrize(
    "data,words",
    [
        (b"", "empty"),
        (b"\x89HDF\r\n\x1a\n" + bytes(90), "Keras"),
        (b"\x1c\0\0\0TFL3" + bytes(90), "TensorFlow Lite"),
        (b"\x1f\x8b\x08" + bytes(90), "Unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>" + bytes(90), "web page"),
        (b"\x80\x03" + bytes(90), "pickle"),
    ],
)
def test_other_files_are_called_what_they_are(data, words):
    with pytest.raises(UnsafeFile, match=words):
        examine(data, "model.onnx", {})


def test_the_runtime_is_told_in_words_without_its_source():
    said = (
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Reshape node. Status Message: "
        "/onnxruntime_src/onnxruntime/core/reshape_helper.h:91 onnxruntime::Help(const X&, bool) size == wanted was false. "
        "The input tensor cannot be reshaped."
    )
    reason, code = words_for(RuntimeError(said))
    assert reason.startswith("its operator Reshape does not fit ECGs of this shape.") and code == "model_not_runnable"
    assert words_for(RuntimeError("something new"))[1] == "model_not_runnable"
