"""Start jobs as processes of their own, do them, and find those whose process died.

A worker of the queue claims the job, gives it to the process that it keeps ready or starts ``manage.py run_job <id>
--attempt N`` in its own session, and waits for its end: the number of workers bounds the number of jobs at a time, and the
process outlives its worker. The job's row tells which process does it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import uuid
from datetime import timedelta
from typing import Any

import psutil
from django.conf import settings
from django.db import close_old_connections, connection
from django.utils import timezone

from ecgportal import home, simultaneous
from ecgportal.audit.context import AuditContext, acting
from ecgportal.errors import JobCancelled, PortalError, StorageFailed
from ecgportal.jobs import queue, services, spare
from ecgportal.jobs.context import JobContext, JobInterrupted, LeaseLost
from ecgportal.jobs.models import Job, JobState
from ecgportal.jobs.registry import KINDS
from ecgportal.processes import does_a_job

logger = logging.getLogger(__name__)

EXIT_INTERRUPTED = 75
_CLOCK_S = 2.0
#: Loading anew takes some seconds; a message that is sent once more is with another worker within half a second.
_YOUNG_S = 2.0
_LONGEST_WAIT_S = 300.0


def start(job_id: str) -> str:
    """Do one queue message, or send it once more for a worker that is quicker to begin."""
    if _is_for_another(job_id):
        queue.send(uuid.UUID(job_id), spare.QUEUE)
        return "left to another worker"
    return do(job_id)


def _is_for_another(job_id: str) -> bool:
    """Tell whether a job has just come to a worker without a process that is ready while another one of this host has one."""
    young = timezone.now() - timedelta(seconds=_YOUNG_S)
    job = Job.objects.filter(pk=job_id, state=JobState.QUEUED, enqueued_at__gt=young).first()
    for_spares = job is not None and KINDS[job.kind].queue == spare.QUEUE
    return for_spares and not spare.keeper.is_ready and spare.another_is_ready()


def do(job_id: str) -> str:
    """Claim a job, run its process to the end, and give the job back if the process died."""
    job = services.claim(job_id, host=home.host_name())
    if job is None:
        return "not queued"
    process = _process(job)
    close_old_connections()
    code = process.wait()
    state = services.give_back(job.pk, job.attempt, died=code != EXIT_INTERRUPTED)
    if state is not None:
        logger.warning("job %s: process ended with %s, now %s", job.pk, code, state)
    if KINDS[job.kind].queue == spare.QUEUE:
        spare.keeper.prepare()
    return f"exit {code}"


def _process(job: Job) -> subprocess.Popen[bytes]:
    """Return the process that does a claimed job: the one that is kept ready for its queue, or a new one."""
    ready = spare.keeper.take(job.pk, job.attempt) if KINDS[job.kind].queue == spare.QUEUE else None
    if ready is not None:
        return ready
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "run_job", str(job.pk), "--attempt", str(job.attempt)]  # fmt: skip
    return subprocess.Popen(command, start_new_session=True, cwd=settings.BASE_DIR, env=_environment(job))


def _environment(job: Job) -> dict[str, str]:
    """Return the environment of a job's process. Jobs that share a host multiply small matrices: threads of each would only
    wait for one another."""
    return {**os.environ} if KINDS[job.kind].queue == "train" else {"OPENBLAS_NUM_THREADS": "1", **os.environ}


def start_beside(job_id: uuid.UUID) -> threading.Thread:
    """Begin to do a queued job in a process of its own, for a job that waits for it anyway; the thread waits for its end."""

    def work() -> None:
        try:
            do(str(job_id))
        finally:
            connection.close()

    thread = threading.Thread(target=work, daemon=True, name=f"job {job_id}")
    thread.start()
    return thread


def start_own(started: dict[uuid.UUID, threading.Thread]) -> None:
    """Start the jobs that are for this host alone. started: those of before, by job; kept up to date."""
    for job_id in [job_id for job_id, thread in started.items() if not thread.is_alive()]:
        del started[job_id]
    for job in services.for_host(home.host_name()).exclude(pk__in=started):
        started[job.pk] = start_beside(job.pk)


def run(job_id: uuid.UUID, attempt: int) -> int:
    """Do the job in this process; returns the exit status. Every branch closes the row or gives it back."""
    job = (
        Job.objects.filter(pk=job_id, attempt=attempt, state=JobState.RUNNING)
        .select_related("project", "created_by")
        .first()
    )
    if job is None:
        logger.info("job %s attempt %s is not mine to run", job_id, attempt)
        return 0
    services.beat(job.pk, attempt, pid=os.getpid(), pid_started=psutil.Process().create_time())
    context = JobContext(job)
    try:
        with acting(AuditContext(channel="worker", correlation=job.pk)), context:
            result = _done(job, context)
            services.succeed(job.pk, attempt, result)
        return 0
    except JobCancelled:
        services.stop_cancelled(job.pk, attempt, context.job.result)
        return 0
    except JobInterrupted as error:
        services.give_back(job.pk, attempt, died=False, note=str(error))
        return EXIT_INTERRUPTED
    except LeaseLost:
        logger.warning("job %s attempt %s lost its lease", job.pk, attempt)
        return 0
    except PortalError as error:
        services.fail(job.pk, attempt, error.code, error.message)
        return 0
    except MemoryError:
        services.fail(
            job.pk,
            attempt,
            "out_of_memory",
            "The job needed more memory than this machine has. Choose a smaller batch or model.",
        )
        return 0
    except Exception as error:
        logger.exception("job %s (%s) failed", job.pk, job.kind)
        if (told := simultaneous.told(error)) is not None:
            services.fail(job.pk, attempt, told.code, f"The job ended early. {told.message}")
            return 0
        message = f"The job met an error that the portal did not expect. An operator finds the details in the log under job {job.pk}."
        services.fail(job.pk, attempt, "internal_error", message)
        return 0


def _done(job: Job, context: JobContext) -> dict[str, Any]:
    """Call the job's handler. What needs the bucket while it does not answer waits, and goes on later: it can be cancelled
    meanwhile, and nothing is lost that is stored."""
    try:
        return KINDS[job.kind].run(context) or {}
    except StorageFailed as error:
        if error.code == "storage_damaged":
            raise
        logger.warning("job %s waits for the storage: %s", job.pk, error.message)
        note = f"{error.message[:200]} The job goes on when that is mended."
        context.report(job.progress, note)
        context.stopping.wait(min(context.attempt * settings.STORAGE_WAIT_S, _LONGEST_WAIT_S))
        context.raise_if_stopping()
        raise JobInterrupted(note) from error


def _living_process(job: Job) -> psutil.Process | None:
    """Return the job's process if it still runs on this host (it may only be slow to show itself)."""
    if job.host != home.host_name() or job.pid is None or job.pid_started is None:
        return None
    try:
        process = psutil.Process(job.pid)
        # The system counts from its own start, which it knows to a second when its clock is corrected.
        same = abs(process.create_time() - job.pid_started) < _CLOCK_S and does_a_job(process)
    except psutil.Error:
        return None
    return process if same else None


def recover_lost() -> int:
    """Give back running jobs that stopped showing themselves; a hung process of this host is ended first."""
    count = 0
    for job in Job.objects.lost():
        process = _living_process(job)
        if process is not None:
            logger.warning("job %s does not show itself; ending process %s", job.pk, job.pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        count += services.give_back(job.pk, job.attempt, died=True) is not None
    return count
