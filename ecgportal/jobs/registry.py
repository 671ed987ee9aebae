"""Which function does which kind of job. Apps register theirs when they are ready."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecgportal.projects.access import Action

if TYPE_CHECKING:
    from ecgportal.jobs.context import JobContext
    from ecgportal.jobs.models import Job

Handler = Callable[["JobContext"], dict[str, Any]]


# Not a cluster's name: a job of this kind is for one host, whose watch over the jobs starts it beside those of the queues.
HOST = "host"


@dataclass(frozen=True)
class Again:
    """The way from a job that did not do its work to the page where it is started anew. needs: who may go it."""

    label: str
    url: str
    needs: Action


@dataclass(frozen=True)
class Kind:
    """queue: the cluster that starts it, or ``HOST``. max_attempts: how often a job whose process died is started again;
    every handler must be safe to start again. warm_up: loads what its work needs, in a process that waits for a job.
    again: the way back from a job that failed or was cancelled; None when what it worked on is gone."""

    name: str
    title: str
    run: Handler
    queue: str
    max_attempts: int
    warm_up: Callable[[], None] | None = None
    again: Callable[[Job], Again | None] | None = None


KINDS: dict[str, Kind] = {}
#: Done once an hour by every host's watch over the jobs; hosts may be at it at the same time.
HOURLY: list[Callable[[], None]] = []


def hourly(function: Callable[[], None]) -> Callable[[], None]:
    """Register what has to happen with time alone, whether or not anybody does anything."""
    HOURLY.append(function)
    return function


def handler(
    name: str, *, title: str, queue: str = "io", max_attempts: int = 3, warm_up: Callable[[], None] | None = None,
    again: Callable[[Job], Again | None] | None = None,
) -> Callable[[Handler], Handler]:  # fmt: skip
    """Register the decorated function as the handler of ``name``; it returns the job's ``result``."""

    def register(function: Handler) -> Handler:
        if name in KINDS:
            raise RuntimeError(f"Two handlers for the job kind {name!r}.")
        KINDS[name] = Kind(name, title, function, queue, max_attempts, warm_up, again)
        return function

    return register


def way_back(job: Job) -> Again | None:
    """Return where a job that failed or was cancelled is started anew, if its kind knows a place."""
    kind = KINDS.get(job.kind)
    if kind is None or kind.again is None or job.state not in ("failed", "cancelled"):
        return None
    try:
        return kind.again(job)
    except KeyError:  # a job of an older release may say less of what it was for.
        return None
