"""Pages of models: the list with the licence they begin with, and the import of a file."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.db.models import Prefetch
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from ecgportal.errors import PortalError
from ecgportal.forms import take_error
from ecgportal.jobs.models import Job
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView, paginate
from modelhub import services, statements
from modelhub.answers import read_answers
from modelhub.forms import ImportForm, LicenceForm, asked_before
from modelhub.models import Model, ModelVersion
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
