"""What a request says twice, or for another task, is refused where both cannot hold; nothing of it is dropped in silence."""

from __future__ import annotations

import json

import pytest

from datasets.preprocess.recipe import DEFAULT_RECIPE
from ecgportal import storage
from modelhub.contract import MOST_NETWORKS
from modelhub.models import Model, ModelVersion
from tests import factories
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.api_client import Api
from tests.training.test_setting_up import Ward
from training.candidates import offer
from training.engine.settings import FitSettings
from training.forms import RunForm
from training.models import TrainingRun


@pytest.fixture
def ward(db, few_threads) -> Ward:
    return Ward()


def make_version(
    ward: Ward, architecture: str = "inception_time", members: int = 1, classes: tuple[str, ...] = ("NORM",)
) -> ModelVersion:
    contract = {
        "format": 1, "leads": list(factories.LEADS), "fs_hz": 100.0, "n_samples": 1000, "classes": list(classes), "task": "multilabel", "unit": "mV",
        "normalisation": "none", "architecture": architecture or None, "config": {"members": members} if members > 1 else {}, "recipe": None, "thresholds": {}, "output": "logits",
        "fixed_length": False, "parent": None,
    }  # fmt: skip
    return ModelVersion.objects.create(
        model=Model.objects.create(project=ward.project, name="Net" if members == 1 else f"{members} nets"), number=1, state="ready", origin="trained", contract=contract,
        classes=list(classes), task="multilabel", architecture=architecture, sha256=storage.put_bytes(b"weights")[0], size=7,
    )  # fmt: skip


def body(ward: Ward, **more) -> dict:
    named = {"project": str(ward.project.pk), "datasets": [str(ward.first.pk)], "label_map": str(ward.label_map.pk)}
    return {**named, "task": "multilabel", **more}


@pytest.mark.parametrize(
    ("more", "fields"),
    [
        ({"mode": "scratch", "settings": {"mode": "head"}}, {"mode", "settings.mode"}),
        ({"settings": {"mode": "head"}}, {"base_version"}),
        ({"settings": {"mode": 7}}, {"mode"}),
        ({"target": "age"}, {"target"}),
        ({"task": "regression", "target": "age", "classes": ["NORM"]}, {"classes"}),
        ({"task": "regression", "label_map": None, "target": "age", "selection": {"balanced": True}}, {"selection.balanced"}),
        ({"split": {"method": "k_fold"}, "settings": {"members": 3}}, {"members"}),
        ({"split": {"method": "k_fold", "folds": MOST_NETWORKS + 1}}, {"split.folds"}),
        ({"selection": {"filter": {"age_min": 10**400}}}, {"selection.filter.age_min"}),
        ({"split": {"method": "k_fold"}, "settings": {"companion": "always"}}, {"companion"}),
    ],
)  # fmt: skip
def test_what_contradicts_is_refused_by_field_and_by_the_check(ward, more, fields):
    api = Api(session=ward.user)
    error = api.refused("post", "training-runs/", body(ward, **more), status=422)
    assert set(error["fields"]) == fields
    found = api.post("training-runs/check/", body(ward, **more), status=200)
    assert {row["field"] for row in found["findings"] if row["level"] == "error"} == fields
    assert not TrainingRun.objects.exists()


@pytest.mark.parametrize(
    ("settings", "foreign", "fields"),
    [({"companion": "always"}, False, {"companion"}), ({"members": 3}, True, {"members"}), ({"members": 3}, False, set())],
)  # fmt: skip
def test_settings_that_a_base_model_leaves_without_effect_are_refused(ward, settings, foreign, fields):
    base = make_version(ward, "" if foreign else "inception_time")
    asked = body(ward, base_version=str(base.pk), settings=settings)
    found = Api(session=ward.user).post("training-runs/check/", asked, status=200)
    assert {row["field"] for row in found["findings"] if row["level"] == "error"} == fields


@pytest.mark.parametrize(("members", "fields"), [(None, set()), (3, set()), (1, {"members"}), (5, {"members"})])
def test_an_ensemble_is_fine_tuned_with_all_its_networks(ward, members, fields):
    base = make_version(ward, members=3)
    asked = body(ward, base_version=str(base.pk), mode="full", settings={"members": members})
    found = Api(session=ward.user).post("training-runs/check/", asked, status=200)
    errors = {row["field"]: row for row in found["findings"] if row["level"] == "error"}
    assert set(errors) == fields
    assert not errors or "is 3 networks that answer together" in errors["members"]["message"]


def test_an_ensemble_costs_what_its_networks_cost(ward):
    asked = body(ward, mode="full", settings={"epochs": 10})
    one, three = (
        Api(session=ward.user).post(
            "training-runs/check/", asked | {"base_version": str(make_version(ward, members=members).pk)}, status=200
        )["cost"]
        for members in (1, 3)
    )
    assert (one["networks"], three["networks"]) == (1, 3) and one["epoch_seconds"] == three["epoch_seconds"]
    around = one["seconds"] - 10 * one["epoch_seconds"]
    assert three["seconds"] - around == pytest.approx(3 * (one["seconds"] - around))
    assert three["memory_mib"] == pytest.approx(3 * one["memory_mib"], abs=2)


@pytest.mark.parametrize(
    ("classes", "task", "said"),
    [
        (["NORM", "MI"], "multilabel", ""),
        (["MI", "NORM"], "multilabel", "in another order: its head is kept"),
        (["NORM", "MI"], "multiclass", "was trained for NORM, MI (multilabel). This run makes a new one"),
        (["MI"], "multilabel", "This run makes a new one"),
    ],
)
def test_the_check_says_what_becomes_of_the_head_of_a_base_model(ward, classes, task, said):
    base = make_version(ward, classes=("NORM", "MI"))
    asked = body(ward, base_version=str(base.pk), classes=classes, task=task)
    found = Api(session=ward.user).post("training-runs/check/", asked, status=200)["findings"]
    assert said in " ".join(row["message"] for row in found if row["code"] == "head")
    assert bool(said) == any(row["code"] == "head" for row in found)


def test_a_base_model_is_offered_with_its_size(ward):
    field, version = RunForm(project=ward.project).fields["base_version"], make_version(ward)
    assert field.label_from_instance(version) == "Net v1"
    version.parameters = 90_100_000
    assert field.label_from_instance(version) == "Net v1, 90.1 M parameters"


def test_a_dataset_that_is_not_among_the_datasets_is_refused(ward):
    api = Api(session=ward.user)
    error = api.refused("post", "training-runs/", body(ward, dataset=str(ward.second.pk)), status=422)
    assert set(error["fields"]) == {"dataset", "datasets"}
    assert api.post("training-runs/", body(ward, dataset=str(ward.first.pk)), status=202)["mode"] == "scratch"


def test_the_mode_may_stand_among_the_settings_alone_or_in_both_places_alike(ward):
    api = Api(session=ward.user)
    for more in ({"settings": {"mode": "scratch"}}, {"mode": "scratch", "settings": {"mode": "scratch"}}):
        run = api.post("training-runs/", body(ward, **more), status=202)
        assert run["mode"] == run["settings"]["mode"] == "scratch"


def test_the_mode_among_the_settings_counts_for_a_base_model(ward, monkeypatch):
    from training import choices

    version = make_version(ward)
    monkeypatch.setattr(choices, "check_trainable", lambda base: None)
    asked = {
        "project": ward.project, "datasets": [ward.first], "label_map": ward.label_map, "base_version": version,
    }  # fmt: skip
    assert choices.choose(**asked, settings={"mode": "head"}).mode == "head"
    assert choices.choose(**asked).mode == "head_then_full"


def test_records_of_another_dataset_than_the_one_named_are_not_predicted_on(ward):
    version = make_version(ward)
    record = ward.first.records.first()
    asked = {"version": str(version.pk), "records": [str(record.pk)], "dataset": str(ward.second.pk)}
    error = Api(session=ward.user).refused("post", "predictions/", asked, status=422)
    assert set(error["fields"]) == {"dataset", "records"}


def recipe(n_samples: int) -> dict:
    steps = json.loads(DEFAULT_RECIPE.to_json())["steps"]
    for step in steps:
        if "duration_s" in step:
            step["duration_s"] = n_samples / 100
    return {**json.loads(DEFAULT_RECIPE.to_json()), "steps": steps}


@pytest.mark.parametrize(
    ("name", "n_samples", "said"), [("xception_time", 930, "multiple of 50"), ("se_wrn", 60, "at least 64")]
)
def test_a_network_that_cannot_take_what_the_recipe_makes_is_refused_before_the_start(ward, name, n_samples, said):
    api = Api(session=ward.user)
    asked = body(ward, architecture=name, recipe=recipe(n_samples))
    error = api.refused("post", "training-runs/", asked, status=422, code="network_does_not_fit")
    assert set(error["fields"]) == {"architecture", "recipe"} and said in error["message"]
    found = api.post("training-runs/check/", asked, status=200)
    assert not found["ok"] and said in str(found["findings"])
    assert not TrainingRun.objects.exists()
    assert (
        api.post("training-runs/", {**asked, "architecture": "xresnet1d18"}, status=202)["architecture"]
        == "xresnet1d18"
    )


def test_a_search_tries_no_network_that_cannot_take_what_the_recipe_makes(db):
    assert "xception_time" not in offer(FitSettings(), False, recipe(930), 10, 5, 1e9).starts
    assert "xception_time" in offer(FitSettings(), False, recipe(1000), 10, 5, 1e9).starts
