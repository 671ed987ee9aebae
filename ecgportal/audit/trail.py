"""Write and verify the audit trail."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from django.db import models
from django.utils import timezone

from ecgportal import version
from ecgportal.audit.actions import ACTIONS
from ecgportal.audit.context import current
from ecgportal.audit.models import AuditEvent

_PAYLOAD_FIELDS = (
    "action", "outcome", "channel", "address", "actor_id", "actor_name", "project_id", "project_name",
    "object_type", "object_id", "object_label", "correlation",
)  # fmt: skip
# Left out of the text where they are empty, as in rows that are older than these columns.
_LATER_FIELDS = ("actor_role", "software")


def _payload(event: AuditEvent) -> str:
    """Return the canonical text that the chain covers."""
    content: dict[str, Any] = {name: str(getattr(event, name) or "") for name in _PAYLOAD_FIELDS}
    content |= {name: getattr(event, name) for name in _LATER_FIELDS if getattr(event, name)}
    content["at"] = event.at.isoformat(timespec="microseconds")
    content["changes"] = event.changes
    return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _label(obj: models.Model | str | None) -> str:
    return str(obj or "").replace("\x00", "")[:200]


def _no_role(actor: Any, project: Any) -> str:
    return ""


_role_of: Callable[[Any, Any], str] = _no_role


def tell_roles(role_of: Callable[[Any, Any], str]) -> None:
    """Hand in how to find an actor's role in a project (or on the platform, when there is no project)."""
    global _role_of
    _role_of = role_of


def record(
    action: str,
    obj: models.Model | str | None = None,
    *,
    actor: Any = None,
    project: Any = None,
    outcome: str = "success",
    changes: dict[str, Any] | None = None,
) -> AuditEvent:
    """Add one event inside the current transaction.

    Services call it after their last write. ``changes`` holds changed fields or counts, never signals, labels of
    a person, or secrets. Raises KeyError for a verb that is not registered.
    """
    if action not in ACTIONS:
        raise KeyError(f"{action} is not a registered audit verb")
    context = current()
    known_actor = actor if getattr(actor, "pk", None) else None
    event = AuditEvent(
        at=timezone.now(),
        action=action,
        outcome=outcome,
        channel=context.channel,
        address=context.address,
        correlation=context.correlation,
        actor_id=known_actor.pk if known_actor else None,
        actor_name=known_actor.get_username()[:150] if known_actor else "",
        actor_role=_role_of(known_actor, project) if known_actor else "",
        project_id=project.pk if project else None,
        project_name=_label(getattr(project, "name", ""))[:120] if project else "",
        object_type=obj._meta.model_name[:40] if isinstance(obj, models.Model) else "",
        object_id=str(obj.pk) if isinstance(obj, models.Model) else "",
        object_label=_label(obj),
        changes=json.loads(json.dumps(changes or {}, default=str).replace("\\u0000", "")),
        software=version.VERSION,
    )
    event.payload = _payload(event)
    event.save(force_insert=True)
    return event


def verify() -> Iterator[str]:
    """Walk the whole chain and yield a sentence for every row that was changed, removed or inserted."""
    previous, expected = "", 1
    for event in AuditEvent.objects.filter(sequence__isnull=False).order_by("sequence").iterator(chunk_size=2000):
        if event.sequence != expected:
            yield f"Rows {expected} to {event.sequence - 1} are missing."
            expected = event.sequence
        if _payload(event) != event.payload:
            yield f"Row {event.sequence} was changed: its columns do not match what was recorded."
        if hashlib.sha256(f"{previous}\n{event.payload}".encode()).hexdigest() != event.hash:
            yield f"Row {event.sequence} does not continue the chain."
        previous, expected = event.hash, expected + 1
    unsealed = AuditEvent.objects.filter(sequence__isnull=True).count()
    if unsealed:
        yield f"{unsealed} rows have no place in the chain."
