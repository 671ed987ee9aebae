"""A worker keeps one process ready: it takes a job as its own, holds nothing while it waits, and never gets in the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from types import SimpleNamespace

import psutil
import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone

from ecgportal import processes
from ecgportal.jobs import queue, runner, services, spare
from ecgportal.jobs.models import Job, JobState
from tests import factories
from tests.ecgportal.test_jobs import _test_database_url


@pytest.fixture
def surroundings(monkeypatch):
    for name, value in {
        "DATABASE_URL": _test_database_url(), "PORTAL_HOME": str(settings.PORTAL_HOME), "DJANGO_SETTINGS_MODULE": "tests.settings",
        "OMP_NUM_THREADS": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


def time_of_database():
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        return cursor.fetchone()[0]


def connections_opened_since(moment) -> int:
    """How many connections to this test's database are younger; what earlier tests left open comes and goes by itself."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_start > %s", [moment]
        )
        return cursor.fetchone()[0]


@pytest.mark.django_db(transaction=True)
def test_a_spare_loads_waits_without_a_connection_and_does_the_job_it_is_given(surroundings):
    before = time_of_database()
    waiting = spare.Spare()
    try:
        deadline = time.monotonic() + 120
        while not waiting.is_ready:
            assert waiting.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process = psutil.Process(waiting.process.pid)
        assert connections_opened_since(before) == 0
        assert os.getsid(process.pid) == process.pid and "ready" in process.cmdline()[0].split()
        niceness = {os.getpriority(os.PRIO_PROCESS, thread.id) for thread in process.threads()}
        assert niceness == {os.getpriority(os.PRIO_PROCESS, 0)}
        # Not a job: nobody would look for it, whatever it is called.
        assert not Job.objects.exists()
        environment = process.environ()
        job = services.enqueue("probe_sleep", actor=None, project=factories.make_project(), payload={"seconds": 1})
        claimed = services.claim(job.pk, host=runner.home.host_name())
        assert waiting.give(claimed.pk, claimed.attempt)
        while f"run_job {job.pk}" not in " ".join(process.cmdline()):
            assert waiting.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        assert process.environ() == environment, "the launcher finds the process by it"
        assert waiting.process.wait(60) == 0
        job.refresh_from_db()
        assert (job.state, job.pid) == (JobState.SUCCEEDED, process.pid)
    finally:
        waiting.end()


def test_a_spare_whose_worker_is_gone_ends(surroundings):
    waiting = spare.Spare()
    try:
        waiting._line.close()
        assert waiting.process.wait(120) == 0
    finally:
        waiting.process.kill()


class Pretended:
    """Stands for a spare: says that it is ready, or not, and notes what becomes of it."""

    ready, takes = True, True

    def __init__(self):
        self.process, self.given, self.ended = SimpleNamespace(pid=1), [], False

    @property
    def is_ready(self):
        return self.ready

    def give(self, *job):
        self.given.append(job)
        return self.takes

    def end(self):
        self.ended = True


@pytest.fixture
def keeper(monkeypatch):
    made: list[Pretended] = []
    monkeypatch.setattr(spare, "Spare", lambda: made.append(Pretended()) or made[-1])
    keeper = spare.Keeper()
    keeper.made = made

    def keep():
        keeper.prepare(0.0)
        keeper._timer.join()
        return made[-1] if made else None

    keeper.keep = keep
    return keeper


def test_a_job_goes_to_the_spare_that_is_ready_and_to_no_other(keeper):
    first = keeper.keep()
    assert keeper.take("job", 1) is first.process and first.given == [("job", 1)] and not first.ended
    assert keeper.take("next", 1) is None


@pytest.mark.parametrize(("ready", "takes"), [(False, True), (True, False)])
def test_a_spare_that_cannot_take_the_job_is_ended(keeper, monkeypatch, ready, takes):
    monkeypatch.setattr(Pretended, "ready", ready)
    monkeypatch.setattr(Pretended, "takes", takes)
    first = keeper.keep()
    assert keeper.take("job", 1) is None and first.ended


def test_one_spare_is_kept_at_most_and_none_when_it_is_switched_off_or_memory_is_short(keeper, monkeypatch, settings):
    keeper.keep()
    keeper.keep()
    assert len(keeper.made) == 1
    keeper.stop()
    monkeypatch.setattr(spare.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**8))
    keeper.keep()
    monkeypatch.undo()
    settings.WARM_START = False
    keeper.prepare(0.0)
    assert len(keeper.made) == 1 and keeper.made[0].ended


@pytest.fixture
def beside(monkeypatch, tmp_path):
    """Start a process that says, under the launcher of this worker, what another worker's spare says."""
    started = []

    def start(words):
        code = f"import time; from setproctitle import setproctitle; setproctitle('run_job {words}'); time.sleep(600)"
        environment = {**os.environ, **processes.KEEPS_ENVIRONMENT, processes.MARK: str(tmp_path)}
        started.append(subprocess.Popen([sys.executable, "-c", code], env=environment))
        process = psutil.Process(started[-1].pid)
        deadline = time.monotonic() + 60
        while f"run_job {words}" != processes.command_line(process).strip():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    monkeypatch.setenv(processes.MARK, str(tmp_path))
    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.django_db
def test_a_new_job_is_left_to_a_worker_with_a_process_that_is_ready(keeper, beside, monkeypatch):
    monkeypatch.setattr(spare, "keeper", keeper)
    monkeypatch.setattr(runner, "do", lambda job_id: "done here")
    project = factories.make_project()
    job, other = (services.enqueue(kind, actor=None, project=project, payload={}) for kind in ("train", "probe_sleep"))
    beside("x --spare")
    assert runner.start(str(job.pk)) == "done here", "the other one has not loaded either"
    beside("x ready")
    before = queue.waiting_messages()
    assert runner.start(str(job.pk)) == "left to another worker"
    assert queue.waiting_messages() == before + 1
    assert runner.start(str(other.pk)) == "done here"
    Job.objects.filter(pk=job.pk).update(enqueued_at=timezone.now() - timedelta(seconds=3))
    assert runner.start(str(job.pk)) == "done here", "it has waited long enough"
    Job.objects.filter(pk=job.pk).update(enqueued_at=timezone.now())
    keeper.keep()
    assert runner.start(str(job.pk)) == "done here", "this worker has one, too"


def test_a_job_that_comes_before_the_spare_is_not_slowed_by_it(keeper):
    keeper.prepare(3600)
    timer = keeper._timer
    assert keeper.take("job", 1) is None
    timer.join(10)
    assert not timer.is_alive() and not keeper.made


def test_code_that_has_changed_is_not_run_from_memory(monkeypatch, tmp_path, settings):
    settings.BASE_DIR = tmp_path
    monkeypatch.setenv("PORTAL_ENV_FILE", str(tmp_path / "env"))
    (tmp_path / "training").mkdir()
    stamps = [spare.code_stamp()]
    for name in ("training/new.py", "env"):
        (tmp_path / name).write_text("PORTAL_READERS=1")
        stamps.append(spare.code_stamp())
    os.utime(tmp_path / "training/new.py", ns=(1, 1))
    stamps.append(spare.code_stamp())
    assert len(set(stamps)) == 4 and stamps[-1] == spare.code_stamp()
