"""What a run can be asked to be: several datasets, a selection, a way to divide, several networks, the same again."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import numpy as np
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from datasets.models import Record
from datasets.preprocess.recipe import Recipe, plain_recipe
from datasets.recording_time import shifted
from ecgportal.errors import Conflict, InvalidInput
from ecgportal.jobs.models import JobState
from ecgportal.projects.services import pseudonym_key
from modelhub import answer_list, downloads
from modelhub.answering import decide
from modelhub.contract import ModelContract
from modelhub.services_predictions import prediction_start
from tests import factories
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.api_client import Api
from tests.working import work_off
from training import selectors
from training.checking import check
from training.engine.settings import FitSettings
from training.models import Evaluation, SplitMember, TrainingRun
from training.selection import Selection
from training.services import run_again, run_rename, run_start
from training.splitting import SplitSettings, deal
from training.targets import Labelled, data_digest, labelled_records

FAST = {"epochs": 1, "threads": 1, "batch_size": 8}


class Ward:
    """Two hospitals' datasets in one project. Subject ``shared`` and one signal are in both. All wards have the same
    signals, larger where they are not normal, and are divided alike, whatever was made before."""

    def __init__(self) -> None:
        self.project = factories.make_project()
        self.user = factories.make_user()
        factories.Membership.objects.create(project=self.project, user=self.user, role="owner")
        self.first, self.second = factories.make_dataset(self.project), factories.make_dataset(self.project)
        twin = factories.ecg_signal(seed=777)
        for number in range(24):
            dataset, place = (self.first, "A") if number % 2 else (self.second, "B")
            labels = ("NORM",) if number % 4 < 2 else ("IMI",)
            factories.make_record(
                dataset, f"rec{number:05d}", subject="shared" if number in (4, 5) else f"p{number}", labels=labels, age=30 + number,
                sex="F" if number % 3 else "M", fold=number % 10 + 1, site=place, quality_score=number / 24,
                signal=twin if number in (6, 7) else factories.ecg_signal(seed=number) * (1.0 if labels == ("NORM",) else 1.5),
                fingerprint="ab" * 32 if number in (6, 7) else "", content_sha256=sha256(f"{place} {number}".encode()).hexdigest(),
            )  # fmt: skip
        self.label_map = factories.make_label_map(self.project)

    def start(self, **asked) -> TrainingRun:
        values = {
            "actor": self.user, "project": self.project, "datasets": [self.first, self.second], "label_map": self.label_map,
            "architecture": "xresnet1d18", "settings": FAST, **asked,
        }  # fmt: skip
        return run_start(**values)

    def train(self, **asked) -> TrainingRun:
        run = self.start(**asked)
        work_off()
        run = TrainingRun.objects.select_related("job").get(pk=run.pk)
        assert run.job.state == JobState.SUCCEEDED, run.job.error_message
        return run


@pytest.fixture
def ward(db, few_threads) -> Ward:
    return Ward()


def _items(counts: dict[str, int]) -> list[Labelled]:
    """Return made-up records: ``counts`` of each class, ``a+b`` for both, empty for none."""
    found = []
    for name, count in counts.items():
        classes = frozenset(filter(None, name.split("+")))
        for _ in range(count):
            pk, number = uuid.uuid5(uuid.NAMESPACE_OID, str(len(found))), len(found)
            found.append(
                Labelled(pk, pk, f"k{number:03}", f"s:{number}", "", None, f"c{number}", sorted(classes), classes)
            )
    return found


def test_a_balanced_subset_has_the_rarest_class_of_each_and_comes_back_by_its_seed():
    items = _items({"a": 30, "b": 7, "c": 12})
    drawn = Selection(balanced=True).draw(items, ("a", "b", "c"), "multiclass", 3)
    assert Counter(name for item in drawn for name in item.classes) == {"a": 7, "b": 7, "c": 7}
    assert drawn == Selection(balanced=True).draw(items, ("a", "b", "c"), "multiclass", 3)
    assert drawn != Selection(balanced=True).draw(items, ("a", "b", "c"), "multiclass", 4)


def test_a_cap_on_a_balanced_subset_leaves_each_class_as_many():
    items = _items({"a": 30, "b": 17, "c": 12})
    drawn = Selection(balanced=True, cap=30).draw(items, ("a", "b", "c"), "multiclass", 3)
    assert Counter(name for item in drawn for name in item.classes) == {"a": 10, "b": 10, "c": 10}
    several = Selection(balanced=True, cap=10).draw(_items({"a": 30, "a+b": 20, "": 40}), ("a", "b"), "multilabel", 0)
    assert Counter(name for item in several for name in item.classes or {"none"}) == {"a": 3, "b": 3, "none": 3}


def test_balancing_counts_a_record_for_each_of_its_classes_and_those_without_one():
    drawn = Selection(balanced=True).draw(_items({"a": 30, "a+b": 6, "": 40}), ("a", "b"), "multilabel", 0)
    counts = Counter(name for item in drawn for name in item.classes or {"none"})
    assert counts == {"a": 6, "b": 6, "none": 6}


def test_a_cap_draws_by_its_seed_and_keeps_the_order():
    items = _items({"a": 30})
    drawn = Selection(cap=10).draw(items, ("a",), "binary", 1)
    assert len(drawn) == 10 and drawn == [item for item in items if item in drawn]
    assert drawn != Selection(cap=10).draw(items, ("a",), "binary", 2)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"filter": {"colour": "red"}}, "selection.filter.colour"),
        ({"filter": {"age_min": float("nan")}}, "selection.filter.age_min"),
        ({"filter": {"sex": "female"}}, "selection.filter.sex"),
        ({"filter": []}, None),
        ({"filter": ["a"]}, "selection.filter"),
        ({"cap": 3}, "selection.cap"),
        ({"balanced": "yes"}, "selection.balanced"),
        ({"limit": 3}, "selection.limit"),
    ],
)
def test_a_selection_that_cannot_be_is_named(values, field):
    if field is None:
        assert Selection.from_dict(values).is_everything
        return
    with pytest.raises(InvalidInput) as error:
        Selection.from_dict(values)
    assert field in error.value.fields


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"method": "by hand"}, "method"),
        ({"test": 0.9}, "test"),
        ({"validation": float("nan")}, "validation"),
        ({"folds": 5}, "folds"),
        ({"method": "k_fold", "folds": 2}, "folds"),
        ({"method": "k_fold", "folds": 5, "fold": 6}, "fold"),
        ({"method": "given_folds", "test_folds": "10"}, "test_folds"),
        ({"method": "given_folds", "test_folds": [9], "validation_folds": [9]}, "validation_folds"),
        ({"method": "site"}, "test_sites"),
        ({"method": "time", "since": "soon"}, "since"),
        ({"method": "time", "test": 0.9}, "test"),
        ({"method": []}, "method"),
    ],
)
def test_a_split_that_cannot_be_is_named(values, field):
    with pytest.raises(InvalidInput) as error:
        SplitSettings.from_dict(values)
    assert f"split.{field}" in error.value.fields


def test_settings_of_a_split_survive_storage():
    for values in (
        {},
        {"method": "k_fold", "folds": 4},
        {"method": "given_folds"},
        {"method": "site", "test_sites": ["B"]},
        {"method": "time", "test": 0.3},
        {"method": "time", "since": "2001-01-05"},
    ):
        settings = SplitSettings.from_dict(values)
        assert SplitSettings.from_dict(settings.to_dict()) == settings
        assert len(settings.sentence()) > 10


def test_folds_that_are_not_there_and_hospitals_that_are_not_there_are_said():
    items = _items({"a": 20})
    with pytest.raises(InvalidInput, match="No fold is left"):
        deal(items, SplitSettings.from_dict({"method": "given_folds"}), 0)
    folded = [replace(item, fold=number % 5 + 1) for number, item in enumerate(items)]
    for part, other in (("test_folds", "validation_folds"), ("validation_folds", "test_folds")):
        how = SplitSettings.from_dict({"method": "given_folds", part: [7, 9], other: [1]})
        with pytest.raises(InvalidInput, match="No record is of fold 7, 9") as error:
            deal(folded, how, 0)
        assert error.value.fields[f"split.{part}"].endswith("The data has the folds 1, 2, 3, 4, 5.")
    how = SplitSettings.from_dict({"method": "given_folds", "test_folds": [1, 7], "validation_folds": [2]})
    assert set(deal(folded, how, 0).parts.values()) == {"train", "validation", "test"}
    with pytest.raises(InvalidInput, match="No record comes from X"):
        deal(items, SplitSettings.from_dict({"method": "site", "test_sites": ["X"]}), 0)


def test_a_patient_or_a_signal_of_two_datasets_is_on_one_side_and_the_manifest_says_so(ward):
    run = ward.train(settings={**FAST, "seed": 5})
    sides: dict[str, set[str]] = {}
    rows = SplitMember.objects.filter(split=run.split).select_related("group", "record__subject")
    for member in rows:
        sides.setdefault(member.record.subject.key, set()).add(member.group.part)
    assert len(rows) == 24 and len(sides["shared"]) == 1
    twins = {member.group.part for member in rows if member.record.fingerprint}
    assert len(twins) == 1
    assert {member.record.dataset_id for member in rows} == {ward.first.pk, ward.second.pk}
    manifest = run.manifest
    assert (
        manifest["subjects_on_two_sides"] == 0 and len(manifest["data_sha256"]) == len(manifest["split_digest"]) == 64
    )
    assert sum(manifest["records"].values()) == 24 and manifest["subjects"]["test"] >= 1
    assert manifest["datasets"] == sorted([ward.first.name, ward.second.name])


def test_the_data_hash_changes_with_a_label_and_not_with_the_order():
    items = _items({"a": 3, "b": 2})
    assert data_digest(items) == data_digest(reversed(items))
    assert data_digest(items) != data_digest(items[:-1])
    changed = Labelled(**{**items[0].__dict__, "label": ["b"]})
    assert data_digest([changed, *items[1:]]) != data_digest(items)


def test_the_same_again_gives_the_same_weights(ward):
    run = ward.train(datasets=[ward.first, ward.second], selection={"cap": 20})
    again = run_again(actor=ward.user, run=run)
    work_off()
    again.refresh_from_db()
    assert again.repeats == run and again.name == run.name
    for name in ("weights_hash", "data_sha256", "split_digest", "records"):
        assert again.manifest[name] == run.manifest[name]
    assert {what: same for what, _, _, same in selectors.repetition(again)}["Its code"]
    again.manifest["code_sha256"], run.manifest["label_map_sha256"] = "0" * 64, None
    again.repeats = run
    told = {what: same for what, _, _, same in selectors.repetition(again)}
    assert not told["Its code"] and told["Portal"] and "Label map" not in told
    other = ward.train(settings={**FAST, "seed": 1}, selection={"cap": 20})
    assert other.manifest["weights_hash"] != run.manifest["weights_hash"]


def test_the_thresholds_of_several_classes_decide_in_evaluations_and_in_predictions_alike(ward):
    run = ward.train(task="multiclass", recipe=plain_recipe(duration_s=2).to_json())
    contract = ModelContract.from_dict(run.produced_version.contract)
    assert set(contract.thresholds) == set(contract.classes) and 0 < max(contract.thresholds.values()) <= 0.5
    row = Evaluation.objects.get(run=run)
    assert {name: row.report["per_class"][name]["threshold"] for name in contract.classes} == contract.thresholds
    said = decide(np.array(row.curves["samples"]["probabilities"]), contract)
    called = np.array(row.report["confusion_matrix"]["matrix"]).sum(axis=0)
    assert called.tolist() == [said.count([name]) for name in contract.classes]
    prediction = prediction_start(
        actor=ward.user, project=ward.project, version=run.produced_version, dataset=ward.first
    )
    job = work_off()[-1]
    assert job.state == JobState.SUCCEEDED, job.error_message
    answers = [(answer.values, answer.predicted) for answer in prediction.predictions.all()]
    assert len(answers) == 12
    assert [predicted for _, predicted in answers] == decide(np.array([values for values, _ in answers]), contract)
    listed = downloads.prediction_rows(answer_list.read(prediction, {}), prediction.predictions.all())
    assert listed[0]["thresholds"] == contract.thresholds


def test_with_every_fold_held_out_each_record_is_judged_by_a_network_that_has_not_seen_it(ward):
    run = ward.train(split={"method": "k_fold", "folds": 3})
    assert run.members == 3 and len(run.manifest["members"]) == 3
    assert (run.report.part, run.report.report["n"]) == ("folds", 24)
    tested = Counter()
    for member in run.manifest["members"]:
        tested.update({"test": member["records"]["test"]})
        assert sum(member["records"].values()) == 24
    assert tested["test"] == 24
    counts = selectors.split_counts(run)
    assert sum(fold["records"] for fold in counts["folds"].values()) == 24
    assert sum(counts[part]["records"] for part in ("train", "validation", "test")) == 24
    assert counts["train"]["records"] == run.manifest["members"][0]["records"]["train"]
    assert [row["epoch"] for row in selectors.epoch_rows(run)] == [1]
    assert run.epochs.count() == 3
    version = run.produced_version
    assert (
        version.facts["networks"] == version.contract["config"]["members"] == 3
        and version.architecture == "xresnet1d18"
    )
    assert set(version.contract["thresholds"]) == {"NORM", "MI"}


def test_a_hospital_is_held_back_as_a_whole_but_for_shared_patients(ward):
    run = ward.train(split={"method": "site", "test_sites": ["B"], "validation": 0.2})
    by_part: dict[str, Counter] = {}
    for member in SplitMember.objects.filter(split=run.split).select_related("group", "record"):
        by_part.setdefault(member.group.part, Counter())[member.record.site] += 1
    assert by_part["test"]["B"] == 12 and by_part["train"]["B"] == by_part["validation"]["B"] == 0
    # The shared patient and the shared signal go along.
    assert by_part["test"]["A"] == 2
    assert any("same patient or the same signal" in sentence for sentence in run.warnings)


def test_the_folds_of_the_data_are_kept(ward):
    run = ward.train(split={"method": "given_folds", "test_folds": [9, 10], "validation_folds": [7, 8]})
    rows = SplitMember.objects.filter(split=run.split).values_list(
        "group__part", "record__fold", "record__subject__key"
    )
    plain = {(part, fold) for part, fold, subject in rows if subject not in ("shared", "p6", "p7")}
    assert {fold for part, fold in plain if part == "test"} == {9, 10}
    assert {fold for part, fold in plain if part == "validation"} <= {7, 8}


def test_a_filter_narrows_the_data(ward):
    run = ward.train(selection={"filter": {"age_min": 32, "quality_min": 0.2, "sex": "F"}})
    records = [member.record for member in SplitMember.objects.filter(split=run.split).select_related("record")]
    assert records and all(row.age >= 32 and row.quality_score >= 0.2 and row.sex == "F" for row in records)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"datasets": []}, "dataset"),
        ({"selection": {"filter": {"age_min": 200}}}, "selection.filter"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_written(ward, asked, field):
    with pytest.raises(InvalidInput) as error:
        ward.start(**asked)
    assert field in error.value.fields
    assert not TrainingRun.objects.exists()


def test_a_dataset_stays_while_any_run_uses_it(ward):
    from datasets.services import dataset_delete

    run = ward.start()
    for dataset in (ward.first, ward.second):
        with pytest.raises(Conflict, match="data of a training run"):
            dataset_delete(actor=ward.user, dataset=dataset)
    assert [row.dataset for row in run.datasets.through.objects.filter(run=run)] == [ward.first, ward.second]


def test_a_run_is_renamed(ward):
    run = ward.start()
    assert run_rename(actor=ward.user, run=run, name="  Second   try ").name == "Second try"
    with pytest.raises(InvalidInput, match="1 to 120"):
        run_rename(actor=ward.user, run=run, name="  ")


def test_all_of_it_by_rest(ward):
    api = Api(session=ward.user)
    body = {
        "project": str(ward.project.pk), "datasets": [str(ward.first.pk), str(ward.second.pk)], "label_map": str(ward.label_map.pk),
        "architecture": "xresnet1d18", "settings": FAST, "selection": {"filter": {"sex": "F"}, "cap": 14}, "split": {"test": 0.3}, "name": "Both",
    }  # fmt: skip
    error = api.refused("post", "training-runs/", {**body, "split": {"test": 7}}, status=422, code="bad_split")
    assert "split.test" in error["fields"]
    error = api.refused("post", "training-runs/", {**body, "selection": {"cap": 1}}, status=422, code="bad_selection")
    assert "selection.cap" in error["fields"]
    run = api.post("training-runs/", body, status=202)
    assert run["datasets"] and run["split_settings"]["test"] == 0.3 and run["selection"]["cap"] == 14
    assert api.patch(f"training-runs/{run['id']}/", {"name": "Both, capped"})["name"] == "Both, capped"
    work_off()
    done = api.get(f"training-runs/{run['id']}/")
    assert sum(part["records"] for part in done["split"].values()) == 14
    finder = api.get(f"training-runs/{run['id']}/lr-finder/")
    assert finder["rates"] == [] and finder["suggestion"] is None and finder["learning_rate"] == 3e-3
    again = api.post(f"training-runs/{run['id']}/again/", status=202)
    assert again["repeats"] == run["id"] and again["settings"] == done["settings"]
    for dataset in (ward.first, ward.second):
        assert len(api.rows("training-runs/", dataset=str(dataset.pk))) == 2
    assert [row["id"] for row in api.rows("training-runs/", repeats=run["id"])] == [again["id"]]


def test_a_list_of_runs_takes_the_same_queries_however_long_it_is(ward):
    api = Api(session=ward.user)
    ward.train()

    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as seen:
            api.get("training-runs/", project=str(ward.project.pk))
        return len(seen)

    queries()
    few = queries()
    ward.train()
    ward.start()
    assert queries() == few


def test_the_learning_rate_is_found_when_none_is_given(ward):
    run = ward.train(settings={**FAST, "members": 1, "learning_rate": None})
    finder = Api(session=ward.user).get(f"training-runs/{run.pk}/lr-finder/")
    assert len(finder["rates"]) == len(finder["losses"]) > 5 and finder["suggestion"] == finder["learning_rate"] > 0


def test_the_settings_of_a_run_are_the_engines(ward):
    assert ward.start().settings == FitSettings.from_dict({**FAST, "mode": "scratch"}).to_dict()


def test_a_recipe_of_ones_own_stands_on_the_run_and_on_its_model(ward):
    recipe = plain_recipe(
        leads=("I", "II", "V1"),
        fs_hz=50,
        duration_s=6,
        baseline="highpass",
        padding="repeat",
        normalisation="lead_zscore",
    )
    run = ward.train(recipe=json.loads(recipe.to_json()))
    contract = run.produced_version.contract
    assert (contract["leads"], contract["fs_hz"], contract["n_samples"]) == (["I", "II", "V1"], 50.0, 300)
    assert (contract["unit"], contract["normalisation"]) == ("1", "lead_zscore")
    assert Recipe.from_json(contract["recipe"]) == recipe == Recipe.from_json(run.recipe)
    assert run.manifest["recipe_digest"] == recipe.digest
    # Each lead's spread is 1, where that of an ECG in mV is 0.2.
    assert run.manifest["augmentation_units_per_mv"] == pytest.approx(5, rel=0.02)
    assert run_again(actor=ward.user, run=run).recipe == run.recipe
    tuned = ward.start(architecture=None, mode="head", base_version=run.produced_version)
    assert Recipe.from_json(tuned.recipe) == recipe
    with pytest.raises(InvalidInput, match="base model decides"):
        ward.start(
            architecture=None, mode="head", base_version=run.produced_version, recipe=json.loads(recipe.to_json())
        )


@pytest.mark.parametrize(
    ("recipe", "word"),
    [
        ({"version": 1, "steps": [{"step": "resample", "fs_hz": 100}]}, "leaves open"),
        ({"version": 1, "steps": [{"step": "no such step"}]}, "no such step"),
        ({"steps": "all"}, "JSON object"),
        (json.loads(plain_recipe(fs_hz=1000, duration_s=600).to_json()), "at most"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_with_its_field(ward, recipe, word):
    with pytest.raises(InvalidInput, match=word) as error:
        ward.start(recipe=recipe)
    assert "recipe" in error.value.fields and error.value.code == "invalid_recipe"


def _recorded(ward: Ward, skip: int = 0) -> None:
    """Let the n-th record be of the n-th day, but for the first ``skip``."""
    for number, record in enumerate(Record.objects.filter(dataset__project=ward.project).order_by("age")):
        at = None if number < skip else datetime(2001, 1, 1, 8, tzinfo=UTC) + timedelta(days=number)
        Record.objects.filter(pk=record.pk).update(recorded_at=at)


def test_the_latest_are_held_back_and_the_manifest_says_from_when(ward):
    _recorded(ward)
    run = ward.train(split={"method": "time", "since": "2001-01-19"})
    rows = SplitMember.objects.filter(split=run.split).select_related("group", "record__subject")
    late = {member.record.recorded_at for member in rows if member.group.part == "test"}
    rest = {member.record.recorded_at for member in rows if member.group.part != "test"}
    assert len(late) == 6 and min(late) > max(rest)
    told = run.manifest["split"]
    assert (told["held_back_from"], told["developed_until"], told["without_time"]) == (
        "2001-01-19T08:00:00", "2001-01-18T08:00:00", 0,
    )  # fmt: skip
    assert run.manifest["subjects_on_two_sides"] == 0


def test_a_patient_goes_by_the_latest_record(ward):
    _recorded(ward)
    Record.objects.filter(subject__key="shared", age=34).update(recorded_at=datetime(2001, 3, 1, tzinfo=UTC))
    items = labelled_records(
        Record.objects.filter(dataset__project=ward.project), "multilabel", ["NORM", "MI"], ward.label_map
    )
    parts = deal(items, SplitSettings.from_dict({"method": "time", "since": "2001-02-01"}), 0).parts
    assert {item.group for item in items if parts[str(item.record)] == "test"} == {"s:shared"}


def test_shifted_and_true_times_are_brought_onto_one_line(ward):
    _recorded(ward)
    key = pseudonym_key(ward.project)
    for record in Record.objects.filter(dataset=ward.first):
        Record.objects.filter(pk=record.pk).update(recorded_at=shifted(record.recorded_at, key), has_shifted_time=True)
    items = labelled_records(
        Record.objects.filter(dataset__project=ward.project), "multilabel", ["NORM", "MI"], ward.label_map
    )
    ages = dict(Record.objects.values_list("pk", "age"))
    times = [item.recorded_at for item in sorted(items, key=lambda item: ages[item.record])]
    assert times == sorted(times) and times[-1] - times[0] == timedelta(days=23)


def test_too_many_records_without_a_time_refuse_a_split_by_time(ward):
    _recorded(ward, skip=2)
    asked = {
        "project": ward.project, "datasets": [ward.first, ward.second], "label_map": ward.label_map, "split": {"method": "time"},
        "architecture": "xresnet1d18", "settings": FAST,
    }  # fmt: skip
    found = check(**asked)
    assert found.ok and any("2 records do not say when" in finding.message for finding in found.findings)
    _recorded(ward, skip=5)
    (finding,) = [each for each in check(**asked).findings if each.level == "error"]
    assert finding.field == "split.method" and "5 of 24 records do not say when" in finding.message
