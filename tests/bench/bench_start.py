"""From the click that starts a training to its first batch: ``python -m tests.bench start``.

A run is asked for by REST, its job is done by a process of its own as a worker starts it, and the clock stands when the
page could show the first batch. The queue looks for work every 0.2 s, which comes on top (0.1 s on average). Beside the
clock's time stands the processor time that the job's process took from the click on: what other work on the machine
leaves comparable. The signals are prepared in the first run and found prepared in the others. A worker that has nothing
to do keeps a process ready, which has loaded what a training needs: "kept ready" is what a user meets, "new process" what
the first click after a start or a job in a full queue meets. The memory of the waiting process is stated, too.
"""

from __future__ import annotations

import os
import time
from threading import Thread
from typing import Any

import psutil

from tests.bench.bench_ingest import database

RECORDS = 200
GOAL_S = 3.0

Row = dict[str, Any]


def run() -> list[Row]:
    """Return rows ``{name, value, unit, goal, ok}``."""
    with database():
        return _measure()


def _measure() -> list[Row]:
    from django.conf import settings
    from django.db import connection

    from datasets.simulate import simulate
    from ecgportal.jobs import spare
    from tests import factories
    from tests.api_client import Api

    user = factories.make_user()
    project = factories.make_project({user: "owner"})
    dataset = factories.make_dataset(project)
    signals = [simulate(name, 1, fs_hz=500).record.signal for name in ("SNR", "LVH")]
    for number in range(RECORDS):
        factories.make_record(
            dataset, subject=f"p{number}", labels=("NORM",) if number % 2 else ("IMI",), signal=signals[number % 2], fs_hz=500.0
        )  # fmt: skip
    own = connection.settings_dict
    os.environ.update({
        "DATABASE_URL": f"postgresql://{own['USER']}@/{own['NAME']}?host={own['HOST']}", "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PORTAL_HOME": str(settings.PORTAL_HOME),
    })  # fmt: skip
    asked = {
        "project": str(project.pk), "dataset": str(dataset.pk), "label_map": str(factories.make_label_map(project).pk),
    }  # fmt: skip
    api, rows = Api(session=user), []
    for which, ready in (
        ("to be prepared, new process", False),
        ("prepared, new process", False),
        ("prepared, kept ready", True),
    ):
        if ready:
            rows.append(_row("memory of the process kept ready", _kept_ready(), None, unit="MB"))
        clock, processor = _once(api, user, asked)
        rows += [
            _row(f"click to first batch, signals {which}", clock, GOAL_S if ready else None),
            _row(f"click to first batch, signals {which}: processor time of the job", processor, None),
        ]
    spare.keeper.stop()
    return rows


def _kept_ready() -> float:
    """Start the process that a worker keeps, wait until it is ready, and return its resident memory in MB."""
    from ecgportal.jobs.spare import keeper

    keeper.prepare(0.0)
    deadline = time.monotonic() + 120
    while not keeper.is_ready:
        if time.monotonic() > deadline:
            raise RuntimeError("No process became ready.")
        time.sleep(0.1)
    return psutil.Process(keeper.pid).memory_info().rss / 1e6


def _once(api: Any, user: Any, asked: dict[str, str]) -> tuple[float, float]:
    from ecgportal.jobs import runner, services
    from ecgportal.jobs.models import Job
    from ecgportal.jobs.spare import keeper
    from training.models import TrainingRun

    begun, used = time.perf_counter(), _processor_s(keeper.pid) if keeper.pid else 0.0
    answer = api.post("training-runs/", asked, status=202)
    job = TrainingRun.objects.get(pk=answer["id"]).job_id
    worker = Thread(target=_work, args=(runner.start, str(job)))
    worker.start()
    while not (live := TrainingRun.objects.values_list("live", flat=True).get(pk=answer["id"])):
        if not worker.is_alive():
            raise RuntimeError(Job.objects.get(pk=job).error_message)
        time.sleep(0.02)
    seconds = time.perf_counter() - begun
    used = _processor_s(Job.objects.get(pk=job).pid) - used
    assert live["batch"] >= 1
    services.cancel(actor=user, job=Job.objects.get(pk=job))
    worker.join()
    return seconds, used


def _processor_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def _work(start: Any, job: str) -> None:
    from django.db import connections

    try:
        start(job)
    finally:
        connections.close_all()


def _row(name: str, value: float, goal: float | None, unit: str = "s") -> Row:
    ok = None if goal is None else value <= goal
    return {
        "name": name,
        "value": round(value, 2),
        "unit": unit,
        "goal": goal and f"at most {goal:g}",
        "ok": ok,
    }


if __name__ == "__main__":
    for row in run():
        print(row)
