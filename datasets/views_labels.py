"""Pages of label tables and label maps."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.db.models import Max, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render

from datasets import labelling, presenting, selectors, services
from datasets.ecg import SourceLabel
from datasets.forms import (
    RELATION_CHOICES,
    SYSTEM_WORDS,
    ColumnsForm,
    LabelMapFileForm,
    LabelMapForm,
    LabelTableForm,
    MapChoiceForm,
    read_entries,
)  # fmt: skip
from datasets.labels import builtin
from datasets.models import LabelImport, LabelMap, Record
from datasets.views import DatasetView
from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import NotFound, PortalError
from ecgportal.forms import take_error
from ecgportal.projects import access
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView, paginate

_EMPTY_ROWS = 5
# What a column means shows in a few of its values.
_EXAMPLES = 4
_MAX_MAP_BYTES = 5_000_000


class LabelsView(DatasetView):
    """The labels of a dataset: tables that were read, what the maps make of the labels, and the form for a new table."""

    needs = {"get": Action.DATA_VIEW, "post": Action.DATA_EDIT}
    template = "datasets/labels.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        return self._page(LabelTableForm())

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        form = LabelTableForm(request.POST, request.FILES)
        status = 422
        if form.is_valid():
            file = form.cleaned_data["file"]
            try:
                row = labelling.import_keep(actor=request.user, dataset=self.object, file=file)
            except PortalError as error:
                take_error(form, error)
                status = error.status
            else:
                return redirect("datasets:label_import", pk=row.pk)
        return self._page(form, status)

    def _page(self, form: LabelTableForm, status: int = 200) -> HttpResponse:
        maps = selectors.label_maps_for(self.project)
        coverages = selectors.coverages(self.object, latest(maps))
        coverages.sort(key=lambda found: -found.classified)
        choice = MapChoiceForm(self.request.GET, maps=maps)
        chosen = choice.values.get("map") or (coverages[0].label_map if coverages else None)
        detail = selectors.full_coverage(self.object, chosen) if chosen and coverages else None
        return self.page(
            form=form, coverages=coverages, chosen=chosen, detail=detail, status=status,
            classes=sorted(detail.by_class.items(), key=lambda item: -item[1]) if detail else [],
            most=max([1, *(detail.by_class.values() if detail else ())]), record_count=self.object.records.count(),
            imports=paginate(self.request, self.object.label_imports.select_related("job", "created_by"), 10),
        )  # fmt: skip


def latest(maps: QuerySet[LabelMap]) -> list[LabelMap]:
    """Return the newest version of each map."""
    newest: dict[tuple[Any, str], LabelMap] = {}
    for label_map in maps:
        newest.setdefault((label_map.project_id, label_map.name), label_map)
    return list(newest.values())


class LabelImportView(ProjectView):
    """One label table. Before it is read: its columns and first rows. Afterwards: what was taken, row by row."""

    model = LabelImport
    needs = {"get": Action.DATA_VIEW, "post": Action.DATA_EDIT}
    nav_active = "datasets"
    object: LabelImport

    def rows(self) -> QuerySet[Any]:
        return LabelImport.objects.select_related("dataset__project", "job", "created_by")

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        if self.object.job_id is not None:
            reported = paginate(request, self.object.rows)
            return self._page(
                "datasets/label_import.html", job=self.object.job, result=self.object.result, page_obj=reported
            )
        return self._columns()

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        """Look at the columns again, or start reading."""
        if "check" in request.POST or self.object.job_id is not None:
            return (
                self._columns(request.POST) if self.object.job_id is None else redirect("datasets:label_import", pk=pk)
            )
        return self._columns(request.POST, start=True)

    def _columns(self, data: Any = None, start: bool = False) -> HttpResponse:
        keys = list(Record.objects.filter(dataset=self.object.dataset).order_by().values_list("key", flat=True))
        name, content = self.object.file_name, storage.read_blob(self.object.sha256)
        sheet = (self.request.GET if data is None else data).get("sheet", "")
        try:
            names = labelling.names_of(self.object.dataset)
            found = labelling.preview(content, name, {"sheet": sheet}, keys, names)
        except PortalError as error:
            return self._page("datasets/label_columns.html", refused=error.message, status=422)
        form = ColumnsForm(data, columns=found["columns"], guessed=found["mapping"])
        status = 200
        if data is not None:
            try:
                if form.is_valid():
                    mapping = {**form.mapping, "sheet": sheet}
                    found = labelling.preview(content, name, mapping, keys, names)
                    if start:
                        labelling.import_begin(actor=self.request.user, label_import=self.object, mapping=mapping)
                        return redirect("datasets:label_import", pk=self.object.pk)
            except PortalError as error:
                take_error(form, error)
            status = 200 if form.is_valid() else 422
        # Columns that are used come first: a table may have hundreds.
        fields = list(form)
        order = sorted(range(len(fields)), key=lambda number: not fields[number].value())
        columns = [(fields[number], [row[number] for row in found["rows"]][:_EXAMPLES]) for number in order]
        return self._page(
            "datasets/label_columns.html",
            form=form,
            found=found,
            columns=columns,
            record_count=len(keys),
            status=status,
        )

    def _page(self, template: str, **context: Any) -> HttpResponse:
        return self.page(template, label_import=self.object, dataset=self.object.dataset, **context)


class LabelImportDiscardView(LabelImportView):
    needs = {"post": Action.DATA_EDIT}

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        labelling.import_discard(actor=request.user, label_import=self.object)
        messages.success(request, f"{self.object.file_name} is discarded. No label was changed.")
        return redirect("datasets:labels", pk=self.object.dataset_id)


class LabelMapListView(ProjectView):
    """The maps of the project and those that the portal brings along; a map can come from a CSV file."""

    needs = {"get": Action.DATA_VIEW, "post": Action.DATA_EDIT}
    template = "datasets/label_maps.html"
    nav_active = "datasets"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        return self._page(LabelMapFileForm())

    def post(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        form = LabelMapFileForm(request.POST, request.FILES)
        if form.is_valid():
            values = form.cleaned_data
            try:
                classes, entries = presenting.read_map_csv(values["file"].read(_MAX_MAP_BYTES + 1))
                label_map = services.label_map_create(
                    actor=request.user, project=self.project, name=values["name"], system=values["system"], classes=classes, entries=entries
                )  # fmt: skip
            except PortalError as error:
                take_error(form, error)
            else:
                messages.success(request, f"{label_map} is read: {len(entries)} codes, {len(classes)} classes.")
                return redirect("datasets:label_map", pk=label_map.pk)
        return self._page(form, status=422)

    def _page(self, form: LabelMapFileForm, status: int = 200) -> HttpResponse:
        maps = selectors.label_maps_for(self.project).defer("entries")
        return self.page(form=form, page_obj=paginate(self.request, maps), system_words=SYSTEM_WORDS, status=status)


def _editor(label_map: LabelMap | None, data: Any = None) -> dict[str, Any]:
    """Return what the editor's rows show: the stored or the typed entries, and empty rows."""
    if data is not None:
        rows = list(zip(data.getlist("code"), data.getlist("class"), data.getlist("relation")))
    else:
        stored = label_map.entries if label_map else {}
        rows = [
            (code, entry.get("class") or "", entry.get("relation", "exact")) for code, entry in sorted(stored.items())
        ]
    system = label_map.system if label_map else ""
    labels = {
        code: SourceLabel(*reversed(code.split(":", 1)))
        if system == "any" and ":" in code
        else SourceLabel(code, system)
        for code, *_ in rows
    }
    words = builtin.describe(labels.values())
    shown = [
        (code, words.get((labels[code].system, labels[code].code), ""), name, relation)
        for code, name, relation in rows
        if code.strip()
    ]
    return {"entries": shown, "empty_rows": range(_EMPTY_ROWS), "relations": RELATION_CHOICES}


def _save(view: ProjectView, form: LabelMapForm) -> LabelMap | None:
    """Store the typed map as its next version; None when it cannot be, with the reason on the form."""
    if not form.is_valid():
        return None
    try:
        entries = presenting.map_entries(read_entries(view.request.POST))
        return services.label_map_create(
            actor=view.request.user, project=view.project, entries=entries, **form.cleaned_data
        )
    except PortalError as error:
        take_error(form, error)
        return None


class LabelMapCreateView(ProjectView):
    """A new map, empty or beginning as a copy (``?from=``) of a map that can be seen."""

    needs = {"get": Action.DATA_EDIT, "post": Action.DATA_EDIT}
    template = "datasets/label_map_create.html"
    nav_active = "datasets"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        source = None
        if wanted := request.GET.get("from"):
            source = selectors.label_maps_for(self.project).filter(pk=_uuid(wanted)).first()
            if source is None:
                access.note_hidden(LabelMap, request.user, pk=_uuid(wanted))
                raise NotFound("There is no such label map in this project.")
        initial = (
            {"name": f"{source.name} (own)"[:120], "system": source.system, "classes": "\n".join(source.classes)}
            if source
            else {}
        )
        return self.page(form=LabelMapForm(initial=initial), **_editor(source))

    def post(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        form = LabelMapForm(request.POST)
        if label_map := _save(self, form):
            messages.success(request, f"{label_map} is saved.")
            return redirect("datasets:label_map", pk=label_map.pk)
        return self.page(form=form, **_editor(None, request.POST), status=422)


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


class _MapView(ProjectView):
    """One map. Those that the portal brings along belong to no project: everybody who is signed in may read them."""

    model = LabelMap
    nav_active = "datasets"
    object: LabelMap

    def rows(self) -> QuerySet[Any]:
        return LabelMap.objects.select_related("project", "created_by")

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        builtin_map = LabelMap.objects.filter(pk=kwargs["pk"], project=None).first()
        handler: Callable[..., HttpResponseBase] | None = getattr(self, "get", None)
        if builtin_map is None or handler is None or request.method not in ("GET", "HEAD"):
            return super().dispatch(request, *args, **kwargs)
        self.object = builtin_map
        return handler(request, *args, **kwargs)


class LabelMapView(_MapView):
    """The entries of a map. Saving a map of a project makes its next version; versions never change."""

    needs = {"get": Action.DATA_VIEW, "post": Action.DATA_EDIT}
    template = "datasets/label_map.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        label_map = self.object
        context = {
            "label_map": label_map,
            "system_word": SYSTEM_WORDS.get(label_map.system, label_map.system),
            **_editor(label_map),
        }
        if label_map.project_id is None:
            return render(request, "datasets/label_map_builtin.html", context)
        newest = LabelMap.objects.filter(project=self.project, name=label_map.name).aggregate(n=Max("version"))["n"]
        form = LabelMapForm(
            initial={"name": label_map.name, "system": label_map.system, "classes": "\n".join(label_map.classes)}
        )
        return self.page(form=form, newest=newest, **context)

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        form = LabelMapForm(request.POST)
        if saved := _save(self, form):
            messages.success(request, f"{saved} is saved. Earlier versions stay as they are.")
            return redirect("datasets:label_map", pk=saved.pk)
        return self.page(
            form=form,
            label_map=self.object,
            newest=self.object.version,
            **_editor(self.object, request.POST),
            status=422,
        )


class LabelMapExportView(_MapView):
    needs = {"get": Action.DATA_VIEW}

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        text = presenting.map_csv(self.object)
        audit("label_map.exported", self.object, actor=request.user, project=self.object.project)
        return HttpResponse(
            text,
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="label-map.csv"'},
        )
