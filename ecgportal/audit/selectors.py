"""Read the audit trail."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import Any

from django.db.models import Q, QuerySet
from django.utils import timezone

from ecgportal.audit.actions import ACTIONS
from ecgportal.audit.models import AuditEvent
from ecgportal.projects.access import Action, roles_allowing
from ecgportal.projects.models import Membership


def readable_by(user: Any) -> QuerySet[AuditEvent]:
    """Events of the projects whose trail the user may read; everything for an administrator."""
    events = AuditEvent.objects.all()
    if user.is_administrator:
        return events
    projects = Membership.objects.filter(user=user, role__in=roles_allowing(Action.AUDIT_VIEW)).values("project")
    # That what somebody asked for in vain exists is not theirs to know.
    own = Q(actor_id=user.pk, project_id__isnull=True) & ~Q(action="access.hidden")
    return events.filter(Q(project_id__in=projects) | own)


def filtered(events: QuerySet[AuditEvent], values: dict[str, Any]) -> QuerySet[AuditEvent]:
    """Narrow to ``actor`` (user name), ``action``, ``outcome``, and the days ``since`` to ``until`` (both included)."""
    if actor := values.get("actor"):
        events = events.filter(actor_name__iexact=actor)
    for name in ("action", "outcome"):
        if value := values.get(name):
            events = events.filter(**{name: value})
    if since := values.get("since"):
        events = events.filter(at__gte=datetime.combine(since, time.min, tzinfo=timezone.get_current_timezone()))
    if until := values.get("until"):
        events = events.filter(
            at__lt=datetime.combine(until + timedelta(days=1), time.min, tzinfo=timezone.get_current_timezone())
        )
    return events


def sentence(event: AuditEvent) -> str:
    template = ACTIONS.get(event.action, "did " + event.action)
    return template.replace("{object}", event.object_label or event.object_type)
