"""Duplicates and persons over REST."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from datasets import removing, selectors, twins
from datasets.models import Record, Subject
from ecgportal.api.pagination import Pages
from ecgportal.api.strict import StrictFields, StrictModelFields
from ecgportal.api.viewsets import ProjectViewSet
from ecgportal.errors import InvalidInput
from ecgportal.projects.access import Action


class PagesByIndex(Pages):
    django_paginator_class = selectors.IndexPaginator


class TwinsSerializer(StrictFields):
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
        page = self.paginate_queryset(twins.groups(dataset))  # type: ignore[attr-defined]
        held = Record.objects.filter(pk__in=[pk for group in page for pk in group.records])
        told = {
            pk: {"id": pk, "key": key, "subject": subject, "kept": kept}
            for pk, key, subject, kept in held.values_list("pk", "key", "subject__key", "is_kept_twin")
        }
        rows = [{"records": [told[pk] for pk in group.records if pk in told]} for group in page]
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


class SubjectSerializer(StrictModelFields):
    record_count = serializers.IntegerField(read_only=True)

    class Meta:
        model = Subject
        fields = ["id", "dataset", "key", "record_count", "created_at"]


class SubjectViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet):
    """The persons of datasets, by pseudonym."""

    queryset = selectors.with_record_counts(Subject.objects.select_related("dataset__project")).order_by("key", "id")
    serializer_class = SubjectSerializer
    pagination_class = PagesByIndex
    filterset_fields = ["dataset", "key"]
    needs = {"list": Action.DATA_VIEW, "retrieve": Action.DATA_VIEW, "destroy": Action.DATA_DELETE}

    @extend_schema(responses=OpenApiTypes.OBJECT)
    def destroy(self, request: Request, pk: str) -> Response:
        """Delete a person: all records with what was made of them, file names, and rows of kept label tables.

        Answers how many records went and which training runs had used them.
        """
        told: dict[str, Any] = removing.subject_delete(actor=request.user, subject=self.get_object())
        return Response(told)
