"""Pages of datasets and their records."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from datasets import removing, selectors, services
from datasets.forms import DatasetForm, DeleteDatasetForm, RecordFilterForm
from datasets.measure.features import FEATURES
from datasets.models import Dataset, Record
from ecgportal.errors import PortalError
from ecgportal.forms import take_error
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView, paginate

SHOWN_LABELS = 15


class DatasetListView(ProjectView):
    needs = {"get": Action.DATA_VIEW}
    template = "datasets/list.html"
    nav_active = "datasets"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        rows = Dataset.objects.filter(project=self.project)
        return self.page(page_obj=paginate(request, selectors.with_counts(rows)))


class DatasetCreateView(ProjectView):
    needs = {"get": Action.DATA_EDIT, "post": Action.DATA_EDIT}
    template = "datasets/create.html"
    nav_active = "datasets"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        return self.page(form=DatasetForm())

    def post(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        form = DatasetForm(request.POST)
        if form.is_valid():
            try:
                dataset = services.dataset_create(actor=request.user, project=self.project, **form.cleaned_data)
            except PortalError as error:
                take_error(form, error)
            else:
                return redirect("datasets:upload", pk=dataset.pk)
        return self.page(form=form, status=422)


class DatasetView(ProjectView):
    """The base of pages of one dataset."""

    model = Dataset
    nav_active = "datasets"
    object: Dataset

    def rows(self) -> QuerySet[Any]:
        return Dataset.objects.select_related("project")

    def page(self, template: str | None = None, status: int = 200, **context: Any) -> HttpResponse:
        return super().page(template, status, dataset=self.object, **context)


class DatasetDetailView(DatasetView):
    """Figures, labels, uploads and the records of a dataset."""

    needs = {"get": Action.DATA_VIEW}
    template = "datasets/detail.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        totals = selectors.totals(self.object)
        labels = selectors.label_counts(self.object)
        form = RecordFilterForm(request.GET, totals=totals, labels=labels)
        records = selectors.filtered(Record.objects.filter(dataset=self.object), form.values)
        asked, offered = request.GET.get("sort", "key"), selectors.sorts_for(totals.records)
        records, sort = selectors.sorted_records(records, asked if asked in offered else "key")
        measure = FEATURES.get(sort.removeprefix("-"))
        rows = records.select_related("subject", "features").prefetch_related("labels")
        page = paginate(request, rows, paginator=selectors.IndexPaginator)
        shown = list(labels.items())
        for record in page:
            # What was never measured has no row of measures.
            found = getattr(record, "features", None)
            value = getattr(found, measure.name) if measure and found else None
            record.by_measure = "" if value is None else f"{value:.4g}"
        kept = request.GET.copy()
        kept.pop("page", None)
        return self.page(
            totals=totals, rates=", ".join(f"{fs_hz:g}" for fs_hz in totals.rates_hz), filters=form, page_obj=page, sort=sort, measure=measure, sorts=_sort_choices(totals, offered, sort), query=kept.urlencode(), is_filtered=bool(form.values),
            labels=shown[:SHOWN_LABELS], more_labels=shown[SHOWN_LABELS:], most=max(labels.values(), default=1),
            ingests=self.object.ingests.select_related("job", "created_by")[:5],
        )  # fmt: skip


def _sort_choices(totals: selectors.Totals, offered: list[str], sort: str) -> list[tuple[str, str]]:
    """Return the orders that the list offers in words, and the one in force where it goes from the highest value on."""
    words = {"key": "Record", "age": "Age", "quality": "Quality, poorest first"}
    if totals.timed:
        words["recorded_at"] = "Time of recording"
    words |= {name: one.title for name, one in FEATURES.items() if name in offered}
    if sort.startswith("-") and sort.removeprefix("-") in words:
        words[sort] = f"{words[sort.removeprefix('-')].partition(',')[0]}, from the end"
    return list(words.items())


class DatasetEditView(DatasetView):
    needs = {"get": Action.DATA_EDIT, "post": Action.DATA_EDIT}
    template = "datasets/edit.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return self.page(form=DatasetForm(initial={"name": self.object.name, "description": self.object.description}))

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        form = DatasetForm(request.POST)
        if form.is_valid():
            try:
                services.dataset_update(actor=request.user, dataset=self.object, **form.cleaned_data)
            except PortalError as error:
                self.object.refresh_from_db(fields=["name", "description"])
                take_error(form, error)
            else:
                messages.success(request, "The dataset is saved.")
                return redirect("datasets:detail", pk=self.object.pk)
        return self.page(form=form, status=422)


class DatasetDeleteView(DatasetView):
    needs = {"get": Action.DATA_DELETE, "post": Action.DATA_DELETE}
    template = "datasets/delete.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return self._ask(DeleteDatasetForm(self.object))

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        form = DeleteDatasetForm(self.object, request.POST)
        if form.is_valid():
            try:
                services.dataset_delete(actor=request.user, dataset=self.object)
            except PortalError as error:
                take_error(form, error)
            else:
                messages.success(request, f"{self.object.name} is deleted.")
                return redirect("datasets:list", project=self.project.pk)
        return self._ask(form, status=422)

    def _ask(self, form: DeleteDatasetForm, status: int = 200) -> HttpResponse:
        return self.page(form=form, record_count=self.object.records.count(), status=status)


class RecordDeleteView(ProjectView):
    model = Record
    needs = {"get": Action.DATA_DELETE, "post": Action.DATA_DELETE}
    template = "datasets/record_delete.html"
    nav_active = "datasets"
    object: Record

    def rows(self) -> QuerySet[Any]:
        return Record.objects.select_related("dataset__project", "subject")

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return self.page(record=self.object, dataset=self.object.dataset)

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        removing.record_delete(actor=request.user, record=self.object)
        messages.success(request, f"The record {self.object.key} is deleted.")
        return redirect("datasets:detail", pk=self.object.dataset_id)
