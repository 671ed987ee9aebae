"""The page from which a known collection is imported with one choice."""

from __future__ import annotations

import uuid

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from datasets import importing
from datasets.forms import ImportForm
from ecgportal.errors import PortalError
from ecgportal.forms import take_error
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView


class ImportView(ProjectView):
    """The collections that were found on this machine, those that can be downloaded, and a button at each."""

    needs = {"get": Action.DATA_EDIT, "post": Action.DATA_EDIT}
    template = "datasets/import.html"
    nav_active = "datasets"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        return self._page(ImportForm(initial={"name": request.GET.get("name", "")}))

    def post(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        form = ImportForm(request.POST)
        if form.is_valid():
            name, _, folder = form.cleaned_data["choice"].partition("@")
            try:
                ingest = importing.import_by_name(
                    actor=request.user, project=self.project, collection=name, folder=folder or None, name=form.cleaned_data["name"]
                )  # fmt: skip
            except PortalError as error:
                take_error(form, error)
            else:
                return redirect("datasets:ingest", pk=ingest.pk)
        return self._page(form, status=422)

    def _page(self, form: ImportForm, status: int = 200) -> HttpResponse:
        return self.page(
            form=form, places=importing.places(), downloads=importing.downloadable(), roots=list(importing.roots()), status=status
        )  # fmt: skip
