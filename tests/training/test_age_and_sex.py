"""Networks that take age and sex: both reach training, validation, the published file, fine-tuning and ensembles."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from datasets.models import Record
from ecgportal import storage
from ecgportal.errors import InvalidInput
from ecgportal.jobs.models import JobState
from modelhub.architectures.person import UNKNOWN
from modelhub.contract import ModelContract
from modelhub.loading import module_of
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.training.test_checking import codes, sentence
from tests.training.test_setting_up import FAST
from tests.training.test_setting_up import ward as ward  # a fixture
from tests.training.tiny import QUIET, tiny_settings
from tests.working import work_off
from training import evaluating, running
from training.checking import check
from training.data import JointView, prepare
from training.engine.fit import fit
from training.engine.predict import predict
from training.engine.source import ArraySource, Joined, Subset
from training.live import Report
from training.models import TrainingRun
from training.problems.registry import get_problem
from training.run_records import records_of

NETWORK = "se_wrn_metadata"
ONE = {**FAST, "members": 1}


class PersonNet(nn.Module):
    """Answers by the person alone, so that it learns only when each record comes with its own."""

    n_person_features = 5

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 1)

    def forward(self, x: torch.Tensor, person: torch.Tensor) -> torch.Tensor:
        return self.head(person) + x.mean() * 0

    def head_modules(self) -> list[nn.Module]:
        return [self.head]


@pytest.mark.parametrize("mixup", [0.0, 0.3])
def test_each_record_comes_with_its_own_person(few_threads, monkeypatch, mixup):
    monkeypatch.setattr("training.engine.run.first_forward", lambda *_: None)
    rng = np.random.default_rng(0)
    source = ArraySource(rng.normal(size=(64, 2, 32)).astype(np.float32))
    sexes = rng.integers(0, 2, 64)
    source.persons = np.stack([np.full(64, 0.5), sexes, 1 - sexes, np.ones(64), np.ones(64)], 1).astype(np.float32)
    parts = Subset(source, np.arange(0, 64, 2)), Subset(source, np.arange(1, 64, 2))
    truth = sexes.astype(np.float32)[:, None]
    result = fit(
        PersonNet(), parts[0], truth[::2], parts[1], truth[1::2], get_problem("binary"),
        tiny_settings(epochs=6, batch_size=7, learning_rate=0.3, augmentation=type(QUIET)(**{**vars(QUIET), "mixup": mixup})), fs_hz=100.0,
    )  # fmt: skip
    assert result.history[-1]["auroc_macro"] == 1.0 and result.history[-1]["val_loss"] < result.history[0]["val_loss"]
    net = PersonNet()
    net.load_state_dict(result.best_state)
    assert np.allclose(predict(net, parts[1]), result.validation_outputs, atol=1e-5)
    assert (
        Joined([*parts, source]).persons.shape == (128, 5)
        and Joined([source, ArraySource(source.signals)]).persons is None
    )


def test_a_run_publishes_a_file_with_both_inputs_that_answers_as_in_training(ward):
    Record.objects.filter(key__endswith="0").update(age=None, sex="")
    run = ward.train(architecture=NETWORK, settings=ONE)
    version = run.produced_version
    contract = ModelContract.from_dict(version.contract)
    assert contract.needs == ("age", "sex")
    graph = onnx.load_model_from_string(storage.read_blob(version.sha256)).graph
    assert [entry.name for entry in graph.input][1:] == ["person"]
    items = records_of(run)
    view = JointView(prepare([ward.first, ward.second], running.Recipe.from_json(run.recipe)), items)
    unknown = [number for number, item in enumerate(items) if item.age is None and not item.sex]
    assert unknown and np.allclose(view.persons[unknown], UNKNOWN)
    own = get_problem(run.task).activate(predict(module_of(version), view))
    published = evaluating.probabilities(version, view)
    assert np.abs(own - published).max() < 1e-4
    view.persons = np.tile(np.float32(UNKNOWN), (len(items), 1))
    assert np.abs(published - evaluating.probabilities(version, view)).max() > 1e-6
    tuned = ward.train(
        settings={**ONE, "epochs": 2, "head_epochs": 1},
        base_version=version,
        architecture=None,
        classes=["MI"],
        task="binary",
    )
    assert tuple(tuned.produced_version.contract["needs"]) == ("age", "sex") and tuned.report.report["n"] > 0


@pytest.mark.parametrize(
    "asked", [{"settings": {**FAST, "members": 2}}, {"split": {"method": "k_fold", "folds": 3}, "settings": ONE}]
)
def test_ensembles_and_folds_take_the_person_too(ward, asked):
    run = ward.train(architecture=NETWORK, **asked)
    assert run.produced_version.contract["config"]["members"] == run.manifest["networks"] > 1
    assert tuple(run.produced_version.contract["needs"]) == ("age", "sex")
    assert 0 <= run.produced_version.checks["parity_max_difference"] < 1e-4


def test_a_run_is_gone_on_with_and_ends_with_the_weights_of_one_in_one_go(ward, monkeypatch):
    asked = {"architecture": NETWORK, "settings": {**ONE, "epochs": 3, "learning_rate": 0.003}}
    whole = ward.train(**asked)
    run = ward.start(**asked)
    with monkeypatch.context() as patch:
        patch.setattr(Report, "should_stop", lambda self: "interrupted" if self.run.epochs.count() == 1 else False)
        claimed = work_off_once(run)
    assert claimed == JobState.QUEUED
    work_off()
    run = TrainingRun.objects.get(pk=run.pk)
    assert run.resumed == 1 and run.manifest["weights_hash"] == whole.manifest["weights_hash"]


def work_off_once(run: TrainingRun) -> str:
    from tests.working import work_off_one

    return work_off_one(run.job_id).state


def test_unknown_persons_are_told_before_and_age_is_not_learned_from_age(ward):
    asked = {
        "project": ward.project,
        "datasets": [ward.first, ward.second],
        "label_map": ward.label_map,
        "architecture": NETWORK,
    }
    assert "person_unknown" not in codes(check(**asked))
    Record.objects.filter(dataset=ward.first).update(age=None)
    found = check(**asked)
    assert "person_unknown" in codes(found, "warning") and "12 of 24 records lack one" in sentence(
        found, "person_unknown"
    )
    assert found.cost.parameters == 1_811_742
    with pytest.raises(InvalidInput, match="takes age beside the ECG") as error:
        ward.start(architecture=NETWORK, task="regression", target="age", label_map=None)
    assert "architecture" in error.value.fields


def test_the_form_offers_the_network(ward, client):
    from tests.training.test_pages_runs import address, form_of

    client.force_login(ward.user)
    assert client.post(address(ward), form_of(ward, architecture=NETWORK)).status_code == 302
    run = TrainingRun.objects.get()
    assert run.architecture == NETWORK
