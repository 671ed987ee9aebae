"""Own files load exactly; foreign files are repaired, converted, or kept for prediction with the reason."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ecgportal.errors import InvalidInput, ParityError, UnsafeFile
from modelhub.architectures.catalog import catalog
from modelhub.architectures.registry import parameter_count
from modelhub.importing import examine
from modelhub.onnx.export import check_parity, export_onnx
from modelhub.onnx.foreign import import_foreign, trainable_module
from modelhub.onnx.load import load_own
from modelhub.onnx.safety import check_onnx
from modelhub.runtime.predictor import load_predictor
from tests.modelhub.conftest import beats, make_contract
from tests.modelhub.test_architectures import small

LEADS = ("I", "II", "V2")
CLASSES = ("a", "b", "c", "d")
ANSWERS = {"leads": LEADS, "fs_hz": 100.0}
TRAINING = {"training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False}


def contract(**changes):
    return make_contract(**({"leads": LEADS, "n_samples": 200, "classes": CLASSES} | changes))


def exported(
    module: nn.Module, n_samples: int = 200, n_leads: int = 3, opset: int = 17, metadata=None, **options
) -> bytes:
    """Export as another program would: its own names, free batch."""
    buffer = io.BytesIO()
    module.train("training" in options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.zeros(2, n_leads, n_samples),), buffer, dynamo=False, opset_version=opset, input_names=["arg0"],
            output_names=["self_1_1"], dynamic_axes={"arg0": {0: "s0"}, "self_1_1": {0: "s0"}}, **options,
        )  # fmt: skip
    module.eval()
    model = onnx.load_model_from_string(buffer.getvalue())
    helper.set_model_props(model, {"target_keys": repr(list(CLASSES))} if metadata is None else metadata)
    return model.SerializeToString()


def answers_of(data: bytes, signals: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: signals})[0]


@pytest.mark.parametrize("name", [n for n in sorted(catalog()) if catalog()[n].exports_onnx and n != "net1d"])
def test_own_files_load_by_name_exactly(name):
    module = small(name)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.8, 1.2)
    data = export_onnx(module, contract(architecture=name))
    own = load_own(data)
    idle = module.idle_tensors()
    loaded = own.module.state_dict()
    for key, value in module.state_dict().items():
        assert key in idle or key.endswith("num_batches_tracked") or torch.equal(value, loaded[key]), key
    assert own.contract == contract(architecture=name, fixed_length=not catalog()[name].dynamic_length)
    assert not own.module.training


def test_exporting_leaves_the_network_as_it_is_and_keeps_its_layers_in_the_file():
    module = small("se_wrn").train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    data = export_onnx(module, contract(architecture="se_wrn"))
    assert module.training
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    operators = [node.op_type for node in onnx.load_model_from_string(data).graph.node]
    assert operators.count("BatchNormalization") == 25
    assert operators.count("Dropout") == 13
    _, facts = check_onnx(data)
    assert facts.metadata["target_keys"] == "['a', 'b', 'c', 'd']"
    assert (facts.metadata["standardizer"], facts.metadata["scale"], facts.metadata["sampling_rate"]) == (
        "None",
        "milliVolt",
        "100",
    )
    assert (facts.opset, facts.input_shape) == (17, (None, 3, None))


def test_a_difference_refuses_the_export():
    module = small("xresnet1d18").eval()
    data = export_onnx(module, contract())
    assert check_parity(module, data, contract(), check_signals=beats(3, 3, 200)) < 1e-4
    with torch.no_grad():
        module.head.classes.bias[0] += 0.001
    with pytest.raises(ParityError, match=r"differs from torch by 0\.001"):
        check_parity(module, data, contract())
    with torch.no_grad():
        module.head.classes.bias[0] = float("nan")
    with pytest.raises(ParityError):
        export_onnx(module, contract())


@pytest.mark.parametrize("name", ["inception_time", "xception_time", "se_wrn", "xresnet1d18", "net1d_s", "code_resnet"])
@pytest.mark.parametrize("options", [TRAINING, {}, {"opset": 13}], ids=["training", "plain", "opset13"])
def test_foreign_files_become_fully_trainable(name, options):
    module = small(name)
    found = import_foreign(exported(module, **options), answers=ANSWERS)
    assert (found.trainable, found.reason, found.questions) == (True, None, {})
    assert found.parity < 1e-4
    assert found.contract.classes == CLASSES
    assert found.contract.task == "multiclass"
    network = trainable_module(found.data, found.contract)
    signals = torch.from_numpy(beats(4, 3, 200))
    with torch.no_grad():
        expected = module(signals)
        assert (network(signals) - expected).abs().max() < 1e-4 * max(1, float(expected.abs().max()))
    if options is TRAINING:
        idle = sum(p.numel() for key, p in module.named_parameters() if key in module.idle_tensors())
        assert parameter_count(network) == parameter_count(module) - idle
        assert any("training mode" in note for note in found.notes)
    network.train()
    network(signals).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    network.replace_head(2)
    assert network.eval()(signals).shape == (4, 2)
    if options is TRAINING:
        again = export_onnx(network, found.contract.with_changes(classes=("x", "y")))
        assert import_foreign(again).trainable


def test_a_file_in_training_mode_is_repaired():
    module = small("xresnet1d18")
    data = exported(module, **TRAINING)
    signals = beats(4, 3, 200)
    expected = module(torch.from_numpy(signals)).detach().numpy()
    assert np.abs(answers_of(data, signals) - expected).max() > 1e-2
    assert np.abs(answers_of(import_foreign(data, answers=ANSWERS).data, signals) - expected).max() < 1e-3


class Treated(nn.Module):
    """A small network behind a fixed treatment of its input."""

    def __init__(self, last=None, order=None, double=False):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.head, self.last, self.order, self.double = (
            nn.Conv1d(3, 8, 9, padding=4),
            nn.Linear(8, 4),
            last,
            order,
            double,
        )

    def forward(self, x):
        x = x.permute(*self.order) if self.order else x
        if x.dim() == 4:
            x = x.squeeze(1)
        y = self.head(torch.relu(self.conv(x.float() if self.double else x)).mean(-1))
        return self.last(y) if self.last else y


@pytest.mark.parametrize(
    "last,task,activation", [(nn.Softmax(1), "multiclass", "softmax"), (nn.Sigmoid(), "multilabel", "sigmoid")]
)
def test_an_activation_at_the_end_is_taken_off_and_put_back_by_the_task(last, task, activation):
    module = Treated(last).eval()
    found = import_foreign(exported(module), answers=ANSWERS)
    assert (found.contract.task, found.contract.activation) == (task, activation)
    signals = beats(3, 3, 200)
    expected = module(torch.from_numpy(signals)).detach().numpy()
    assert np.abs(load_predictor(found.data, found.contract, 1).predict(signals) - expected).max() < 1e-5


@pytest.mark.parametrize("standardizer", ["minMax", "meanStd"])
@pytest.mark.parametrize("scale,factor", [("milliVolt", 1.0), ("mikroVolt", 1000.0)])
def test_scale_and_standardizer_of_exchangeai_are_honoured(standardizer, scale, factor):
    module = Treated().eval()
    keys = {"target_keys": repr(list(CLASSES)), "standardizer": standardizer, "scale": scale, "sampling_rate": "100"}
    found = import_foreign(exported(module, metadata=keys), answers={"leads": LEADS})
    signals = beats(3, 3, 200)
    own = signals.astype(np.float64) * factor
    if standardizer == "minMax":
        low, high = own.min((1, 2), keepdims=True), own.max((1, 2), keepdims=True)
        treated = 2 * (own - low) / (high - low) - 1
    else:
        treated = (own - own.mean((1, 2), keepdims=True)) / own.std((1, 2), keepdims=True)
    expected = module(torch.from_numpy(treated.astype(np.float32))).detach().numpy()
    assert np.abs(answers_of(found.data, signals) - expected).max() < 1e-4
    network = trainable_module(found.data, found.contract)
    assert np.abs(network(torch.from_numpy(signals)).detach().numpy() - expected).max() < 1e-4
    assert len(found.notes) >= 2


def test_other_input_layouts_are_adapted():
    signals = beats(2, 3, 200)
    for module, shape in ((Treated(order=(0, 2, 1)), (2, 200, 3)), (Treated(), (2, 1, 3, 200))):
        expected = (
            module.eval()(torch.from_numpy(signals.transpose(0, 2, 1).copy() if shape[1] == 200 else signals[:, None]))
            .detach()
            .numpy()
        )
        buffer = io.BytesIO()
        torch.onnx.export(
            module,
            (torch.zeros(shape),),
            buffer,
            dynamo=False,
            opset_version=17,
            input_names=["i"],
            output_names=["o"],
            dynamic_axes={"i": {0: "b"}, "o": {0: "b"}},
        )
        found = import_foreign(buffer.getvalue(), answers={**ANSWERS, "classes": CLASSES, "task": "multilabel"})
        assert found.contract.n_samples == 200
        assert np.abs(answers_of(found.data, signals) - expected).max() < 1e-5
        assert found.trainable, found.reason


def test_a_file_in_double_precision_is_adapted():
    module = Treated(double=True).eval()
    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        (torch.zeros(2, 3, 200, dtype=torch.float64),),
        buffer,
        dynamo=False,
        opset_version=17,
        dynamic_axes={"x": {0: "b"}},
        input_names=["x"],
    )
    found = import_foreign(buffer.getvalue(), answers={**ANSWERS, "classes": CLASSES, "task": "multilabel"})
    signals = beats(2, 3, 200)
    assert np.abs(answers_of(found.data, signals) - module(torch.from_numpy(signals)).detach().numpy()).max() < 1e-5
    assert any("number type" in note for note in found.notes)


def test_what_a_file_leaves_open_is_asked():
    found = import_foreign(exported(small("xresnet1d18"), metadata={}))
    assert found.contract is None
    assert set(found.questions) == {"classes", "fs_hz", "leads", "task"}
    assert "its 4 classes" in found.questions["classes"]
    wrong = import_foreign(
        exported(small("xresnet1d18"), metadata={}), answers={**ANSWERS, "classes": ("a",), "task": "multiclass"}
    )
    assert "1 classes are named; the model has 4 outputs" in wrong.questions["classes"]


def test_class_names_given_twice_and_differently_are_asked_unless_only_one_fits():
    model = onnx.load_model_from_string(exported(small("xresnet1d18"), metadata={"target_keys": "['old', 'two']"}))
    entry = model.metadata_props.add()
    entry.key, entry.value = "target_keys", repr(list(CLASSES))
    assert import_foreign(model.SerializeToString(), answers=ANSWERS).contract.classes == CLASSES
    model.metadata_props[0].value = "['e', 'f', 'g', 'h']"
    assert "more than once" in import_foreign(model.SerializeToString(), answers=ANSWERS).questions["classes"]


def test_an_operator_without_converter_keeps_the_file_for_prediction():
    nodes = [
        helper.make_node("LpNormalization", ["x"], ["n"], axis=2, p=2),
        helper.make_node("Einsum", ["n"], ["e"], equation="bls->bl"),
        helper.make_node("MeanVarianceNormalization", ["e"], ["y"], axes=[1]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 200])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 3])]
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    found = import_foreign(
        model.SerializeToString(), answers={**ANSWERS, "classes": ("a", "b", "c"), "task": "multilabel"}
    )
    assert not found.trainable
    assert "MeanVarianceNormalization" in found.reason
    assert load_predictor(found.data, found.contract, 1).predict(beats(2, 3, 200)).shape == (2, 3)
    with pytest.raises(InvalidInput, match="can predict but not be trained") as caught:
        trainable_module(found.data, found.contract)
    assert caught.value.code == "prediction_only"


def test_recurrent_and_attention_networks_convert():
    class Recurrent(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.rnn, self.head = kind(3, 6, batch_first=True, bidirectional=True), nn.Linear(12, 4)

        def forward(self, x):
            return self.head(self.rnn(x.transpose(1, 2))[0].mean(1))

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm, self.qkv, self.head = (
                nn.Conv1d(3, 8, 10, 10),
                nn.LayerNorm(8),
                nn.Linear(8, 24),
                nn.Linear(8, 4),
            )

        def forward(self, x):
            x = self.norm(self.embed(x).transpose(1, 2))
            q, k, v = self.qkv(x).chunk(3, -1)
            return self.head((x + torch.softmax(q @ k.transpose(1, 2) / 3, -1) @ v).mean(1))

    for module in (Recurrent(nn.GRU), Recurrent(nn.LSTM), Attention()):
        found = import_foreign(exported(module), answers=ANSWERS)
        assert found.trainable, found.reason
        network = trainable_module(found.data, found.contract)
        assert parameter_count(network) == parameter_count(module)
        assert import_foreign(export_onnx(network, found.contract)).trainable
        network.replace_head(2)
        assert network(torch.zeros(2, 3, 200)).shape == (2, 2)


def test_a_file_whose_class_layer_cannot_be_told_is_for_its_own_classes():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(600, 4), nn.Linear(600, 4)

        def forward(self, x):
            return self.one(x.flatten(1)) + self.other(x.flatten(1).square())

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.weight = nn.Linear(600, 4), nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))

        def forward(self, x):
            return self.head(x.flatten(1)) * self.weight

    for module, said in ((Both(), "2 layers lead to its output"), (Scaled(), "fixes the number of classes")):
        checks = examine(exported(module), "odd.onnx", {**ANSWERS, "leads": list(LEADS)}).checks
        assert said in checks["fixed_head"] and "prediction_only" not in checks


def test_a_scale_of_time_is_no_weight():
    class Stretched(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv1d(3, 8, 9), nn.Linear(8, 4)

        def forward(self, x):
            y = nn.functional.interpolate(torch.relu(self.conv(x)), scale_factor=0.5, mode="nearest")
            return self.head(y.mean(-1))

    module = Stretched()
    found = import_foreign(exported(module), answers=ANSWERS)
    network = trainable_module(found.data, found.contract)
    assert parameter_count(network) == parameter_count(module)
    network.train()(torch.from_numpy(beats(2, 3, 200))).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_inputs_that_are_no_ecg_are_explained():
    for shape, kind, words in (
        (("b", 3, 224, 224), TensorProto.FLOAT, "axes"),
        (("b", 3, 200), TensorProto.INT64, "int64"),
        (("b", 400, 500), TensorProto.FLOAT, "leads from samples"),
    ):
        graph = helper.make_graph(
            [helper.make_node("Add", ["x", "w"], ["y"])], "g", [helper.make_tensor_value_info("x", kind, list(shape))],
            [helper.make_tensor_value_info("y", kind, list(shape))], [numpy_helper.from_array(np.ones(1, np.float32 if kind == 1 else np.int64), "w")],
        )  # fmt: skip
        with pytest.raises(UnsafeFile, match=words):
            import_foreign(
                helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
            )


def test_a_newer_operator_set_is_converted():
    module = small("inception_time").eval()
    model = onnx.load_model_from_string(exported(module))
    axes = numpy_helper.from_array(np.array([2], np.int64), "the_axes")
    for node in model.graph.node:
        if node.op_type == "ReduceMean":
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("keepdims", 0))
            node.input.append("the_axes")
    model.graph.initializer.append(axes)
    model.opset_import[0].version = 18
    found = import_foreign(model.SerializeToString(), answers=ANSWERS)
    assert found.trainable, found.reason
    signals = beats(2, 3, 200)
    assert np.abs(answers_of(found.data, signals) - module(torch.from_numpy(signals)).detach().numpy()).max() < 1e-5


class Written(nn.Module):
    """What exporters write in unusual forms: padding by itself, GELU, recurrence in two layers, a view to two axes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.norm = nn.Conv1d(3, 8, 9, padding="same"), nn.BatchNorm1d(8)
        self.rnn, self.head = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True), nn.Linear(12, 4)

    def forward(self, x):
        y = nn.functional.gelu(self.norm(self.conv(x)))
        y, _ = self.rnn(nn.functional.avg_pool1d(y, 10).transpose(1, 2))
        return self.head(y.mean(1).view(x.size(0), -1))


@pytest.mark.parametrize(
    "options",
    [{"opset": 11}, {"opset": 20}, TRAINING | {"opset": 20}, {"dynamic_axes": None}],
    ids=["11", "20", "20 training", "fixed batch"],
)
def test_unusual_forms_become_fully_trainable(options):
    module = Written().eval()
    if "dynamic_axes" in options:
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (torch.zeros(1, 3, 200),), buffer, dynamo=False, opset_version=13)
        data = buffer.getvalue()
    else:
        data = exported(module, **options)
    found = import_foreign(data, answers=ANSWERS | {"classes": CLASSES, "task": "multilabel"})
    assert (found.trainable, found.reason) == (True, None)
    signals = beats(3, 3, 200)
    expected = module(torch.from_numpy(signals)).detach().numpy()
    assert np.abs(answers_of(found.data, signals) - expected).max() < 1e-5
    network = trainable_module(found.data, found.contract)
    network.train()(torch.from_numpy(signals)).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    network.replace_head(2)
    assert network.eval()(torch.from_numpy(signals)).shape == (3, 2)


def test_what_could_not_be_written_again_is_for_prediction_from_the_start(monkeypatch):
    data, said = exported(small("xresnet1d18")), {**ANSWERS, "leads": list(LEADS)}
    assert not {"prediction_only", "fixed_head"} & set(examine(data, "a.onnx", said).checks)

    def refuses(*_args, **_options):
        raise ParityError("The operator Odd differs.")

    monkeypatch.setattr("modelhub.onnx.export.export_onnx", refuses)
    found = examine(data, "a.onnx", said)
    assert "could not be written as ONNX: The operator Odd differs" in found.checks["prediction_only"]


@pytest.mark.parametrize("place", ["onnx2torch.convert", "modelhub.onnx.export.export_onnx"])
def test_what_a_library_says_goes_to_the_log(monkeypatch, caplog, place):
    data, said = exported(small("xresnet1d18")), {**ANSWERS, "leads": list(LEADS)}

    def refuses(*_args, **_options):
        raise RuntimeError("node_7: aten::odd at /src/torch/csrc/jit.cpp:99")

    monkeypatch.setattr(place, refuses)
    told = examine(data, "a.onnx", said).checks["prediction_only"]
    assert "export it again" in told and "aten" not in told and "jit.cpp:99" in caplog.text
