"""Pages of the catalogue."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.views import View

from datasets.models import Dataset
from ecgportal.api.viewsets import as_uuid
from ecgportal.errors import Conflict, InvalidInput, PortalError
from ecgportal.forms import take_error
from ecgportal.projects import access
from ecgportal.projects.access import Action
from ecgportal.projects.models import Project
from ecgportal.views import AdministratorView, ProjectView, paginate
from modelhub import catalogue
from modelhub.card import PROSE, metric_title
from modelhub.catalogue_forms import CatalogueFilterForm, CopyForm, DecideForm, ReasonForm, ShareForm
from modelhub.forms import TryForm
from modelhub.lineage import lineage
from modelhub.models import CatalogueEntry, ModelVersion
from modelhub.views_predictions import tried

MOST_COMPARED = 6
_METRICS = ("auroc_macro", "auprc_macro", "f1_macro", "f1_weighted")


class CataloguePage(View):
    """Entries that the user sees, by search and filter."""

    def get(self, request: HttpRequest) -> HttpResponse:
        entries = catalogue.visible(request.user)
        filters = CatalogueFilterForm(request.GET, entries=entries)
        page = paginate(request, catalogue.search(entries, **filters.values))
        context = {"filters": filters, "page_obj": page, "nav_active": "catalogue", "filtered": bool(filters.values)}
        return render(request, "modelhub/catalogue.html", context)


class ComparePage(View):
    """Two or more entries side by side: ``?entry=`` once for each."""

    def get(self, request: HttpRequest) -> HttpResponse:
        ids = [as_uuid(value, "entry") for value in request.GET.getlist("entry")]
        if not 2 <= len(set(ids)) <= MOST_COMPARED:
            raise InvalidInput(f"Choose 2 to {MOST_COMPARED} models of the catalogue to compare.")
        found = {entry.pk: entry for entry in catalogue.visible(request.user).filter(pk__in=ids)}
        entries = [found[pk] for pk in dict.fromkeys(ids) if pk in found]
        if len(found) < len(set(ids)):
            access.note_hidden(CatalogueEntry, request.user, pk__in=set(ids) - set(found))
        if len(entries) < 2:
            raise InvalidInput("Fewer than two of these models are visible to you.")
        context = {"entries": entries, "rows": comparison(entries), "nav_active": "catalogue"}
        return render(request, "modelhub/catalogue_compare.html", context)


def comparison(entries: list[CatalogueEntry]) -> list[dict[str, Any]]:
    """Return one row per fact, with the cells in the order of the entries and whether what they say differs."""
    columns = [_facts(entry) for entry in entries]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [{"name": name, "cells": [column.get(name, "") for column in columns]} for name in names]
    return [{**row, "differs": len(set(filter(None, row["cells"]))) > 1} for row in rows]


def _facts(entry: CatalogueEntry) -> dict[str, str]:
    version, contract, prose = entry.version, entry.version.contract, entry.shown.get("prose", {})
    facts = {
        "State": entry.get_state_display(),
        "Task": version.task_title,
        "Classes": ", ".join(version.named_classes) or "none",
        "Leads": ", ".join(contract.get("leads", [])),
        "Sampling rate": f"{contract.get('fs_hz', 0):g} Hz",
        "Length": f"{contract.get('n_samples')} samples",
        "Unit": str(contract.get("unit")),
        "Normalisation": str(contract.get("normalisation")),
        "Network": version.architecture or "foreign network",
        "Parameters": f"{version.parameters:,}" if version.parameters else "not known",
        "Size": filesizeformat(version.size),
        "Judged on": "Not judged when it was proposed.",
        **metric_rows(entry),
    }
    return facts | {title: prose.get(name) or "Not stated." for name, title in PROSE.items()}


def metric_rows(entry: CatalogueEntry) -> dict[str, str]:
    """Return the metrics of the proposal as text, with their intervals."""
    metrics = entry.shown.get("facts", {}).get("metrics", {})
    rows = {}
    # The database keeps its own order of names.
    for name in sorted(metrics, key=lambda name: (_METRICS.index(name) if name in _METRICS else len(_METRICS), name)):
        figure = metrics[name]
        title = metric_title(name)
        if isinstance(figure, dict) and figure.get("value") is not None:
            low, high = figure.get("low"), figure.get("high")
            interval = f" (95 % {low:.3f} to {high:.3f})" if low is not None and high is not None else ""
            rows[title] = f"{figure['value']:.3f}{interval}"
    if not rows:
        return {}
    data = metrics.get("data") or "data of its project"
    return {"Judged on": f"{metrics.get('n')} records ({metrics.get('part')}, {data})", **rows}


class EntryView(View):
    """A page about one entry. ``needs`` says what it takes in the project that the entry, or the copy, belongs to."""

    needs: ClassVar[dict[str, Action]] = {}
    model: ClassVar[type] = CatalogueEntry

    def entry(self, pk: uuid.UUID) -> CatalogueEntry:
        return catalogue.find(self.request.user, pk)


class EntryPage(EntryView):
    needs: ClassVar[dict[str, Action]] = {"get": Action.MODEL_VIEW}

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return entry_page(request, self.entry(pk))


def entry_page(request: HttpRequest, entry: CatalogueEntry, status: int = 200, **forms: Any) -> HttpResponse:
    """Render an entry with the controls that the user may use."""
    user: Any = request.user
    role = access.role_in(user, entry.version.model.project)
    decide = DecideForm(entry=entry) if user.is_administrator else None
    targets = catalogue.copy_targets(user, entry)
    context = {
        "entry": entry,
        "version": entry.version,
        "contract": entry.version.contract,
        "prose": [
            (title, entry.shown["prose"][name])
            for name, title in PROSE.items()
            if entry.shown.get("prose", {}).get(name)
        ],
        "metrics": metric_rows(entry),
        "graph": lineage(entry.version, user),
        "approval": catalogue.vouched(entry),
        "history": entry.decisions.all() if catalogue.sees_history(user, entry) else [],
        "is_member": role is not None,
        "can_withdraw": entry.state == "in_review" and Action.MODEL_EXCHANGE in access.ROLE_ALLOWS.get(role or "", ()),
        "decide_form": decide if decide is not None and decide.fields["decision"].choices else None,
        "share_form": ShareForm(initial={"visible_to_all": entry.visible_to_all, "projects": entry.projects.all()})
        if user.is_administrator and entry.state in ("in_review", "approved")
        else None,
        "copy_form": CopyForm(targets=targets) if targets.exists() else None,
        "try_form": TryForm(datasets=own_datasets(user))
        if entry.state == "approved" and own_datasets(user).exists()
        else None,
        "nav_active": "catalogue",
    }
    return render(request, "modelhub/catalogue_entry.html", context | forms, status=status)


class EntryCopy(EntryView):
    """Copy into the project that the form names; the role there decides."""

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        entry, chosen = self.entry(pk), as_uuid(request.POST.get("project", ""), "project")
        project: Project = access.get_or_404(Project.objects.all(), request.user, Action.MODEL_EDIT, pk=chosen)
        version = catalogue.copy(actor=request.user, entry=entry, project=project)
        messages.success(request, f"{version} is in {project} and can be used.")
        return redirect("modelhub:version", pk=version.pk)


class EntryTry(EntryView):
    """Ask an approved version for one record of a project in which the user may predict; the form names it."""

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        entry = self.entry(pk)
        if entry.state != "approved" and access.role_in(request.user, entry.version.model.project) is None:
            raise Conflict(f"{entry} is not approved, so it cannot be tried.", code="not_approved")
        form = TryForm(request.POST, datasets=own_datasets(request.user))
        return tried(request, form, entry.version, reverse("catalogue_entry", kwargs={"pk": pk}))


def own_datasets(user: Any) -> Any:
    """Return the datasets on which a user may predict."""
    return access.visible(Dataset.objects.select_related("project"), user, Action.MODEL_EDIT).order_by("name")


class EntryWithdraw(ProjectView):
    needs: ClassVar[dict[str, Action]] = {"post": Action.MODEL_EXCHANGE}
    model = CatalogueEntry

    def rows(self) -> Any:
        return CatalogueEntry.objects.select_related("version__model__project")

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        catalogue.withdraw(actor=request.user, entry=self.object, reason=request.POST.get("reason", ""))
        messages.success(request, "The proposal was withdrawn.")
        return redirect("modelhub:version", pk=self.object.version_id)


class EntryDecide(AdministratorView):
    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        entry = catalogue.find(request.user, pk)
        form = DecideForm(request.POST, entry=entry)
        if form.is_valid():
            try:
                entry = catalogue.decide(actor=request.user, entry=entry, **form.cleaned_data)
            except PortalError as error:
                take_error(form, error)
            else:
                messages.success(request, f"{entry}: {entry.get_state_display().lower()}.")
                return redirect("catalogue") if entry.state == "draft" else redirect("catalogue_entry", pk=pk)
        return entry_page(request, entry, status=422, decide_form=form)


class EntryShare(AdministratorView):
    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        entry = catalogue.find(request.user, pk)
        form = ShareForm(request.POST)
        if not form.is_valid():
            return entry_page(request, entry, status=422, share_form=form)
        chosen = list(form.cleaned_data["projects"])
        catalogue.share(
            actor=request.user, entry=entry, visible_to_all=form.cleaned_data["visible_to_all"], projects=chosen
        )
        messages.success(request, "Who sees this entry was changed.")
        return redirect("catalogue_entry", pk=pk)


class ProposePage(ProjectView):
    needs: ClassVar[dict[str, Action]] = {"get": Action.MODEL_EXCHANGE, "post": Action.MODEL_EXCHANGE}
    model = ModelVersion
    template = "modelhub/catalogue_propose.html"
    nav_active = "models"

    def rows(self) -> Any:
        return ModelVersion.objects.select_related("model__project")

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return self.page(form=ReasonForm(), version=self.object)

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        form = ReasonForm(request.POST)
        if form.is_valid():
            try:
                entry = catalogue.propose(actor=request.user, version=self.object, reason=form.cleaned_data["reason"])
            except PortalError as error:
                take_error(form, error)
            else:
                messages.success(request, "The version was proposed. An administrator of this portal decides.")
                return redirect("catalogue_entry", pk=entry.pk)
        return self.page(form=form, version=self.object, status=422)
