"""Write jobs: enqueue, cancel, and every change of state, each a compare-and-set."""

from __future__ import annotations

import logging
import uuid
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from ecgportal.audit.trail import record
from ecgportal.errors import Conflict
from ecgportal.jobs import queue
from ecgportal.jobs.models import OPEN, Job, JobState, WorkerBeat
from ecgportal.jobs.registry import HOST, KINDS

logger = logging.getLogger(__name__)


@transaction.atomic
def enqueue(kind: str, *, actor: Any, project: Any, payload: dict[str, Any], title: str = "", host: str = "") -> Job:
    """Write the job and its queue message in one transaction. host: who does it, for kinds that are for one host."""
    entry = KINDS[kind]
    job = Job.objects.create(
        kind=kind, project=project, created_by=actor, payload=payload, title=(title or entry.title)[:200], max_attempts=entry.max_attempts,
        host=host,
    )  # fmt: skip
    _send(job)
    return job


def _send(job: Job) -> None:
    if (name := KINDS[job.kind].queue) != HOST:
        queue.send(job.pk, name)


def for_host(host: str) -> QuerySet[Job]:
    """Return the jobs that wait for this host and for no other."""
    kinds = [kind.name for kind in KINDS.values() if kind.queue == HOST]
    return Job.objects.filter(state=JobState.QUEUED, kind__in=kinds, host=host)


def others_wait(job: Job, longer_than_s: float = 2.0) -> bool:
    """Tell whether another job has waited for a worker of the same queue for a while."""
    name = KINDS[job.kind].queue
    kinds = [kind.name for kind in KINDS.values() if kind.queue == name]
    limit = timezone.now() - timedelta(seconds=longer_than_s)
    return name != HOST and Job.objects.filter(state=JobState.QUEUED, kind__in=kinds, enqueued_at__lt=limit).exists()


def withdraw(job: Job) -> bool:
    """Take a job back that nobody has begun and that is not needed any more."""
    waiting = Job.objects.filter(pk=job.pk, state=JobState.QUEUED)
    return bool(waiting.update(state=JobState.CANCELLED, finished_at=timezone.now(), message="Not needed any more."))


@transaction.atomic
def cancel(*, actor: Any, job: Job) -> Job:
    """Ask a job to stop. A queued one is cancelled at once, a running one stops at its next check."""
    job = Job.objects.select_for_update().get(pk=job.pk)
    if job.state not in OPEN:
        raise Conflict(f"The job has already {job.state}; there is nothing to cancel.", code="job_finished")
    job.cancel_requested = True
    if job.state == JobState.QUEUED:
        job.state, job.finished_at, job.message = JobState.CANCELLED, timezone.now(), "Cancelled before it started."
    job.save()
    record("job.cancelled", job, actor=actor, project=job.project)
    return job


def claim(job_id: uuid.UUID | str, *, host: str) -> Job | None:
    """Take a queued job for one attempt; None when it is taken, finished or gone."""
    now = timezone.now()
    job = Job.objects.filter(pk=job_id).first()
    if job is None or job.state != JobState.QUEUED:
        return None
    taken = Job.objects.filter(pk=job_id, state=JobState.QUEUED, attempt=job.attempt).update(
        state=JobState.RUNNING, attempt=job.attempt + 1, started_at=job.started_at or now, heartbeat_at=now, host=host, pid=None, pid_started=None,
    )  # fmt: skip
    return Job.objects.get(pk=job_id) if taken else None


def beat(job_id: uuid.UUID, attempt: int, **values: Any) -> bool:
    """Show that attempt ``attempt`` is alive; False when it no longer holds the job."""
    held = Job.objects.filter(pk=job_id, attempt=attempt, state=JobState.RUNNING)
    return bool(held.update(heartbeat_at=timezone.now(), **values))


def _close(job_id: uuid.UUID, attempt: int, state: str, **values: Any) -> bool:
    held = Job.objects.filter(pk=job_id, attempt=attempt, state=JobState.RUNNING)
    return bool(held.update(state=state, finished_at=timezone.now(), **values))


def succeed(job_id: uuid.UUID, attempt: int, result: dict[str, Any]) -> bool:
    return _close(job_id, attempt, JobState.SUCCEEDED, progress=1.0, result=result)


@transaction.atomic
def fail(job_id: uuid.UUID, attempt: int, code: str, message: str) -> bool:
    closed = _close(job_id, attempt, JobState.FAILED, error_code=code[:60], error_message=message[:4000])
    if closed:
        job = Job.objects.get(pk=job_id)
        record("job.failed", job, actor=job.created_by, project=job.project, outcome="failure", changes={"code": code})
    return closed


def stop_cancelled(job_id: uuid.UUID, attempt: int, result: dict[str, Any]) -> bool:
    return _close(job_id, attempt, JobState.CANCELLED, message="Cancelled.", result=result)


@transaction.atomic
def give_back(job_id: uuid.UUID, attempt: int, *, died: bool, note: str = "") -> str | None:
    """Requeue a job whose process ended without closing it, or fail it when its attempts are used up.

    ``died`` False (an orderly stop of the portal) does not count as an attempt. note: what the job's row says meanwhile.
    Returns the new state, or None when this attempt does not hold the job any more.
    """
    job = Job.objects.select_for_update().filter(pk=job_id, attempt=attempt, state=JobState.RUNNING).first()
    if job is None:
        return None
    if job.cancel_requested:
        stop_cancelled(job_id, attempt, job.result)
        return JobState.CANCELLED
    if died and job.attempt >= job.max_attempts:
        sentence = f"The process of this job died {job.attempt} times. The log names job {job.pk}; start it again when the cause is mended."
        fail(job_id, attempt, "worker_lost", sentence)
        return JobState.FAILED
    if not died:
        Job.objects.filter(pk=job_id).update(max_attempts=job.max_attempts + 1)
    note = note or ("Started again after its process died." if died else "Waiting to go on after a restart.")
    Job.objects.filter(pk=job_id).update(
        state=JobState.QUEUED, pid=None, pid_started=None, enqueued_at=timezone.now(), message=note
    )
    _send(job)
    logger.warning("job %s (%s) goes back to the queue after attempt %s", job.pk, job.kind, attempt)
    return JobState.QUEUED


def worker_beat(name: str) -> None:
    """Note that the process of this name is alive."""
    WorkerBeat.objects.update_or_create(name=name[:120], defaults={"at": timezone.now()})
