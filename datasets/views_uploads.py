"""Pages of uploads: sending files, and what became of each of them."""

from __future__ import annotations

import uuid
from typing import Any

from django.db.models import Count, Min, QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.urls import reverse

from datasets import services
from datasets.collections import registry
from datasets.forms import ItemFilterForm, UploadForm
from datasets.models import Ingest, Outcome
from datasets.views import DatasetView
from ecgportal.errors import PortalError
from ecgportal.forms import take_error
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView, paginate


class UploadView(DatasetView):
    """Send files. Sent by script (``X-Upload``) the answer is JSON: where to go, or the sentence of the error."""

    needs = {"get": Action.DATA_EDIT, "post": Action.DATA_EDIT}
    template = "datasets/upload.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return self._page(UploadForm())

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        form = UploadForm(request.POST, request.FILES)
        status = 422
        if form.is_valid():
            try:
                options = services.check_read_options(**form.answers)
                ingest = services.upload_receive(
                    actor=request.user, dataset=self.object, files=form.cleaned_data["files"], options=options
                )
            except PortalError as error:
                take_error(form, error)
                status = error.status
            else:
                address = reverse("datasets:ingest", args=[ingest.pk])
                return JsonResponse({"location": address}) if "X-Upload" in request.headers else redirect(address)
        if "X-Upload" in request.headers:
            sentence = " ".join(sentence for sentences in form.errors.values() for sentence in sentences)
            return JsonResponse({"error": {"message": sentence}}, status=status)
        return self._page(form, status)

    def _page(self, form: UploadForm, status: int = 200) -> HttpResponse:
        return self.page(form=form, max_bytes=services.MAX_UPLOAD_BYTES, status=status)


class IngestView(ProjectView):
    """One upload: its progress, what became of each file and why, and a form for files that need an answer."""

    model = Ingest
    needs = {"get": Action.DATA_VIEW}
    template = "datasets/ingest.html"
    nav_active = "datasets"
    object: Ingest

    def rows(self) -> QuerySet[Any]:
        return Ingest.objects.select_related("dataset__project", "job", "created_by")

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        items = self.object.items.all()
        groups = list(items.order_by().values("outcome", "code").annotate(n=Count("pk"), example=Min("message")))
        counts = dict.fromkeys(Outcome.values, 0)
        for group in groups:
            counts[group["outcome"]] += group["n"]
        reasons = sorted((group for group in groups if group["code"]), key=lambda group: -group["n"])
        form = ItemFilterForm(request.GET, codes=[group["code"] for group in reasons])
        chosen = {name: form.values[name] for name in ("outcome", "code") if name in form.values}
        if text := form.values.get("search"):
            chosen["name__icontains"] = text
        waiting = next((group["n"] for group in reasons if group["code"] == "needs_answer"), 0)
        return self.page(
            ingest=self.object, dataset=self.object.dataset, job=self.object.job, reasons=reasons, filters=form,
            outcomes=[{"value": o.value, "label": o.label, "count": counts[o.value]} for o in Outcome], total=sum(counts.values()),
            page_obj=paginate(request, items.filter(**chosen).select_related("record")), is_filtered=bool(chosen),
            waiting=waiting, collection=registry.known().get(self.object.source.get("collection", "")), form=UploadForm() if waiting and self.allows(Action.DATA_EDIT) else None, max_bytes=services.MAX_UPLOAD_BYTES,
        )  # fmt: skip
