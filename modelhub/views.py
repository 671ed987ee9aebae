"""Pages of models, predictions and exchanges."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.db.models import Exists, OuterRef, Prefetch
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse

from datasets.models import Dataset, Record
from ecgportal.api.viewsets import as_uuid
from ecgportal.errors import InvalidInput, PortalError
from ecgportal.forms import take_error
from ecgportal.jobs.models import Job
from ecgportal.projects.access import Action
from ecgportal.views import AdministratorView, ProjectView, paginate
from modelhub import agreement, downloads, exchange, keys, packaging, services, statements, trying
from modelhub.answers import read_answers
from modelhub.architectures import installed
from modelhub.architectures.catalog import built_in
from modelhub.forms import (
    AnswersForm,
    CardForm,
    ExchangeForm,
    ImportForm,
    KeyForm,
    LicenceForm,
    PredictForm,
    PushForm,
    StatementsForm,
    TryForm,
    asked_before,
)
from modelhub.lineage import lineage
from modelhub.models import Exchange, Model, ModelVersion, PredictionRun, Transfer, VersionState
from modelhub.statements import read_statements


class ModelListPage(ProjectView):
    needs = {"get": Action.MODEL_VIEW}
    template = "modelhub/list.html"
    nav_active = "models"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        versions = Prefetch("versions", ModelVersion.objects.order_by("-number"))
        page = paginate(request, Model.objects.filter(project=self.project).prefetch_related(versions))
        licence = statements.licence_of(self.project)
        return self.page(page_obj=page, models=page, licence=licence, licence_form=LicenceForm({"licence": licence}))


class LicencePage(ProjectView):
    """Choose the licence that models trained in the project begin with."""

    needs = {"post": Action.MODEL_EXCHANGE}

    def post(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        form = LicenceForm(request.POST)
        if form.is_valid():
            text = statements.set_licence(actor=request.user, project=self.project, text=form.cleaned_data["licence"])
            messages.success(request, f"Models trained here begin with: {text}")
        else:
            messages.error(request, " ".join(form.errors["licence"]))
        return redirect("modelhub:list", project=project)


class ImportPage(ProjectView):
    needs = {"get": Action.MODEL_EDIT, "post": Action.MODEL_EDIT}
    template = "modelhub/import.html"
    nav_active = "models"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        refused = self.earlier(Job.objects.filter(project=self.project, kind="model_import"))
        return self.page(form=ImportForm(initial=asked_before(refused.payload) if refused else None))

    def post(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        form = ImportForm(request.POST, request.FILES)
        if form.is_valid():
            try:
                job = services.import_start(
                    actor=request.user,
                    project=self.project,
                    file=form.cleaned_data["file"],
                    name=form.cleaned_data["name"],
                    contract=read_answers(form.answers),
                    card=read_statements(form.cleaned_data),
                )
            except PortalError as error:
                take_error(form, error)
            else:
                return redirect("jobs:detail", pk=job.pk)
        form.ask_for_file_again()
        return self.page(form=form, status=422)


class VersionView(ProjectView):
    model = ModelVersion
    nav_active = "models"
    object: ModelVersion

    def rows(self) -> Any:
        return ModelVersion.objects.select_related("model__project", "parent__model", "created_by")


def in_order(values: dict[str, Any] | None, classes: list[str]) -> list[tuple[str, Any]]:
    """Return values by class in the order of the classes; the database keeps its own order of names."""
    return [(name, (values or {})[name]) for name in classes if name in (values or {})]


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
            graph=lineage(version, request.user), try_form=TryForm(datasets=datasets) if datasets.exists() else None, answers_form=AnswersForm(questions=questions), version=version, thresholds=in_order(version.contract.get("thresholds"), version.classes), predict_form=form, push_form=PushForm(), exchanges=Exchange.objects.exists(), contract=version.contract,
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
        transfer = services.push_start(actor=request.user, exchange=form.cleaned_data["exchange"], version=self.object)
        return redirect("jobs:detail", pk=transfer.job_id)


class VersionTry(VersionView):
    """Ask a version for one record of its project."""

    needs = {"post": Action.MODEL_EDIT}

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        form = TryForm(request.POST, datasets=Dataset.objects.filter(project=self.project))
        return tried(request, form, self.object, reverse("modelhub:version", kwargs={"pk": pk}))


def tried(request: HttpRequest, form: TryForm, version: ModelVersion, back: str) -> HttpResponse:
    """Start the job of a try and go to its page, or go back with the reason."""
    if not form.is_valid():
        messages.error(request, "Choose a dataset.")
        return redirect(back)
    try:
        job = trying.try_start(actor=request.user, version=version, record=form.record())
    except PortalError as error:
        messages.error(request, error.message)
        return redirect(back)
    return redirect("modelhub:tried", pk=job.pk)


class TriedPage(ProjectView):
    """What a version answered for one record."""

    needs = {"get": Action.MODEL_VIEW}
    model = Job
    template = "modelhub/tried.html"
    nav_active = "predictions"

    def rows(self) -> Any:
        return Job.objects.select_related("project", "created_by")

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return self.page(job=self.object, result=self.object.result)


class PredictionListPage(ProjectView):
    needs = {"get": Action.MODEL_VIEW, "post": Action.MODEL_EDIT}
    template = "modelhub/predictions.html"
    nav_active = "predictions"

    def _page(self, request: HttpRequest, form: PredictForm, status: int = 200) -> HttpResponse:
        runs = PredictionRun.objects.filter(project=self.project).select_related("version__model", "dataset", "job")
        page = paginate(request, runs)
        return self.page(form=form, page_obj=page, runs=page, status=status)

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        row = self.earlier(PredictionRun.objects.filter(project=self.project))
        if row is None:
            initial = {name: request.GET.get(name) for name in ("version", "dataset")}
        else:
            keys = Record.objects.filter(pk__in=row.record_ids).order_by("key").values_list("key", flat=True)
            initial = {
                "version": row.version_id,
                "dataset": row.dataset_id,
                "label_map": row.label_map_id,
                "records": "\n".join(keys),
            }
        return self._page(request, PredictForm(project=self.project, initial=initial))

    def post(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        form = PredictForm(request.POST, project=self.project)
        if form.is_valid():
            try:
                run = services.prediction_start(actor=request.user, project=self.project, **form.chosen())
            except PortalError as error:
                take_error(form, error)
            else:
                return redirect("modelhub:prediction", pk=run.pk)
        return self._page(request, form, status=422)


class PredictionView(ProjectView):
    model = PredictionRun
    nav_active = "predictions"
    object: PredictionRun

    def rows(self) -> Any:
        return PredictionRun.objects.select_related(
            "project", "version__model", "dataset", "job", "created_by", "label_map"
        )


class PredictionPage(PredictionView):
    needs = {"get": Action.MODEL_VIEW}
    template = "modelhub/prediction.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        run = self.object
        rows = run.predictions.select_related("record").order_by("record__key", "id")
        if wanted := request.GET.get("class"):
            rows = rows.filter(predicted__contains=[wanted])
        if request.GET.get("notices"):
            rows = rows.filter(notices__len__gt=0)
        page = paginate(request, rows)
        truths = agreement.truths(run, page)
        for row in page:
            row.truth = truths.get(row.record_id)
            row.verdict = agreement.verdict(row.predicted, row.truth)
            row.named = list(zip(run.version.classes, row.values, strict=False))
        counts = dict.fromkeys(run.version.classes, 0)
        for names in run.predictions.values_list("predicted", flat=True).iterator(chunk_size=5000):
            for name in names:
                counts[name] = counts.get(name, 0) + 1
        return self.page(
            run=run,
            thresholds=in_order(run.thresholds, run.version.classes),
            page_obj=page,
            predictions=page,
            classes=run.version.classes,
            counts=counts,
            wanted=wanted or "",
            origin=downloads.threshold_origin(run),
            compared=(run.job.result or {}).get("agreement"),
            cells=in_order(((run.job.result or {}).get("agreement") or {}).get("classes"), run.version.classes),
            care_basis=(run.job.result or {}).get("care_basis", ""),
            care="" if request.GET.get("notices") else _care(run),
            only_noticed=bool(request.GET.get("notices")),
            can_resume=run.job.state in ("failed", "cancelled"),
        )


def _care(run: PredictionRun) -> str:
    count = run.predictions.filter(notices__len__gt=0).count()
    if not count:
        return ""
    which = "One answer" if count == 1 else f"{count} answers"
    return f"{which} should be read with care: poor quality, another rate, or outside the training data."


class PredictionFile(PredictionView):
    needs = {"get": Action.MODEL_DOWNLOAD}

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return downloads.predictions_file(self.object, request.GET.get("format", "csv"), actor=request.user)


class PredictionResume(PredictionView):
    needs = {"post": Action.MODEL_EDIT}

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        services.prediction_resume(actor=request.user, run=self.object)
        return redirect("modelhub:prediction", pk=pk)


class ExchangePage(ProjectView):
    """What is published on the exchanges, and pulling it into this project."""

    needs = {"get": Action.MODEL_VIEW, "post": Action.MODEL_EXCHANGE}
    template = "modelhub/exchanges.html"
    nav_active = "exchanges"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        rows = []
        for remote in Exchange.objects.all():
            entry: dict[str, Any] = {"exchange": remote, "models": [], "error": ""}
            try:
                entry["models"] = exchange.listing(remote, self.project)
            except PortalError as error:
                entry["error"] = error.message
            rows.append(entry)
        transfers = Transfer.objects.filter(project=self.project).select_related("exchange", "job", "version__model")[
            :20
        ]
        return self.page(exchanges=rows, transfers=transfers)

    def post(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        remote = Exchange.objects.filter(pk=as_uuid(request.POST.get("exchange", ""), "exchange")).first()
        if remote is None:
            raise InvalidInput("This exchange was removed. Open the page again.", fields={"exchange": "Not there."})
        if request.POST.get("sync"):
            started = exchange.sync_start(actor=request.user, exchange=remote, project=self.project)
            count = len(started)
            messages.success(
                request, f"{count} transfer{'' if count == 1 else 's'} started." if started else "Nothing differs."
            )
            return redirect("modelhub:exchanges", project=project)
        if request.POST.get("version"):
            versions = ModelVersion.objects.filter(model__project=self.project).select_related("model__project")
            version = versions.filter(pk=as_uuid(request.POST["version"], "version")).first()
            if version is None:
                raise InvalidInput("This version was deleted. Open the page again.", fields={"version": "Not there."})
            return redirect(
                "jobs:detail", pk=services.push_start(actor=request.user, exchange=remote, version=version).job_id
            )
        transfer = services.pull_start(
            actor=request.user, exchange=remote, project=self.project, remote_path=request.POST.get("path", "")
        )
        return redirect("jobs:detail", pk=transfer.job_id)


class ExchangeAdminPage(AdministratorView):
    template = "modelhub/exchange_admin.html"
    nav_active = "exchanges"

    def get(self, request: HttpRequest) -> HttpResponse:
        return self.page(form=ExchangeForm(), exchanges=Exchange.objects.all())

    def post(self, request: HttpRequest) -> HttpResponse:
        form = ExchangeForm(request.POST)
        if form.is_valid():
            try:
                row = services.exchange_save(actor=request.user, **form.cleaned_data)
            except PortalError as error:
                take_error(form, error)
            else:
                messages.success(request, f"{row} was added.")
                return redirect("modelhub:exchange_edit", pk=row.pk)
        return self.page(form=form, exchanges=Exchange.objects.all(), status=422)


class ExchangeEditPage(AdministratorView):
    template = "modelhub/exchange_edit.html"
    nav_active = "exchanges"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        row = get_object_or_404(Exchange, pk=pk)
        tested = None
        if request.GET.get("test"):
            try:
                tested = exchange.test(row)
            except PortalError as error:
                tested = {"ok": False, "message": error.message}
        form = ExchangeForm(initial={"name": row.name, "url": row.url, "username": row.username})
        return self.page(form=form, exchange=row, tested=tested)

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        row = get_object_or_404(Exchange, pk=pk)
        form = ExchangeForm(request.POST)
        if form.is_valid():
            values = {**form.cleaned_data, "password": form.cleaned_data["password"] or None}
            try:
                services.exchange_save(actor=request.user, exchange=row, **values)
            except PortalError as error:
                take_error(form, error)
            else:
                messages.success(request, f"{row} was changed.")
                return redirect("modelhub:exchange_edit", pk=pk)
        return self.page(form=form, exchange=row, tested=None, status=422)


class KeysPage(AdministratorView):
    """Whose signatures count."""

    template = "modelhub/keys.html"
    nav_active = "exchanges"

    def get(self, request: HttpRequest) -> HttpResponse:
        return self.page(form=KeyForm(), keys=keys.listing())

    def post(self, request: HttpRequest) -> HttpResponse:
        if request.POST.get("remove"):
            keys.distrust(actor=request.user, key=keys.find(as_uuid(request.POST["remove"], "remove")))
            messages.success(request, "The key is not trusted any more.")
            return redirect("modelhub:keys")
        form = KeyForm(request.POST)
        if form.is_valid():
            try:
                row = keys.trust(actor=request.user, **form.cleaned_data)
            except PortalError as error:
                take_error(form, error)
            else:
                messages.success(request, f"The key of {row} is trusted.")
                return redirect("modelhub:keys")
        return self.page(form=form, keys=keys.listing(), status=422)


class NetworksPage(AdministratorView):
    """The definitions of networks that somebody put on this machine, with their digests."""

    template = "modelhub/networks.html"
    nav_active = "exchanges"

    def get(self, request: HttpRequest) -> HttpResponse:
        return self.page(
            definitions=installed.definitions(tuple(built_in())), folders=installed.folders(), own=built_in().values()
        )


class ExchangeDelete(AdministratorView):
    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        services.exchange_delete(actor=request.user, exchange=get_object_or_404(Exchange, pk=pk))
        messages.success(request, "The exchange was removed.")
        return redirect("modelhub:exchange_admin")
