"""Maps of datasets over REST."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from datasets.api import RecordSerializer
from datasets.models import Dataset
from ecgportal.api.strict import StrictModelFields
from ecgportal.api.viewsets import ProjectViewSet
from ecgportal.errors import InvalidInput
from ecgportal.projects.access import Action
from modelhub.models import ModelVersion
from viz import mapping
from viz.models import Basis, DatasetMap

_METHOD = OpenApiParameter(
    "method", str, enum=list(mapping.METHODS), description="The first that the map has, if not given."
)
_COLOUR = OpenApiParameter(
    "colour", str, description=f"{', '.join(mapping.COLOURS)}, or prediction:<id of a prediction>."
)
_AREA = OpenApiParameter(
    "area", str, required=True, description="Corners x,y;x,y;... of a polygon on the map, three at least."
)


class MapSerializer(StrictModelFields):
    """explained: share of the variance along the two principal components. left_out: records without a place."""

    dataset = serializers.UUIDField(source="dataset_id")
    version = serializers.UUIDField(source="version_id", required=False, allow_null=True, default=None)
    with_umap = serializers.BooleanField(required=False, default=True)
    job = serializers.UUIDField(source="job_id", read_only=True)
    state = serializers.CharField(source="job.state", read_only=True)

    class Meta:
        model = DatasetMap
        fields = [
            "id",
            "dataset",
            "basis",
            "version",
            "with_umap",
            "explained",
            "left_out",
            "job",
            "state",
            "created_at",
        ]
        read_only_fields = ["id", "explained", "left_out", "created_at"]


class MapViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet):
    """Records of a dataset in the plane, by principal components and UMAP."""

    queryset = DatasetMap.objects.select_related("job", "dataset__project", "version__model")
    serializer_class = MapSerializer
    filterset_fields = ["dataset", "basis"]
    needs = {
        "list": Action.DATA_VIEW, "retrieve": Action.DATA_VIEW, "create": Action.DATA_EDIT, "destroy": Action.DATA_EDIT,
        "points": Action.DATA_VIEW, "records": Action.DATA_VIEW,
    }  # fmt: skip

    @extend_schema(request=MapSerializer, responses={202: MapSerializer})
    def create(self, request: Request) -> Response:
        """Start the job that makes a map. The bases ``measures`` and ``shape`` need a measured dataset, ``model`` a version."""
        form = self.get_serializer(data=request.data)
        form.is_valid(raise_exception=True)
        data = form.validated_data
        dataset = self.find(Dataset.objects.select_related("project"), data["dataset_id"])
        version = None
        if data["basis"] == Basis.MODEL and data["version_id"]:
            version = self.related(ModelVersion.objects.select_related("model"), data["version_id"], "version")
        row = mapping.map_start(
            actor=request.user, dataset=dataset, basis=data["basis"], version=version, with_umap=data["with_umap"]
        )
        return Response(self.get_serializer(row).data, status=status.HTTP_202_ACCEPTED)

    def destroy(self, request: Request, pk: str) -> Response:
        mapping.map_delete(actor=request.user, row=self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _method(self, row: DatasetMap) -> str:
        methods = mapping.methods_of(row)
        asked = self.request.query_params.get("method", next(iter(methods)))
        if asked not in methods:
            raise InvalidInput(
                f"This map has no places by {asked[:20]!r}.", fields={"method": f"Choose one of {', '.join(methods)}."}
            )
        return asked

    @extend_schema(parameters=[_METHOD, _COLOUR], responses=OpenApiTypes.OBJECT)
    @action(detail=True, filterset_fields=None)
    def points(self, request: Request, pk: str) -> Response:
        """The place of every record: lists of the same length, ``record, key, x, y, group``. At most 20,000 records."""
        row = self.get_object()
        method, colour = self._method(row), request.query_params.get("colour", "labels")
        if colour not in mapping.colours_of(row):
            raise InvalidInput(
                f"A map is not coloured by {colour[:60]!r}.",
                fields={"colour": f"Choose one of {', '.join(mapping.colours_of(row))}."},
            )
        found = mapping.places(row, method, colour)
        return Response({
            "map": row.pk, "method": method, "colour": colour, "record": [str(pk) for pk in found.records], "key": found.keys,
            "x": found.xy[:, 0].tolist(), "y": found.xy[:, 1].tolist(), "group": found.groups,
        })  # fmt: skip

    @extend_schema(parameters=[_METHOD, _AREA], responses=RecordSerializer(many=True))
    @action(detail=True, filterset_fields=None)
    def records(self, request: Request, pk: str) -> Response:
        """The records whose places lie inside an area, as the lasso finds them."""
        row: Any = self.get_object()
        area = mapping.read_area(request.query_params.get("area", ""))
        found = mapping.inside(row, self._method(row), area).select_related("subject").prefetch_related("labels")
        return self.get_paginated_response(RecordSerializer(self.paginate_queryset(found), many=True).data)
