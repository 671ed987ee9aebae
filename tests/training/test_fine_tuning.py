"""Fine-tuning through real runs: foreign ONNX, ``.pt`` weights of a registered network, files of ExChanGeAI."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
import torch
from django.core.files.uploadedfile import SimpleUploadedFile
from onnx import helper
from torch import nn

from datasets.preprocess.recipe import Recipe
from ecgportal.errors import Conflict, InvalidInput
from ecgportal.jobs.models import JobState
from modelhub.architectures.registry import build
from modelhub.contract import ModelContract
from modelhub.loading import head_of, module_of, recipe_of, start_module
from modelhub.models import ModelVersion
from modelhub.onnx.network import ForeignNetwork
from modelhub.services import card_update, import_start
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.modelhub.test_foreign_onnx import TRAINING, exported
from tests.training.test_setting_up import FAST, Ward
from tests.training.test_setting_up import ward as ward  # a fixture
from tests.working import work_off
from training import evaluating, running
from training.data import JointView, prepare
from training.engine import data
from training.engine.network import head_layers, parameter_names
from training.models import TrainingRun
from training.run_records import records_of
from training.services import run_resume

ONE = {**FAST, "members": 1, "learning_rate": 0.003}
LEADS = ["I", "II", "V2"]
SAID = {"leads": LEADS, "fs_hz": 100.0, "n_samples": 200, "classes": ["x", "y", "z"], "task": "multilabel"}


def taken_in(ward: Ward, data: bytes, name: str, said: dict) -> ModelVersion:
    """Import a file as the page does; returns its version."""
    import_start(
        actor=ward.user, project=ward.project, file=SimpleUploadedFile(name, data), name=name, contract=said,
        card={"licence": "CC BY 4.0", "intended_use": "research", "training_data": "Not known."},
    )  # fmt: skip
    job = work_off()[-1]
    assert job.state == JobState.SUCCEEDED, job.error_message
    version = ModelVersion.objects.get(pk=job.result["version"])
    assert version.state == "ready", version.checks
    return card_update(
        actor=ward.user,
        version=version,
        card={"licence": "CC BY 4.0", "intended_use": "Research.", "training_data": "Not known."},
    )


def network(seed: int = 3) -> nn.Module:
    module = build("xresnet1d18", n_leads=3, n_samples=200, fs_hz=100.0, n_classes=3, seed=seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.8, 1.2)
    return module


def foreign(ward: Ward) -> ModelVersion:
    return taken_in(ward, exported(network(), metadata={}, **TRAINING), "other.onnx", SAID)


def weights(ward: Ward) -> ModelVersion:
    buffer = io.BytesIO()
    torch.save(network().state_dict(), buffer)
    return taken_in(ward, buffer.getvalue(), "weights.pt", SAID | {"architecture": "xresnet1d18"})


def changed(base: ModelVersion, made: ModelVersion) -> tuple[list[str], list[str]]:
    """Return the tensors outside the head that differ, and the tensors of the head."""
    before, module = module_of(base), module_of(made)
    old, new = before.state_dict(), module.state_dict()
    begin = {name.rsplit(".", 1)[0] for name in parameter_names(module, head_layers(module))}
    head = [name for name in new if name.rsplit(".", 1)[0] in begin]
    return [name for name in new if name not in head and not torch.equal(old[name], new[name])], head


@pytest.mark.parametrize("source", [foreign, weights])
@pytest.mark.parametrize("mode", ["head", "head_then_full"])
def test_each_way_of_fine_tuning_makes_a_version_for_the_new_classes(ward, source, mode):
    base = source(ward)
    asked = {"epochs": 2, "head_epochs": 1} if mode == "head_then_full" else {}
    run = ward.train(settings={**ONE, **asked}, base_version=base, architecture=None, mode=mode)
    made = run.produced_version
    assert (made.classes, made.parent, made.task) == (["NORM", "MI"], base, "multilabel")
    contract = ModelContract.from_dict(made.contract)
    assert (contract.leads, contract.fs_hz, contract.n_samples, contract.parent) == (
        tuple(LEADS),
        100.0,
        200,
        base.sha256,
    )
    if source is foreign:
        assert isinstance(module_of(base), ForeignNetwork) and made.checks["parity_max_difference"] < 1e-4
        return_shape = module_of(made).eval()(torch.zeros(2, 3, 200)).shape
        assert return_shape == (2, 2) and run.report.report["n"] > 0
    elif mode == "head":
        # Weights and the running statistics of batch normalisation alike, bit for bit.
        outside, head = changed(base, made)
        assert outside == [] and head
    else:
        # The kept epoch is the best one; the first is that of the head alone.
        outside, head = changed(base, made)
        told = [any(kind in name for name in outside) for kind in ("running_mean", "weight")]
        assert told == [run.best_epoch > 1] * 2 and head


@pytest.mark.parametrize("settings", [{**ONE, "members": 2}, {**ONE, "companion": "always"}])
def test_a_model_of_several_networks_is_no_base_where_each_fold_trains_one(ward, settings):
    base = ward.train(settings=settings).produced_version
    assert module_of(base).linear.weight.any()
    every = {"method": "k_fold", "folds": 3}
    with pytest.raises(InvalidInput, match="several that answer together"):
        ward.start(settings=ONE, base_version=base, architecture=None, mode="full", split=every)
    with pytest.raises(InvalidInput) as refused:
        ward.start(
            task="pretraining",
            label_map=None,
            base_version=base,
            architecture=None,
            mode="full",
            settings={"epochs": 1},
        )
    assert "one network" in refused.value.fields["base_version"]
    asked = {**ONE, "members": None}
    one = ward.train(settings=asked, base_version=base, architecture=None, mode="full", split={**every, "fold": 1})
    assert one.produced_version.contract["config"] == base.contract["config"]


@pytest.mark.parametrize("crossed", [True, False])
def test_the_speed_that_is_noted_is_that_of_one_network(ward, monkeypatch, crossed):
    noted = []
    monkeypatch.setattr(running, "note_speed", lambda *values: noted.append(values))
    if not crossed:
        monkeypatch.setattr(data, "cross_parts", lambda *_: None)
    run = ward.train(settings={**FAST, "members": 3, "companion": "never"})
    records = run.manifest["records"]
    train, validation = records["train"], records["validation"]
    [(_, _, n_train, n_validation, *_)] = noted
    # Records that one network would have learned from, and been judged on, in that time.
    assert (n_train, n_validation) == (
        (2 * (train + validation), train + validation) if crossed else (3 * train, 3 * validation)
    )


def test_a_head_goes_on_for_the_same_classes_in_another_order_and_for_the_same_task_alone(ward):
    signals = torch.randn(4, 3, 200, generator=torch.Generator().manual_seed(1))
    for source in (foreign, weights):
        base = source(ward)
        own = ModelContract.from_dict(base.contract)
        other = own.with_changes(classes=("z", "x", "y"))
        start = start_module(base.architecture or "foreign", other, base, seed=0)
        with torch.no_grad():
            before, after = (net.eval()(signals) for net in (module_of(base), start))
        assert torch.allclose(after, before[:, [2, 0, 1]], atol=1e-5) and not torch.allclose(after, before, atol=1e-3)
        assert (head_of(base, own), head_of(base, other)) == ("kept", "reordered")
        assert head_of(base, own.with_changes(task="multiclass")) == "new"
    base.contract = own.with_changes(task="regression", classes=("age",)).to_dict()
    assert head_of(base, own.with_changes(task="binary", classes=("age",))) == "new"


def test_a_regression_of_the_same_target_goes_on_where_its_base_was(ward):
    age = {"task": "regression", "target": "age", "label_map": None}
    base = ward.train(settings={**ONE, "epochs": 4}, **age)
    still = {**ONE, "learning_rate": 1e-8, "ema_decay": 0.0}
    run = ward.train(settings=still, base_version=base.produced_version, architecture=None, mode="head", **age)
    # The two divide the records each for itself; in the wrong scale the error is some hundred years.
    first, reached = run.epochs.get(epoch=1).values["mae"], base.epochs.get(epoch=base.best_epoch).values["mae"]
    assert first < 3 * reached


def test_the_frozen_graph_of_a_foreign_file_stays_as_it_was(ward):
    """The published file is compared with the imported one by its tensors: only those of the last layer differ."""
    from ecgportal import storage

    base = foreign(ward)
    run = ward.train(settings=ONE, base_version=base, architecture=None, mode="head")
    before, after = (tensors(storage.read_blob(version.sha256)) for version in (base, run.produced_version))
    kept = [name for name, values in after.items() if any(same(values, other) for other in before.values())]
    new = {name: after[name].shape for name in after if name not in kept and after[name].size > 1}
    assert sorted(new.values()) == [(2,), (2, 128)], new
    assert len(kept) > 100


def tensors(data: bytes) -> dict[str, np.ndarray]:
    model = onnx.load_model_from_string(data)
    return {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and np.array_equal(one, other)


@pytest.mark.parametrize(
    ("scale", "standardizer"), [("mikroVolt", "None"), ("milliVolt", "meanStd"), ("mikroVolt", "minMax")]
)
def test_a_file_of_exchangeai_sees_in_training_what_it_sees_in_prediction(ward, scale, standardizer):
    """With a rate too small to move a weight, the trained network answers as the imported file does."""
    said = {"target_keys": "['NORM', 'MI']", "scale": scale, "standardizer": standardizer, "sampling_rate": "100"}
    module = build("xresnet1d18", n_leads=12, n_samples=1000, fs_hz=100.0, n_classes=2, seed=1)
    base = taken_in(ward, exported(module, 1000, 12, metadata=said), "exchanged.onnx", {})
    assert base.classes == ["NORM", "MI"] and base.task == "multiclass"
    run = ward.train(
        settings={**ONE, "learning_rate": 1e-7, "ema_decay": 0.0, "weight_decay": 0.0}, base_version=base, architecture=None, mode="head",
        task="multiclass",
    )  # fmt: skip
    recipe = Recipe.from_json(recipe_of(ModelContract.from_dict(base.contract)))
    assert Recipe.from_json(run.recipe) == recipe and "moving_median" in run.recipe["steps"][3]["step"]
    items = records_of(run)
    view = JointView(prepare([ward.first, ward.second], recipe), items)
    before, after = (evaluating.probabilities(version, view) for version in (base, run.produced_version))
    assert np.abs(before - after).max() < 1e-3 and before.std() > 1e-4


def test_a_base_that_may_no_longer_be_used_when_the_run_begins_ends_it_with_the_sentence_of_the_start(ward):
    base = ward.train(settings=ONE).produced_version
    asked = {"settings": ONE, "base_version": base, "architecture": None, "mode": "head"}
    alone, search = ward.start(**asked), ward.start(**asked, search={"minutes": 1})
    trunk = ward.start(**asked | {"mode": "full", "settings": {"epochs": 1}}, task="pretraining", label_map=None)
    base.state = "quarantined"
    base.save(update_fields=["state"])
    for job in work_off():
        assert (job.state, job.error_code) == (JobState.FAILED, "version_quarantined"), job.kind
        assert "in quarantine. An owner has to accept it" in job.error_message
    base.state = "retired"
    base.save(update_fields=["state"])
    for run in (alone, search, trunk):
        with pytest.raises(Conflict, match="is retired"):
            run_resume(actor=ward.user, run=run)
    base.state = "ready"
    base.save(update_fields=["state"])
    run_resume(actor=ward.user, run=alone)
    assert work_off()[-1].state == JobState.SUCCEEDED


def test_a_file_that_only_predicts_is_refused_before_the_start(ward):
    nodes = [
        helper.make_node("LpNormalization", ["x"], ["n"], axis=2, p=2),
        helper.make_node("Einsum", ["n"], ["e"], equation="bls->bl"),
        helper.make_node("MeanVarianceNormalization", ["e"], ["y"], axes=[1]),
    ]
    info = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["b", *rest])
        for name, rest in (("x", [3, 200]), ("y", [3]))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "odd", info[:1], info[1:]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    base = taken_in(ward, model.SerializeToString(), "odd.onnx", SAID)
    assert base.checks["prediction_only"]
    with pytest.raises(InvalidInput, match="cannot be trained|not be trained further") as error:
        ward.start(base_version=base, architecture=None, mode="head")
    assert error.value.code == "prediction_only" and "base_version" in error.value.fields
    assert not TrainingRun.objects.exists()
