"""Architectures, models, versions, predictions and exchanges over REST."""

from __future__ import annotations

from typing import Any

from django.http import FileResponse, HttpResponse
from django_filters import rest_framework as filters
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.parsers import JSONParser, MultiPartParser
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from datasets.models import Dataset, Record
from datasets.selectors import label_maps_for
from ecgportal.api.viewsets import ByIdFilterSet, IsAdministrator, ProjectViewSet
from ecgportal.audit.trail import record as audit
from ecgportal.errors import InvalidInput
from ecgportal.jobs import services as jobs
from ecgportal.projects import access
from ecgportal.projects.access import Action
from modelhub import downloads, exchange, services
from modelhub.answers import ANSWERS, read_answers
from modelhub.architectures.catalog import catalog
from modelhub.models import Exchange, Model, ModelVersion, PredictionRun, Transfer, VersionState


class ArchitectureView(APIView):
    """The networks that can be trained from scratch.

    ``definition`` is the SHA-256 of the file that an administrator of the server installed, null for the portal's own.
    """

    permission_classes = [IsAuthenticated]

    @extend_schema(responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        rows = [
            {
                "name": facts.name, "title": facts.title, "parameters": facts.parameters, "million_macs": facts.million_macs,
                "needs": list(facts.needs), "varies": list(facts.varies), "paper": facts.paper, "advice": facts.advice,
                "definition": facts.definition or None,
            }
            for facts in catalog().values()
        ]  # fmt: skip
        return Response({"count": len(rows), "next": None, "previous": None, "results": rows})


class ModelSerializer(serializers.ModelSerializer):
    versions = serializers.SerializerMethodField()
    aliases = serializers.SerializerMethodField()

    class Meta:
        model = Model
        fields = ["id", "project", "name", "description", "versions", "aliases", "created_at"]

    @extend_schema_field({"type": "object", "additionalProperties": {"type": "string", "format": "uuid"}})
    def get_aliases(self, model: Model) -> dict[str, str]:
        return {row.name: str(row.version_id) for row in model.aliases.all()}

    @extend_schema_field({"type": "array", "items": {"type": "string", "format": "uuid"}})
    def get_versions(self, model: Model) -> list[str]:
        return [str(version.pk) for version in model.versions.all()]


class AliasSerializer(serializers.Serializer):
    version = serializers.UUIDField()


class ModelViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet):
    queryset = Model.objects.prefetch_related("versions", "aliases").select_related("project")
    serializer_class = ModelSerializer
    filterset_fields = ["project", "name"]
    needs = {
        "list": Action.MODEL_VIEW, "retrieve": Action.MODEL_VIEW, "alias": Action.MODEL_EXCHANGE, "alias_remove": Action.MODEL_EXCHANGE,
    }  # fmt: skip

    @extend_schema(request=AliasSerializer, responses=ModelSerializer)
    @action(detail=True, methods=["put"], url_path=r"aliases/(?P<name>[^/]{1,40})")
    def alias(self, request: Request, pk: str, name: str) -> Response:
        """Let an alias such as ``champion`` point to a version of this model."""
        form = AliasSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        model = self.get_object()
        version = model.versions.filter(pk=form.validated_data["version"]).select_related("model__project").first()
        if version is None:
            raise InvalidInput("This model has no such version.", fields={"version": "A version of this model."})
        services.alias_set(actor=request.user, model=model, name=name, version=version)
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(responses={204: None})
    @alias.mapping.delete
    def alias_remove(self, request: Request, pk: str, name: str) -> Response:
        services.alias_remove(actor=request.user, model=self.get_object(), name=name)
        return Response(status=status.HTTP_204_NO_CONTENT)


class VersionSerializer(serializers.ModelSerializer):
    project = serializers.UUIDField(source="model.project_id")
    model_name = serializers.CharField(source="model.name")
    input = serializers.SerializerMethodField()
    classes = serializers.SerializerMethodField()
    aliases = serializers.SerializerMethodField()
    questions = serializers.SerializerMethodField()

    class Meta:
        model = ModelVersion
        fields = [
            "id", "project", "model", "model_name", "number", "state", "origin", "input", "classes", "task", "architecture",
            "parameters", "sha256", "size", "parent", "aliases", "questions", "card", "facts", "checks", "created_at",
        ]  # fmt: skip

    @extend_schema_field({"type": "object"})
    def get_input(self, version: ModelVersion) -> dict[str, Any]:
        return {name: version.contract.get(name) for name in ("leads", "fs_hz", "n_samples", "unit", "normalisation")}

    @extend_schema_field({"type": "array", "items": {"type": "string"}})
    def get_classes(self, version: ModelVersion) -> list[str]:
        return version.named_classes

    def get_aliases(self, version: ModelVersion) -> list[str]:
        return [row.name for row in version.aliases.all()]

    @extend_schema_field({"type": "object", "additionalProperties": {"type": "string"}})
    def get_questions(self, version: ModelVersion) -> dict[str, str]:
        return version.checks.get("questions", {}) if version.state == VersionState.INCOMPLETE else {}


class VersionFilter(ByIdFilterSet):
    project = filters.UUIDFilter(field_name="model__project_id")

    class Meta:
        model = ModelVersion
        fields = ["model", "parent", "task", "state", "origin", "architecture", "sha256"]


class VersionViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet):
    queryset = ModelVersion.objects.select_related("model__project").prefetch_related("aliases")
    serializer_class = VersionSerializer
    filterset_class = VersionFilter
    parser_classes = [JSONParser, MultiPartParser]
    needs = {
        "list": Action.MODEL_VIEW, "retrieve": Action.MODEL_VIEW, "create": Action.MODEL_EDIT, "destroy": Action.MODEL_DELETE,
        "download": Action.MODEL_DOWNLOAD, "card": Action.MODEL_VIEW, "card_update": Action.MODEL_EDIT, "accept": Action.MODEL_EXCHANGE,
        "contract": Action.MODEL_EDIT, "retire": Action.MODEL_EXCHANGE, "reinstate": Action.MODEL_EXCHANGE,
    }  # fmt: skip

    @extend_schema(
        request={
            "multipart/form-data": {
                "type": "object",
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "project": {"type": "string"},
                    "name": {"type": "string"},
                    "contract": {"type": "string"},
                    **{name: {"type": "string", "description": sentence} for name, sentence in ANSWERS.items()},
                },
            }
        },
        responses={202: OpenApiTypes.OBJECT},
    )
    def create(self, request: Request) -> Response:
        """Import a model file; the job's ``result.version`` names the version.

        What the file does not say itself (classes, rate, ...) is given in fields of their names. A file that leaves
        something open becomes a version in the state ``incomplete``; ``result.questions`` names what is missing.
        """
        if not request.data.get("project"):
            raise InvalidInput("A model import needs a project.", fields={"project": "Give the id of a project."})
        project, file = self.project(request.data["project"]), request.FILES.get("file")
        if file is None:
            raise InvalidInput("No model file was sent.", fields={"file": "Send .onnx, a bundle, .safetensors or .pt."})
        job = services.import_start(
            actor=request.user,
            project=project,
            file=file,
            name=str(request.data.get("name", "")),
            contract=read_answers(request.data),
        )
        return Response({"id": job.pk, "job": job.pk, "state": job.state}, status=status.HTTP_202_ACCEPTED)

    def destroy(self, request: Request, pk: str) -> Response:
        services.version_delete(actor=request.user, version=self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(
        parameters=[OpenApiParameter("format", str, enum=["onnx", "bundle", "safetensors"])],
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY},
    )
    @action(detail=True)
    def download(self, request: Request, pk: str) -> FileResponse | HttpResponse:
        version = self.get_object()
        return downloads.answer(version, request.query_params.get("format", "onnx"), actor=request.user)

    @extend_schema(
        parameters=[OpenApiParameter("format", str, enum=["json", "markdown", "html", "pdf"])],
        responses=OpenApiTypes.OBJECT,
    )
    @action(detail=True)
    def card(self, request: Request, pk: str) -> Response | HttpResponse:
        """The model card: as JSON (with its Markdown), or as a document."""
        version = self.get_object()
        kind = request.query_params.get("format", "json")
        if kind != "json":
            return downloads.card_file(version, kind, request)
        return Response(
            {
                "markdown": downloads.card_markdown(version),
                "prose": version.card,
                "facts": downloads.card_facts(version),
            }
        )

    @extend_schema(request=OpenApiTypes.OBJECT, responses=OpenApiTypes.OBJECT)
    @card.mapping.patch
    def card_update(self, request: Request, pk: str) -> Response:
        version = services.card_update(actor=request.user, version=self.get_object(), card=request.data)
        return Response({"prose": version.card})

    @extend_schema(request=OpenApiTypes.OBJECT, responses={202: OpenApiTypes.OBJECT})
    @action(detail=True, methods=["post", "patch"])
    def contract(self, request: Request, pk: str) -> Response:
        """Say what a version in the state ``incomplete`` leaves open; a job completes it."""
        version = self.get_object()
        job = services.version_complete(actor=request.user, version=version, answers=read_answers(request.data))
        return Response({"id": version.pk, "job": job.pk, "state": job.state}, status=status.HTTP_202_ACCEPTED)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def retire(self, request: Request, pk: str) -> Response:
        """Take a version out of use."""
        return self._moved(services.version_retire(actor=request.user, version=self.get_object(), retired=True))

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def reinstate(self, request: Request, pk: str) -> Response:
        """Take a retired version back into use."""
        return self._moved(services.version_retire(actor=request.user, version=self.get_object(), retired=False))

    def _moved(self, version: ModelVersion) -> Response:
        return Response(self.get_serializer(self.queryset.get(pk=version.pk)).data)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def accept(self, request: Request, pk: str) -> Response:
        """Release a pulled or foreign version from quarantine."""
        version = services.version_accept(actor=request.user, version=self.get_object())
        return self._moved(version)


class PredictionRunSerializer(serializers.ModelSerializer):
    state = serializers.CharField(source="job.state", read_only=True)
    progress = serializers.FloatField(source="job.progress", read_only=True)
    records = serializers.ListField(source="record_ids", child=serializers.UUIDField())
    threshold_origin = serializers.SerializerMethodField()
    agreement = serializers.SerializerMethodField()

    class Meta:
        model = PredictionRun
        fields = [
            "id", "project", "version", "dataset", "records", "label_map", "job", "state", "progress", "thresholds",
            "threshold_origin", "agreement", "refused", "created_at",
        ]  # fmt: skip

    def get_threshold_origin(self, run: PredictionRun) -> str:
        return downloads.threshold_origin(run)

    @extend_schema_field({"type": "object", "nullable": True})
    def get_agreement(self, run: PredictionRun) -> dict[str, Any] | None:
        return (run.job.result or {}).get("agreement")


class PredictionCreateSerializer(serializers.Serializer):
    version = serializers.UUIDField()
    dataset = serializers.UUIDField(required=False)
    records = serializers.ListField(child=serializers.UUIDField(), required=False, max_length=10_000)
    label_map = serializers.UUIDField(required=False, allow_null=True)


class PredictionViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet):
    queryset = PredictionRun.objects.select_related("job", "version__model", "project", "dataset", "label_map")
    serializer_class = PredictionRunSerializer
    filterset_fields = ["project", "version", "dataset"]
    needs = {
        "list": Action.MODEL_VIEW, "retrieve": Action.MODEL_VIEW, "create": Action.MODEL_EDIT, "cancel": Action.JOB_CANCEL, "resume": Action.MODEL_EDIT, "rows": Action.MODEL_DOWNLOAD,
    }  # fmt: skip

    @extend_schema(request=PredictionCreateSerializer, responses={202: PredictionRunSerializer})
    def create(self, request: Request) -> Response:
        form = PredictionCreateSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        data = form.validated_data
        version = self.find(ModelVersion.objects.select_related("model__project"), data["version"])
        records: list[Record] = []
        if data.get("records"):
            wanted = set(data["records"])
            records = list(
                access.visible(Record.objects.select_related("dataset__project"), request.user).filter(pk__in=wanted)
            )
            if len(records) != len(wanted) or len({row.dataset_id for row in records}) != 1:
                raise InvalidInput(
                    "Some records are not visible to you, or they lie in different datasets.",
                    fields={"records": "Records of one dataset."},
                )
            dataset = records[0].dataset
        elif data.get("dataset"):
            dataset = self.related(Dataset.objects.select_related("project"), data["dataset"], "dataset")
        else:
            raise InvalidInput("Say what to predict on.", fields={"dataset": "Give a dataset or records."})
        label_map = None
        if data.get("label_map"):
            maps = label_maps_for(version.model.project)
            label_map = maps.filter(pk=data["label_map"]).first()
            if label_map is None:
                raise InvalidInput("There is no such label map.", fields={"label_map": "A map of this project."})
        run = services.prediction_start(
            actor=request.user, project=version.model.project, version=version, dataset=dataset, records=records, label_map=label_map,
        )  # fmt: skip
        return Response(self.get_serializer(run).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        run = self.get_object()
        run.job = jobs.cancel(actor=request.user, job=run.job)
        return Response(self.get_serializer(run).data)

    @extend_schema(request=None, responses={202: PredictionRunSerializer})
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: str) -> Response:
        """Go on with failed or cancelled predictions."""
        run = services.prediction_resume(actor=request.user, run=self.get_object())
        return Response(self.get_serializer(run).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(
        parameters=[OpenApiParameter("format", str, enum=["json", "csv", "sr"])], responses=OpenApiTypes.OBJECT
    )
    @action(detail=True, filterset_class=None, filterset_fields=None)
    def rows(self, request: Request, pk: str) -> HttpResponse | Response:
        """One row per record: probabilities by class, what is predicted, and the thresholds used."""
        run = self.get_object()
        if request.query_params.get("format") in ("csv", "sr"):
            return downloads.predictions_file(run, request.query_params["format"], actor=request.user)
        queryset = run.predictions.select_related("record").order_by("record__key", "id")
        page = self.paginate_queryset(queryset)
        audit("prediction.downloaded", run, actor=request.user, project=run.project)
        return self.get_paginated_response(downloads.prediction_rows(run, page))


class ExchangeSerializer(serializers.ModelSerializer):
    name = serializers.CharField(max_length=80)
    url = serializers.CharField(max_length=400)
    password = serializers.CharField(write_only=True, required=False, allow_blank=True)

    class Meta:
        model = Exchange
        fields = ["id", "name", "url", "username", "password", "created_at"]
        read_only_fields = ["id", "created_at"]


class TransferSerializer(serializers.ModelSerializer):
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


class PushSerializer(serializers.Serializer):
    version = serializers.UUIDField()


class PullSerializer(serializers.Serializer):
    project = serializers.UUIDField()
    path = serializers.CharField(max_length=400)


class SyncSerializer(serializers.Serializer):
    project = serializers.UUIDField()


class ExchangeViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, GenericViewSet):
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
        row = services.exchange_save(actor=request.user, **form.validated_data)
        return Response(self.get_serializer(row).data, status=status.HTTP_201_CREATED)

    def partial_update(self, request: Request, pk: str) -> Response:
        row = self.get_object()
        form = self.get_serializer(row, data=request.data, partial=True)
        form.is_valid(raise_exception=True)
        values = {"name": row.name, "url": row.url, "username": row.username, **form.validated_data}
        return Response(self.get_serializer(services.exchange_save(actor=request.user, exchange=row, **values)).data)

    def destroy(self, request: Request, pk: str) -> Response:
        services.exchange_delete(actor=request.user, exchange=self.get_object())
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
        row = services.push_start(actor=request.user, exchange=self.get_object(), version=version)
        return Response(TransferSerializer(row).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(request=PullSerializer, responses={202: TransferSerializer})
    @action(detail=True, methods=["post"])
    def pull(self, request: Request, pk: str) -> Response:
        form = PullSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        project = access.get_or_404(
            access.Project.objects.all(), request.user, Action.MODEL_EXCHANGE, pk=form.validated_data["project"]
        )
        row = services.pull_start(
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
