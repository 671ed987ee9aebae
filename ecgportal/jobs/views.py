"""Pages of jobs: what waits, runs and has run."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.http import url_has_allowed_host_and_scheme

from ecgportal.jobs import services
from ecgportal.jobs.forms import JobFilterForm
from ecgportal.jobs.models import Job
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView, paginate


class JobListView(ProjectView):
    needs = {"get": Action.JOB_VIEW}
    template = "jobs/list.html"
    nav_active = "jobs"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        form = JobFilterForm(request.GET)
        jobs = Job.objects.filter(project=self.project, **form.values).select_related("created_by")
        page = paginate(request, jobs)
        return self.page(filters=form, page_obj=page, jobs=page, is_filtered=bool(form.values))


class _JobView(ProjectView):
    model = Job
    nav_active = "jobs"
    object: Job

    def rows(self) -> QuerySet[Any]:
        return Job.objects.select_related("project", "created_by")


class JobDetailView(_JobView):
    needs = {"get": Action.JOB_VIEW}
    template = "jobs/detail.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        facts = {name: value for name, value in self.object.result.items() if isinstance(value, int | float | str)}
        return self.page(job=self.object, facts=facts, took=_took(self.object))


def _took(job: Job) -> str:
    """Return how long a job ran, in words; empty while it runs."""
    if job.started_at is None or job.finished_at is None:
        return ""
    seconds = (job.finished_at - job.started_at).total_seconds()
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


class JobFragmentView(_JobView):
    """The progress of a job as a fragment. When the job has ended, the page around it is told to load again."""

    needs = {"get": Action.JOB_VIEW}

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        can_cancel = self.allows(Action.JOB_CANCEL)
        response = self.page("jobs/_progress.html", job=self.object, can_cancel=can_cancel)
        if not self.object.is_open and request.headers.get("HX-Request"):
            response["HX-Refresh"] = "true"
        return response


class JobCancelView(_JobView):
    needs = {"post": Action.JOB_CANCEL}

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        job = services.cancel(actor=request.user, job=self.object)
        messages.success(
            request,
            f"{job} is cancelled." if not job.is_open else f"{job} was asked to stop and ends at its next step.",
        )
        came_from = request.META.get("HTTP_REFERER", "")
        if url_has_allowed_host_and_scheme(came_from, {request.get_host()}, require_https=request.is_secure()):
            return redirect(came_from)
        return redirect("jobs:detail", pk=job.pk)
