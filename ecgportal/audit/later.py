"""Events that a request's answer must not wait for, nor its transaction take back: written when the answer is sent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ecgportal.audit.context import AuditContext, acting, current

logger = logging.getLogger(__name__)

#: What waits for the end of the running request; None outside of one.
_waiting: ContextVar[list[tuple[AuditContext, Callable[[], None]]] | None] = ContextVar("audit_waiting", default=None)


def begin() -> None:
    """From here on ``when_answered`` waits for ``finish``, which the same thread calls."""
    _waiting.set([])


def when_answered(write: Callable[[], None]) -> None:
    """Call ``write`` in the audit context of now: once the request is answered, at once outside of a request."""
    waiting = _waiting.get()
    if waiting is None:
        write()
    else:
        waiting.append((current(), write))


def finish(**signal: Any) -> None:
    """Write what waits. An error is logged: nobody is there any more to be told."""
    waiting = _waiting.get()
    _waiting.set(None)
    for context, write in waiting or ():
        with acting(context):
            try:
                write()
            except Exception:
                logger.exception("an audit event was not written after its request")


@contextmanager
def answering() -> Iterator[None]:
    """Stand for a request: what is to be written waits until the block ends."""
    begin()
    try:
        yield
    finally:
        finish()
