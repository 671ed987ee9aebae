"""Pages of exchanges: what is published there, and what administrators set up."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect

from ecgportal.api.viewsets import as_uuid
from ecgportal.errors import InvalidInput, PortalError
from ecgportal.forms import take_error
from ecgportal.projects import access
from ecgportal.projects.access import Action
from ecgportal.views import AdministratorView, ProjectView
from modelhub import exchange, keys, services_exchanges
from modelhub.architectures import installed
from modelhub.architectures.catalog import built_in
from modelhub.forms import ExchangeForm, KeyForm
from modelhub.models import Exchange, ModelVersion, Transfer


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
                access.note_asked(ModelVersion, request.POST["version"])
                raise InvalidInput("This version was deleted. Open the page again.", fields={"version": "Not there."})
            return redirect(
                "jobs:detail",
                pk=services_exchanges.push_start(actor=request.user, exchange=remote, version=version).job_id,
            )
        transfer = services_exchanges.pull_start(
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
                row = services_exchanges.exchange_save(actor=request.user, **form.cleaned_data)
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
                services_exchanges.exchange_save(actor=request.user, exchange=row, **values)
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
        services_exchanges.exchange_delete(actor=request.user, exchange=get_object_or_404(Exchange, pk=pk))
        messages.success(request, "The exchange was removed.")
        return redirect("modelhub:exchange_admin")
