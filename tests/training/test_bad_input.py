"""Data and choices that cannot be trained on: a sentence before or during the run, nothing corrupted, others go on."""

from __future__ import annotations

import html
import os
import re

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from datasets.models import Record, RecordLabel
from ecgportal.errors import InvalidInput
from ecgportal.jobs.models import Job, JobState
from modelhub import loading
from modelhub.contract import ModelContract
from modelhub.models import ModelVersion, Origin
from modelhub.services import model_get_or_create, version_add
from tests import factories
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.api_client import Api
from tests.training.test_device import ELSEWHERE
from tests.training.test_device import other_run as other_run  # a fixture
from tests.training.test_pages_runs import address, form_of, text_of
from tests.training.test_setting_up import FAST
from tests.training.test_setting_up import ward as ward  # a fixture
from tests.working import work_off
from training.models import TrainingRun

ONE = {**FAST, "members": 1}


def ended(run: TrainingRun) -> TrainingRun:
    work_off()
    return TrainingRun.objects.select_related("job", "produced_version").get(pk=run.pk)


def told_everywhere(ward, client, run: TrainingRun, sentence: str) -> None:
    """The sentence about a run stands in REST's answer about the run or its job, and on the run's page."""
    api = Api(session=ward.user)
    job, row = api.get(f"jobs/{run.job_id}/"), api.get(f"training-runs/{run.pk}/")
    assert sentence in f"{job['error']} {row['warnings']}"
    client.force_login(ward.user)
    assert sentence in html.unescape(client.get(f"/training/{run.pk}/").content.decode())


def test_labels_that_become_unknown_while_the_run_waits_end_it_with_a_sentence(ward, client):
    run = ward.start(settings=ONE)
    RecordLabel.objects.update(code="STRANGE")
    run = ended(run)
    assert (run.job.state, run.job.error_code) == (JobState.FAILED, "labels_unknown")
    assert "Check the label map's coverage" in run.job.error_message and run.split is None
    told_everywhere(ward, client, run, "Check the label map's coverage")


def test_one_class_only_ends_the_run_with_a_sentence(ward, client):
    run = ward.start(settings=ONE)
    RecordLabel.objects.update(code="NORM")
    run = ended(run)
    assert (run.job.state, run.job.error_code) == (JobState.FAILED, "one_class_only")
    told_everywhere(ward, client, run, run.job.error_message)


def test_one_patient_only_is_refused_before_and_during_a_run(ward, client):
    run = ward.start(settings=ONE)
    Record.objects.update(subject=Record.objects.exclude(subject=None).first().subject)
    with pytest.raises(InvalidInput, match="comes from 1 patient") as error:
        ward.start()
    assert "dataset" in error.value.fields
    run = ended(run)
    assert (run.job.state, run.job.error_code) == (JobState.FAILED, "too_few_patients")
    told_everywhere(ward, client, run, "comes from 1 patient")


@pytest.mark.parametrize("which", [{}, {"fold": 19}])
def test_more_folds_than_patients_are_refused_before_and_during_a_run(ward, which):
    asked = {"split": {"method": "k_fold", "folds": 20, **which}, "settings": ONE}
    run = ward.start(**asked)
    # Twelve of the 24 records have a class: as many patients at most, fewer than folds.
    RecordLabel.objects.filter(code="IMI").update(code="STRANGE")
    run = ended(run)
    assert (run.job.state, run.job.error_code) == (JobState.FAILED, "bad_split")
    assert "Choose fewer folds" in run.job.error_message
    body = {
        "project": str(ward.project.pk), "dataset": str(ward.first.pk), "label_map": str(ward.label_map.pk), "split": asked["split"],
    }  # fmt: skip
    api = Api(session=ward.user)
    error = api.refused("post", "training-runs/", body, status=422, code="bad_split")
    assert "20 folds need as many patients" in error["fields"]["split.folds"]
    found = api.post("training-runs/check/", body, status=200)
    assert [row["code"] for row in found["findings"] if row["level"] == "error"] == ["bad_split"]


def test_records_without_a_subject_count_each_for_itself(ward):
    Record.objects.update(subject=None)
    assert ward.start(settings=ONE).pk


def test_records_with_missing_samples_are_trained_on_and_told(ward, client):
    gaps = factories.ecg_signal(seed=901)
    gaps[:, 40:80] = np.nan
    for number, signal in enumerate((gaps, np.full_like(gaps, np.nan))):
        flagged = {"leads": [{"flags": ["gaps"]}]}
        factories.make_record(ward.first, subject=f"gap{number}", labels=("NORM",), signal=signal, quality=flagged)
    body = {
        "project": str(ward.project.pk), "datasets": [str(ward.first.pk), str(ward.second.pk)], "label_map": str(ward.label_map.pk),
    }  # fmt: skip
    found = Api(session=ward.user).post("training-runs/check/", body, status=200)
    client.force_login(ward.user)
    page = text_of(client.post(address(ward), form_of(ward, action="check")))
    for said in (str(found["findings"]), page):
        assert "Records with missing samples (NaN): 2" in said
    run = ended(ward.start(settings=ONE))
    assert run.job.state == JobState.SUCCEEDED, run.job.error_message
    assert sum(run.manifest["records"].values()) == 26
    assert all(np.isfinite(row.values["train_loss"]) for row in run.epochs.all())


def test_a_record_deleted_while_the_run_waits_is_left_out(ward):
    from datasets.removing import record_delete

    run = ward.start(settings=ONE)
    record_delete(actor=ward.user, record=Record.objects.filter(dataset=ward.first).first())
    run = ended(run)
    assert run.job.state == JobState.SUCCEEDED and sum(run.manifest["records"].values()) == 23


def test_a_full_disk_ends_the_run_with_a_sentence(ward, monkeypatch, client):
    real = os.replace

    def replace(source, target):
        if "checkpoints" in str(target):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr("training.engine.checkpoint.os.replace", replace)
    run = ended(ward.start(settings=ONE))
    assert (run.job.state, run.job.error_code) == (JobState.FAILED, "checkpoint_not_written")
    assert "disk is full" in run.job.error_message
    assert run.produced_version is None
    told_everywhere(ward, client, run, "make room and resume the run")


def test_a_loss_that_is_no_number_any_more_leaves_the_best_model_so_far_and_says_so(ward, monkeypatch, client):
    from training.engine.member import Member
    from training.models import TrialState
    from training.services import learning_curve_start

    real = Member.step
    monkeypatch.setattr(
        Member, "step", lambda self, epoch, *rest: real(self, epoch, *rest) * (np.nan if epoch == 2 else 1.0)
    )
    monkeypatch.setattr("training.growing.SHARES", (1.0,))
    run = ended(ward.start(settings={**ONE, "epochs": 3}))
    assert run.job.state == JobState.SUCCEEDED, run.job.error_message
    assert (run.manifest["stopped_reason"], run.manifest["epochs"], run.best_epoch) == ("loss_not_finite", 1, 1)
    assert run.produced_version is not None and run.report.report["n"] > 0
    told_everywhere(ward, client, run, "The model is the best of the epochs before, that of epoch 1.")
    # One training of several is worth nothing half done.
    study = learning_curve_start(actor=ward.user, run=run)
    work_off()
    trial = study.trials.get()
    assert trial.state == TrialState.FAILED and "no longer a finite number" in trial.note and trial.score is None


@pytest.mark.parametrize(("from_epoch", "state"), [(2, JobState.SUCCEEDED), (1, JobState.FAILED)])
def test_a_trunk_is_that_of_the_epochs_before_the_loss_was_no_number(ward, monkeypatch, from_epoch, state):
    from training.engine import pretrain

    real = pretrain._Pretraining._batch

    def batch(self, x, epoch, number):
        if epoch == from_epoch:
            raise pretrain.not_finite(epoch, number, self.rate)
        return real(self, x, epoch, number)

    monkeypatch.setattr(pretrain._Pretraining, "_batch", batch)
    run = ended(
        ward.start(task="pretraining", label_map=None, pretraining={"window_s": 1.5}, settings={**ONE, "epochs": 3})
    )
    assert run.job.state == state and (run.produced_version is not None) == (state == JobState.SUCCEEDED)
    told = "The trunk is that of epoch 1, the last whole one."
    assert (told in f"{run.warnings}") == (state == JobState.SUCCEEDED)
    assert state == JobState.SUCCEEDED or run.job.error_code == "loss_not_finite"


def base_of(ward, *leads: str) -> ModelVersion:
    """Return an imported model of 4 s in microvolt at 50 Hz that reads the leads."""
    from modelhub.architectures.registry import build

    module = build("xresnet1d18", n_leads=len(leads), n_samples=200, fs_hz=50.0, n_classes=3, seed=0)
    contract = ModelContract(
        leads=leads, fs_hz=50.0, n_samples=200, classes=("a", "b", "c"), task="multilabel", unit="uV", architecture="xresnet1d18"
    )  # fmt: skip
    files = loading.export(module, contract)
    base = version_add(
        actor=ward.user, model=model_get_or_create(actor=ward.user, project=ward.project, name="Other input"), onnx=files.main, contract=contract,
        origin=Origin.IMPORTED, parameters=files.parameters, weights=files.weights,
        card={"licence": "CC BY 4.0", "intended_use": "research", "training_data": "Not known."},
    )  # fmt: skip
    return ModelVersion.objects.get(pk=base.pk)


def test_a_base_of_other_leads_rate_and_unit_is_matched(ward):
    run = ended(ward.start(settings=ONE, base_version=base_of(ward, "I", "II"), architecture=None, mode="head"))
    assert run.job.state == JobState.SUCCEEDED, run.job.error_message
    made = ModelContract.from_dict(run.produced_version.contract)
    assert (made.leads, made.fs_hz, made.n_samples, made.classes) == (("I", "II"), 50.0, 200, ("NORM", "MI"))


def test_a_base_of_another_input_is_taken_by_rest_and_on_the_page_and_told_when_no_record_has_its_leads(ward, client):
    api, base = Api(session=ward.user), base_of(ward, "I", "II")
    body = {
        "project": str(ward.project.pk), "datasets": [str(ward.first.pk), str(ward.second.pk)], "label_map": str(ward.label_map.pk),
        "mode": "head", "settings": ONE,
    }  # fmt: skip
    client.force_login(ward.user)
    form = form_of(ward, base_version=str(base.pk), architecture="", mode="head")
    assert api.post("training-runs/", body | {"base_version": str(base.pk)}, status=202)["state"] == "queued"
    assert client.post(address(ward), form).status_code == 302
    Record.objects.update(leads=["V1", "V2"])
    refused = api.refused(
        "post", "training-runs/", body | {"base_version": str(base.pk)}, status=422, code="leads_missing"
    )
    assert "No record of" in refused["message"] and "V1, V2" in refused["message"]
    page = client.post(address(ward), form)
    assert page.status_code == 422 and "has one of the leads I, II" in text_of(page)
    assert TrainingRun.objects.count() == 2


def test_a_hundred_starts_at_once_wait_in_order_and_others_go_on(ward):
    api = Api(session=ward.user)
    body = {
        "project": str(ward.project.pk), "dataset": str(ward.first.pk), "label_map": str(ward.label_map.pk), "settings": {"epochs": 1},
    }  # fmt: skip
    runs = [api.post("training-runs/", body, status=202) for _ in range(100)]
    assert {run["state"] for run in runs} == {"queued"} and len({run["job"] for run in runs}) == 100
    assert Job.objects.filter(kind="train", state=JobState.QUEUED).count() == 100
    other = factories.make_project()
    user = factories.make_user()
    factories.Membership.objects.create(project=other, user=user, role="owner")
    assert Api(session=user).get("training-runs/", project=str(other.pk))["count"] == 0
    assert api.get("training-runs/", page_size=100)["count"] == 100
    cancelled = api.post(f"training-runs/{runs[50]['id']}/cancel/", status=200)
    assert cancelled["state"] == "cancelled"


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"batch_size": 10**9}, "batch_size"),
        ({"epochs": 10**9}, "epochs"),
        ({"learning_rate": "NaN"}, "learning_rate"),
        ({"learning_rate": -1}, "learning_rate"),
        ({"learning_rate": 10**400}, "learning_rate"),
        ({"seed": 1.5}, "seed"),
        ({"augmentation": {"noise_mv": 99}}, "augmentation.noise_mv"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_settings_that_cannot_be_are_named_over_rest(ward, settings, field):
    api = Api(session=ward.user)
    body = {
        "project": str(ward.project.pk), "dataset": str(ward.first.pk), "label_map": str(ward.label_map.pk), "settings": settings,
    }  # fmt: skip
    error = api.refused("post", "training-runs/", body, status=422, code="bad_settings")
    assert field in error["fields"] and len(error["fields"][field]) > 10
    assert not TrainingRun.objects.exists()


def during(monkeypatch, act) -> None:
    """Do something to the data after the first epoch of a training."""
    from training.live import Report

    real, done = Report.on_epoch_end, []

    def on_epoch_end(self, row):
        real(self, row)
        if not done:
            done.append(row)
            act()

    monkeypatch.setattr(Report, "on_epoch_end", on_epoch_end)


@pytest.mark.parametrize("without", [{}, {"task": "pretraining", "label_map": None, "pretraining": {"window_s": 1.5}}])
def test_an_epoch_that_was_stored_and_not_told_is_told_when_the_run_goes_on(ward, monkeypatch, without):
    from training.live import Report
    from training.services import run_resume

    run, real = ward.start(settings={**ONE, "epochs": 3}, **without), Report.on_epoch_end

    def end_in_the_second(self, row):
        if row["epoch"] == 2:
            raise RuntimeError("the process ends here")
        real(self, row)

    monkeypatch.setattr(Report, "on_epoch_end", end_in_the_second)
    assert ended(run).job.state == JobState.FAILED
    monkeypatch.setattr(Report, "on_epoch_end", real)
    run_resume(actor=ward.user, run=ended(run))
    run = ended(run)
    assert run.job.state == JobState.SUCCEEDED, run.job.error_message
    rows = run.epochs.order_by("epoch")
    assert [row.epoch for row in rows] == [1, 2, 3] and all(row.values["train_loss"] > 0 for row in rows)
    assert all(row.values["records_per_s"] > 0 for row in rows)


def test_a_metric_that_the_task_does_not_have_is_refused_before_the_run(ward):
    with pytest.raises(InvalidInput, match="it has: loss, auroc_macro") as error:
        ward.start(settings={**ONE, "monitor": "r2"})
    assert "monitor" in error.value.fields


def test_a_dataset_is_not_deleted_under_a_run_and_the_run_goes_on(ward, monkeypatch, client):
    api = Api(session=ward.user)
    client.force_login(ward.user)
    run = ward.start(settings={**ONE, "epochs": 2})

    def delete() -> None:
        refused = api.refused("delete", f"datasets/{ward.first.pk}/", status=409, code="dataset_in_use")
        assert "Delete the run first" in refused["message"]
        page = client.post(f"/datasets/{ward.first.pk}/delete/", {"name": ward.first.name}, follow=True)
        assert "Delete the run first" in html.unescape(page.content.decode())

    delete()
    during(monkeypatch, delete)
    assert ended(run).job.state == JobState.SUCCEEDED


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_person_deleted_while_the_run_trains_is_left_out_of_the_evaluation(ward, monkeypatch, part):
    from datasets.models import Subject
    from datasets.removing import subject_delete
    from training.models import SplitMember

    run = ward.start(settings={**ONE, "epochs": 2})

    def delete() -> None:
        member = SplitMember.objects.filter(split__training_run=run, group__part=part).first()
        subject_delete(actor=ward.user, subject=Subject.objects.get(records=member.record_id))

    during(monkeypatch, delete)
    run = ended(run)
    assert run.job.state == JobState.SUCCEEDED, run.job.error_message
    assert run.epochs.count() == 2
    assert run.report.report["n"] == run.manifest["records"]["test"] - (part == "test")


def test_prepared_signals_that_vanish_end_the_run_with_a_sentence_or_not_at_all(ward, monkeypatch):
    from ecgportal import storage

    run = ward.start(settings={**ONE, "epochs": 3})
    during(monkeypatch, lambda: [storage.remove_area("prepared", row.pk) for row in (ward.first, ward.second)])
    run = ended(run)
    assert run.job.state == JobState.SUCCEEDED or run.job.error_code == "signals_gone", run.job.error_message
    again = ward.train(settings=ONE)
    assert again.report.report["n"] > 0


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda: RecordLabel.objects.update(code="NORM"), "one_class_only"),
        (lambda: RecordLabel.objects.update(code="STRANGE"), "labels_unknown"),
        (lambda: RecordLabel.objects.all().delete(), "invalid_input"),
        (
            lambda: Record.objects.update(subject=Record.objects.exclude(subject=None).first().subject),
            "too_few_patients",
        ),
        (lambda: Record.objects.update(fingerprint="ab" * 32), "empty_part"),
    ],
)
def test_data_that_cannot_be_trained_on_is_told_before_and_starts_nothing(ward, client, spoil, code):
    spoil()
    body = {
        "project": str(ward.project.pk), "datasets": [str(ward.first.pk), str(ward.second.pk)], "label_map": str(ward.label_map.pk),
    }  # fmt: skip
    found = Api(session=ward.user).post("training-runs/check/", body, status=200)
    errors = [row for row in found["findings"] if row["level"] == "error"]
    assert not found["ok"] and errors[0]["code"] == code and len(errors[0]["message"]) > 20
    client.force_login(ward.user)
    page = text_of(client.post(address(ward), form_of(ward, action="check")))
    assert "cannot start" in page
    said = errors[0]["message"].split(". ")[0]
    refused = Api(session=ward.user).refused("post", "training-runs/", body, status=422, code=code)
    assert said in f"{refused['message']} {refused['fields']}"
    page = client.post(address(ward), form_of(ward, action="start"))
    assert page.status_code == 422 and said in text_of(page)
    with pytest.raises(CommandError, match=re.escape(said)):
        call_command(
            "train", "--as-user", ward.user.username, "--project", str(ward.project.pk), "--dataset", ward.first.name, "--dataset",
            ward.second.name, "--label-map", str(ward.label_map.pk),
        )  # fmt: skip
    assert not TrainingRun.objects.exists()


def test_a_part_that_is_empty_ends_the_run_with_a_sentence_where_the_start_did_not_look(ward, client, monkeypatch):
    """Also where the records are too many to be divided at the start."""
    monkeypatch.setattr("training.checking._MOST_AT_START", 23)
    Record.objects.update(fingerprint="ab" * 32)
    run = ended(ward.start(settings=ONE))
    assert (run.job.state, run.job.error_code) == (JobState.FAILED, "empty_part")
    told_everywhere(ward, client, run, "The test part would be empty")


def test_the_second_run_on_an_accelerator_says_on_page_and_by_rest_that_it_waits(ward, client, other_run, monkeypatch):
    from training.live import Report

    monkeypatch.setattr("training.engine.fit.resolve_device", lambda name: ELSEWHERE)
    sentence, told = "this one waits until it has ended", []

    def stop_when_told(report):
        # Progress is stored at most twice a second.
        report.context.report(0.05)
        row = Api(session=ward.user).get(f"training-runs/{report.run.pk}/")
        if sentence not in row["message"]:
            return False
        told.append(html.unescape(client.get(f"/training/{report.run.pk}/").content.decode()))
        return "cancelled"

    client.force_login(ward.user)
    monkeypatch.setattr(Report, "should_stop", stop_when_told)
    run = ended(ward.start(settings=ONE))
    assert run.job.state == JobState.CANCELLED and not run.epochs.exists()
    assert sentence in told[0] and sentence not in str(run.warnings)


def test_a_label_map_of_another_project_is_neither_used_nor_frozen(ward):
    """Also by somebody who may see it there, but not change it."""
    theirs = factories.make_label_map(factories.make_project({ward.user: "viewer"}))
    api, asked = Api(session=ward.user), {"project": str(ward.project.pk), "dataset": str(ward.first.pk)}
    for path in ("training-runs/", "training-runs/check/", "training-runs/find-rate/"):
        error = api.refused("post", path, {**asked, "label_map": str(theirs.pk)}, status=422)
        assert set(error["fields"]) == {"label_map"}
    with pytest.raises(InvalidInput, match="belongs to another project"):
        ward.start(settings=ONE, label_map=theirs)
    contract = ModelContract(leads=("I",), fs_hz=100.0, n_samples=100, classes=("NORM",), task="multilabel")
    version = version_add(
        actor=ward.user, model=model_get_or_create(actor=ward.user, project=ward.project, name="Net"), onnx=b"x", contract=contract,
        origin=Origin.TRAINED, parameters=1,
    )  # fmt: skip
    body = {"version": str(version.pk), "dataset": str(ward.first.pk), "label_map": str(theirs.pk)}
    assert set(api.refused("post", "evaluations/", body, status=422)["fields"]) == {"label_map"}
    theirs.refresh_from_db()
    assert not theirs.frozen and not Job.objects.exists()
