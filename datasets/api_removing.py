"""Duplicates and persons over REST."""

from __future__ import annotations

from typing import Any

from django.db.models import Count
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from datasets import removing, selectors
from datasets.models import Subject
from ecgportal.api.viewsets import ProjectViewSet
from ecgportal.errors import InvalidInput
from ecgportal.projects.access import Action


class TwinsSerializer(serializers.Serializer):
    drop = serializers.ListField(child=serializers.UUIDField(), required=False, default=list)
    keep = serializers.ListField(child=serializers.UUIDField(), required=False, default=list)


class WithTwins:
    """The groups of records of one signal, as calls of a dataset."""

    needs: dict[str, Action]

    @extend_schema(responses=OpenApiTypes.OBJECT)
    @action(detail=True, filterset_class=None, filterset_fields=None)
    def duplicates(self, request: Request, pk: str) -> Response:
        """Groups of records that hold the same signal under several keys; ``kept`` where somebody decided to keep one."""
        dataset = self.get_object()  # type: ignore[attr-defined]
        page = self.paginate_queryset(selectors.same_signal_clusters(dataset))  # type: ignore[attr-defined]
        kept = selectors.kept_twins(dataset)
        rows = [
            {"records": [{"id": r, "key": key, "subject": subject, "kept": r in kept} for r, key, subject in cluster.records]}
            for cluster in page
        ]  # fmt: skip
        return self.get_paginated_response(rows)  # type: ignore[attr-defined]

    @extend_schema(request=TwinsSerializer, responses=OpenApiTypes.OBJECT)
    @duplicates.mapping.post
    def duplicates_decide(self, request: Request, pk: str) -> Response:
        """Drop some records of these groups and keep others for good. One of each group has to stay."""
        dataset = self.get_object()  # type: ignore[attr-defined]
        form = TwinsSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        if not form.validated_data["drop"] and not form.validated_data["keep"]:
            raise InvalidInput("Nothing was decided.", fields={"drop": "Name records to drop or to keep."})
        dropped = removing.twins_decide(actor=request.user, dataset=dataset, **form.validated_data)
        return Response({"dropped": dropped, "kept": len(form.validated_data["keep"])})


class SubjectSerializer(serializers.ModelSerializer):
    record_count = serializers.IntegerField(read_only=True)

    class Meta:
        model = Subject
        fields = ["id", "dataset", "key", "record_count", "created_at"]


class SubjectViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet):
    """The persons of datasets, by pseudonym."""

    queryset = (
        Subject.objects.select_related("dataset__project").annotate(record_count=Count("records")).order_by("key", "id")
    )
    serializer_class = SubjectSerializer
    filterset_fields = ["dataset", "key"]
    needs = {"list": Action.DATA_VIEW, "retrieve": Action.DATA_VIEW, "destroy": Action.DATA_DELETE}

    @extend_schema(responses=OpenApiTypes.OBJECT)
    def destroy(self, request: Request, pk: str) -> Response:
        """Delete a person: all records with what was made of them, file names, and rows of kept label tables.

        Answers how many records went and which training runs had used them.
        """
        told: dict[str, Any] = removing.subject_delete(actor=request.user, subject=self.get_object())
        return Response(told)
