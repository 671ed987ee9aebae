"""The check before a run: what is wrong or risky is said, nothing is written, and the cost is told."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from datasets.models import Record
from ecgportal.audit.models import AuditEvent
from ecgportal.commands import PortalCommand
from ecgportal.jobs.models import Job, JobState
from modelhub.answering import why_not
from modelhub.contract import ModelContract
from tests import factories
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.api_client import Api
from tests.working import work_off, work_off_one
from training.checking import check
from training.costs import costs_of_networks, note_speed, speeds
from training.findings import Checked
from training.live import duration
from training.models import Speed, Split, TrainingRun
from training.services import learning_curve_start, run_start

pytestmark = pytest.mark.django_db


class Data:
    """A project with a dataset that is made record by record."""

    def __init__(self) -> None:
        self.project = factories.make_project()
        self.user = factories.make_user()
        factories.Membership.objects.create(project=self.project, user=self.user, role="owner")
        self.dataset = factories.make_dataset(self.project)
        self.label_map = factories.make_label_map(self.project)
        self.count = 0

    def add(self, labels: tuple[str, ...], times: int = 1, dataset=None, **fields) -> None:
        for _ in range(times):
            self.count += 1
            fields_ = {"subject": f"p{self.count}", **fields}
            factories.make_record(dataset or self.dataset, labels=labels, **fields_)

    def asked(self, **changes) -> dict:
        return {
            "project": self.project, "datasets": [self.dataset], "label_map": self.label_map, "architecture": "xresnet1d18", **changes,
        }  # fmt: skip

    def check(self, **changes) -> Checked:
        return check(**self.asked(**changes))


@pytest.fixture
def data() -> Data:
    return Data()


def codes(found: Checked, level: str = "") -> set[str]:
    return {row.code for row in found.findings if row.level == level or not level}


def sentence(found: Checked, code: str) -> str:
    return next(row.message for row in found.findings if row.code == code)


@pytest.fixture
def sound(data) -> Data:
    data.add(("NORM",), 40)
    data.add(("IMI",), 30)
    return data


def test_sound_data_gives_no_warning_and_a_cost(sound):
    found = sound.check()
    # The records of these tests last 2 s.
    assert found.ok and codes(found) == {"too_short"}, found.findings
    assert (found.records, found.subjects) == (70, 70)
    assert sum(part["records"] for part in found.split.values()) == 70
    assert found.classes["MI"]["patients"] == 30 and sum(found.classes["NORM"][p] for p in found.split) == 40
    cost = found.cost
    assert cost.parameters > 1000 and cost.million_macs > 1 and cost.memory_mib > 0 and not cost.measured
    assert cost.seconds > cost.epoch_seconds > 0 and "arithmetic" in cost.basis
    assert not TrainingRun.objects.exists() and not Split.objects.exists() and not Job.objects.exists()


def test_the_split_of_the_check_is_the_split_of_the_run(sound, few_threads):
    counts = sound.check().split
    run = run_start(actor=sound.user, **sound.asked(settings={"epochs": 1}))
    work_off()
    run.refresh_from_db()
    assert run.manifest["records"] == {part: row["records"] for part, row in counts.items()}


def test_a_class_with_three_patients_and_one_without_any(sound):
    sound.add(("AFIB",), 3)
    many = factories.make_label_map(
        sound.project, classes=["NORM", "MI", "AF", "LVH"],
        entries={code: {"class": name, "relation": "exact"} for code, name in (("NORM", "NORM"), ("IMI", "MI"), ("AFIB", "AF"))},
    )  # fmt: skip
    found = sound.check(label_map=many)
    assert found.ok and {"few_patients", "class_absent"} <= codes(found, "warning")
    assert "AF has 3 patients" in sentence(found, "few_patients")
    assert "LVH" in sentence(found, "class_absent")


def test_rare_and_absent_classes_are_named_in_one_sentence_each(sound):
    names = {"AFIB": "AF", "PVC": "PVC", "1AVB": "AVB"}
    for code in names:
        sound.add((code,), 3)
    many = factories.make_label_map(
        sound.project, classes=["NORM", "MI", *names.values(), "LVH", "WPW"],
        entries={code: {"class": name, "relation": "exact"} for code, name in {"NORM": "NORM", "IMI": "MI", **names}.items()},
    )  # fmt: skip
    found = sound.check(label_map=many)
    said = {
        code: [row.message for row in found.findings if row.code == code] for code in ("few_patients", "class_absent")
    }
    assert len(said["few_patients"]) == len(said["class_absent"]) == 1
    assert "AF (3), PVC (3), AVB (3)" in said["few_patients"][0] and "LVH, WPW" in said["class_absent"][0]


def test_codes_that_the_map_does_not_know(sound):
    sound.add(("STRANGE",), 25)
    found = sound.check()
    assert {"unmapped_codes", "without_class"} <= codes(found, "warning")
    assert "STRANGE (25)" in sentence(found, "unmapped_codes")
    assert "25 of 95 records" in sentence(found, "without_class")


def test_one_class_only_is_an_error(data):
    data.add(("NORM",), 40)
    found = data.check()
    assert not found.ok and "one_class_only" in codes(found, "error")


def test_labels_that_are_all_unknown_are_an_error(data):
    data.add(("STRANGE",), 40)
    found = data.check()
    assert not found.ok and "labels_unknown" in codes(found, "error")


def test_no_labels_at_all_and_no_records_are_errors(data):
    assert not data.check().ok
    data.add((), 12)
    found = data.check()
    assert not found.ok and "have no labels" in found.findings[0].message and found.findings[0].field == "dataset"


def test_one_patient_only_is_an_error(data):
    data.add(("NORM",), 20, subject="one")
    data.add(("IMI",), 20, subject="one")
    found = data.check()
    assert not found.ok and "1 patient." in sentence(found, "too_few_patients")


def test_missing_leads_samples_and_poor_quality(sound):
    sound.add(("NORM",), 2, leads=("I", "II", "V1"))
    sound.add(("NORM",), 3, quality={"flags": ["implausible_amplitude"], "leads": [{"lead": "I", "flags": ["gaps"]}]})
    found = sound.check()
    assert {"missing_leads", "missing_samples", "implausible_amplitude"} <= codes(found, "warning")
    assert sentence(found, "missing_leads").count(": 2.")
    assert sentence(found, "missing_samples").count(": 3.")


def test_a_label_of_one_hospital_or_one_dataset_only(data):
    data.add(("NORM",), 15, site="A")
    data.add(("NORM",), 15, site="B")
    data.add(("IMI",), 20, site="B")
    assert "MI is found in one hospital only (B)" in sentence(data.check(), "class_of_one_source")
    other = factories.make_dataset(data.project)
    data.add(("IMI",), 20, site="A")
    data.add(("NORM",), 15, dataset=other, site="A")
    found = data.check(datasets=[data.dataset, other])
    assert "MI is found in one dataset only" in sentence(found, "class_of_one_source")


def test_the_same_signal_and_the_same_patient_elsewhere_are_told(sound):
    other = factories.make_dataset(sound.project)
    sound.add(("NORM",), 2, fingerprint="cd" * 32)
    sound.add(("NORM",), 1, dataset=other, subject="p1")
    sound.add(("IMI",), 1, dataset=other)
    found = sound.check(datasets=[sound.dataset, other])
    assert {"same_signal", "subject_in_several_datasets"} <= codes(found, "info")


def test_a_base_model_that_knows_the_test_part_is_leakage_and_is_left_out_of_the_evaluation(
    sound, few_threads, monkeypatch
):
    run = run_start(actor=sound.user, **sound.asked(settings={"epochs": 1}))
    work_off()
    run.refresh_from_db()
    base = {"base_version": run.produced_version, "architecture": None, "mode": "head"}
    assert "leakage" not in codes(sound.check(**base)) and "leakage_validation" in codes(sound.check(**base), "info")
    other = {"settings": {"seed": 9, "epochs": 1}, **base}
    found = sound.check(**other)
    assert "trained on" in sentence(found, "leakage")
    tuned = run_start(actor=sound.user, **sound.asked(**other))
    work_off()
    tuned.refresh_from_db()
    leaked = int(sentence(found, "leakage").split("trained on ")[1].split()[0])
    assert tuned.report.report["left_out_training_subjects"] == leaked
    assert tuned.report.report["n"] == tuned.manifest["records"]["test"] - leaked
    monkeypatch.setattr("training.growing.SHARES", (1.0,))
    study = learning_curve_start(actor=sound.user, run=tuned)
    work_off()
    assert study.trials.get().score == pytest.approx(tuned.report.report["auroc_macro"]["value"], abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"settings": {"batch_size": 10**9}}, "batch_size"),
        ({"settings": {"epochs": 10**9}}, "epochs"),
        ({"settings": {"learning_rate": float("nan")}}, "learning_rate"),
        ({"split": {"method": "given_folds"}}, "split.test_folds"),
        ({"split": {"method": "site", "test_sites": ["Z"]}}, "split.test_sites"),
        ({"architecture": "perceptron"}, "architecture"),
        ({"label_map": None}, "label_map"),
    ],
)
def test_what_a_start_would_refuse_is_an_error_of_the_check(sound, changes, field):
    found = sound.check(**changes)
    assert not found.ok and field in {row.field for row in found.findings if row.level == "error"}


def test_a_larger_batch_than_data_and_waiting_trainings_are_told(sound):
    run_start(actor=sound.user, **sound.asked())
    found = sound.check(settings={"batch_size": 512})
    assert {"batch_size", "queue"} <= codes(found, "info")


def test_a_full_disk_is_said_before(sound, monkeypatch):
    monkeypatch.setattr("training.checking.shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    assert "disk" in codes(sound.check(), "error")


def test_memory_that_is_short_is_said_where_the_processor_trains(sound, monkeypatch):
    monkeypatch.setattr("training.checking.virtual_memory", lambda: type("Memory", (), {"available": 2**20}))
    assert "memory" in codes(sound.check(), "warning")
    note_speed("inception_time", 1.0, 90, 30, "cuda:0")
    assert "memory" not in codes(sound.check())


def test_a_measured_speed_counts_and_others_are_scaled_from_it(sound):
    note_speed("xresnet1d18", 10.0, 90, 30, "cpu")
    assert speeds()["xresnet1d18"].step_s == pytest.approx(0.1)
    cost = sound.check(settings={"epochs": 10}).cost
    assert cost.measured and cost.epoch_seconds == pytest.approx(0.1 * (48 + 8 / 3), rel=0.1)
    assert "rough" in sound.check(architecture="inception_time").cost.basis
    note_speed("no_such_network", 1.0, 10, 10, "cpu")
    assert Speed.objects.count() == 1


def test_records_that_a_prediction_would_refuse_are_counted(sound):
    assert "shorter than half of the 10 s that the network reads: 70" in sentence(sound.check(), "too_short")
    slow = factories.make_record(
        sound.dataset, labels=("NORM",), subject="slow", fs_hz=25.0, signal=np.zeros((2, 250), np.float32)
    )
    whole = factories.make_record(sound.dataset, labels=("NORM",), subject="w", signal=np.zeros((2, 500), np.float32))
    found = sound.check()
    assert "half of the 100 Hz that the network reads: 1." in sentence(found, "rate_too_low")
    contract = ModelContract(slow.leads[:1], 100.0, 1000, ("NORM",), "multilabel")
    assert why_not(slow, contract) and why_not(Record.objects.exclude(pk__in=[slow.pk, whole.pk])[0], contract)
    assert why_not(whole, contract) is None and "reads: 70." in sentence(found, "too_short")


def test_several_classes_of_a_record_of_which_one_counts_are_told(data):
    ward = factories.make_dataset(data.project)
    entries = {
        code: {"class": name, "relation": "exact"} for code, name in (("NORM", "NORM"), ("IMI", "MI"), ("NST_", "STTC"))
    }
    data.label_map = factories.make_label_map(data.project, classes=["NORM", "MI", "STTC"], entries=entries)
    data.add(("NORM",), 12, dataset=ward)
    data.add(("IMI", "NORM"), 12)
    data.add(("IMI",), 6, dataset=ward)
    asked = {"task": "multiclass", "datasets": [data.dataset, ward]}
    found = data.check(**asked, classes=["NORM", "MI"])
    told = sentence(found, "several_classes")
    assert "12 records of 30 with several of the classes count for the first that they have of NORM, MI." in told
    assert "several_classes" in codes(found, "warning") and "of_none" not in codes(found)
    # Both classes are found in both datasets, whichever of them counts.
    assert "class_of_one_source" not in codes(found)
    data.add(("NST_",), 10)
    assert "10 records of other classes of" in sentence(data.check(**asked, classes=["NORM", "MI"]), "of_none")


def test_so_few_steps_that_nothing_is_learned_are_told(sound):
    assert "takes 1 step in all" in sentence(
        sound.check(settings={"epochs": 1, "batch_size": 64, "members": 1}), "few_steps"
    )
    assert "few_steps" not in codes(sound.check())


def test_an_age_that_stands_for_all_above_is_told(data):
    for age in (*range(40, 70), 90, 90):
        data.add((), age=float(age))
    asked = {"task": "regression", "target": "age", "label_map": None}
    assert "2 records of age 90" in sentence(data.check(**asked), "age_capped")


def test_folds_and_ensembles_multiply_the_cost(sound):
    one = sound.check(settings={"members": 1}).cost
    three = sound.check(settings={"members": 3}).cost
    assert (one.networks, three.networks) == (1, 3) and three.seconds > 2 * one.seconds - 20
    asked = sound.asked(split={"method": "k_fold"}, settings={})
    folds = check(**asked)
    assert folds.cost.networks == 5
    [row] = [row for row in costs_of_networks(asked, folds.split) if row.facts.name == "xresnet1d18"]
    assert (row.seconds, row.memory_mib) == (pytest.approx(folds.cost.seconds), folds.cost.memory_mib)


def test_it_is_said_that_an_ensemble_learns_from_the_folds_named_for_validation(sound):
    for number, record in enumerate(Record.objects.order_by("pk")):
        Record.objects.filter(pk=record.pk).update(fold=number % 10 + 1)
    asked = {"method": "given_folds", "test_folds": [10], "validation_folds": [9]}
    assert "folds_dealt_anew" in codes(sound.check(split=asked), "info")
    assert "folds_dealt_anew" not in codes(sound.check(split=asked, settings={"members": 1}))


def test_the_check_by_rest_is_for_those_who_may_train(sound):
    body = {
        "project": str(sound.project.pk), "dataset": str(sound.dataset.pk), "label_map": str(sound.label_map.pk), "architecture": "xresnet1d18",
    }  # fmt: skip
    api = Api(session=sound.user)
    found = api.post("training-runs/check/", body, status=200)
    assert found["ok"] and found["cost"]["parameters"] and found["split"]["test"]["records"]
    bad = api.post("training-runs/check/", {**body, "settings": {"epochs": 0}}, status=200)
    assert not bad["ok"] and bad["findings"][0]["field"] == "epochs"
    viewer = factories.make_user()
    factories.Membership.objects.create(project=sound.project, user=viewer, role="viewer")
    Api(session=viewer).refused("post", "training-runs/check/", body, status=403)


def test_the_command_checks_and_measures_as_the_page_does(sound, few_threads, monkeypatch):
    from modelhub.architectures import catalog

    def told(*arguments):
        out = io.StringIO()
        call_command("train", "--as-user", sound.user.username, "--project", sound.project.name, *arguments, stdout=out)
        return out.getvalue()

    asked = ("--dataset", sound.dataset.name, "--label-map", str(sound.label_map.pk), "--set", "epochs=3", "--check")
    body = {
        "project": str(sound.project.pk), "dataset": str(sound.dataset.pk), "label_map": str(sound.label_map.pk), "settings": {"epochs": 3},
    }  # fmt: skip
    by_rest = Api(session=sound.user).post("training-runs/check/", body, status=200)
    assert json.loads(told(*asked, "--json")) == by_rest and by_rest["networks"][0]["seconds"] is not None
    shown = told(*asked)
    assert all(row["message"] in shown for row in by_rest["findings"])
    for row in by_rest["networks"]:
        [line] = [line for line in shown.splitlines() if f"  {row['architecture']}  " in line]
        assert row["title"] in line and f"{row['parameters']:,}" in line and duration(row["seconds"]) in line
    [line] = [line for line in shown.splitlines() if line.startswith("NORM ")]
    assert line.split()[1:] == [str(count) for count in by_rest["classes"]["NORM"].values()]

    monkeypatch.setattr("training.measuring.catalog", lambda: {"xresnet1d18": catalog.catalog()["xresnet1d18"]})
    monkeypatch.setattr(PortalCommand, "follow", lambda self, job: work_off_one(job.pk))
    assert "xresnet1d18" in told("--measure") and set(speeds()) == {"xresnet1d18"}
    with pytest.raises(CommandError, match="Leave out --set"):
        told("--measure", "--set", "epochs=3")


def test_measuring_is_one_job_that_notes_every_network(sound, few_threads, monkeypatch):
    from modelhub.architectures import catalog

    small = {name: facts for name, facts in catalog.catalog().items() if name in ("xresnet1d18", "inception_time")}
    monkeypatch.setattr("training.measuring.catalog", lambda: small)
    api = Api(session=sound.user)
    job = api.post("training-runs/measure/", {"project": str(sound.project.pk)}, status=202)
    assert api.post("training-runs/measure/", {"project": str(sound.project.pk)}, status=202) == job
    (event,) = AuditEvent.objects.filter(action="run.machine_measured", project_id=sound.project.pk)
    assert event.changes == {"job": job["job"]} and event.actor_id == sound.user.pk
    work_off()
    assert Job.objects.get(pk=job["job"]).state == JobState.SUCCEEDED, Job.objects.get(pk=job["job"]).error_message
    assert set(speeds()) == set(small)
    cost = sound.check().cost
    assert cost.measured and cost.memory_mib > 1


def test_a_longer_recipe_costs_more(sound):
    from datasets.preprocess.recipe import plain_recipe

    short, long = (
        sound.check(recipe=json.loads(plain_recipe(duration_s=duration_s).to_json())).cost for duration_s in (5, 10)
    )
    assert long.million_macs == pytest.approx(2 * short.million_macs, rel=0.01)
    assert long.epoch_seconds == pytest.approx(2 * short.epoch_seconds) and long.memory_mib > short.memory_mib


def test_every_network_is_weighed_with_its_size_arithmetic_memory_and_time(sound):
    body = {"project": str(sound.project.pk), "dataset": str(sound.dataset.pk), "label_map": str(sound.label_map.pk)}
    rows = Api(session=sound.user).post("training-runs/check/", body, status=200)["networks"]
    from modelhub.architectures.catalog import catalog

    assert {row["architecture"] for row in rows} == set(catalog())
    assert all(row["parameters"] and row["million_macs"] and row["memory_mib"] and row["seconds"] > 0 for row in rows)
    small, large = (
        next(row for row in rows if row["architecture"] == name) for name in ("xresnet1d18", "xresnet1d101")
    )
    assert small["parameters"] < large["parameters"] and small["seconds"] < large["seconds"]


def test_a_foreign_network_is_measured_as_the_others_are(sound, few_threads, monkeypatch):
    from tests.training.test_fine_tuning import foreign

    base = foreign(sound)
    asked = {"base_version": base, "architecture": None, "mode": "full", "settings": {"epochs": 2}}
    before = sound.check(**asked).cost
    assert before.parameters == base.parameters and before.million_macs > 1 and before.memory_mib > 1
    assert before.seconds > 10 and not before.measured and "arithmetic" in before.basis
    monkeypatch.setattr("training.measuring.catalog", dict)
    Api(session=sound.user).post("training-runs/measure/", {"project": str(sound.project.pk)}, status=202)
    work_off()
    cost = sound.check(**asked).cost
    assert cost.measured and cost.seconds > 10 and cost.memory_mib > 1
    assert cost.million_macs == pytest.approx(before.million_macs, abs=0.1)


def test_balancing_that_leaves_little_is_told(sound):
    sound.add(("IMI",), 1)
    assert "balanced" not in codes(sound.check(selection={"balanced": True}))
    for record in list(sound.dataset.records.filter(labels__code="IMI"))[6:]:
        record.labels.update(code="NORM")
    found = sound.check(selection={"balanced": True})
    assert "leaves 12 of 71" in sentence(found, "balanced") and found.records == 12
