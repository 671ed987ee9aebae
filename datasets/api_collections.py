"""Known collections over REST: which there are, where they lie, and their import in one call."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from datasets import importing
from datasets.collections import registry
from datasets.models import Dataset, Ingest
from ecgportal.api.strict import StrictFields, StrictQuery
from ecgportal.api.viewsets import ProjectViewSet, as_uuid
from ecgportal.errors import InvalidInput
from ecgportal.projects import access
from ecgportal.projects.access import Action
from ecgportal.projects.models import Project


class CollectionSerializer(StrictFields):
    name = serializers.CharField()
    title = serializers.CharField()
    about = serializers.CharField()
    licence = serializers.CharField()
    home = serializers.URLField()
    label_map = serializers.CharField(help_text="The built-in label map that fits best.")
    downloadable = serializers.BooleanField()
    folders = serializers.ListField(
        child=serializers.CharField(), help_text="Where it lies on the portal's machine; with ``project`` only."
    )


class ImportSerializer(StrictFields):
    collection = serializers.CharField(required=False, help_text="Needed: the name of a collection, such as ptbxl.")
    project = serializers.UUIDField(
        required=False, help_text="For a dataset called ``name``, made where it is missing."
    )
    dataset = serializers.UUIDField(required=False, help_text="An existing dataset, instead of project and name.")
    name = serializers.CharField(required=False, max_length=120, help_text="By default the collection's title.")
    folder = serializers.CharField(required=False, help_text="Where it lies: <import root>/<folder>.")
    download = serializers.BooleanField(required=False, help_text="Fetch it from PhysioNet instead.")


class ImportAnswerSerializer(StrictFields):
    id = serializers.UUIDField()
    ingest = serializers.UUIDField()
    dataset = serializers.UUIDField()
    job = serializers.UUIDField()
    state = serializers.CharField()


class CollectionViewSet(StrictQuery, ViewSet):
    """The collections that the portal knows. ``?project=`` adds the folders in which they lie, for its editors."""

    @extend_schema(responses=CollectionSerializer(many=True), parameters=[OpenApiParameter("project", str)])
    def list(self, request: Request) -> Response:
        folders: dict[str, list[str]] = {}
        if wanted := request.query_params.get("project"):
            access.get_or_404(Project.objects.all(), request.user, Action.DATA_EDIT, pk=as_uuid(wanted))
            for place in importing.places():
                folders.setdefault(place.collection.name, []).append(place.folder)
        fetched = importing.downloadable()
        rows = [
            {
                "name": entry.name, "title": entry.title, "about": entry.about, "licence": entry.licence, "home": entry.home,
                "label_map": entry.label_map, "downloadable": entry in fetched, "folders": folders.get(entry.name, []),
            }
            for entry in registry.known().values()
        ]  # fmt: skip
        return Response({"count": len(rows), "next": None, "previous": None, "results": rows})


class ImportViewSet(ProjectViewSet):
    queryset = Ingest.objects.all()
    serializer_class = ImportSerializer
    needs = {"create": Action.DATA_EDIT}

    @extend_schema(request=ImportSerializer, responses={202: ImportAnswerSerializer})
    def create(self, request: Request) -> Response:
        """Import a collection with its labels, folds, ages and sexes. Sent again, it adds only what is new."""
        form = self.get_serializer(data=request.data)
        form.is_valid(raise_exception=True)
        values = form.validated_data
        target = self._target(values)
        if ("folder" in values) == bool(values.get("download")):
            raise InvalidInput(
                "Say where the collection comes from.", fields={"folder": "Give either folder or download, not both."}
            )
        what = {"actor": request.user, "collection": values.get("collection", ""), "folder": values.get("folder")}
        if isinstance(target, Dataset):
            ingest = importing.import_start(dataset=target, **what)
        else:
            ingest = importing.import_by_name(project=target, name=values.get("name", ""), **what)
        answer = {
            "id": ingest.pk, "ingest": ingest.pk, "dataset": ingest.dataset_id, "job": ingest.job_id, "state": ingest.job.state,
        }  # fmt: skip
        return Response(answer, status=status.HTTP_202_ACCEPTED)

    def _target(self, values: dict[str, Any]) -> Dataset | Project:
        if values.get("dataset"):
            return self.find(Dataset.objects.select_related("project"), values["dataset"])
        if not values.get("project"):
            raise InvalidInput("An import goes into a dataset.", fields={"dataset": "Give dataset, or project."})
        return self.project(values["project"])
