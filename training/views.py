"""Pages of training runs."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from datasets.models import Dataset
from ecgportal.errors import PortalError
from ecgportal.forms import take_error
from ecgportal.jobs.models import JobState
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView, paginate
from training import reports, selectors, services
from training.engine.settings import settings_schema
from training.forms import RunForm
from training.models import Evaluation, TrainingRun


class RunListPage(ProjectView):
    needs = {"get": Action.MODEL_VIEW}
    template = "training/list.html"
    nav_active = "training"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        runs = TrainingRun.objects.filter(project=self.project).select_related(
            "job", "dataset", "produced_version__model", "report"
        )
        page = paginate(request, runs)
        labelled = Dataset.objects.filter(project=self.project, records__labels__isnull=False).distinct()
        return self.page(page_obj=page, runs=page, labelled=labelled[:20])


class RunCreatePage(ProjectView):
    needs = {"get": Action.MODEL_EDIT, "post": Action.MODEL_EDIT}
    template = "training/create.html"
    nav_active = "training"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        form = RunForm(
            project=self.project,
            initial={
                "dataset": request.GET.get("dataset"),
                "base_version": request.GET.get("base"),
                "task": "multilabel",
            },
        )
        return self.page(form=form)

    def post(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        form = RunForm(request.POST, project=self.project)
        if form.is_valid():
            data = form.cleaned_data
            classes = [name.strip() for name in data["classes"].split(",") if name.strip()]
            base = data["base_version"]
            try:
                run = services.run_start(
                    actor=request.user, project=self.project, dataset=data["dataset"], label_map=data["label_map"], classes=classes or None,
                    task=data["task"], target=data["target"], architecture=None if base else data["architecture"], base_version=base,
                    mode=data["mode"] if base else None, settings=form.settings(), name=data["name"],
                )  # fmt: skip
            except PortalError as error:
                take_error(form, error)
            else:
                return redirect("training:detail", pk=run.pk)
        return self.page(form=form, status=422)


class TrainWithDefaults(ProjectView):
    """One click: train on a dataset with every default."""

    model = Dataset
    needs = {"post": Action.MODEL_EDIT}

    def rows(self) -> Any:
        return Dataset.objects.select_related("project")

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        run = services.run_start_suggested(actor=request.user, dataset=self.object)
        messages.success(
            request, f"The training started: {run.label_map}, {len(run.classes)} classes, {run.architecture}."
        )
        return redirect("training:detail", pk=run.pk)


class RunView(ProjectView):
    model = TrainingRun
    nav_active = "training"
    object: TrainingRun

    def rows(self) -> Any:
        return TrainingRun.objects.select_related(
            "project",
            "job",
            "dataset",
            "label_map",
            "produced_version__model",
            "base_version__model",
            "created_by",
            "split",
        )


class RunPage(RunView):
    needs = {"get": Action.MODEL_VIEW}
    template = "training/detail.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        run = self.object
        report = Evaluation.objects.filter(run=run).first()
        shown = {
            name.replace("_", " "): ("yes" if run.settings[name] else "no")
            if isinstance(run.settings[name], bool)
            else run.settings[name]
            for name in settings_schema()["properties"]
            if name in run.settings and not isinstance(run.settings[name], dict) and name != "mode"
        }
        return self.page(
            run=run, split=selectors.split_counts(run), epochs=selectors.epoch_rows(run), report=report, settings=shown,
            overall=reports.overall_rows(report.report) if report else [], resumable=run.job.state in (JobState.FAILED, JobState.CANCELLED) and not run.produced_version_id,
        )  # fmt: skip


class RunResume(RunView):
    needs = {"post": Action.MODEL_EDIT}

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        services.run_resume(actor=request.user, run=self.object)
        return redirect("training:detail", pk=pk)


class RunDelete(RunView):
    needs = {"get": Action.MODEL_DELETE, "post": Action.MODEL_DELETE}

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return self.page(
            "components/confirm.html", title=f"Delete {self.object}", danger=True, submit="Delete the run", cancel_url=f"/training/{pk}/",
            message="The run, its metrics and its evaluation are removed.", consequences=["The model version that it produced stays."],
        )  # fmt: skip

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        services.run_delete(actor=request.user, run=self.object)
        messages.success(request, "The run was deleted.")
        return redirect("training:list", project=self.project.pk)
