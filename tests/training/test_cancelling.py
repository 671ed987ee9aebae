"""A cancel is heard in every part of a training, keeps the best so far, and what is kept is evaluated afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datasets import preparing
from datasets.preprocess.recipe import Recipe
from ecgportal.errors import InvalidInput, JobCancelled
from ecgportal.jobs.context import JobContext
from ecgportal.jobs.models import Job, JobState
from ecgportal.jobs.services import cancel
from modelhub import loading
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.api_client import Api
from tests.training.test_fine_tuning import foreign
from tests.training.test_setting_up import FAST, Ward
from tests.training.test_setting_up import ward as ward  # a fixture
from tests.working import work_off, work_off_one
from training import evaluating, running
from training.metrics.report import evaluate
from training.metrics.subgroups import subgroups
from training.models import Evaluation, TrainingRun

ONE = {**FAST, "members": 1}


def cancel_when(monkeypatch, ward, run, place, name):
    """Cancel the run's job when a function is entered; returns the names of the steps that are reported from then on."""
    real, after = getattr(place, name), []

    def entered(*args, **kwargs):
        if not after:
            cancel(actor=ward.user, job=Job.objects.get(pk=run.job_id))
            # What the next beat would find; the beats of tests see only what is committed.
            after.append("asked")
        return real(*args, **kwargs)

    progress = JobContext.progress

    def counted(self, fraction, message=""):
        if after:
            after.append(message)
            self._written = 0.0
        progress(self, fraction, message)

    monkeypatch.setattr(place, name, entered)
    monkeypatch.setattr(JobContext, "progress", counted)
    return after


def ended(run: TrainingRun) -> TrainingRun:
    work_off_one(run.job_id)
    return TrainingRun.objects.select_related("job", "produced_version").get(pk=run.pk)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (loading, "export"),  # the model is written, then the next step is not begun
        (evaluating, "probabilities"),
        (evaluating, "evaluate"),
        (evaluating, "subgroups"),
    ],
)
def test_a_cancel_after_the_training_ends_it_at_the_next_step_and_keeps_the_model(ward, monkeypatch, place, name):
    run = ward.start(settings=ONE)
    after = cancel_when(monkeypatch, ward, run, place, name)
    run = ended(run)
    assert len(after) == 2
    assert run.job.state == JobState.CANCELLED and run.produced_version is not None
    assert not Evaluation.objects.filter(run=run).exists()
    monkeypatch.undo()
    assert work_off_one(Job.objects.get(pk=run.job.result["evaluation_job"]).pk).state == JobState.SUCCEEDED
    assert run.report.report["n"] == run.manifest["records"]["test"]


def test_what_a_cancelled_run_kept_is_evaluated_by_a_job_that_its_page_shows(ward, monkeypatch, client):
    run = ward.start(settings={**ONE, "epochs": 50})
    after = cancel_when(monkeypatch, ward, run, running.Report, "on_epoch_end")
    monkeypatch.setattr(running.Report, "should_stop", lambda self: "cancelled" if after else False)
    run = ended(run)
    assert run.job.state == JobState.CANCELLED and run.epochs.count() == 1 and run.produced_version is not None
    follow = Job.objects.get(pk=run.job.result["evaluation_job"])
    assert follow.state == JobState.QUEUED and not Evaluation.objects.filter(run=run).exists()
    client.force_login(ward.user)
    page = client.get(f"/training/{run.pk}/").content.decode()
    assert f"/jobs/{follow.pk}/" in page and "the best so far: epoch 1 of the 1" in page
    assert [job.state for job in work_off()] == [JobState.SUCCEEDED]
    report = Evaluation.objects.get(run=run)
    assert (report.part, report.report["n"]) == ("test", run.manifest["records"]["test"])
    assert f"/jobs/{follow.pk}/" not in client.get(f"/training/{run.pk}/").content.decode()
    assert Api(session=ward.user).get("evaluations/", project=str(ward.project.pk))["count"] == 1


def cancelled_in_the_third_fold(ward: Ward, run: TrainingRun, monkeypatch) -> TrainingRun:
    real = running._fit

    def fit(context, row, settings, contract, data, number, span, crew):
        if number == 3:
            cancel(actor=ward.user, job=Job.objects.get(pk=run.job_id))
            raise JobCancelled("Stopped before the first epoch.")
        return real(context, row, settings, contract, data, number, span, crew)

    monkeypatch.setattr(running, "_fit", fit)
    return ended(run)


def test_a_fold_that_was_kept_judges_the_records_it_has_not_seen(ward, monkeypatch):
    run = ward.start(settings=ONE, split={"method": "k_fold", "folds": 3})
    assert run.members == 3
    run = cancelled_in_the_third_fold(ward, run, monkeypatch)
    assert run.job.state == JobState.CANCELLED and len(run.manifest["members"]) == 2
    work_off()
    report = Evaluation.objects.get(run=run)
    assert report.part == "folds" and 0 < report.report["n"] < 24


def test_the_folds_of_a_file_from_outside_are_kept_and_judged_and_never_copied(ward, monkeypatch):
    base = foreign(ward)
    run = ward.start(
        settings=ONE, split={"method": "k_fold", "folds": 3}, base_version=base, architecture=None, mode="head"
    )
    run = cancelled_in_the_third_fold(ward, run, monkeypatch)
    [judged] = work_off()
    assert judged.state == JobState.SUCCEEDED, judged.error_message
    report = Evaluation.objects.get(run=run)
    assert report.part == "folds" and 0 < report.report["n"] < 24
    made = run.produced_version
    apart = loading.members_of(made, base, 2)
    signals = torch.randn(3, 3, 200, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        joined, mean = (loading.module_of(made)(signals), torch.stack([net.eval()(signals) for net in apart]).mean(0))
    assert torch.allclose(joined, mean, atol=1e-5) and not torch.allclose(joined, apart[0](signals), atol=1e-5)
    # Two layers lead to its output: it is told before the start that no other class can be learned.
    assert "2 layers lead to its output" in made.checks["fixed_head"]
    asked = {"settings": ONE, "base_version": made, "architecture": None, "mode": "head"}
    with pytest.raises(InvalidInput, match="Train it with its own classes") as refused:
        ward.start(**asked, classes=["NORM"])
    assert refused.value.code == "head_not_found" and set(refused.value.fields) == {"base_version"}
    ward.start(**asked)
    del made.checks["fixed_head"]
    with pytest.raises(InvalidInput, match="2 layers lead to its output"):
        ward.start(**asked, classes=["NORM"])
    # A version of earlier says how many networks its file joins.
    assert "members" not in made.contract["config"]
    made.contract["config"] = {"members": 2}
    contract = running.contract_of(TrainingRun(**own(run), base_version=made), Recipe.from_json(run.recipe))
    start = loading.start_module("foreign", contract, made, seed=0)
    assert sum(p.numel() for p in start.parameters()) == sum(p.numel() for p in loading.module_of(made).parameters())


def own(run: TrainingRun) -> dict:
    return {name: getattr(run, name) for name in ("task", "classes", "architecture", "settings", "recipe", "members")}


def test_a_run_that_is_deleted_before_its_evaluation_is_named(ward, monkeypatch):
    run = ward.start(settings=ONE)
    cancel_when(monkeypatch, ward, run, loading, "export")
    run = ended(run)
    follow = Job.objects.get(pk=run.job.result["evaluation_job"])
    run.delete()
    follow = work_off_one(follow.pk)
    assert (follow.state, follow.error_code) == (JobState.FAILED, "model_gone")


class Enough(Exception):
    pass


def test_an_evaluation_can_be_left_between_its_figures():
    rng = np.random.default_rng(0)
    truth = (rng.random((80, 2)) < 0.4).astype(float)
    guess = rng.random((80, 2))
    steps = []

    def count():
        steps.append(1)

    def leave():
        raise Enough

    evaluate(guess, truth, ["a", "b"], "multilabel", n_resamples=50, before_step=count)
    assert len(steps) >= 9
    with pytest.raises(Enough):
        evaluate(guess, truth, ["a", "b"], "multilabel", n_resamples=50, before_step=leave)
    sexes = {"sex": ["female", "male"] * 40}
    with pytest.raises(Enough):
        subgroups(guess, truth, ["a", "b"], "multilabel", sexes, groups=[str(k) for k in range(80)], before_step=leave)


def test_a_job_that_waits_for_anothers_preparation_can_be_cancelled(ward, monkeypatch):
    from datasets.preprocess.recipe import DEFAULT_RECIPE

    monkeypatch.setattr(preparing, "_locked", lambda cursor, name: False)
    told = []

    def progress(part, note):
        told.append(note)
        if len(told) == 3:
            raise JobCancelled("stop")

    monkeypatch.setattr(preparing.time, "sleep", lambda seconds: None)
    with pytest.raises(JobCancelled):
        preparing.bring_up_to_date(ward.first, DEFAULT_RECIPE, progress)
    assert set(told) == {"Another job prepares these signals"}
