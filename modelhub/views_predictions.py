"""Pages of answers: a version tried on one record, and predictions for a dataset."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from datasets.models import Dataset, Record
from datasets.selectors import IndexPaginator
from ecgportal.errors import PortalError
from ecgportal.forms import note_first_values, take_error
from ecgportal.jobs.models import Job
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView, paginate
from modelhub import agreement, answer_list, downloads, services_predictions, trying
from modelhub.answer_list import AnswerList
from modelhub.forms import AnswerListForm, PredictForm, TryForm
from modelhub.models import ModelVersion, PredictionRun
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
        form = PredictForm(project=self.project, initial=initial)
        note_first_values(form, request.GET)
        return self._page(request, form)

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
        listed = answer_list.usable(run, request.GET)
        page = paginate(request, listed.rows(), paginator=IndexPaginator)
        truths = agreement.truths(run, page, listed.label_map)
        first = page.start_index()
        for number, row in enumerate(page, start=first):
            row.truth = truths.get(row.record_id)
            row.verdict = agreement.verdict(row.predicted, row.truth)
            row.named = list(zip(run.version.classes, row.values, strict=False))
            row.query = listed.query(prediction=run.pk, at=number)
        # A number is no class.
        counts = dict.fromkeys(run.version.named_classes if run.version.task != "regression" else [], 0)
        for names, count in run.predictions.order_by().values_list("predicted").annotate(n=Count("pk")):
            for name in names:
                counts[name] = counts.get(name, 0) + count
        compared = agreement.kept_of_run(run, listed.label_map)
        maps = agreement.maps_for(run.version, run.project)
        return self.page(
            run=run, listed=listed, page_obj=page, predictions=page, classes=run.version.named_classes, counts=counts, sort=listed.sort,
            thresholds=in_order(run.thresholds, run.version.classes), origin=downloads.threshold_origin(run), compared=compared,
            cells=in_order((compared or {}).get("classes"), run.version.classes), tabs=_tabs(listed, compared),
            list_form=AnswerListForm(request.GET, listed=listed, maps=maps), told=_told(listed), file_query=listed.query(),
            care_basis=(run.job.result or {}).get("care_basis", ""), can_resume=run.job.state in ("failed", "cancelled"),
        )  # fmt: skip


def _tabs(listed: AnswerList, compared: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the parts of a run's list with how many records each holds."""
    run = listed.run
    answered = run.predictions.count()
    noticed = run.predictions.filter(notices__len__gt=0).count()
    parts: list[tuple[str, int, dict[str, str], bool]] = [("All", answered, {}, listed.is_whole)]
    if compared:
        known, agrees = compared["known"], compared["agrees"]
        parts += [
            ("Differ from the labels", known - agrees, {"agreement": "differs"}, listed.is_of_mistakes),
            ("Agree", agrees, {"agreement": "agrees"}, listed.agreement == "agrees"),
        ]
        if answered > known:
            parts.append(
                ("Labels not known", answered - known, {"agreement": "unlabelled"}, listed.agreement == "unlabelled")
            )
    if noticed:
        parts.append(("Read with care", noticed, {"notices": "1"}, listed.only_noticed))
    plain = AnswerList(run, listed.label_map)
    return [
        {"label": label, "count": count, "url": f"?{plain.query(**query)}#answers", "current": is_current}
        for label, count, query, is_current in parts
    ]


def _told(listed: AnswerList) -> str:
    """Say in a sentence which records the list holds."""
    by, name = f"(by {listed.label_map})" if listed.label_map else "", listed.name
    sentences = {
        "differs": f"Records where answer and labels differ in {name or 'some class'} {by}.",
        "false_positive": f"Records that are predicted as {name or 'a class'} and not labelled so {by}.",
        "false_negative": f"Records that are labelled as {name or 'a class'} and not predicted so {by}.",
        "agrees": f"Records that are both predicted and labelled as {name} {by}." if name else f"Records whose answer is that of their labels {by}.",
        "unlabelled": f"Records of whose labels the map knows none {by}.",
        "": f"Records predicted as {name}." if name else "",
    }  # fmt: skip
    return sentences[listed.agreement] or (
        "Records whose answer should be read with care." if listed.only_noticed else ""
    )


class PredictionFile(PredictionView):
    needs = {"get": Action.MODEL_DOWNLOAD}

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        listed = answer_list.read(self.object, request.GET)
        return downloads.predictions_file(listed, request.GET.get("format", "csv"), actor=request.user)


class PredictionResume(PredictionView):
    needs = {"post": Action.MODEL_EDIT}

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        services_predictions.prediction_resume(actor=request.user, run=self.object)
        return redirect("modelhub:prediction", pk=pk)
