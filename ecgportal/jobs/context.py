"""What a running handler sees of its job."""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType
from typing import Any, NoReturn

from django.conf import settings
from django.db import connection

from ecgportal.errors import JobCancelled
from ecgportal.jobs import services
from ecgportal.jobs.models import Job

logger = logging.getLogger(__name__)


class JobInterrupted(BaseException):
    """The job goes on later (the portal is stopping, or others wait): leave what is needed for that, and end."""


class LeaseLost(BaseException):
    """Another attempt holds the job now; end without writing anything."""


class JobContext:
    """Progress leaves and cancellation enters here. ``stopping`` is set on cancel, shutdown and loss of the lease."""

    def __init__(self, job: Job):
        self.job = job
        self.attempt = job.attempt
        self.stopping = threading.Event()
        self._reason: type[BaseException] | None = None
        self._done = threading.Event()
        self._progress = (job.progress, job.message)
        self._written = 0.0
        self._began = time.monotonic()
        self._asked = 0.0
        self._gives_way = False

    @property
    def payload(self) -> dict[str, Any]:
        return self.job.payload

    @property
    def is_resumed(self) -> bool:
        return self.attempt > 1

    def report(self, fraction: float, message: str = "") -> None:
        """Note how far the job is, in [0, 1]; written at most twice a second."""
        self._progress = (min(max(float(fraction), 0.0), 1.0), message[:300] or self._progress[1])
        now = time.monotonic()
        if now - self._written >= 0.5:
            self._written = now
            self._beat()

    def progress(self, fraction: float, message: str = "") -> None:
        """Note how far the job is, and raise when it must stop."""
        self.report(fraction, message)
        self.raise_if_stopping()

    def stop_reason(self) -> str | None:
        """Return ``cancelled`` or ``interrupted`` when the job has to end, for code that ends in its own way."""
        if not self.stopping.is_set():
            return None
        return "cancelled" if self._reason is JobCancelled else "interrupted"

    def raise_if_stopping(self) -> None:
        """Raise JobCancelled, JobInterrupted or LeaseLost when the job has to end."""
        if self.stopping.is_set() and self._reason is not None:
            if self._reason is JobCancelled:
                raise JobCancelled("The job was cancelled.")
            raise self._reason

    def close(self, result: dict[str, Any], *, cancelled: bool = False) -> None:
        """Close the job's row within the caller's transaction, so that what is written with it is written once, whenever
        the process dies. LeaseLost when another attempt holds the job."""
        end = services.stop_cancelled if cancelled else services.succeed
        if not end(self.job.pk, self.attempt, result):
            raise LeaseLost

    @property
    def must_give_way(self) -> bool:
        """True when the job has held its worker for ``JOB_TURN_S`` and others wait for one: then leave by :meth:`give_way`."""
        now = time.monotonic()
        if not self._gives_way and now - self._began > settings.JOB_TURN_S and now - self._asked > 2.0:
            self._asked = now
            self._gives_way = services.others_wait(self.job)
        return self._gives_way

    def give_way(self) -> NoReturn:
        """End this turn; the job goes to the end of its queue and is started again."""
        raise JobInterrupted("Others wait for a worker, too; going on in turn.")

    def _stop(self, reason: type[BaseException]) -> None:
        self._reason = self._reason or reason
        self.stopping.set()

    def _beat(self) -> None:
        fraction, message = self._progress
        if not services.beat(self.job.pk, self.attempt, progress=fraction, message=message):
            self._stop(LeaseLost)
        elif Job.objects.filter(pk=self.job.pk, cancel_requested=True).exists():
            self._stop(JobCancelled)

    def _beat_forever(self) -> None:
        while not self._done.wait(settings.JOB_HEARTBEAT_S):
            try:
                self._beat()
            except Exception:
                # The database may be restarting; the next beat tries again and the lease allows for it.
                logger.exception("heartbeat of job %s failed", self.job.pk)
                connection.close()
        connection.close()

    def __enter__(self) -> JobContext:
        def on_signal(number: int, frame: FrameType | None) -> None:
            self._stop(JobInterrupted)

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_signal)
            signal.signal(signal.SIGINT, on_signal)
        self._thread = threading.Thread(target=self._beat_forever, daemon=True, name="heartbeat")
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join(timeout=5)
