"""Pages that decide about duplicates and delete a person."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from datasets import removing, twins
from datasets.models import Record, Subject
from datasets.uses import runs_using
from datasets.views import DatasetView
from ecgportal.errors import PortalError
from ecgportal.projects import access
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView, paginate

_GROUPS_A_PAGE = 20


class TwinsView(DatasetView):
    """Records that hold one signal under several keys, each group with the choice to keep all or one of them."""

    needs = {"get": Action.DATA_VIEW, "post": Action.DATA_DELETE}
    template = "datasets/twins.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return self._page()

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        """Take the choices: ``choice-<record>`` names the group by its first record; ``all`` or the one record to keep."""
        drop: set[uuid.UUID] = set()
        keep: set[uuid.UUID] = set()
        chosen = _chosen(request)
        groups = twins.holding(self.object, chosen)
        if strange := set(chosen).difference(*(group.records for group in groups)):
            access.note_asked(Record, *strange)
        for group in groups:
            ids = set(group.records)
            choice = request.POST.get(f"choice-{group.records[0]}", "")
            if choice == "all":
                keep |= ids
            elif choice in {str(pk) for pk in ids}:
                drop |= ids - {uuid.UUID(choice)}
        if not drop and not keep:
            return self._page("Choose something for at least one group.", 422)
        try:
            count = removing.twins_decide(actor=request.user, dataset=self.object, drop=drop, keep=keep)
        except PortalError as error:
            return self._page(error.message, error.status)
        messages.success(request, f"{count} record{'s' if count != 1 else ''} dropped, {len(keep)} kept for good.")
        return redirect("datasets:twins", pk=self.object.pk)

    def _page(self, problem: str = "", status: int = 200) -> HttpResponse:
        found = twins.groups(self.object)
        page = paginate(self.request, found.filter(is_decided=False), _GROUPS_A_PAGE)
        rows = Record.objects.filter(pk__in=[pk for group in page for pk in group.records])
        records = {row.pk: row for row in rows.select_related("subject").prefetch_related("labels")}
        groups = [[records[pk] for pk in group.records if pk in records] for group in page]
        decided = found.filter(is_decided=True).count()
        return self.page(groups=groups, page_obj=page, decided=decided, problem=problem, status=status)


def _chosen(request: HttpRequest) -> list[uuid.UUID]:
    """Return the first records of the groups that a form names; what is no id names none."""
    found = []
    for name in request.POST:
        try:
            found.append(uuid.UUID(name.removeprefix("choice-")))
        except ValueError:
            continue
    return found[:_GROUPS_A_PAGE]


class SubjectDeleteView(ProjectView):
    """Delete a person with all that was made of them, after showing how much that is."""

    model = Subject
    needs = {"get": Action.DATA_DELETE, "post": Action.DATA_DELETE}
    template = "datasets/subject_delete.html"
    nav_active = "datasets"
    object: Subject

    def rows(self) -> QuerySet[Any]:
        return Subject.objects.select_related("dataset__project")

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        records = self.object.records.order_by("key")
        runs = runs_using(list(records.values_list("pk", flat=True)))
        return self.page(
            subject=self.object, dataset=self.object.dataset, records=records[:20], count=records.count(), runs=len(runs)
        )  # fmt: skip

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        told = removing.subject_delete(actor=request.user, subject=self.object)
        messages.success(request, f"{told['subject']} is deleted with {told['records']} records.")
        return redirect("datasets:detail", pk=self.object.dataset_id)
