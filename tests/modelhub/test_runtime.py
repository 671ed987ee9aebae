"""The predictor gives torch's numbers, whatever form the graph takes inside."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ecgportal.errors import InvalidInput, UnsafeFile
from modelhub.architectures.catalog import catalog
from modelhub.onnx.export import export_onnx
from modelhub.runtime.lift import lift_convolutions
from modelhub.runtime.predictor import OnnxPredictor, activate, load_predictor
from tests.modelhub.conftest import beats, make_contract
from tests.modelhub.test_architectures import small

LEADS = ("I", "II", "V2")
NAMES = [name for name in sorted(catalog()) if catalog()[name].exports_onnx and name != "net1d"]


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_those_of_torch(name):
    module = small(name).eval()
    contract = make_contract(leads=LEADS, n_samples=200, classes=("a", "b", "c", "d"), architecture=name)
    data = export_onnx(module, contract)
    signals = beats(37, 3, 200)
    with torch.no_grad():
        logits = module(torch.from_numpy(signals))
    fast = OnnxPredictor(data, contract, threads=1)
    plain = OnnxPredictor(data, contract, threads=1, fast=False)
    assert np.abs(fast.outputs(signals) - logits.numpy()).max() < 1e-4 * max(1, float(logits.abs().max()))
    assert np.abs(fast.predict(signals) - torch.sigmoid(logits).numpy()).max() < 1e-4
    assert np.abs(fast.outputs(signals) - plain.outputs(signals)).max() < 1e-4 * max(1, float(logits.abs().max()))
    several = OnnxPredictor(data, contract, threads=3)
    for count in (1, 2, 5, 37):
        assert np.abs(several.outputs(signals[:count]) - fast.outputs(signals[:count])).max() < 1e-4 * max(
            1, float(logits.abs().max())
        )
    single = contract.with_changes(task="multiclass")
    assert np.abs(load_predictor(data, single, 1).predict(signals) - torch.softmax(logits, 1).numpy()).max() < 1e-4


@pytest.mark.parametrize("name", ["inception_time", "xception_time", "xresnet1d18", "resnet1d_wang"])
def test_every_one_dimensional_convolution_is_lifted(name):
    contract = make_contract(leads=LEADS, n_samples=200, classes=("a", "b", "c", "d"), architecture=name)
    lifted = lift_convolutions(onnx.load_model_from_string(export_onnx(small(name), contract)))
    weights = {t.name: len(t.dims) for t in lifted.graph.initializer}
    assert {weights[node.input[1]] for node in lifted.graph.node if node.op_type == "Conv"} == {4}
    onnx.checker.check_model(lifted, full_check=True)


class Odd(nn.Module):
    """Operators that have no lifted form, between convolutions, and a convolution's result as the output."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 4, 5, padding=2, stride=2)
        self.second = nn.Conv1d(4, 4, 3, dilation=2, groups=2)
        self.scale = nn.Parameter(torch.rand(1, 4, 1) + 0.5)
        self.last = nn.Conv1d(8, 2, 1)

    def forward(self, x):
        a = self.first(x)
        b = torch.cat([a, a.flip(1)], dim=2).transpose(1, 2).transpose(1, 2) * self.scale
        c = nn.functional.max_pool1d(self.second(b), 3, stride=2, padding=1, ceil_mode=True)
        d = torch.cat([c, nn.functional.avg_pool1d(c, 3, stride=1, padding=1)], dim=1)
        return (self.last(d * 2 + d.mean(-1, keepdim=True)) / 3).tanh()


def test_graphs_of_any_shape_are_lifted_without_a_difference():
    torch.manual_seed(0)
    module = Odd().eval()
    x = torch.randn(2, 3, 64)
    buffer = io.BytesIO()
    torch.onnx.export(module, (x,), buffer, dynamo=False, opset_version=17, input_names=["x"], output_names=["y"])
    import onnxruntime

    lifted = lift_convolutions(onnx.load_model_from_string(buffer.getvalue()))
    onnx.checker.check_model(lifted, full_check=True)
    session = onnxruntime.InferenceSession(lifted.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.abs(session.run(None, {"x": x.numpy()})[0] - module(x).detach().numpy()).max() < 1e-5


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=6))
def test_activations_are_probabilities_for_any_logits(values):
    logits = np.array([values], dtype=np.float32)
    classes = tuple(f"c{i}" for i in range(len(values)))
    for task in ("multiclass", "multilabel"):
        answer = activate(logits, make_contract(task=task, classes=classes))
        assert np.isfinite(answer).all() and (answer >= 0).all() and (answer <= 1).all()
        assert task != "multiclass" or answer.sum() == pytest.approx(1, abs=1e-5)
    assert np.array_equal(activate(logits, make_contract(task="regression", classes=classes)), logits)
    assert np.array_equal(activate(logits, make_contract(classes=classes, output="probabilities")), logits)


def test_what_does_not_fit_is_refused():
    contract = make_contract(leads=LEADS, n_samples=200, classes=("a", "b", "c", "d"))
    data = export_onnx(small("xresnet1d18"), contract)
    with pytest.raises(InvalidInput, match="3 leads"):
        load_predictor(data, contract, 1).predict(beats(1, 12, 200))
    with pytest.raises(InvalidInput, match="names 5 classes"):
        load_predictor(data, contract.with_changes(classes=("a", "b", "c", "d", "e")), 1).predict(beats(1, 3, 200))


def test_no_records_give_no_rows():
    contract = make_contract(leads=LEADS, n_samples=200, classes=("a", "b", "c", "d"))
    data = export_onnx(small("xresnet1d18"), contract)
    assert load_predictor(data, contract, 1).predict(np.empty((0, 3, 200), dtype=np.float32)).shape == (0, 4)


def graph(nodes, *tensors, n_records="n", opset=17, **model):
    """An ONNX file that takes ``(n_records, 3, t)`` and says it answers four numbers a record."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", (n_records, 3, "t")), ("y", ("n", 4)))
    ]
    made = helper.make_model(
        helper.make_graph(nodes, "graph", ends[:1], ends[1:], list(tensors)), opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **model
    )  # fmt: skip
    return made.SerializeToString()


MEAN = helper.make_node("ReduceMean", ["x"], ["y"], axes=[2], keepdims=0)
# A file that cannot be run, its code, and words of the sentence.
BROKEN = {
    "noise": (b"not onnx", "not_onnx", "damaged"),
    "empty": (b"", "not_onnx", "damaged"),
    "cut": (graph([MEAN])[:-20], "not_onnx", "damaged"),
    "newer": (graph([MEAN], opset=99), "unknown_opset", "newer ONNX"),
    "unknown": (graph([helper.make_node("Foo", ["x"], ["y"])]), "operator_not_supported", "the operator Foo"),
    "lost": (graph([helper.make_node("Add", ["x", "gone"], ["y"])]), "model_not_runnable", "missing"),
    "integers": (
        graph([helper.make_node("Cast", ["x"], ["a"], to=TensorProto.INT64), helper.make_node("Conv", ["a", "x"], ["y"])]),
        "model_not_runnable", "operator Conv",
    ),
    "one record": (graph([MEAN], n_records=1), "input_mismatch", "another shape"),
    "wrong length": (
        graph(
            [helper.make_node("Reshape", ["x", "shape"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])],
            numpy_helper.from_array(np.array([0, -1]), "shape"), numpy_helper.from_array(np.zeros((7, 4), np.float32), "w"),
        ),
        "model_not_runnable", "operator MatMul",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_does_not_run_says_why_and_what_next_and_the_log_what_the_runtime_said(kind, fast, caplog):
    data, code, words = BROKEN[kind]
    contract = make_contract(leads=LEADS, n_samples=200, classes=("a", "b", "c", "d"))
    with pytest.raises(UnsafeFile) as caught:
        OnnxPredictor(data, contract, threads=1, fast=fast).predict(beats(2, 3, 200))
    message = caught.value.message
    assert caught.value.code == code and words in message
    assert message.endswith(".") and any(verb in message for verb in ("xport", "Import", "Correct"))
    assert not any(
        raw in message for raw in ("ONNXRuntimeError", "/onnxruntime_src", "INVALID", "Status Message", ": FAIL")
    )
    assert str(caught.value.__cause__) in caplog.text
