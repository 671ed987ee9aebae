"""The audit trail over REST."""

from __future__ import annotations

import uuid

from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from django_filters import rest_framework as filters
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.viewsets import GenericViewSet

from ecgportal.api.strict import StrictModelFields, StrictQuery
from ecgportal.api.viewsets import as_uuid
from ecgportal.audit import export, selectors
from ecgportal.audit.models import AuditEvent
from ecgportal.audit.trail import record
from ecgportal.projects.access import Action, get_or_404
from ecgportal.projects.models import Project


class AuditFilter(filters.FilterSet):
    project = filters.UUIDFilter(field_name="project_id")
    actor = filters.CharFilter(method="by_actor", help_text="Id or user name.")
    actor_name = filters.CharFilter(field_name="actor_name")
    since = filters.IsoDateTimeFilter(field_name="at", lookup_expr="gte")
    until = filters.IsoDateTimeFilter(field_name="at", lookup_expr="lt")

    class Meta:
        model = AuditEvent
        fields = ["action", "outcome", "object_id", "channel"]

    def by_actor(self, queryset: QuerySet[AuditEvent], name: str, value: str) -> QuerySet[AuditEvent]:
        try:
            return queryset.filter(actor_id=uuid.UUID(value))
        except ValueError:
            return queryset.filter(actor_name__iexact=value)


class AuditEventSerializer(StrictModelFields):
    actor = serializers.SerializerMethodField()
    object = serializers.SerializerMethodField()
    sentence = serializers.SerializerMethodField()
    project = serializers.UUIDField(source="project_id")

    class Meta:
        model = AuditEvent
        fields = [
            "sequence", "at", "actor", "action", "sentence", "object", "project", "outcome", "channel", "address", "correlation", "changes", "software", "hash",
        ]  # fmt: skip

    def get_actor(self, event: AuditEvent) -> dict[str, str | None]:
        return {
            "id": str(event.actor_id) if event.actor_id else None,
            "username": event.actor_name,
            "role": event.actor_role or None,
        }

    def get_object(self, event: AuditEvent) -> dict[str, str]:
        return {"type": event.object_type, "id": event.object_id, "label": event.object_label}

    def get_sentence(self, event: AuditEvent) -> str:
        return selectors.sentence(event)


class AuditViewSet(StrictQuery, mixins.ListModelMixin, GenericViewSet):
    """Events of my projects (as their owner), my own sign-ins, and everything for an administrator."""

    queryset = AuditEvent.objects.none()
    serializer_class = AuditEventSerializer
    filterset_class = AuditFilter

    def get_queryset(self):
        if getattr(self, "swagger_fake_view", False):
            return AuditEvent.objects.none()
        asked = self.request.query_params.get("project")
        if asked and not self.request.user.is_administrator:
            get_or_404(Project.objects.all(), self.request.user, Action.AUDIT_VIEW, pk=as_uuid(asked, "project"))
        return selectors.readable_by(self.request.user).order_by("-id")

    @extend_schema(
        parameters=[OpenApiParameter("format", str, enum=list(export.FORMATS))],
        responses={(200, "text/csv"): OpenApiTypes.STR, (200, "application/json"): OpenApiTypes.OBJECT},
    )
    @action(detail=False)
    def export(self, request: Request) -> StreamingHttpResponse:
        """All matching events as CSV, JSON or a bundle of FHIR AuditEvents; the export is itself recorded."""
        events = self.filter_queryset(self.get_queryset())
        answer = export.response(events, request.query_params.get("format", "csv"), "audit")
        record("audit.exported", actor=request.user)
        return answer
