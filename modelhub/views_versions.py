"""Pages of model versions: what one is, its card, and what is done with it."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.db.models import Exists, OuterRef
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect

from datasets.models import Dataset, Record
from ecgportal.errors import PortalError
from ecgportal.forms import take_error
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView
from modelhub import downloads, packaging, services, services_exchanges, statements
from modelhub.answers import read_answers
from modelhub.forms import AnswersForm, CardForm, PredictForm, PushForm, StatementsForm, TryForm
from modelhub.lineage import lineage
from modelhub.models import Exchange, ModelVersion, VersionState


class VersionView(ProjectView):
    model = ModelVersion
    nav_active = "models"
    object: ModelVersion

    def rows(self) -> Any:
        return ModelVersion.objects.select_related("model__project", "parent__model", "created_by")


def in_order(values: dict[str, Any] | None, classes: list[str]) -> list[tuple[str, Any]]:
    """Return values by class in the order of the classes; the database keeps its own order of names."""
    return [(name, (values or {})[name]) for name in classes if name in (values or {})]


def _duration_s(contract: dict[str, Any]) -> float | None:
    """Return how many seconds of ECG a version takes, None while that is not said."""
    return contract["n_samples"] / contract["fs_hz"] if contract.get("n_samples") and contract.get("fs_hz") else None


def _origin(version: ModelVersion) -> str:
    """Say where a version's thresholds come from and how they decide; nothing while its contract is not known."""
    if version.state == VersionState.INCOMPLETE:
        return ""
    return downloads.origin_of(version, version.contract.get("thresholds") or {})


class VersionPage(VersionView):
    needs = {"get": Action.MODEL_VIEW}
    template = "modelhub/version.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        version = self.object
        form = PredictForm(project=self.project, initial={"version": version.pk})
        questions = version.checks.get("questions", {}) if version.state == VersionState.INCOMPLETE else {}
        open_ = statements.missing(version)
        # An empty dataset has no record to try it on, and would be the first to be offered.
        datasets = Dataset.objects.filter(project=self.project).order_by("name")
        datasets = datasets.filter(Exists(Record.objects.filter(dataset=OuterRef("pk"))))
        return self.page(
            unknown_data=version.card.get("training_data", "").strip().lower().rstrip(".") == statements.NOT_KNOWN.lower().rstrip("."),
            graph=lineage(version, request.user), try_form=TryForm(datasets=datasets) if datasets.exists() else None, answers_form=AnswersForm(questions=questions), version=version, thresholds=in_order(version.contract.get("thresholds"), version.classes), origin=_origin(version), predict_form=form, push_form=PushForm(), exchanges=Exchange.objects.exists(), contract=version.contract, duration_s=_duration_s(version.contract),
            evaluations=version.evaluations.select_related("dataset", "job").order_by("-created_at")[:20],
            statements_form=StatementsForm(card=version.card, asked=open_) if open_ else None,
            prose=[(name.replace("_", " ").capitalize(), version.card.get(name, "")) for name in services.CARD_FIELDS],
            aliases=version.model.aliases.select_related("version"), siblings=version.model.versions.order_by("-number")[:20], children=version.children.select_related("model")[:20],
        )  # fmt: skip


class VersionDownload(VersionView):
    needs = {"get": Action.MODEL_DOWNLOAD}

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponseBase:
        return downloads.answer(self.object, request.GET.get("format", "onnx"), actor=request.user)


class CardDocument(VersionView):
    """The whole card to read: a page, Markdown, or PDF (``?format=``)."""

    needs = {"get": Action.MODEL_VIEW}

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        kind = request.GET.get("format", "html")
        if kind != "html":
            return downloads.card_file(self.object, kind, request)
        sections = packaging.card_sections(self.object)
        return self.page("modelhub/card_read.html", version=self.object, sections=sections)


class CardPage(VersionView):
    needs = {"get": Action.MODEL_EDIT, "post": Action.MODEL_EDIT}
    template = "modelhub/card.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return self.page(form=CardForm(card=self.object.card), version=self.object)

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        form = CardForm(request.POST, card=self.object.card)
        if form.is_valid():
            # The version's page sends licence and intended use alone; the rest of the card stays as it is.
            said = {name: text for name, text in form.cleaned_data.items() if name in request.POST}
            try:
                services.card_update(actor=request.user, version=self.object, card=said)
            except PortalError as error:
                take_error(form, error)
            else:
                return redirect("modelhub:version", pk=pk)
        return self.page(form=form, version=self.object, status=422)


class VersionComplete(VersionView):
    """Say what an imported file left open."""

    needs = {"post": Action.MODEL_EDIT}

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        form = AnswersForm(request.POST, questions=self.object.checks.get("questions", {}))
        if not form.is_valid():
            for name, texts in form.errors.items():
                messages.error(request, f"{form.fields[name].label or name}: {' '.join(texts)}")
            return redirect("modelhub:version", pk=pk)
        job = services.version_complete(actor=request.user, version=self.object, answers=read_answers(form.answers))
        return redirect("jobs:detail", pk=job.pk)


class VersionRetire(VersionView):
    needs = {"post": Action.MODEL_EXCHANGE}

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        retired = self.object.state == VersionState.READY
        services.version_retire(actor=request.user, version=self.object, retired=retired)
        messages.success(request, f"{self.object} is {'retired' if retired else 'in use again'}.")
        return redirect("modelhub:version", pk=pk)


class VersionAlias(VersionView):
    """Move an alias to this version, or take it away."""

    needs = {"post": Action.MODEL_EXCHANGE}

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        name, model = request.POST.get("name", ""), self.object.model
        if request.POST.get("remove"):
            services.alias_remove(actor=request.user, model=model, name=name)
            messages.success(request, f"{model.name}@{name} was removed.")
        else:
            row = services.alias_set(actor=request.user, model=model, name=name, version=self.object)
            messages.success(request, f"{row} is version {self.object.number} now.")
        return redirect("modelhub:version", pk=pk)


class VersionAccept(VersionView):
    needs = {"post": Action.MODEL_EXCHANGE}

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        services.version_accept(actor=request.user, version=self.object)
        messages.success(request, f"{self.object} is accepted and can be used.")
        return redirect("modelhub:version", pk=pk)


class VersionDelete(VersionView):
    needs = {"get": Action.MODEL_DELETE, "post": Action.MODEL_DELETE}

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return self.page(
            "components/confirm.html", title=f"Delete {self.object}", danger=True, submit="Delete the version", cancel_url=f"/versions/{pk}/",
            message="The weights and the card of this version are removed.", consequences=["Runs that it was trained by keep their metrics."],
        )  # fmt: skip

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        services.version_delete(actor=request.user, version=self.object)
        messages.success(request, "The version was deleted.")
        return redirect("modelhub:list", project=self.project.pk)


class VersionPublish(VersionView):
    needs = {"post": Action.MODEL_EXCHANGE}

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        form = PushForm(request.POST)
        if not form.is_valid():
            messages.error(request, "Choose an exchange.")
            return redirect("modelhub:version", pk=pk)
        transfer = services_exchanges.push_start(
            actor=request.user, exchange=form.cleaned_data["exchange"], version=self.object
        )
        return redirect("jobs:detail", pk=transfer.job_id)
