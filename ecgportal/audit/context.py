"""Who acts, from where, and what belongs together: known to every service without being passed along."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class AuditContext:
    """channel: ``web``, ``api``, ``dash``, ``webdav``, ``worker`` or ``shell``. correlation: one id for all
    that one request or job causes. user: whom a request was sent by; None outside of one."""

    channel: str = "shell"
    address: str = ""
    correlation: uuid.UUID = field(default_factory=uuid.uuid4)
    user: Any = None


_current: ContextVar[AuditContext | None] = ContextVar("audit_context", default=None)


def current() -> AuditContext:
    """Return the context of the running request or job; a shell context outside both."""
    return _current.get() or AuditContext()


@contextmanager
def acting(context: AuditContext) -> Iterator[AuditContext]:
    """Make ``context`` the current one inside the block."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
