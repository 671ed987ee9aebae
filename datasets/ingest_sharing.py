"""Other hosts that read parts of an upload: asked by the upload's own job, and not needed by it."""

from __future__ import annotations

import time

from datasets.ingest_plan import Plan
from datasets.models import Ingest
from ecgportal import home, storage
from ecgportal.jobs import health, services
from ecgportal.jobs.context import JobContext
from ecgportal.jobs.models import Job, JobState

KIND = "ingest_share"
# So many parts are done by one host sooner than another one has begun to help.
_MANY_PARTS = 12
_ASK_EVERY_S = 5.0


def _jobs(ingest: Ingest) -> list[Job]:
    """Return the jobs by which other hosts read this upload, those that are not finished."""
    return list(Job.objects.unfinished().filter(kind=KIND, payload__ingest=str(ingest.pk)))


class Others:
    """Asks each host that has workers once, and again when it has done its share and there is more."""

    def __init__(self, context: JobContext, plan: Plan):
        self._context, self._plan = context, plan
        self._asked: dict[str, Job] = {job.host: job for job in _jobs(plan.ingest)}
        self._next = 0.0

    def ask(self, is_new: bool = False) -> None:
        """Look, every few seconds and at a new stage, whether there is enough to read for others, and ask them."""
        if time.monotonic() < self._next and not is_new:
            return
        self._next = time.monotonic() + _ASK_EVERY_S
        # Hosts without a folder in common cannot read one upload together.
        if storage.shared() is not None:
            return
        hosts = [name for name in health.hosts() if name not in (home.host_name(), self._context.job.host)]
        if not hosts or self._plan.n_free() < _MANY_PARTS:
            return
        ingest = self._plan.ingest
        for name in hosts:
            if name in self._asked:
                job = self._asked[name]
                job.refresh_from_db(fields=["state"])
                # One that was cancelled or has failed is not asked again.
                if job.state != JobState.SUCCEEDED:
                    continue
            self._asked[name] = services.enqueue(
                KIND, actor=ingest.created_by, project=ingest.dataset.project, payload={"ingest": str(ingest.pk)},
                title=f"Help to read files of {ingest.dataset.name} on {name}", host=name,
            )  # fmt: skip


def end(ingest: Ingest) -> None:
    """Take back what no host has begun. Those that have begun find nothing more to read and end by themselves."""
    for job in _jobs(ingest):
        services.withdraw(job)
