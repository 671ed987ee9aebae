"""Annotations and labels set by hand over REST."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from datasets import annotating
from datasets.labels.table import SYSTEMS
from datasets.models import RecordAnnotation, RecordLabel
from ecgportal.api.strict import StrictModelFields
from ecgportal.api.viewsets import ProjectViewSet
from ecgportal.projects.access import Action


class AnnotationSerializer(StrictModelFields):
    """Seconds from the record's start; ``t1_s`` null for a point, ``lead`` null for all leads."""

    author = serializers.CharField(source="author.username", default=None, read_only=True)
    t0_s = serializers.FloatField()
    t1_s = serializers.FloatField(required=False, allow_null=True, default=None)
    lead = serializers.CharField(required=False, allow_null=True, default=None, max_length=20)
    text = serializers.CharField(max_length=annotating.MAX_TEXT)

    class Meta:
        model = RecordAnnotation
        fields = ["id", "record", "author", "t0_s", "t1_s", "lead", "text", "created_at"]
        read_only_fields = ["id", "record", "created_at"]


class LabelByHandSerializer(StrictModelFields):
    system = serializers.ChoiceField(choices=SYSTEMS)
    code = serializers.CharField(max_length=annotating.MAX_CODE)
    author = serializers.CharField(source="author.username", default=None, read_only=True)

    class Meta:
        model = RecordLabel
        fields = ["id", "record", "system", "code", "source", "author", "created_at"]
        read_only_fields = ["id", "record", "source", "created_at"]


class MarkedByHand:
    """The part of a record's resource that people write to."""

    @extend_schema(responses=AnnotationSerializer(many=True))
    @action(detail=True, filterset_class=None, filterset_fields=None)
    def annotations(self: Any, request: Request, pk: str) -> Response:
        """What people marked, in order of time."""
        rows = self.get_object().annotations.select_related("author")
        return self.get_paginated_response(AnnotationSerializer(self.paginate_queryset(rows), many=True).data)

    @extend_schema(request=AnnotationSerializer, responses={201: AnnotationSerializer})
    @annotations.mapping.post
    def annotations_add(self: Any, request: Request, pk: str) -> Response:
        """Mark a point or a span."""
        record = self.get_object()
        form = AnnotationSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        row = annotating.annotation_add(actor=request.user, record=record, **form.validated_data)
        return Response(AnnotationSerializer(row).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=LabelByHandSerializer, responses={201: LabelByHandSerializer})
    @action(detail=True, methods=["post"], url_path="labels")
    def labels_add(self: Any, request: Request, pk: str) -> Response:
        """Set a label by hand."""
        record = self.get_object()
        form = LabelByHandSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        row = annotating.label_add(actor=request.user, record=record, **form.validated_data)
        return Response(LabelByHandSerializer(row).data, status=status.HTTP_201_CREATED)


class AnnotationViewSet(mixins.RetrieveModelMixin, ProjectViewSet):
    queryset = RecordAnnotation.objects.select_related("author", "record__dataset__project")
    serializer_class = AnnotationSerializer
    needs = {"retrieve": Action.DATA_VIEW, "destroy": Action.DATA_EDIT}

    def destroy(self, request: Request, pk: str) -> Response:
        """Delete an annotation: its author or an owner of the project."""
        annotating.annotation_delete(actor=request.user, annotation=self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)


class RecordLabelViewSet(mixins.RetrieveModelMixin, ProjectViewSet):
    queryset = RecordLabel.objects.select_related("author", "record__dataset__project")
    serializer_class = LabelByHandSerializer
    needs = {"retrieve": Action.DATA_VIEW, "destroy": Action.DATA_EDIT}

    def destroy(self, request: Request, pk: str) -> Response:
        """Remove a label set by hand: who set it or an owner of the project."""
        annotating.label_delete(actor=request.user, label=self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)
