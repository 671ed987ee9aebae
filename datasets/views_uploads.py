"""Pages of uploads: sending files, and what became of each of them."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.db.models import Count, Min, QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect

from datasets import asking, services, uploading
from datasets.collections import registry
from datasets.forms import AnswersForm, ItemFilterForm, UploadForm, answered, guessed, reason_words
from datasets.models import Ingest, Outcome
from datasets.views import DatasetView
from ecgportal.errors import InvalidInput, PortalError
from ecgportal.forms import take_error
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView, paginate

# More are shown when these are answered.
_MOST_GROUPS = 12


class UploadView(DatasetView):
    """Send files: by the browser's own form, or in pieces by the page's script, which begins with ``X-Upload: open``."""

    needs = {"get": Action.DATA_EDIT, "post": Action.DATA_EDIT}
    template = "datasets/upload.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        sent = self.earlier(Ingest.objects.filter(dataset=self.object))
        return self._page(UploadForm(initial=answered(sent.options) if sent else None))

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        if request.headers.get("X-Upload") == "open":
            return self._open()
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
                return redirect("datasets:ingest", pk=ingest.pk)
        return self._page(form, status)

    def _open(self) -> JsonResponse:
        """Begin an upload whose files the page's script sends in pieces."""
        form = AnswersForm(self.request.POST)
        try:
            if not form.is_valid():
                sentence = " ".join(sentence for sentences in form.errors.values() for sentence in sentences)
                raise InvalidInput(sentence)
            options = services.check_read_options(**form.answers)
            ingest = uploading.upload_open(actor=self.request.user, dataset=self.object, options=options)
        except PortalError as error:
            return JsonResponse({"error": {"message": error.message, "fields": error.fields}}, status=error.status)
        return JsonResponse({"ingest": ingest.pk})

    def _page(self, form: UploadForm, status: int = 200) -> HttpResponse:
        rows = list(uploading.open_uploads(self.object, self.request.user)[:20])
        wanted = self.request.GET.get("open", "")
        going_on = next((row for row in rows if str(row.pk) == wanted), None)
        return self.page(
            form=form, max_bytes=services.MAX_UPLOAD_BYTES, open_uploads=rows, open=going_on, status=status
        )  # fmt: skip


class UploadDiscardView(ProjectView):
    """Give up an upload that was not finished."""

    model = Ingest
    needs = {"post": Action.DATA_EDIT}
    object: Ingest

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        uploading.upload_discard(actor=request.user, ingest=self.object)
        messages.success(request, "The unfinished upload is discarded.")
        return redirect("datasets:upload", pk=self.object.dataset_id)


class IngestView(ProjectView):
    """One upload: its progress, what became of each file and why, and a form for files that need an answer."""

    model = Ingest
    needs = {"get": Action.DATA_VIEW, "post": Action.DATA_EDIT}
    template = "datasets/ingest.html"
    nav_active = "datasets"
    object: Ingest

    def rows(self) -> QuerySet[Any]:
        return Ingest.objects.select_related("dataset__project", "job", "created_by")

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return self._page({})

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        """Read files that wait for an answer again: those of the group that the form is about."""
        key = request.POST.get("group", "")
        group = next((each for each in asking.groups(self.object) if each.key == key), None)
        if group is None:
            messages.warning(request, "These files were answered for meanwhile. What is still open stands below.")
            return redirect("datasets:ingest", pk=pk)
        form = self._form(group, request.POST)
        if form.is_valid():
            try:
                options = services.check_read_options(**form.answers)
                names = asking.names_in(self.object, group)
                uploading.upload_answer(actor=request.user, ingest=self.object, options=options, names=names)
            except PortalError as error:
                take_error(form, error)
            else:
                return redirect("datasets:ingest", pk=pk)
        return self._page({key: form}, 422)

    def _form(self, group: asking.Group, data: Any = None) -> AnswersForm:
        return AnswersForm(data, asked=group.guesses, initial=guessed(group.guesses), auto_id=f"answer_{group.key}_%s")

    def _asked(self, forms: dict[str, AnswersForm]) -> list[dict[str, Any]]:
        """Return the groups that wait for an answer, each with its form; forms: those that are filled in, by group."""
        return [
            {
                "key": group.key, "count": group.count, "first": group.first, "form": form,
                "questions": [(form[field].label, sentence, n) for field, sentence, n in group.questions if field in form.fields],
            }
            for group in asking.groups(self.object)[:_MOST_GROUPS]
            for form in [forms.get(group.key) or self._form(group)]
        ]  # fmt: skip

    def _page(self, forms: dict[str, AnswersForm], status: int = 200) -> HttpResponse:
        items = self.object.items.all()
        groups = list(items.order_by().values("outcome", "code").annotate(n=Count("pk"), example=Min("message")))
        counts = dict.fromkeys(Outcome.values, 0)
        for group in groups:
            counts[group["outcome"]] += group["n"]
        waiting = sum(group["n"] for group in groups if group["code"] == "needs_answer") if self.object.waiting else 0
        counts[Outcome.REFUSED] -= waiting
        reasons = sorted((group for group in groups if group["code"]), key=lambda group: -group["n"])
        for reason in reasons:
            is_open = bool(waiting) and reason["code"] == "needs_answer"
            reason |= {"words": reason_words(reason["code"]), "outcome": "waiting" if is_open else reason["outcome"]}
        filters = ItemFilterForm(self.request.GET, codes=[group["code"] for group in reasons])
        chosen = {name: filters.values[name] for name in ("outcome", "code") if name in filters.values}
        if text := filters.values.get("search"):
            chosen["name__icontains"] = text
        items = items.filter(**chosen)
        if waiting and chosen.get("outcome") == Outcome.REFUSED and "code" not in chosen:
            items = items.exclude(code="needs_answer")
        job = self.object.job
        asks = self.object.waiting and self.allows(Action.DATA_EDIT) and job is not None and not job.is_open
        return self.page(
            ingest=self.object, dataset=self.object.dataset, job=job, reasons=reasons, filters=filters,
            outcomes=[{"value": o.value, "label": o.label, "count": counts[o.value]} for o in Outcome], total=sum(counts.values()) + waiting,
            page_obj=paginate(self.request, items.select_related("record")), is_filtered=bool(chosen),
            waiting=waiting, kept_days=uploading.KEPT_DAYS, asked=self._asked(forms) if asks else [],
            collection=registry.known().get(self.object.source.get("collection", "")), status=status,
        )  # fmt: skip
