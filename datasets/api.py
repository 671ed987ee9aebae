"""Datasets, uploads, records, signals, labels and label maps over REST."""

from __future__ import annotations

import io
from typing import Any, ClassVar

import numpy as np
from django.db.models import Q
from django.http import HttpResponse
from django_filters import rest_framework as filters
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from datasets import labelling, presenting, removing, selectors, services
from datasets.api_annotations import MarkedByHand
from datasets.api_ingests import options_in, started
from datasets.api_insight import NEEDS as INSIGHT_NEEDS
from datasets.api_insight import WithInsight
from datasets.api_removing import PagesByIndex, WithTwins
from datasets.models import Dataset, LabelMap, Record
from datasets.record_filters import FILTERS
from datasets.recording_time import text_of
from ecgportal.api.parsers import ObjectParser
from ecgportal.api.strict import StrictFields, StrictModelFields, only
from ecgportal.api.viewsets import ProjectViewSet
from ecgportal.audit.trail import record as audit
from ecgportal.errors import InvalidInput, NotFound
from ecgportal.projects import access
from ecgportal.projects.access import Action
from ecgportal.projects.models import Project

UUID = ProjectViewSet.lookup_value_regex


class DatasetSerializer(StrictModelFields):
    project = serializers.UUIDField(source="project_id")
    name = serializers.CharField(max_length=120)
    record_count = serializers.IntegerField(read_only=True, default=0)
    subject_count = serializers.IntegerField(read_only=True, default=0)
    label_counts = serializers.SerializerMethodField()

    class Meta:
        model = Dataset
        fields = ["id", "project", "name", "description", "record_count", "subject_count", "label_counts", "created_at"]
        read_only_fields = ["id", "created_at"]

    @extend_schema_field({"type": "object", "additionalProperties": {"type": "integer"}})
    def get_label_counts(self, dataset: Dataset) -> dict[str, int]:
        many = self.context.get("label_counts")
        return many.get(dataset.pk, {}) if many is not None else selectors.label_counts(dataset)


class UploadSerializer(StrictFields):
    files = serializers.ListField(child=serializers.FileField())
    fs_hz = serializers.FloatField(required=False)
    unit = serializers.CharField(required=False)
    lead_order = serializers.CharField(required=False, help_text="Lead names in file order, separated by commas.")


class UploadAnswerSerializer(StrictFields):
    job = serializers.UUIDField()
    ingest = serializers.UUIDField()
    id = serializers.UUIDField()
    state = serializers.CharField()


class LabelTableSerializer(StrictFields):
    file = serializers.FileField()
    mapping = serializers.JSONField(required=False, help_text="Which column is what, where the header does not tell.")
    sheet = serializers.CharField(
        required=False,
        help_text="The sheet of a workbook to read. When left out: the first that holds a table, with all of the same header.",
    )


class JobAnswerSerializer(StrictFields):
    id = serializers.UUIDField()
    job = serializers.UUIDField()
    state = serializers.CharField()


class DatasetViewSet(WithInsight, WithTwins, mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet):
    queryset = Dataset.objects.all()
    serializer_class = DatasetSerializer
    filterset_fields = ["project", "name"]
    parser_classes = [ObjectParser, MultiPartParser]
    needs = {
        "list": Action.DATA_VIEW, "retrieve": Action.DATA_VIEW, "create": Action.DATA_EDIT, "destroy": Action.DATA_DELETE,
        "uploads": Action.DATA_EDIT, "labels": Action.DATA_VIEW, "labels_import": Action.DATA_EDIT,
        "duplicates": Action.DATA_VIEW, "duplicates_decide": Action.DATA_DELETE, **INSIGHT_NEEDS,
    }  # fmt: skip

    def get_queryset(self):
        return selectors.with_counts(super().get_queryset())

    def get_serializer_context(self) -> dict[str, Any]:
        context = super().get_serializer_context()
        if self.action == "list" and not getattr(self, "swagger_fake_view", False):
            context["label_counts"] = selectors.label_counts_of_many(self.get_queryset())
        return context

    def get_object(self) -> Dataset:
        dataset = super().get_object()
        return selectors.with_counts(Dataset.objects.filter(pk=dataset.pk)).select_related("project").get()

    def create(self, request: Request) -> Response:
        form = self.get_serializer(data=request.data)
        form.is_valid(raise_exception=True)
        project = self.project(form.validated_data["project_id"])
        dataset = services.dataset_create(
            actor=request.user,
            project=project,
            name=form.validated_data["name"],
            description=form.validated_data.get("description", ""),
        )
        return Response(self.get_serializer(dataset).data, status=status.HTTP_201_CREATED)

    def destroy(self, request: Request, pk: str) -> Response:
        services.dataset_delete(actor=request.user, dataset=self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request={"multipart/form-data": UploadSerializer}, responses={202: UploadAnswerSerializer})
    @action(detail=True, methods=["post"])
    def uploads(self, request: Request, pk: str) -> Response:
        """Send one or many files: single ECG files, WFDB pairs, zip, tar.gz. The job answers per file."""
        dataset = self.get_object()
        only(request.data, UploadSerializer().fields)
        ingest = services.upload_receive(
            actor=request.user, dataset=dataset, files=request.FILES.getlist("files"), options=options_in(request.data)
        )
        return started(ingest)

    @extend_schema(responses=OpenApiTypes.OBJECT)
    @action(detail=True)
    def labels(self, request: Request, pk: str) -> Response:
        """The label table: a page of records with their labels."""
        dataset = self.get_object()
        page = self.paginate_queryset(
            Record.objects.filter(dataset=dataset).prefetch_related("labels").order_by("key", "id")
        )
        rows = [{"record": row.pk, "key": row.key, "labels": presenting.labels(row)} for row in page]
        return self.get_paginated_response(rows)

    @extend_schema(request={"multipart/form-data": LabelTableSerializer}, responses={202: JobAnswerSerializer})
    @labels.mapping.post
    def labels_import(self, request: Request, pk: str) -> Response:
        """Send a label table (CSV, TSV, XLSX or JSON); the job's result says per row what was taken."""
        dataset = self.get_object()
        only(request.data, LabelTableSerializer().fields)
        file = request.FILES.get("file")
        if file is None:
            raise InvalidInput("No label table was sent.", fields={"file": "Send a CSV, TSV, XLSX or JSON file."})
        row = labelling.import_start(
            actor=request.user,
            dataset=dataset,
            file=file,
            mapping=presenting.json_field(request.data.get("mapping"), "mapping"),
            sheet=request.data.get("sheet") or None,
        )
        return Response({"id": row.pk, "job": row.job_id, "state": row.job.state}, status=status.HTTP_202_ACCEPTED)


class RecordFilters(filters.FilterSet):
    """The filters of the record list, as the page has them, with the dataset, the whole key and the order."""

    dataset = filters.UUIDFilter(field_name="dataset_id")
    key = filters.CharFilter(help_text="the record's key, whole")
    sort = filters.CharFilter(
        method="in_order",
        help_text=f"one of {', '.join(selectors.SORTS)}; what is null comes last. By key when left out",
    )

    class Meta:
        model = Record
        fields: ClassVar[list[str]] = []

    def in_order(self, queryset, name, value):
        if value not in selectors.SORTS:
            raise InvalidInput(
                f"Records cannot be sorted by {value[:40]!r}.",
                fields={"sort": f"Choose one of {', '.join(selectors.SORTS)}."},
            )
        return selectors.sorted_records(queryset, value)[0]

    def unchanged(self, queryset, name, value):
        return queryset

    def filter_queryset(self, queryset):
        return selectors.filtered(super().filter_queryset(queryset), self.data)


# The form behind checks numbers and names what is wrong; selectors.filtered says what each filter means.
RecordFilters.base_filters |= {
    entry.name: (filters.NumberFilter if entry.kind == "number" else filters.CharFilter)(
        method="unchanged", help_text=entry.about
    )
    for entry in FILTERS.values()
}


class RecordSerializer(StrictModelFields):
    subject = serializers.CharField(source="subject.key", default=None)
    duration_s = serializers.FloatField()
    recorded_at = serializers.SerializerMethodField()
    sex = serializers.SerializerMethodField()
    labels = serializers.SerializerMethodField()

    class Meta:
        model = Record
        fields = [
            "id", "dataset", "key", "subject", "format", "fs_hz", "n_samples", "duration_s", "leads", "leads_computed",
            "age", "sex", "fold", "site", "recorded_at", "has_shifted_time", "quality", "labels", "created_at",
        ]  # fmt: skip

    @extend_schema_field({"type": "string", "enum": ["F", "M"], "nullable": True})
    def get_sex(self, record: Record) -> str | None:
        return record.sex or None

    @extend_schema_field(
        {
            "type": "string", "nullable": True,
            "description": "Wall clock where it was recorded, without a zone; moved back by the project's secret number of whole days where "
            "has_shifted_time says so: order, intervals and time of day are true, the date is not.",
        }
    )  # fmt: skip
    def get_recorded_at(self, record: Record) -> str | None:
        return text_of(record.recorded_at) if record.recorded_at else None

    @extend_schema_field({"type": "array", "items": {"type": "object"}})
    def get_labels(self, record: Record) -> list[dict[str, Any]]:
        return presenting.labels(record)


_SIGNAL_PARAMETERS = [
    OpenApiParameter("stage", str, enum=["original", "prepared"]), OpenApiParameter("leads", str),
    OpenApiParameter("start_s", float), OpenApiParameter("end_s", float), OpenApiParameter("format", str, enum=["json", "npy", "csv"]),
]  # fmt: skip


class RecordViewSet(MarkedByHand, mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet):
    queryset = Record.objects.select_related("subject", "dataset__project").prefetch_related("labels")
    serializer_class = RecordSerializer
    pagination_class = PagesByIndex
    filterset_class = RecordFilters
    needs = {
        "list": Action.DATA_VIEW, "retrieve": Action.DATA_VIEW, "destroy": Action.DATA_DELETE, "signal": Action.DATA_VIEW, "measurements": Action.DATA_VIEW,
        "annotations": Action.DATA_VIEW, "annotations_add": Action.DATA_EDIT, "labels_add": Action.DATA_EDIT,
    }  # fmt: skip

    def destroy(self, request: Request, pk: str) -> Response:
        removing.record_delete(actor=request.user, record=self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(parameters=_SIGNAL_PARAMETERS, responses=OpenApiTypes.OBJECT)
    @action(detail=True)
    def signal(self, request: Request, pk: str) -> HttpResponse | Response:
        """Samples in millivolt: ``original`` at the file's own rate and length, ``prepared`` by the default recipe."""
        row = self.get_object()
        query = request.query_params
        window = presenting.signal_window(
            row, query.get("stage", "original"), query.get("leads"), query.get("start_s"), query.get("end_s")
        )
        kind = query.get("format", "json")
        audit(
            "record.downloaded",
            row,
            actor=request.user,
            project=row.dataset.project,
            changes={"format": kind, "stage": query.get("stage", "original")},
        )
        if kind == "json":
            return Response(presenting.signal_json(window))
        if kind == "npy":
            out = io.BytesIO()
            np.save(out, window.signal, allow_pickle=False)
            return _file(out.getvalue(), "application/octet-stream", f"{row.pk}.npy")
        if kind == "csv":
            return _file(presenting.signal_csv(window).encode(), "text/csv; charset=utf-8", f"{row.pk}.csv")
        raise InvalidInput(f"There is no signal format {kind!r}.", fields={"format": "Choose json, npy or csv."})

    @extend_schema(parameters=[OpenApiParameter("qtc_formula", str)], responses=OpenApiTypes.OBJECT)
    @action(detail=True)
    def measurements(self, request: Request, pk: str) -> Response:
        """Rate, intervals, axes and fiducials of the original signal; null with a reason where it can't be measured."""
        return Response(presenting.measurements(self.get_object(), request.query_params.get("qtc_formula")))


def _file(data: bytes, content_type: str, name: str) -> HttpResponse:
    return HttpResponse(
        data, content_type=content_type, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


class LabelMapSerializer(StrictModelFields):
    project = serializers.UUIDField(source="project_id", allow_null=True)

    class Meta:
        model = LabelMap
        fields = ["id", "project", "name", "version", "system", "classes", "entries", "frozen", "created_at"]
        read_only_fields = ["id", "version", "frozen", "created_at"]


class LabelMapFilter(filters.FilterSet):
    project = filters.UUIDFilter(method="usable_in", help_text="The project's own maps and those of the portal.")

    class Meta:
        model = LabelMap
        fields = ["name", "system"]

    def usable_in(self, queryset, name, value):
        # The portal's maps are listed for any id.
        access.find(Project.objects.all(), self.request.user, pk=value)
        return queryset.filter(Q(project=value) | Q(project__isnull=True))


class LabelMapViewSet(mixins.ListModelMixin, ProjectViewSet):
    """Maps from codes to classes; those without a project come with the portal and are visible to all."""

    queryset = LabelMap.objects.all()
    serializer_class = LabelMapSerializer
    filterset_class = LabelMapFilter
    parser_classes = [ObjectParser, MultiPartParser]
    needs = {
        "list": Action.DATA_VIEW, "retrieve": Action.DATA_VIEW, "create": Action.DATA_EDIT, "export": Action.DATA_VIEW, "import_csv": Action.DATA_EDIT,
    }  # fmt: skip

    def get_queryset(self):
        if getattr(self, "swagger_fake_view", False):
            return LabelMap.objects.none()
        return selectors.label_maps(self.request.user)

    def get_object(self) -> LabelMap:
        found = self.get_queryset().filter(pk=self.kwargs["pk"]).first()
        if found is None:
            access.note_hidden(LabelMap, self.request.user, pk=self.kwargs["pk"])
            raise NotFound("There is no such label map, or it belongs to a project that you are not a member of.")
        if found.project_id:
            access.require(self.request.user, self.needed(), found.project)
        return found

    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(self.get_serializer(self.get_object()).data)

    def create(self, request: Request) -> Response:
        form = self.get_serializer(data=request.data)
        form.is_valid(raise_exception=True)
        data = form.validated_data
        if not data.get("project_id"):
            raise InvalidInput("A label map belongs to a project.", fields={"project": "Required."})
        entries = presenting.map_entries(data.get("entries", {}))
        row = services.label_map_create(
            actor=request.user,
            project=self.project(data["project_id"]),
            name=data["name"],
            system=data["system"],
            classes=data["classes"],
            entries=entries,
        )
        return Response(self.get_serializer(row).data, status=status.HTTP_201_CREATED)

    @extend_schema(
        parameters=[OpenApiParameter("format", str, enum=["csv"])], responses={(200, "text/csv"): OpenApiTypes.STR}
    )
    @action(detail=True)
    def export(self, request: Request, pk: str) -> HttpResponse:
        """The map as CSV with the columns ``code, class, relation``."""
        row = self.get_object()
        if (kind := request.query_params.get("format", "csv")) != "csv":
            raise InvalidInput(f"There is no export format {kind[:40]!r}.", fields={"format": "Choose csv."})
        audit("label_map.exported", row, actor=request.user, project=row.project)
        return _file(presenting.map_csv(row).encode(), "text/csv; charset=utf-8", "label-map.csv")

    @extend_schema(
        request={
            "multipart/form-data": {
                "type": "object",
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "project": {"type": "string"},
                    "name": {"type": "string"},
                    "system": {"type": "string"},
                },
            }
        },
        responses={201: LabelMapSerializer},
    )
    @action(detail=False, methods=["post"], url_path="import")
    def import_csv(self, request: Request) -> Response:
        """Read a map from CSV with the columns ``code, class, relation``."""
        only(request.data, ("file", "project", "name", "system"))
        if not request.data.get("project"):
            raise InvalidInput("A label map belongs to a project.", fields={"project": "Give the id of a project."})
        project, file = self.project(request.data["project"]), request.FILES.get("file")
        if file is None or not request.data.get("name"):
            raise InvalidInput(
                "A label map needs a file and a name.", fields={"file": "CSV with code, class, relation."}
            )
        classes, entries = presenting.read_map_csv(file.read(5_000_001))
        row = services.label_map_create(
            actor=request.user, project=project, name=request.data["name"],
            system=request.data.get("system", "any"), classes=classes, entries=entries,
        )  # fmt: skip
        return Response(self.get_serializer(row).data, status=status.HTTP_201_CREATED)
