"""Pages of answers: a version tried on one record, and predictions for a dataset."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from datasets.models import Dataset, Record
from ecgportal.errors import PortalError
from ecgportal.forms import take_error
from ecgportal.jobs.models import Job
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView, paginate
from modelhub import agreement, downloads, services_predictions, trying
from modelhub.forms import PredictForm, TryForm
from modelhub.models import ModelVersion, Prediction, PredictionRun
from modelhub.views_versions import VersionView, in_order


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
                run = services_predictions.prediction_start(actor=request.user, project=self.project, **form.chosen())
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
        rows, sort = _sorted(run, request.GET.get("sort", "key"))
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
            sort=sort,
            origin=downloads.threshold_origin(run),
            compared=(run.job.result or {}).get("agreement"),
            cells=in_order(((run.job.result or {}).get("agreement") or {}).get("classes"), run.version.classes),
            care_basis=(run.job.result or {}).get("care_basis", ""),
            care="" if request.GET.get("notices") else _care(run),
            only_noticed=bool(request.GET.get("notices")),
            can_resume=run.job.state in ("failed", "cancelled"),
        )


def _sorted(run: PredictionRun, sort: str) -> tuple[QuerySet[Prediction], str]:
    """Return a run's answers in the order of a column, ``key`` or the name of a class, and the order that is in force."""
    rows, name = run.predictions.select_related("record"), sort.removeprefix("-")
    if name in run.version.classes:
        value = F(f"values__{run.version.classes.index(name)}")
        return rows.order_by(value.desc() if sort != name else value.asc(), "record__key", "id"), sort
    return rows.order_by("-record__key" if sort == "-key" else "record__key", "id"), sort if sort == "-key" else "key"


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
        services_predictions.prediction_resume(actor=request.user, run=self.object)
        return redirect("modelhub:prediction", pk=pk)
