"""Do a job as in production: in a process of its own, started by the runner, while the test looks at the page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from unittest import mock

from django.conf import settings
from django.db import connection, connections

from ecgportal.jobs import runner
from ecgportal.jobs.models import Job


@contextmanager
def in_a_process_of_its_own(job: Job) -> Iterator[None]:
    """Start the job's process on the test's database; leaving the block waits for its end."""
    own = connection.settings_dict
    environment = {
        "DATABASE_URL": f"postgresql://{own['USER']}@/{own['NAME']}?host={own['HOST']}",
        "PORTAL_HOME": str(settings.PORTAL_HOME),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "OMP_NUM_THREADS": "1",
    }
    thread = Thread(target=_start, args=(job,), daemon=True)
    with mock.patch.dict(os.environ, environment):
        thread.start()
        try:
            yield
        finally:
            thread.join(timeout=120)
    assert not thread.is_alive(), "the job's process did not end"


def _start(job: Job) -> None:
    try:
        runner.start(str(job.pk))
    finally:
        connections.close_all()
