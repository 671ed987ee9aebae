"""The catalogue: versions that projects propose to the whole platform and for which an administrator vouches."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models import Prefetch, Q, QuerySet
from django.utils import timezone

from datasets.models import Record
from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput, NotFound
from ecgportal.jobs.models import Job
from ecgportal.projects import access
from ecgportal.projects.access import Action
from ecgportal.projects.models import Membership, Project
from modelhub import novelty, packaging, statements, trying
from modelhub.contract import ModelContract
from modelhub.identifiers import find_identifiers, texts_of
from modelhub.models import (
    CatalogueDecision,
    CatalogueEntry,
    CatalogueState,
    ModelVersion,
    Origin,
    VersionState,
)
from modelhub.services import model_get_or_create, version_add

#: Prose that a proposal must state: nobody can judge a model, or may use it, without them.
NEEDED_PROSE = ("intended_use", "licence")

#: What an administrator can decide: from which state to which.
DECISIONS: dict[str, tuple[Any, Any]] = {
    "approve": (CatalogueState.IN_REVIEW, CatalogueState.APPROVED),
    "refuse": (CatalogueState.IN_REVIEW, CatalogueState.DRAFT),
    "retire": (CatalogueState.APPROVED, CatalogueState.RETIRED),
}


def visible(user: Any) -> QuerySet[CatalogueEntry]:
    """Return the entries that a user sees: approved ones granted to them, all of their own projects, and for an
    administrator also what waits for review, is approved or retired."""
    mine = Membership.objects.filter(user=user).values("project")
    seen = Q(version__model__project__in=mine)
    seen |= Q(state=CatalogueState.APPROVED) & (Q(visible_to_all=True) | Q(pk__in=_granted(mine)))
    if user.is_administrator:
        seen |= ~Q(state=CatalogueState.DRAFT)
    last = Prefetch("decisions", CatalogueDecision.objects.order_by("created_at", "id"))
    rows = CatalogueEntry.objects.filter(seen).select_related("version__model__project", "proposed_by")
    return rows.prefetch_related(last)


def _granted(projects: Any) -> Any:
    return CatalogueEntry.projects.through.objects.filter(project__in=projects).values("catalogueentry")


def find(user: Any, pk: Any) -> CatalogueEntry:
    """Return one visible entry, or raise NotFound."""
    entry = visible(user).filter(pk=pk).first()
    if entry is None:
        access.note_hidden(CatalogueEntry, user, pk=pk)
        raise NotFound("There is no such catalogue entry, or it is not granted to any of your projects.")
    return entry


def search(
    rows: QuerySet[CatalogueEntry],
    *,
    text: str = "",
    task: str = "",
    label: str = "",
    architecture: str = "",
    licence: str = "",
    state: str = "",
    leads: int | None = None,
    fs_hz: float | None = None,
    data: str = "",
    auroc: float | None = None,
) -> QuerySet[CatalogueEntry]:
    """Narrow entries. text: in the model's name, its classes or its prose; label: one class; licence: a part of its text.

    leads, fs_hz: of the input. data: a part of the name of what it was judged on; auroc: the least macro AUROC there.
    """
    if text:
        rows = rows.filter(
            Q(version__model__name__icontains=text)
            | Q(version__classes__icontains=text)
            | Q(shown__prose__intended_use__icontains=text)
            | Q(shown__prose__training_data__icontains=text)
        )
    if label:
        rows = rows.filter(version__classes__icontains=label)
    if licence:
        rows = rows.filter(shown__prose__licence__icontains=licence)
    if leads is not None:
        # The last of so many leads is there, and no further one.
        rows = rows.filter(
            **{
                f"version__contract__leads__{leads - 1}__isnull": False,
                f"version__contract__leads__{leads}__isnull": True,
            }
        )
    if fs_hz is not None:
        rows = rows.filter(version__contract__fs_hz=fs_hz)
    if data:
        rows = rows.filter(shown__facts__metrics__data__icontains=data)
    if auroc is not None:
        rows = rows.filter(shown__facts__metrics__auroc_macro__value__gte=auroc)
    exact = {"version__task": task, "version__architecture": architecture, "state": state}
    return rows.filter(**{name: value for name, value in exact.items() if value})


@transaction.atomic
def propose(*, actor: Any, version: ModelVersion, reason: str) -> CatalogueEntry:
    """Propose a ready version, or propose a refused one again; what is shown of it is fixed at this moment."""
    version = ModelVersion.objects.select_for_update(of=("self",)).select_related("model__project").get(pk=version.pk)
    if version.state != VersionState.READY:
        raise Conflict(f"{version} is not ready. Only ready versions can be proposed.", code="version_not_ready")
    missing = [name for name in NEEDED_PROSE if not version.card.get(name, "").strip()]
    if missing:
        names = " and ".join(name.replace("_", " ") for name in missing)
        raise InvalidInput(
            f"The card of {version} does not state its {names}. Write that first.",
            code="card_incomplete",
            fields=dict.fromkeys(missing, "Required for the catalogue."),
        )
    statements.require(version)
    entry = CatalogueEntry.objects.filter(version=version).first()
    if entry is None:
        entry = CatalogueEntry(version=version)
        entry.save(force_insert=True)
    elif entry.state != CatalogueState.DRAFT:
        raise Conflict(f"{version} is in the catalogue already: {entry.get_state_display()}.", code="already_proposed")
    entry.proposed_by = actor
    entry.shown = _shown(version)
    entry.save(update_fields=["proposed_by", "shown"])
    return _move(entry, CatalogueState.IN_REVIEW, actor=actor, reason=reason, verb="catalogue.proposed")


def _shown(version: ModelVersion) -> dict[str, Any]:
    """Return what other projects will see of a version; InvalidInput when a text looks as if it named a patient."""
    novelty.reference_for(version)
    shown = {
        "card": packaging.card_markdown(version),
        "prose": dict(version.card),
        "facts": packaging.manifest_of(version),
    }
    for text in texts_of(shown):
        if found := find_identifiers(text):
            raise InvalidInput(
                f"The card or the facts of {version} hold {found[0]}, which may name a patient. Take it out first.",
                code="identifiers_found",
            )
    return shown


@transaction.atomic
def withdraw(*, actor: Any, entry: CatalogueEntry, reason: str) -> CatalogueEntry:
    """Take a proposal back before it is decided."""
    entry = _locked(entry)
    if entry.state != CatalogueState.IN_REVIEW:
        raise Conflict(f"{entry} is not in review, so there is nothing to withdraw.", code="not_in_review")
    return _move(entry, CatalogueState.DRAFT, actor=actor, reason=reason, verb="catalogue.withdrawn")


@transaction.atomic
def decide(*, actor: Any, entry: CatalogueEntry, decision: str, reason: str) -> CatalogueEntry:
    """Approve, refuse or retire as an administrator. A retired entry stays retired; its copies stay where they are."""
    access.require_administrator(actor)
    if decision not in DECISIONS:
        raise InvalidInput(
            f"{decision!r} is not a decision.", fields={"decision": f"Choose one of {', '.join(DECISIONS)}."}
        )
    entry = _locked(entry)
    before, after = DECISIONS[decision]
    if entry.state != before:
        raise Conflict(
            f"{entry} is {entry.get_state_display().lower()}; only an entry that is {CatalogueState(before).label.lower()} "
            f"can be {decision}d.",
            code="wrong_catalogue_state",
        )
    verb = {"approve": "catalogue.approved", "refuse": "catalogue.refused", "retire": "catalogue.retired"}[decision]
    return _move(entry, after, actor=actor, reason=reason, verb=verb)


@transaction.atomic
def share(
    *, actor: Any, entry: CatalogueEntry, visible_to_all: bool | None = None, projects: list[Project] | None = None
) -> CatalogueEntry:
    """Set, as an administrator, who sees an entry once it is approved: everybody, or the members of some projects."""
    access.require_administrator(actor)
    entry = _locked(entry)
    if visible_to_all is not None:
        entry.visible_to_all = visible_to_all
        entry.save(update_fields=["visible_to_all"])
    if projects is not None:
        entry.projects.set(projects)
    names = sorted(entry.projects.values_list("name", flat=True))
    audit(
        "catalogue.shared",
        entry,
        actor=actor,
        project=entry.version.model.project,
        changes={"visible_to_all": entry.visible_to_all, "projects": names},
    )
    return entry


@transaction.atomic
def copy(*, actor: Any, entry: CatalogueEntry, project: Project) -> ModelVersion:
    """Add an approved version to a project to which it is granted. It is ready at once: an administrator vouched."""
    access.require(actor, Action.MODEL_EDIT, project)
    entry = _locked(entry)
    source = entry.version
    if entry.state != CatalogueState.APPROVED:
        raise Conflict(f"{entry} is not approved, so it cannot be copied.", code="not_approved")
    if not entry.visible_to_all and not entry.projects.filter(pk=project.pk).exists():
        raise Conflict(f"{entry} is not granted to {project}. Ask an administrator of this portal.", code="not_granted")
    if source.model.project_id == project.pk:
        raise Conflict(f"{entry} comes from {project}; it is there already.", code="already_here")
    here = ModelVersion.objects.filter(model__project=project, checks__catalogue__entry=str(entry.pk)).first()
    if here is not None:
        raise Conflict(f"{project} has a copy already: {here}.", code="already_here")
    approved = vouched(entry)
    assert approved is not None
    vouching = {
        "entry": str(entry.pk),
        "approved_by": approved.decided_by_name,
        "approved_at": approved.created_at.isoformat(),
        "copied_at": timezone.now().isoformat(),
        "trained_here": source.is_made_here,
    }
    version = version_add(
        actor=actor, model=model_get_or_create(actor=actor, project=project, name=source.model.name),
        onnx=storage.read_blob(source.sha256), contract=ModelContract.from_dict(source.contract), origin=Origin.IMPORTED,
        parameters=source.parameters, weights=storage.read_blob(source.weights_sha256) if source.weights_sha256 else None,
        facts=_portable(entry), card=entry.shown.get("prose", {}), checks={**source.checks, "catalogue": vouching},
    )  # fmt: skip
    audit("catalogue.copied", entry, actor=actor, project=project, changes={"version": str(version.pk)})
    return version


def try_start(*, actor: Any, entry: CatalogueEntry, record: Record) -> Job:
    """Start to ask an approved version, or one of a project of the user's own, for one record."""
    if entry.state != CatalogueState.APPROVED and access.role_in(actor, entry.version.model.project) is None:
        raise Conflict(f"{entry} is not approved, so it cannot be tried.", code="not_approved")
    return trying.try_start(actor=actor, version=entry.version, record=record)


def _portable(entry: CatalogueEntry) -> dict[str, Any]:
    return {name: value for name, value in entry.shown.get("facts", {}).items() if name != "prose"}


def vouched(entry: CatalogueEntry) -> CatalogueDecision | None:
    """Return the approval of an entry that is approved or retired, or None."""
    return next((row for row in reversed(entry.decisions.all()) if row.to_state == CatalogueState.APPROVED), None)


def copy_targets(user: Any, entry: CatalogueEntry) -> QuerySet[Project]:
    """Return the projects into which a user can copy an entry."""
    projects = access.visible(Project.objects.filter(archived_at=None), user, Action.MODEL_EDIT)
    if entry.state != CatalogueState.APPROVED:
        return projects.none()
    if not entry.visible_to_all:
        projects = projects.filter(pk__in=entry.projects.values("pk"))
    holders = ModelVersion.objects.filter(checks__catalogue__entry=str(entry.pk)).values("model__project")
    return projects.exclude(pk=entry.version.model.project_id).exclude(pk__in=holders)


def sees_history(user: Any, entry: CatalogueEntry) -> bool:
    """Tell whether a user may read all decisions: administrators and the members of the proposing project."""
    return user.is_administrator or access.role_in(user, entry.version.model.project) is not None


def _locked(entry: CatalogueEntry) -> CatalogueEntry:
    rows = CatalogueEntry.objects.select_for_update(of=("self",)).select_related("version__model__project")
    return rows.get(pk=entry.pk)


def _move(entry: CatalogueEntry, state: Any, *, actor: Any, reason: str, verb: str) -> CatalogueEntry:
    reason = reason.strip()
    if not reason:
        raise InvalidInput("Say why, in a sentence.", fields={"reason": "Required."})
    if len(reason) > 4000:
        raise InvalidInput("The reason is too long.", fields={"reason": "At most 4000 characters."})
    before, entry.state = entry.state, state
    entry.save(update_fields=["state"])
    CatalogueDecision.objects.create(
        entry=entry,
        from_state=before,
        to_state=state,
        reason=reason,
        decided_by=actor,
        decided_by_name=actor.get_username()[:150],
    )
    audit(
        verb,
        entry,
        actor=actor,
        project=entry.version.model.project,
        changes={"state": [before, state], "reason": reason},
    )
    return entry
