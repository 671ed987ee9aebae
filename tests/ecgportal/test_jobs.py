"""A job's row is the truth: claimed once, closed in every branch, given back when its process dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import psutil
import pytest
from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from django_q.models import OrmQ

from ecgportal.accounts.services import user_create
from ecgportal.errors import Conflict, InvalidInput, JobCancelled
from ecgportal.jobs import runner, services
from ecgportal.jobs.context import JobContext, JobInterrupted
from ecgportal.jobs.models import Job, JobState
from ecgportal.jobs.registry import KINDS, Kind
from ecgportal.projects.services import project_create


@pytest.fixture
def kind(monkeypatch):
    """Register a job kind whose work is the test's own function."""

    def use(function, max_attempts=2):
        monkeypatch.setitem(KINDS, "probe", Kind("probe", "Probe", function, "io", max_attempts))

    use(lambda context: {})
    return use


@pytest.fixture
def job(db, kind):
    user = user_create(actor=None, username="anna", password="a long password 1")
    project = project_create(actor=user, name="Ours")
    return services.enqueue("probe", actor=user, project=project, payload={})


def _claimed(job: Job) -> Job:
    claimed = services.claim(job.pk, host="here")
    assert claimed is not None
    return claimed


def test_enqueue_writes_job_and_message_in_one_transaction(job):
    assert OrmQ.objects.count() == 1
    with pytest.raises(RuntimeError), transaction.atomic():
        services.enqueue("probe", actor=None, project=job.project, payload={})
        raise RuntimeError
    assert (OrmQ.objects.count(), Job.objects.count()) == (1, 1)


def test_a_job_is_claimed_once(job):
    assert services.claim(job.pk, host="a").state == JobState.RUNNING
    assert services.claim(job.pk, host="b") is None


def test_success_stores_the_result(job, kind):
    kind(lambda context: {"answer": 42})
    claimed = _claimed(job)
    assert runner.run(claimed.pk, claimed.attempt) == 0
    job.refresh_from_db()
    assert (job.state, job.result, job.progress) == (JobState.SUCCEEDED, {"answer": 42}, 1.0)


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (InvalidInput("The rate is wrong.", code="bad_rate"), JobState.FAILED, "bad_rate"),
        (JobCancelled("stop"), JobState.CANCELLED, ""),
        (RuntimeError("a bug with a secret path"), JobState.FAILED, "internal_error"),
        (MemoryError(), JobState.FAILED, "out_of_memory"),
        (JobInterrupted(), JobState.QUEUED, ""),
    ],
)
def test_every_end_closes_the_row(job, kind, error, state, code):
    def work(context):
        raise error

    kind(work)
    claimed = _claimed(job)
    status = runner.run(claimed.pk, claimed.attempt)
    job.refresh_from_db()
    assert (job.state, job.error_code) == (state, code)
    assert "secret" not in job.error_message
    assert status == (runner.EXIT_INTERRUPTED if state == JobState.QUEUED else 0)


def test_a_dead_process_is_tried_again_and_then_failed(job):
    first = _claimed(job)
    assert services.give_back(first.pk, first.attempt, died=True) == JobState.QUEUED
    second = _claimed(job)
    assert second.attempt == 2
    assert services.give_back(second.pk, second.attempt, died=True) == JobState.FAILED
    job.refresh_from_db()
    assert job.error_code == "worker_lost"


def test_an_orderly_stop_costs_no_attempt(job):
    for _ in range(5):
        claimed = _claimed(job)
        assert services.give_back(claimed.pk, claimed.attempt, died=False) == JobState.QUEUED


def test_an_attempt_that_lost_its_lease_cannot_write(job):
    first = _claimed(job)
    services.give_back(first.pk, first.attempt, died=True)
    _claimed(job)
    assert not services.beat(first.pk, first.attempt, progress=0.9)
    assert not services.succeed(first.pk, first.attempt, {"from": "the dead"})
    job.refresh_from_db()
    assert (job.state, job.result) == (JobState.RUNNING, {})


def test_jobs_that_do_not_show_themselves_are_found(job):
    claimed = _claimed(job)
    assert runner.recover_lost() == 0
    Job.objects.filter(pk=claimed.pk).update(heartbeat_at=timezone.now() - timedelta(seconds=settings.JOB_STALE_S + 1))
    assert runner.recover_lost() == 1
    job.refresh_from_db()
    assert job.state == JobState.QUEUED


def test_cancel_ends_a_queued_job_at_once_and_flags_a_running_one(job):
    services.cancel(actor=job.created_by, job=job)
    job.refresh_from_db()
    assert job.state == JobState.CANCELLED
    with pytest.raises(Conflict, match="already cancelled"):
        services.cancel(actor=job.created_by, job=job)
    other = services.enqueue("probe", actor=job.created_by, project=job.project, payload={})
    claimed = _claimed(other)
    services.cancel(actor=job.created_by, job=claimed)
    context = JobContext(claimed)
    with pytest.raises(JobCancelled):
        context.progress(0.5)


def test_a_job_that_is_cancelled_while_its_process_dies_stays_cancelled(job):
    claimed = _claimed(job)
    services.cancel(actor=job.created_by, job=claimed)
    assert services.give_back(claimed.pk, claimed.attempt, died=True) == JobState.CANCELLED


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"progress": 1.5}, "job_progress_range"),
        ({"state": "lost"}, "job_state_known|job_finished_iff_terminal"),
        ({"state": "succeeded"}, "job_finished_iff_terminal"),
        ({"state": "failed", "finished_at": timezone.now()}, "job_failed_has_code"),
        ({"state": "running"}, "job_running_has_started"),
        ({"pid": 1}, "job_pid_has_start"),
    ],
)
def test_the_database_holds_the_rules(job, values, rule):
    with pytest.raises(IntegrityError, match=rule), transaction.atomic():
        Job.objects.filter(pk=job.pk).update(**values)


@pytest.mark.django_db(transaction=True)
def test_the_row_tells_which_process_does_the_job_and_its_death_gives_the_job_back(monkeypatch):
    """The process of a simulated record import is started as a worker starts it; killing it gives the job back."""
    user = user_create(actor=None, username="anna", password="a long password 1")
    project = project_create(actor=user, name="Ours")
    job = services.enqueue("probe_sleep", actor=user, project=project, payload={"seconds": 60})
    claimed = services.claim(job.pk, host="here")
    command = [
        sys.executable,
        str(settings.BASE_DIR / "manage.py"),
        "run_job",
        str(job.pk),
        "--attempt",
        str(claimed.attempt),
    ]
    environment = {
        **os.environ,
        "DATABASE_URL": _test_database_url(),
        "PORTAL_HOME": str(settings.PORTAL_HOME),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
    }
    process = subprocess.Popen(command, start_new_session=True, env=environment)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not Job.objects.filter(pk=job.pk, pid=process.pid).exists():
            assert process.poll() is None
            time.sleep(0.1)
        row = Job.objects.get(pk=job.pk)
        assert row.pid_started == psutil.Process(process.pid).create_time()
        monkeypatch.setattr(runner.home, "host_name", lambda: "here")
        assert runner._living_process(row).pid == process.pid
        # A process with this id, but of another time or on another host, is not the job's.
        for other in ({"pid_started": row.pid_started - 60}, {"host": "there"}, {"pid": os.getpid()}):
            assert runner._living_process(replaced(row, **other)) is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        assert services.give_back(job.pk, claimed.attempt, died=True) == JobState.QUEUED
    finally:
        if process.poll() is None:
            process.kill()


def replaced(job: Job, **values) -> Job:
    other = Job.objects.get(pk=job.pk)
    for name, value in values.items():
        setattr(other, name, value)
    return other


def _test_database_url() -> str:
    own = connection.settings_dict
    return f"postgresql://{own['USER']}@/{own['NAME']}?host={own['HOST']}"
