"""A real job process is ended by SIGKILL in every part of its work; the next attempt goes on and nothing is done twice.

Run it with ``make proofs ARGS=tests/training/test_killed.py``.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from datasets.models import PreparedSet
from datasets.preparing import open_store
from datasets.preprocess.recipe import Recipe
from ecgportal.audit.models import AuditEvent
from ecgportal.jobs import services
from ecgportal.jobs.models import Job, JobState
from modelhub.models import ModelVersion
from modelhub.services_predictions import prediction_start
from tests import factories
from tests.training.phases import TRAINING, Watched, finish, kill_at
from tests.training.test_setting_up import FAST, Ward
from training.models import EpochMetrics, Evaluation, SplitMember, Study, TrainingRun, Trial, TrialState
from training.services import evaluation_start, learning_curve_start, run_again

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


def kill_when(job: Job, reached: Callable[[], Any], seconds: int = 240) -> None:
    """Do a job until ``reached`` is true, end its process at once, and give the job back."""
    watched = Watched(job)
    try:
        deadline = time.monotonic() + seconds
        while not reached():
            assert watched.process.poll() is None, Job.objects.get(pk=job.pk).error_message
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(watched.process.pid, signal.SIGKILL)
    finally:
        watched.wait(10)
    assert services.give_back(job.pk, watched.attempt, died=True) == JobState.QUEUED


SETTINGS = {**FAST, "epochs": 3, "members": 1, "learning_rate": 0.003}


@pytest.mark.parametrize("phase", TRAINING, ids=lambda phase: phase.name.replace(" ", "-"))
def test_a_training_that_is_killed_goes_on_and_nothing_is_doubled(phase):
    ward = Ward()
    run = ward.start(settings=SETTINGS | phase.asked)
    kill_at(run.job, phase.at)
    job = Job.objects.get(pk=run.job_id)
    if job.state == JobState.QUEUED:
        job = finish(job)
    assert (job.state, job.error_message) == (JobState.SUCCEEDED, "")
    run = TrainingRun.objects.get(pk=run.pk)
    assert list(run.epochs.order_by("epoch").values_list("epoch", flat=True)) == [1, 2, 3]
    assert ModelVersion.objects.filter(pk=run.produced_version_id).count() == ModelVersion.objects.count() == 1
    assert Evaluation.objects.get() == run.report and run.report.report["n"] == run.manifest["records"]["test"]
    assert SplitMember.objects.filter(split=run.split).count() == 24
    assert sorted(PreparedSet.objects.values_list("record_count", flat=True)) == [12, 12]
    for prepared in PreparedSet.objects.select_related("dataset"):
        store = open_store(prepared.dataset, Recipe.from_json(prepared.recipe))
        assert len(store.index) == len(set(store.index.values())) == 12
    told = AuditEvent.objects.filter(action__in=("run.finished", "model_version.created", "job.failed"))
    assert sorted(told.values_list("action", flat=True)) == ["model_version.created", "run.finished"]
    if phase.is_engine:
        again = run_again(actor=ward.user, run=run)
        assert finish(again.job).state == JobState.SUCCEEDED
        again.refresh_from_db()
        assert again.manifest["weights_hash"] == run.manifest["weights_hash"]


@pytest.mark.parametrize("place", ["Answerer.answers:1", "Answerer.answers:2", "agreement.of_run:1"])
def test_predictions_that_are_killed_go_on_without_doubles(place):
    ward, version = trained()
    # The ward's own records are too short for the model and are refused.
    for number in range(72):
        factories.make_record(ward.first, subject=f"more{number}", labels=("NORM",), signal=ward.signal)
    run = prediction_start(
        actor=ward.user, project=ward.project, version=version, dataset=ward.first, label_map=ward.label_map
    )
    kill_at(run.job, f"modelhub.predicting:{place}")
    before = run.predictions.count()
    assert before == {"Answerer.answers:1": 0, "Answerer.answers:2": 64, "agreement.of_run:1": 72}[place]
    kept = dict(run.predictions.values_list("record_id", "id"))
    job = finish(Job.objects.get(pk=run.job_id))
    assert (job.state, job.result["predicted"], job.result["refused"]) == (JobState.SUCCEEDED, 72, 12)
    now = dict(run.predictions.values_list("record_id", "id"))
    assert len(now) == run.predictions.count() == 72 and kept.items() <= now.items()


@pytest.mark.parametrize(
    "at",
    [
        "training.evaluating:probabilities:1",
        "training.metrics.report:bootstrap_weights:1",
        "training.evaluating:_store_report:1",
        "ecgportal.jobs.context:JobContext.close:1",
    ],
)
def test_an_evaluation_that_is_killed_is_made_once(at):
    ward, version = trained()
    other = factories.make_dataset(ward.project)
    for number in range(24):
        factories.make_record(other, subject=f"o{number}", labels=("NORM",) if number % 2 else ("IMI",))
    row = evaluation_start(actor=ward.user, version=version, dataset=other, label_map=ward.label_map)
    kill_at(row.job, at)
    assert not Evaluation.objects.get(pk=row.pk).report
    job = finish(Job.objects.get(pk=row.job_id))
    assert (job.state, job.error_message) == (JobState.SUCCEEDED, "")
    assert Evaluation.objects.get(pk=row.pk).report["n"] == 24
    assert AuditEvent.objects.filter(action="evaluation.finished").count() == 1


def trained() -> tuple[Ward, ModelVersion]:
    ward = Ward()
    ward.signal = np.tile(factories.ecg_signal(seed=5), 10)[:, :1000]
    run = ward.start(settings={**SETTINGS, "epochs": 1})
    assert finish(run.job).state == JobState.SUCCEEDED
    return ward, TrainingRun.objects.get(pk=run.pk).produced_version


def test_learning_without_labels_goes_on_and_gives_the_same_trunk():
    ward = Ward()
    run = ward.start(task="pretraining", label_map=None, settings={**FAST, "epochs": 12})
    kill_when(run.job, lambda: EpochMetrics.objects.filter(run=run).count() >= 4)
    before = EpochMetrics.objects.filter(run=run).count()
    assert finish(run.job).state == JobState.SUCCEEDED
    run.refresh_from_db()
    assert run.resumed == 1 and before < 12 and run.epochs.count() == 12 and run.produced_version.is_trunk
    again = run_again(actor=ward.user, run=run)
    assert finish(again.job).state == JobState.SUCCEEDED
    again.refresh_from_db()
    assert again.manifest["weights_hash"] == run.manifest["weights_hash"]


def test_a_search_goes_on_with_its_trials_and_its_minutes():
    ward = Ward()
    run = ward.start(architecture=None, search={"minutes": 0.6}, settings={**FAST, "epochs": 4, "members": 1})
    study = Study.objects.get(run=run)
    ended = Trial.objects.filter(study=study).exclude(state=TrialState.RUNNING)

    def is_within_a_trial() -> bool:
        return ended.count() >= 1 and Trial.objects.filter(study=study, state=TrialState.RUNNING).exists()

    kill_when(run.job, is_within_a_trial)
    kept = {trial.number: (trial.choices, trial.scores, trial.seconds) for trial in ended}
    assert finish(run.job).state == JobState.SUCCEEDED
    run, study = TrainingRun.objects.get(pk=run.pk), Study.objects.get(pk=study.pk)
    now = {trial.number: (trial.choices, trial.scores, trial.seconds) for trial in study.trials.all()}
    assert {number: now[number] for number in kept} == kept and not study.trials.filter(
        state=TrialState.RUNNING
    ).exists()
    assert sorted(now) == list(range(1, len(now) + 1))
    assert study.result["trial"] in now and run.produced_version.architecture == run.architecture
    assert run.resumed == 1 and run.report.part == "test"


def test_a_learning_curve_goes_on_with_its_parts():
    ward = Ward()
    run = ward.start(settings={**FAST, "epochs": 3, "members": 1})
    assert finish(run.job).state == JobState.SUCCEEDED
    run.refresh_from_db()
    study = learning_curve_start(actor=ward.user, run=run)
    trials = Trial.objects.filter(study=study)
    kill_when(
        study.job,
        lambda: trials.filter(state=TrialState.DONE).exists() and trials.filter(state=TrialState.RUNNING).exists(),
    )
    kept = {trial.number: (trial.score, trial.seconds) for trial in trials.filter(state=TrialState.DONE)}
    assert finish(study.job).state == JobState.SUCCEEDED
    now = {trial.number: (trial.score, trial.seconds) for trial in trials}
    assert {number: now[number] for number in kept} == kept and len(now) == 5
    assert not trials.filter(state=TrialState.RUNNING).exists() and Study.objects.get(pk=study.pk).result
