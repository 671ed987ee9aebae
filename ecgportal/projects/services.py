"""Write projects and memberships."""

from __future__ import annotations

from secrets import token_hex
from typing import Any

from django.db import transaction
from django.utils import timezone
from django.utils.text import slugify

from ecgportal.audit.trail import record
from ecgportal.errors import Conflict, InvalidInput, NotFound
from ecgportal.projects.models import Membership, Project, Role
from ecgportal.secrets import decrypt, encrypt
from ecgportal.validation import require_valid


def _free_slug(name: str) -> str:
    base = slugify(name)[:120] or "project"
    taken = set(Project.objects.filter(slug__startswith=base).values_list("slug", flat=True))
    candidates = [base, *(f"{base}-{number}" for number in range(2, len(taken) + 3))]
    return next(slug for slug in candidates if slug not in taken)


def _clean(project: Project) -> None:
    require_valid(project, "The project cannot be saved like this.")


@transaction.atomic
def project_create(*, actor: Any, name: str, description: str = "", keeps_identifiers: bool = False) -> Project:
    """Create a project with ``actor`` as its owner."""
    project = Project(
        name=name.strip(), slug=_free_slug(name), description=description, keeps_identifiers=keeps_identifiers
    )
    _clean(project)
    project.save(force_insert=True)
    Membership.objects.create(project=project, user=actor, role=Role.OWNER)
    record("project.created", project, actor=actor, project=project)
    return project


@transaction.atomic
def project_update(
    *, actor: Any, project: Project, name: str | None = None, description: str | None = None, keeps_identifiers: bool | None = None
) -> Project:  # fmt: skip
    """Change what is given. ``keeps_identifiers`` holds for uploads from now on."""
    changes = {}
    for field, value in (("name", name), ("description", description), ("keeps_identifiers", keeps_identifiers)):
        if value is not None and getattr(project, field) != value:
            changes[field] = [getattr(project, field), value]
            setattr(project, field, value)
    if changes:
        _clean(project)
        project.save()
        record("project.changed", project, actor=actor, project=project, changes=changes)
    return project


@transaction.atomic
def pseudonym_key(project: Project) -> bytes:
    """Return the key of the project's pseudonyms, made when it is first asked for; stored encrypted."""
    row = Project.objects.select_for_update().only("pseudonym_secret").get(pk=project.pk)
    if not row.pseudonym_secret:
        row.pseudonym_secret = encrypt(token_hex(32))
        row.save(update_fields=["pseudonym_secret"])
    return bytes.fromhex(decrypt(row.pseudonym_secret))


@transaction.atomic
def project_archive(*, actor: Any, project: Project, archived: bool = True) -> Project:
    """Put a project aside (it stays readable for its members) or bring it back."""
    project.archived_at = timezone.now() if archived else None
    project.save(update_fields=["archived_at"])
    record("project.archived" if archived else "project.changed", project, actor=actor, project=project)
    return project


@transaction.atomic
def member_set(*, actor: Any, project: Project, user: Any, role: str) -> Membership:
    """Give ``user`` a role in the project; the last owner cannot be made less."""
    if role not in Role.values:
        raise InvalidInput(f"{role!r} is not a role.", fields={"role": f"Choose one of {', '.join(Role.values)}."})
    Project.objects.select_for_update().get(pk=project.pk)
    membership = Membership.objects.filter(project=project, user=user).first()
    before = membership.role if membership else None
    if before == Role.OWNER and role != Role.OWNER:
        _keep_an_owner(project, user)
    membership, _ = Membership.objects.update_or_create(project=project, user=user, defaults={"role": role})
    if before != role:
        record("member.set", user, actor=actor, project=project, changes={"role": [before, role]})
    return membership


@transaction.atomic
def member_remove(*, actor: Any, project: Project, user: Any) -> None:
    Project.objects.select_for_update().get(pk=project.pk)
    membership = Membership.objects.filter(project=project, user=user).first()
    if membership is None:
        raise NotFound(f"{user} is not a member of {project}.")
    if membership.role == Role.OWNER:
        _keep_an_owner(project, user)
    membership.delete()
    record("member.removed", user, actor=actor, project=project, changes={"role": [membership.role, None]})


def _keep_an_owner(project: Project, user: Any) -> None:
    others = Membership.objects.filter(project=project, role=Role.OWNER, user__is_active=True).exclude(user=user)
    if not others.exists():
        raise Conflict("A project needs an owner. Make someone else an owner first.", code="last_owner")
