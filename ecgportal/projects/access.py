"""The one place that decides who may do what.

Invisible is 404, visible but refused is 403 with the role that is needed. An administrator has no more rights in a
project than their membership gives.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Model, QuerySet
from django.utils import timezone

from ecgportal.audit import later
from ecgportal.audit.context import current
from ecgportal.audit.models import AuditEvent
from ecgportal.audit.trail import record
from ecgportal.errors import NotAllowed, NotFound
from ecgportal.projects.models import Membership, Project, Role

M = TypeVar("M", bound=Model)

HIDDEN_ONCE_IN = timedelta(hours=1)
_MOST_PROJECTS = 20


class Action(StrEnum):
    """What can be done. The value is the sentence fragment of the role table."""

    PROJECT_VIEW = "see the project and its members"
    PROJECT_EDIT = "rename or archive the project"
    MEMBERS_EDIT = "add, change and remove members"
    DATA_VIEW = "see datasets, records, signals and labels"
    DATA_EDIT = "create datasets, upload records and labels, edit label maps"
    DATA_DELETE = "delete datasets and records"
    MODEL_VIEW = "see models, runs, predictions and evaluations"
    MODEL_DOWNLOAD = "download models, predictions and reports"
    MODEL_EDIT = "train, import, predict and evaluate"
    MODEL_DELETE = "delete models and runs"
    MODEL_EXCHANGE = "publish models to and pull models from an exchange"
    JOB_VIEW = "see jobs and their progress"
    JOB_CANCEL = "cancel jobs"
    AUDIT_VIEW = "read and export the project's audit trail"


_VIEWER = {Action.PROJECT_VIEW, Action.DATA_VIEW, Action.MODEL_VIEW, Action.MODEL_DOWNLOAD, Action.JOB_VIEW}
_EDITOR = _VIEWER | {Action.DATA_EDIT, Action.DATA_DELETE, Action.MODEL_EDIT, Action.JOB_CANCEL}
ROLE_ALLOWS: dict[str, frozenset[Action]] = {
    Role.VIEWER: frozenset(_VIEWER),
    Role.EDITOR: frozenset(_EDITOR),
    Role.OWNER: frozenset(Action),
}


def roles_allowing(action: Action) -> list[str]:
    """Return the roles that may do ``action``, weakest first."""
    return [role for role in Role.values if action in ROLE_ALLOWS[role]]


def needed_role(action: Action) -> str:
    return roles_allowing(action)[0]


def _project_lookup(model: type[Model]) -> str:
    path = getattr(model, "project_path", None)
    if path is None:
        raise TypeError(f"{model.__name__} does not say how it reaches its project")
    return f"{path}__in" if path else "pk__in"


def visible(queryset: QuerySet[M], user: Any, action: Action | None = None) -> QuerySet[M]:
    """Narrow to rows of projects in which ``user`` may do ``action`` (any membership when None)."""
    if not getattr(user, "is_authenticated", False):
        return queryset.none()
    memberships = Membership.objects.filter(user=user)
    if action is not None:
        memberships = memberships.filter(role__in=roles_allowing(action))
    return queryset.filter(**{_project_lookup(queryset.model): memberships.values("project")})


def project_of(obj: Model) -> Project:
    """Follow ``project_path`` from a row to its project."""
    target: Any = obj
    for name in filter(None, obj.project_path.split("__")):  # type: ignore[attr-defined]
        target = getattr(target, name)
    return target


def role_in(user: Any, project: Project) -> str | None:
    """Return the user's role in the project, or None for an outsider."""
    return Membership.objects.filter(user=user, project=project).values_list("role", flat=True).first()


def acting_role(user: Any, project: Project | None) -> str:
    """Return the role in which a user acts: the one in the project, else administrator, else nothing."""
    found = role_in(user, project) if project is not None else None
    return found or ("administrator" if getattr(user, "is_administrator", False) else "")


def require(user: Any, action: Action, project: Project) -> str:
    """Return the user's role, or raise NotFound (outsider) or NotAllowed (role too weak)."""
    role = role_in(user, project)
    if role is None:
        note_hidden(Project, user, pk=project.pk)
        raise NotFound("There is no such project, or you are not a member of it.")
    if action not in ROLE_ALLOWS[role]:
        need = needed_role(action)
        record(
            "access.refused", project, actor=user, project=project, outcome="refused", changes={"action": action.name}
        )
        error = NotAllowed(
            f"To {action.value} you need the role {need} in {project.name}; yours is {role}.", code="role_needed"
        )
        error.needed_role = need  # type: ignore[attr-defined]
        raise error
    return role


def find(queryset: QuerySet[M], user: Any, **lookup: Any) -> M | None:
    """Return the one row, or None when it is not there or not visible."""
    obj = visible(queryset, user).filter(**lookup).first()
    if obj is None:
        note_hidden(queryset.model, user, **lookup)
    return obj


def note_hidden(model: type[Model], user: Any, **lookup: Any) -> None:
    """Have it recorded when rows that ``user`` asked for in vain lie in projects of others, in the trails of those projects.

    Nothing of it happens before the request is answered, so that the answer takes as long for a row that is not there, and
    stays when the request's transaction is rolled back. One event an hour for each user, project and kind of row.
    """
    if getattr(user, "is_authenticated", False):
        later.when_answered(lambda: _record_hidden(model, user, lookup))


def note_asked(model: type[Model], *ids: Any) -> None:
    """``note_hidden`` for whoever sent the running request, by what it gave for ids; what is no id is passed over."""
    asked = set()
    for value in ids:
        try:
            asked.add(UUID(str(value)))
        except ValueError:
            continue
    if asked:
        note_hidden(model, current().user, pk__in=asked)


def _record_hidden(model: type[Model], user: Any, lookup: dict[str, Any]) -> None:
    asked = model._default_manager.filter(**lookup).order_by("pk")
    if (path := getattr(model, "project_path", None)) is None:
        first = asked.first()
        if first is not None:
            _record_hidden_row(first, user, None)
        return
    column = path or "pk"
    hidden = asked.exclude(pk__in=visible(asked, user).order_by().values("pk"))
    for project in hidden.order_by().values_list(column, flat=True).distinct()[:_MOST_PROJECTS]:
        first = hidden.filter(**{column: project}).first()
        if first is not None:
            _record_hidden_row(first, user, project_of(first))


@transaction.atomic
def _record_hidden_row(obj: Model, user: Any, project: Project | None) -> None:
    kind = obj._meta.model_name or ""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"{user.pk} {project and project.pk} {kind}"]
        )
    known = AuditEvent.objects.filter(
        action="access.hidden", actor_id=user.pk, project_id=project.pk if project else None, object_type=kind[:40],
        at__gt=timezone.now() - HIDDEN_ONCE_IN,
    )  # fmt: skip
    if not known.exists():
        record("access.hidden", obj, actor=user, project=project, outcome="refused")


def get_or_404(queryset: QuerySet[M], user: Any, action: Action, **lookup: Any) -> M:
    """Return the one row, or raise NotFound (not there or not visible) or NotAllowed (role too weak)."""
    obj = find(queryset, user, **lookup)
    if obj is None:
        name = queryset.model._meta.verbose_name
        raise NotFound(f"There is no such {name}, or it belongs to a project that you are not a member of.")
    require(user, action, project_of(obj))
    return obj


def require_administrator(user: Any) -> None:
    """Raise NotAllowed unless the user administers the platform."""
    if not getattr(user, "is_administrator", False):
        record("access.refused", "platform administration", actor=user, outcome="refused")
        error = NotAllowed("Only an administrator of this portal may do this.", code="administrator_needed")
        error.needed_role = "administrator"  # type: ignore[attr-defined]
        raise error
