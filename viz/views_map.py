"""Maps of a dataset: the list with its form, one map, the records of a part of it."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from datasets import featuring
from ecgportal.errors import PortalError
from ecgportal.forms import take_error
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView, paginate
from viz import mapping
from viz.forms_insight import MapForm
from viz.models import DatasetMap
from viz.views_insight import DatasetPage

_HEIGHTS = ("top", "half up", "half down", "bottom")


class MapListView(DatasetPage):
    """The maps of a dataset, and a form to make one."""

    needs = {"get": Action.DATA_VIEW, "post": Action.DATA_EDIT}
    template = "viz/maps.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return self._page(MapForm(project=self.project))

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        form = MapForm(request.POST, project=self.project)
        if form.is_valid():
            try:
                row = mapping.map_start(actor=request.user, dataset=self.object, **form.cleaned_data)
            except PortalError as error:
                take_error(form, error)
            else:
                return redirect("viz:map", pk=row.pk)
        return self._page(form, status=422)

    def _page(self, form: MapForm, status: int = 200) -> HttpResponse:
        maps = self.object.maps.select_related("job", "version__model")[:50]
        return self.page(maps=maps, form=form, unmeasured=featuring.unmeasured(self.object).count(), status=status)


class OneMapView(ProjectView):
    model = DatasetMap
    needs = {"get": Action.DATA_VIEW}
    nav_active = "datasets"
    object: DatasetMap

    def rows(self) -> Any:
        return DatasetMap.objects.select_related("dataset__project", "version__model", "job")

    def page(self, template: str | None = None, status: int = 200, **context: Any) -> HttpResponse:
        return super().page(template, status, map=self.object, dataset=self.object.dataset, **context)


class MapView(OneMapView):
    template = "viz/map.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        row = self.object
        tables = []
        for method, title in mapping.methods_of(row).items():
            fields = mapping.regions(row, method)
            rows = [
                (name, [(n, self._link(method, corners)) for n, corners in line])
                for name, line in zip(_HEIGHTS, fields, strict=False)
            ]
            tables.append((method, title, rows))
        return self.page(regions=tables)

    def _link(self, method: str, corners: list[tuple[float, float]]) -> str:
        area = ";".join(f"{x:.9g},{y:.9g}" for x, y in corners)
        return f"{reverse('viz:map_records', args=[self.object.pk])}?by={method}&area={area}"


class MapRecordsView(OneMapView):
    """The records whose places lie inside ``?area=`` (corners ``x,y;x,y;...``) on the projection ``?by=``."""

    template = "viz/map_records.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        methods = mapping.methods_of(self.object)
        method = request.GET.get("by", "")
        area = mapping.read_area(request.GET.get("area", ""))
        records = mapping.inside(self.object, method if method in methods else next(iter(methods)), area)
        rows = records.select_related("features").prefetch_related("labels")
        return self.page(page_obj=paginate(request, rows))


class MapDeleteView(OneMapView):
    needs = {"get": Action.DATA_EDIT, "post": Action.DATA_EDIT}

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return super().page(
            "components/confirm.html", title=f"Delete the map of {self.object.dataset}", danger=True, submit="Delete the map", cancel_url=reverse("viz:map", args=[pk]),
            message="The places of its records are removed.", consequences=["The records, their labels and measurements stay."],
        )  # fmt: skip

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        mapping.map_delete(actor=request.user, row=self.object)
        messages.success(request, "The map was deleted.")
        return redirect("viz:maps", pk=self.object.dataset_id)
