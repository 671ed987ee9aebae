"""A real job process is ended by SIGKILL in the middle of its work; the next attempt goes on and nothing is done twice.

Run it with ``make proofs ARGS=tests/training/test_killed.py``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.db import connection

from ecgportal.jobs import services
from ecgportal.jobs.models import Job, JobState
from tests.training.test_setting_up import FAST, Ward
from training.models import EpochMetrics, Study, TrainingRun, Trial, TrialState
from training.services import learning_curve_start, run_again

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


def begin(job: Job) -> tuple[subprocess.Popen, int]:
    """Start a queued job as a worker does; returns its process and the attempt."""
    claimed = services.claim(job.pk, host="tests")
    assert claimed is not None
    own = connection.settings_dict
    environment = {
        **os.environ, "DATABASE_URL": f"postgresql://{own['USER']}@/{own['NAME']}?host={own['HOST']}",
        "PORTAL_HOME": str(settings.PORTAL_HOME), "DJANGO_SETTINGS_MODULE": "tests.settings", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "run_job", str(job.pk)]
    process = subprocess.Popen([*command, "--attempt", str(claimed.attempt)], start_new_session=True, env=environment)
    return process, claimed.attempt


def kill_when(job: Job, reached: Callable[[], Any], seconds: int = 240) -> None:
    """Do a job until ``reached`` is true, end its process at once, and give the job back."""
    process, attempt = begin(job)
    try:
        deadline = time.monotonic() + seconds
        while not reached():
            assert process.poll() is None, Job.objects.get(pk=job.pk).error_message
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
    finally:
        process.kill()
    assert services.give_back(job.pk, attempt, died=True) == JobState.QUEUED


def finish(job: Job) -> Job:
    process, _ = begin(job)
    try:
        process.wait(300)
    finally:
        process.kill()
    return Job.objects.get(pk=job.pk)


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
