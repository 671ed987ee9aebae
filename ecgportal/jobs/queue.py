"""The only module that talks to django-q2. A message carries a job's id and nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from django_q.conf import Conf  # noqa: TID251
from django_q.models import OrmQ  # noqa: TID251
from django_q.signals import post_spawn  # noqa: TID251
from django_q.tasks import async_task  # noqa: TID251


def send(job_id: uuid.UUID, queue: str) -> None:
    """Queue "start job N". With the ORM broker the message commits with the current transaction."""
    options = {"cluster": queue} if queue != "io" else {}
    async_task("ecgportal.jobs.runner.start", str(job_id), q_options={**options, "task_name": f"start {job_id}"})


def waiting_messages() -> int:
    """Return how many messages lie in the broker; a figure for operators, not for decisions."""
    return OrmQ.objects.count()


def when_a_worker_starts(queue: str, call: Callable[[], None]) -> None:
    """Call a function in each new worker process of a queue, before it takes its first message."""

    def started(**_: Any) -> None:
        if queue == Conf.CLUSTER_NAME:
            call()

    post_spawn.connect(started, weak=False, dispatch_uid=f"worker of {queue}")
