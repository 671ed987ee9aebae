"""Exchanges and signing keys over REST."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from ecgportal.api.strict import StrictFields, StrictModelFields, StrictQuery
from ecgportal.api.viewsets import IsAdministrator, ProjectViewSet, as_uuid
from ecgportal.projects import access
from ecgportal.projects.access import Action
from modelhub import exchange, keys, services_exchanges
from modelhub.models import Exchange, ModelVersion, SigningKey, Transfer


class ExchangeSerializer(StrictModelFields):
    name = serializers.CharField(max_length=80)
    url = serializers.CharField(max_length=400)
    password = serializers.CharField(write_only=True, required=False, allow_blank=True)

    class Meta:
        model = Exchange
        fields = ["id", "name", "url", "username", "password", "created_at"]
        read_only_fields = ["id", "created_at"]


class TransferSerializer(StrictModelFields):
    state = serializers.CharField(source="job.state", read_only=True)
    result = serializers.JSONField(source="job.result", read_only=True)

    class Meta:
        model = Transfer
        fields = [
            "id",
            "exchange",
            "project",
            "direction",
            "remote_path",
            "version",
            "sha256",
            "job",
            "state",
            "result",
            "created_at",
        ]


class PushSerializer(StrictFields):
    version = serializers.UUIDField()


class PullSerializer(StrictFields):
    project = serializers.UUIDField()
    path = serializers.CharField(max_length=400)


class SyncSerializer(StrictFields):
    project = serializers.UUIDField()


class ExchangeViewSet(StrictQuery, mixins.ListModelMixin, mixins.RetrieveModelMixin, GenericViewSet):
    """WebDAV servers for models. Administrators manage them, owners of projects publish and pull."""

    queryset = Exchange.objects.all()
    serializer_class = ExchangeSerializer
    lookup_value_regex = ProjectViewSet.lookup_value_regex

    def get_permissions(self) -> list:
        administrator = self.action in {"create", "partial_update", "destroy", "test"}
        return [IsAuthenticated(), IsAdministrator()] if administrator else [IsAuthenticated()]

    def create(self, request: Request) -> Response:
        form = self.get_serializer(data=request.data)
        form.is_valid(raise_exception=True)
        row = services_exchanges.exchange_save(actor=request.user, **form.validated_data)
        return Response(self.get_serializer(row).data, status=status.HTTP_201_CREATED)

    def partial_update(self, request: Request, pk: str) -> Response:
        row = self.get_object()
        form = self.get_serializer(row, data=request.data, partial=True)
        form.is_valid(raise_exception=True)
        values = {"name": row.name, "url": row.url, "username": row.username, **form.validated_data}
        return Response(
            self.get_serializer(services_exchanges.exchange_save(actor=request.user, exchange=row, **values)).data
        )

    def destroy(self, request: Request, pk: str) -> Response:
        services_exchanges.exchange_delete(actor=request.user, exchange=self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=None, responses=OpenApiTypes.OBJECT)
    @action(detail=True, methods=["post"])
    def test(self, request: Request, pk: str) -> Response:
        """Try the connection; an error says what to correct."""
        return Response(exchange.test(self.get_object()))

    @extend_schema(responses=OpenApiTypes.OBJECT, parameters=[OpenApiParameter("project", str)])
    @action(detail=True)
    def models(self, request: Request, pk: str) -> Response:
        """Published models and, with ``?project=``, how each stands against that project's versions."""
        project = None
        if request.query_params.get("project"):
            project = access.get_or_404(
                access.Project.objects.all(), request.user, Action.MODEL_VIEW, pk=request.query_params["project"]
            )
        rows = exchange.listing(self.get_object(), project)
        return Response({"count": len(rows), "next": None, "previous": None, "results": rows})

    @extend_schema(request=PushSerializer, responses={202: TransferSerializer})
    @action(detail=True, methods=["post"])
    def push(self, request: Request, pk: str) -> Response:
        form = PushSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        versions = ModelVersion.objects.select_related("model__project")
        version = access.get_or_404(versions, request.user, Action.MODEL_EXCHANGE, pk=form.validated_data["version"])
        row = services_exchanges.push_start(actor=request.user, exchange=self.get_object(), version=version)
        return Response(TransferSerializer(row).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(request=PullSerializer, responses={202: TransferSerializer})
    @action(detail=True, methods=["post"])
    def pull(self, request: Request, pk: str) -> Response:
        form = PullSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        project = access.get_or_404(
            access.Project.objects.all(), request.user, Action.MODEL_EXCHANGE, pk=form.validated_data["project"]
        )
        row = services_exchanges.pull_start(
            actor=request.user, exchange=self.get_object(), project=project, remote_path=form.validated_data["path"]
        )
        return Response(TransferSerializer(row).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(request=SyncSerializer, responses={202: TransferSerializer(many=True)})
    @action(detail=True, methods=["post"])
    def sync(self, request: Request, pk: str) -> Response:
        """Publish what only the project has and pull what only the exchange has, one job each."""
        form = SyncSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        wanted = form.validated_data["project"]
        project = access.get_or_404(access.Project.objects.all(), request.user, Action.MODEL_EXCHANGE, pk=wanted)
        rows = exchange.sync_start(actor=request.user, exchange=self.get_object(), project=project)
        return Response(TransferSerializer(rows, many=True).data, status=status.HTTP_202_ACCEPTED)


class SigningKeySerializer(StrictFields):
    id = serializers.UUIDField(read_only=True)
    name = serializers.CharField(max_length=120)
    public_key = serializers.CharField(max_length=200)
    key_id = serializers.CharField(read_only=True)
    is_own = serializers.BooleanField(read_only=True)
    created_at = serializers.DateTimeField(read_only=True)


class SigningKeyViewSet(StrictQuery, GenericViewSet):
    """The keys whose signatures on bundles count: this portal's own, and those that administrators trust."""

    queryset = SigningKey.objects.none()
    serializer_class = SigningKeySerializer
    permission_classes = [IsAuthenticated, IsAdministrator]
    filter_backends: ClassVar[list[Any]] = []
    lookup_value_regex = ProjectViewSet.lookup_value_regex
    needs: ClassVar[dict[str, str]] = dict.fromkeys(("list", "create", "destroy"), "administrator")

    def list(self, request: Request) -> Response:
        page = self.paginate_queryset(keys.listing())
        return self.get_paginated_response(self.get_serializer(page, many=True).data)

    @extend_schema(responses={201: SigningKeySerializer})
    def create(self, request: Request) -> Response:
        """Trust another portal's public key (64 hexadecimal digits, or base64)."""
        form = self.get_serializer(data=request.data)
        form.is_valid(raise_exception=True)
        row = keys.trust(actor=request.user, **form.validated_data)
        found = next(entry for entry in keys.listing() if entry["id"] == str(row.pk))
        return Response(self.get_serializer(found).data, status=status.HTTP_201_CREATED)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        """Do not trust a key any more."""
        keys.distrust(actor=request.user, key=keys.find(as_uuid(pk)))
        return Response(status=status.HTTP_204_NO_CONTENT)
