"""By which truth a model is judged: that of its own question, and none where the labels say nothing about it."""

from __future__ import annotations

import pytest
from torch import nn

from ecgportal.errors import InvalidInput
from ecgportal.jobs.models import JobState
from modelhub.architectures.registry import build
from modelhub.models import ModelVersion
from tests import factories
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.modelhub.test_foreign_onnx import exported
from tests.training.test_fine_tuning import ONE, SAID, taken_in
from tests.training.test_setting_up import Ward
from tests.training.test_setting_up import ward as ward  # a fixture
from tests.working import work_off
from training.checking import check
from training.models import Evaluation
from training.services import evaluation_start

THREE = {"NORM": "NORM", "IMI": "MI", "LBBB": "CD"}


def judged(ward: Ward, version: ModelVersion, label_map=None) -> Evaluation:
    row = evaluation_start(actor=ward.user, version=version, dataset=ward.first, label_map=label_map)
    work_off()
    row = Evaluation.objects.select_related("job").get(pk=row.pk)
    assert row.job.state == JobState.SUCCEEDED, row.job.error_message
    return row


def foreign(ward: Ward, classes: list[str], task: str, last: nn.Module) -> ModelVersion:
    network = build("xresnet1d18", n_leads=3, n_samples=200, fs_hz=100.0, n_classes=len(classes), seed=1)
    data = exported(nn.Sequential(network, last), metadata={})
    return taken_in(ward, data, "foreign.onnx", SAID | {"classes": classes, "task": task})


def test_one_class_against_another_is_learned_and_judged_on_records_of_these_two(ward):
    three = factories.make_label_map(
        ward.project,
        classes=["NORM", "MI", "CD"],
        entries={code: {"class": name, "relation": "exact"} for code, name in THREE.items()},
    )
    for number in range(20):
        labels = ("LBBB",) if number % 2 else ("LBBB", "IMI", "NORM")
        factories.make_record(ward.first, subject=f"beside{number}", labels=labels, site="A", age=50)
    asked = {"task": "binary", "classes": ["MI", "NORM"], "label_map": three}
    found = check(project=ward.project, datasets=[ward.first, ward.second], architecture="xresnet1d18", **asked)
    assert found.records == 24 and [row.code for row in found.findings].count("of_neither") == 1
    run = ward.train(settings=ONE, **asked)
    parts = run.manifest["statistics"]
    assert sum(run.manifest["records"].values()) == 24
    assert run.report.report["n"] == sum(parts["test"]["classes"].values()) == run.manifest["records"]["test"]
    ward.second, ward.first = ward.first, factories.make_dataset(ward.project)
    for number in range(12):
        factories.make_record(ward.first, subject=f"new{number}", labels=(list(THREE)[number % 3],))
    report = judged(ward, run.produced_version).report
    assert (report["n"], report["per_class"]["MI"]["n_positive"]) == (8, 4)
    assert "MI is judged against NORM, as it was learned." in report["notes"]
    # The records last 2 s and the model reads 10.
    assert any("A prediction refuses 8 of these 8 records" in note for note in report["notes"])


def test_a_binary_model_with_an_output_for_either_side_is_judged(ward):
    version = foreign(ward, ["NORM", "MI"], "binary", nn.Softmax(dim=1))
    report = judged(ward, version, ward.label_map).report
    assert report["n"] == 12 and {row["n_positive"] for row in report["per_class"].values()} == {6}
    assert report["auroc_macro"]["value"] is not None
    assert not any("A prediction refuses" in note for note in report.get("notes", []))


def test_of_a_class_that_the_map_does_not_have_nothing_is_judged(ward):
    version = foreign(ward, ["NORM", "MI", "AF"], "multilabel", nn.Sigmoid())
    report = judged(ward, version, ward.label_map).report
    of = report["per_class"]
    assert of["AF"]["n"] == 0
    for name in ("f1", "specificity", "brier", "ece"):
        assert of["AF"][name]["value"] is None and "known" in of["AF"][name]["reason"], name
    assert report["f1_macro"]["value"] == pytest.approx((of["NORM"]["f1"]["value"] + of["MI"]["f1"]["value"]) / 2)


def test_a_regression_of_what_records_do_not_state_is_not_judged(ward):
    version = foreign(ward, ["ejection fraction"], "regression", nn.Identity())
    with pytest.raises(InvalidInput, match="no truth to judge it by"):
        evaluation_start(actor=ward.user, version=version, dataset=ward.first)
