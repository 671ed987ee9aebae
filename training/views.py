"""Pages of training runs."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from datasets.models import Dataset
from ecgportal.errors import PortalError
from ecgportal.forms import count_of, note_first_values, take_error
from ecgportal.jobs.models import Job, JobState
from ecgportal.projects import access
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView, paginate
from training import rating, reports, selectors, services, setting_words, study_figures
from training.checking import check
from training.costs import costs_of_networks
from training.forms import RenameForm, RunForm, initial_of
from training.models import Evaluation, StudyKind, TrainingRun
from training.problems.registry import get_problem
from training.selection import Selection
from training.splitting import SplitSettings
from training.studies import compared, with_search
from viz.drawn import drawn
from viz.figures.progress import lr_finder


class RunListPage(ProjectView):
    needs = {"get": Action.MODEL_VIEW}
    template = "training/list.html"
    nav_active = "training"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        rows = TrainingRun.objects.filter(project=self.project)
        runs = with_search(rows).select_related("job", "produced_version__model", "report")
        # The curves hold the answer for every record.
        runs = runs.defer("report__curves").prefetch_related("datasets")
        page = paginate(request, runs)
        labelled = Dataset.objects.filter(project=self.project, records__labels__isnull=False).distinct()
        return self.page(page_obj=page, runs=page, labelled=labelled[:20])


class RunFormView(ProjectView):
    """The base of the page that sets up a run, and of the part of it that is asked for after a change."""

    nav_active = "training"

    def rate_job(self, sent: Any) -> Job | None:
        """Return the finder that the page shows, by the id that it sent."""
        try:
            asked = uuid.UUID(sent.get("rate_job", ""))
        except ValueError:
            return None
        found = Job.objects.filter(project=self.project, kind=rating.KIND, pk=asked).first()
        if found is None:
            access.note_asked(Job, asked)
        return found

    def checked(self, form: RunForm) -> dict[str, Any]:
        """Return what the check's part of the page shows; for a form that is not complete only what is missing."""
        is_ready = form.is_bound and form.is_valid()
        found = check(**form.asked) if is_ready else None
        return {
            "checked": found,
            "networks": costs_of_networks(form.asked if is_ready else {}, found.split if found else {}),
        }


class RunCreatePage(RunFormView):
    needs = {"get": Action.MODEL_EDIT, "post": Action.MODEL_EDIT}
    template = "training/create.html"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        form = RunForm(project=self.project, initial=initial_of(request.GET, self.project))
        note_first_values(form, request.GET)
        return self.page(form=form, **self.checked(form))

    def post(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        sent = request.POST.copy()
        if rate := sent.get("take_rate"):
            sent["learning_rate"] = rate
        form = RunForm(sent, project=self.project)
        if form.is_valid() and not rate and sent.get("action") != "check":
            try:
                run = services.run_start(actor=request.user, **form.asked)
            except PortalError as error:
                take_error(form, error)
            else:
                return redirect("training:detail", pk=run.pk)
        return self.page(
            form=form, status=422 if form.errors else 200, **self.checked(form), **shown_rate(self.rate_job(sent))
        )


class RunCheckPart(RunFormView):
    """The check, the classes of the chosen map and the networks' costs, for the form as it stands."""

    needs = {"post": Action.MODEL_EDIT}

    def post(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        form = RunForm(request.POST, project=self.project)
        return self.page("training/_check.html", form=form, is_part=True, **self.checked(form))


class RateStart(RunFormView):
    """Start the job that finds a learning rate for the form as it stands; the page then shows it beside the field."""

    needs = {"post": Action.MODEL_EDIT}
    template = "training/create.html"

    def post(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        form, job = RunForm(request.POST, project=self.project), None
        if form.is_valid():
            try:
                job = services.rate_start(actor=request.user, **form.asked)
            except PortalError as error:
                take_error(form, error)
        return self.page(form=form, status=422 if form.errors else 200, **self.checked(form), **shown_rate(job))


def shown_rate(job: Job | None) -> dict[str, Any]:
    """Return what the part of a page about a learning-rate finder shows; empty without one."""
    if job is None or job.kind != rating.KIND:
        return {}
    figure = None
    if job.result:
        named = dict(rating.suggestions(job))
        figure = lr_finder(
            job.result["rates"], job.result["losses"], smoothed=job.result.get("smoothed", []), suggested=named
        )
    return {
        "rate_job": job, "rate_figure": drawn(figure, "rate-curve") if figure else None,
        "rates": rating.suggestions(job) if job.result else [],
    }  # fmt: skip


class RatePart(ProjectView):
    """The learning-rate finder of the form, asked again until it has ended."""

    model = Job
    needs = {"get": Action.MODEL_VIEW}

    def rows(self) -> Any:
        return Job.objects.select_related("project")

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return self.page("training/_rate.html", **shown_rate(self.object))


class MeasureMachine(ProjectView):
    """Start the job that measures what each network costs here."""

    needs = {"post": Action.MODEL_EDIT}

    def post(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        job = services.measure_start(actor=request.user, project=self.project)
        return redirect("jobs:detail", pk=job.pk)


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
            "repeats",
        )


class RunPage(RunView):
    needs = {"get": Action.MODEL_VIEW}
    template = "training/detail.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        run = self.object
        report = Evaluation.objects.filter(run=run).first()
        judging = None if report else selectors.judging_job(run)
        epochs, progress = selectors.epoch_rows(run), selectors.progression(run)
        table = [row | {"metrics": [row.get(name) for name, _ in progress.metrics]} for row in epochs]
        return self.page(
            run=run, outcome=selectors.outcome(run), datasets=run.datasets.order_by("name", "pk"), split=selectors.split_counts(run), epochs=epochs, epoch_table=table, report=report, judging=judging,
            settings=_settings_rows(run), network=selectors.start_title(run.architecture), task="" if run.is_pretraining else get_problem(run.task).title, selection=Selection.from_dict(run.selection).sentence(), how=SplitSettings.from_dict(run.split_settings).sentence(),
            overall=reports.overall_rows(report.report) if report else [], comparison=selectors.repetition(run), statistics=selectors.statistics_rows(run), rename=RenameForm(initial={"name": run.name}),
            resumable=run.job.state in (JobState.FAILED, JobState.CANCELLED) and not run.produced_version_id, progress=progress,
            search=shown_study(run, StudyKind.SEARCH), curve=shown_study(run, StudyKind.LEARNING_CURVE), may_grow=run.produced_version_id and run.split_id and run.members == 1 and not run.is_pretraining,
        )  # fmt: skip


def _settings_rows(run: TrainingRun) -> list[setting_words.Row]:
    """Return the settings of a run in words, with what it took where the portal chose."""
    used = {
        "learning_rate": run.learning_rate,
        "members": run.manifest.get("networks"),
        "batch_size": run.manifest.get("batch_size"),
        "augmentation": run.manifest.get("augmentation_units_per_mv"),
    }
    return setting_words.rows(run.settings, used)


def shown_study(run: TrainingRun, kind: str) -> dict[str, Any] | None:
    """Return what the part of a page about a search or a learning curve shows; None without one."""
    found = compared(run, kind)
    if found is None:
        return None
    figure = study_figures.learning_curve(found.study) if kind == StudyKind.LEARNING_CURVE else None
    return {"study": found.study, "found": found, "figure": drawn(figure, "learning-curve") if figure else None}


class RunStudy(RunView):
    """The search or the learning curve of a run, asked again while it grows."""

    needs = {"get": Action.MODEL_VIEW}
    kind = StudyKind.SEARCH

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        shown = shown_study(self.object, self.kind)
        return self.page("training/_study.html", run=self.object, **(shown or {}))


class TrialTake(RunView):
    """Start a run with what one trial of a search tried."""

    needs = {"post": Action.MODEL_EDIT}

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        number = request.POST.get("number", "")
        run = services.trial_take(actor=request.user, run=self.object, number=count_of(number) or 0)
        return redirect("training:detail", pk=run.pk)


class LearningCurveStart(RunView):
    needs = {"post": Action.MODEL_EDIT}

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        repeats = request.POST.get("repeats", "1")
        services.learning_curve_start(actor=request.user, run=self.object, repeats=count_of(repeats) or 0)
        return redirect(f"{reverse('training:detail', args=[pk])}#study-learning_curve")


class RunLive(RunView):
    """Where a run stands: epoch, batch, loss, metrics, rate and time left; asked again while the run goes on."""

    needs = {"get": Action.MODEL_VIEW}

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return self.page("training/_live.html", run=self.object, progress=selectors.progression(self.object))


class RunAgain(RunView):
    needs = {"post": Action.MODEL_EDIT}

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        run = services.run_again(actor=request.user, run=self.object)
        return redirect("training:detail", pk=run.pk)


class RunRename(RunView):
    needs = {"post": Action.MODEL_EDIT}

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        services.run_rename(actor=request.user, run=self.object, name=request.POST.get("name", ""))
        messages.success(request, "The run has its new name.")
        return redirect("training:detail", pk=pk)


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
