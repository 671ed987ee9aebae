"""Jobs: how far they are, what they gave, and cancelling them."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from ecgportal.api.strict import StrictModelFields
from ecgportal.api.viewsets import ProjectViewSet
from ecgportal.jobs import services
from ecgportal.jobs.models import Job
from ecgportal.projects.access import Action


class JobSerializer(StrictModelFields):
    error = serializers.SerializerMethodField()

    class Meta:
        model = Job
        fields = [
            "id", "project", "kind", "title", "state", "progress", "message", "error", "result", "attempt", "created_at", "started_at", "finished_at",
        ]  # fmt: skip

    @extend_schema_field(
        {"type": "object", "nullable": True, "properties": {"code": {"type": "string"}, "message": {"type": "string"}}}
    )
    def get_error(self, job: Job) -> dict[str, str] | None:
        return {"code": job.error_code, "message": job.error_message} if job.error_code else None


class JobViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet):
    queryset = Job.objects.all()
    serializer_class = JobSerializer
    filterset_fields = ["project", "state", "kind"]
    needs = {"list": Action.JOB_VIEW, "retrieve": Action.JOB_VIEW, "cancel": Action.JOB_CANCEL}

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        return Response(self.get_serializer(services.cancel(actor=request.user, job=self.get_object())).data)
