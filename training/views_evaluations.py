"""Pages that judge models: one evaluation, several side by side, one model on several datasets."""

from __future__ import annotations

import uuid
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from ecgportal.errors import Conflict, PortalError
from ecgportal.forms import note_first_values, take_error
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView, paginate
from modelhub.models import ModelVersion
from training import judging, kept, reports, services
from training.forms import EvaluationForm, ThresholdForm
from training.metrics.subgroups import apart
from training.metrics.thresholds import at_prevalence
from training.models import Evaluation
from training.result_figures import figures_of, parts_figure, parts_of
from viz.drawn import drawn, is_wide
from viz.figures.panels import MOST_TOGETHER


class EvaluationListPage(ProjectView):
    needs = {"get": Action.MODEL_VIEW, "post": Action.MODEL_EDIT}
    template = "training/evaluations.html"
    nav_active = "evaluations"

    def _page(self, request: HttpRequest, form: EvaluationForm, status: int = 200) -> HttpResponse:
        page = paginate(request, judging.light(Evaluation.objects.filter(project=self.project)))
        return self.page(form=form, page_obj=page, evaluations=page, status=status)

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        row = self.earlier(Evaluation.objects.filter(project=self.project).only("version", "dataset", "label_map"))
        initial = {name: request.GET.get(name) for name in ("version", "dataset")}
        if row is not None:
            initial = {"version": row.version_id, "dataset": row.dataset_id, "label_map": row.label_map_id}
        form = EvaluationForm(project=self.project, initial=initial)
        note_first_values(form, request.GET)
        return self._page(request, form)

    def post(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        form = EvaluationForm(request.POST, project=self.project)
        if form.is_valid():
            try:
                row = services.evaluation_start(actor=request.user, **form.cleaned_data)
            except PortalError as error:
                take_error(form, error)
            else:
                return redirect("training:evaluation", pk=row.pk)
        return self._page(request, form, status=422)


class EvaluationView(ProjectView):
    model = Evaluation
    nav_active = "evaluations"
    object: Evaluation

    def rows(self) -> Any:
        return Evaluation.objects.select_related("project", "version__model", "dataset", "label_map", "job", "run")


class EvaluationPage(EvaluationView):
    """One evaluation: figures, classes, thresholds and their consequences, parts of the records, what to compare with."""

    needs = {"get": Action.MODEL_VIEW}
    template = "training/evaluation.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        row = self.object
        if not row.report:
            return self.page(evaluation=row, report={})
        others = judging.light(Evaluation.objects.filter(project=self.project).exclude(pk=row.pk).exclude(report={}))
        return self.page(
            evaluation=row, report=row.report, overall=reports.overall_rows(row.report), classes=reports.class_rows(row.report),
            figures=[_drawn(row, kind, figure) for kind, figure in figures_of(row).items()],
            thresholds=self._thresholds(request) if row.report["task"] != "regression" else None, parts=_parts(row),
            forest=_forest(row), headline=reports.headline(row.report), others=others[:50],
        )  # fmt: skip

    def _thresholds(self, request: HttpRequest) -> dict[str, Any]:
        """Return the form and the rows of the threshold section; a sentence where the answers were not kept."""
        names = self.object.report["classes"]
        form = ThresholdForm(request.GET or None, classes=names)
        asked = form.cleaned_data if form.is_bound and form.is_valid() else {}
        name = asked.get("of_class") or names[0]
        try:
            rows = kept.threshold_rows(self.object, name, asked.get("threshold"))
        except Conflict as error:
            return {"reason": error.message}
        prevalence = asked.get("prevalence")
        if prevalence is not None:
            for one in rows:
                sensitivity, specificity = one["sensitivity"].value, one["specificity"].value
                if sensitivity is not None and specificity is not None:
                    one["ppv_there"], one["npv_there"] = at_prevalence(sensitivity, specificity, prevalence / 100)
        return {"form": form, "rows": rows, "name": name, "prevalence": prevalence}


def _drawn(row: Evaluation, kind: str, figure: Any) -> dict[str, Any]:
    downloads = {suffix: reverse(f"viz:evaluation_{suffix}", args=[row.pk, kind]) for suffix in ("csv", "svg")}
    is_matrix = kind == "confusion" and len(row.report["classes"]) > 4 and row.report["task"] == "multiclass"
    many = len(row.report["classes"]) > MOST_TOGETHER
    # Two stand side by side on a wide screen, so letters must not shrink.
    if is_wide(figure):
        size: dict[str, Any] = {"width": 720}
    elif is_matrix:
        size = {"width": 760, "height": None if many else 560}
    else:
        size = {"width": 540, "height": None if kind == "f1" or many else 430}
    return drawn(figure, kind, downloads, kind="matrix" if is_matrix else "plot", **size)


def _parts(row: Evaluation) -> list[dict[str, Any]]:
    """Return the parts of the records by attribute, each with the sentence that says whether they differ."""
    name, _ = reports.headline(row.report)
    found = []
    for attribute, rows in parts_of(row.report).items():
        pairs = apart(rows, name) if name != "mae" else [(b, a) for a, b in apart(rows, name)]
        told = "; ".join(f"better for {a} than for {b}" for a, b in pairs[:4])
        judged = sum(1 for one in rows if one.get(name))
        found.append({
            "title": reports.ATTRIBUTES[attribute], "rows": [one | {"figure": one.get(name)} for one in rows],
            "differs": told, "judged": judged,
        })  # fmt: skip
    return found


def _forest(row: Evaluation) -> dict[str, Any] | None:
    figure = parts_figure(row)
    return drawn(figure, "parts-figure", width=800) if figure else None


class EvaluationReport(EvaluationView):
    """The report as a file, ``html`` or ``pdf``."""

    needs = {"get": Action.MODEL_DOWNLOAD}
    kind = "html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return reports.file_of(self.object, self.kind, request.user)


class ComparePage(ProjectView):
    """Chosen evaluations side by side (``?evaluation=`` once each); two on the same records also by their difference."""

    needs = {"get": Action.MODEL_VIEW}
    template = "training/compare.html"
    nav_active = "evaluations"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        rows, missing = judging.chosen(self.project, request.GET.getlist("evaluation"), request.user)
        choice = judging.light(Evaluation.objects.filter(project=self.project).exclude(report={}))[:100]
        if len(rows) < 2:
            return self.page(rows=rows, missing=missing, choice=choice, status=200)
        figure = judging.comparison_figure(rows)
        return self.page(
            rows=rows, missing=missing, choice=choice, table=judging.comparison_table(rows), settings=judging.differing_settings(rows),
            figure=drawn(figure, "comparison", width=800), paired=judging.paired_or_reason(rows), curves=_losses(rows),
        )  # fmt: skip


def _losses(rows: list[Evaluation]) -> dict[str, Any] | None:
    figure = judging.loss_figure(rows)
    return drawn(figure, "losses") if figure else None


class ValidationPage(ProjectView):
    """One model on every dataset that it was judged on: the external validation, with what differs in the data."""

    model = ModelVersion
    needs = {"get": Action.MODEL_VIEW}
    template = "training/validation.html"
    nav_active = "models"
    object: ModelVersion

    def rows(self) -> Any:
        return ModelVersion.objects.select_related("model__project")

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        found = judging.validation(self.object)
        figure = judging.validation_figure(self.object, found) if len(found) > 1 else None
        return self.page(
            version=self.object, rows=found, figure=drawn(figure, "validation", width=800) if figure else None
        )
