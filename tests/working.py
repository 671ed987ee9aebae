"""Do queued jobs in the test's own process, one after another, as the workers would in theirs."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from django.test import override_settings

from ecgportal.jobs import runner, services
from ecgportal.jobs.models import Job, JobState

_MOST = 100


def work_off() -> list[Job]:
    """Claim and run queued jobs, the oldest first, until none is left; returns them as they ended."""
    ended = []
    for _ in range(_MOST):
        job = Job.objects.filter(state=JobState.QUEUED).order_by("enqueued_at", "created_at").first()
        if job is None:
            return ended
        ended.append(work_off_one(job.pk))
    raise AssertionError(f"there is still work after {_MOST} jobs")


def work_off_one(job_id: uuid.UUID) -> Job:
    """Claim and run one queued job; returns it as it ended."""
    claimed = services.claim(job_id, host="tests")
    assert claimed is not None
    # The heartbeat has a connection of its own, which does not see the rows of a test inside a transaction.
    with _handlers_kept(), override_settings(JOB_HEARTBEAT_S=3600):
        runner.run(claimed.pk, claimed.attempt)
    return Job.objects.get(pk=job_id)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Put the signal handlers back that a running job replaces."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
