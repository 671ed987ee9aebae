"""Architectures, models, versions, predictions and exchanges over REST."""

from __future__ import annotations

from typing import Any

from django.http import FileResponse, HttpResponse
from django_filters import rest_framework as filters
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.parsers import MultiPartParser
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from datasets.models import Dataset, Record
from datasets.selectors import label_map_of
from ecgportal.api.parsers import ObjectParser
from ecgportal.api.strict import StrictFields, StrictModelFields, StrictQuery, only
from ecgportal.api.viewsets import ByIdFilterSet, ProjectViewSet
from ecgportal.audit.trail import record as audit
from ecgportal.errors import InvalidInput
from ecgportal.jobs import services as jobs
from ecgportal.projects import access
from ecgportal.projects.access import Action
from modelhub import answer_list, downloads, services, services_predictions, statements, trying
from modelhub.answer_list import AGREEMENTS
from modelhub.answers import ANSWERS, NAMES, read_answers
from modelhub.architectures.catalog import catalog
from modelhub.lineage import family
from modelhub.models import Model, ModelVersion, PredictionRun, VersionState


class ArchitectureView(StrictQuery):
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


class ModelSerializer(StrictModelFields):
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


class LicenceSerializer(StrictFields):
    project = serializers.UUIDField()
    licence = serializers.CharField(max_length=2000, allow_blank=True)


class TrySerializer(StrictFields):
    record = serializers.UUIDField()


def record_to_try(user: Any, data: Any) -> Record:
    """Return the record that a request to try a model names: one of a project in which the user may predict."""
    form = TrySerializer(data=data)
    form.is_valid(raise_exception=True)
    rows = Record.objects.select_related("dataset__project")
    return access.get_or_404(rows, user, Action.MODEL_EDIT, pk=form.validated_data["record"])


class AliasSerializer(StrictFields):
    version = serializers.UUIDField()


class ModelViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet):
    queryset = Model.objects.prefetch_related("versions", "aliases").select_related("project")
    serializer_class = ModelSerializer
    filterset_fields = ["project", "name"]
    needs = {
        "list": Action.MODEL_VIEW, "retrieve": Action.MODEL_VIEW, "alias": Action.MODEL_EXCHANGE, "alias_remove": Action.MODEL_EXCHANGE,
        "licence": Action.MODEL_VIEW, "licence_choose": Action.MODEL_EXCHANGE,
    }  # fmt: skip

    @extend_schema(parameters=[OpenApiParameter("project", str, required=True)], responses=LicenceSerializer)
    @action(detail=False, filterset_class=None, filterset_fields=None, pagination_class=None)
    def licence(self, request: Request) -> Response:
        """The licence that models trained in a project begin with."""
        if not request.query_params.get("project"):
            raise InvalidInput("Say of which project.", fields={"project": "Give the id of a project."})
        project = self.project(request.query_params["project"])
        return Response({"project": project.pk, "licence": statements.licence_of(project)})

    @extend_schema(request=LicenceSerializer, responses=LicenceSerializer)
    @licence.mapping.put
    def licence_choose(self, request: Request) -> Response:
        """Choose that licence; an empty text takes the portal's own."""
        if not request.data.get("project"):
            raise InvalidInput("Say of which project.", fields={"project": "Give the id of a project."})
        project = self.project(request.data["project"])
        form = LicenceSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        text = statements.set_licence(actor=request.user, project=project, text=form.validated_data["licence"])
        return Response({"project": project.pk, "licence": text})

    @extend_schema(request=AliasSerializer, responses=ModelSerializer)
    @action(detail=True, methods=["put"], url_path=r"aliases/(?P<name>[^/]{1,40})")
    def alias(self, request: Request, pk: str, name: str) -> Response:
        """Let an alias such as ``champion`` point to a version of this model."""
        model = self.get_object()
        form = AliasSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        version = model.versions.filter(pk=form.validated_data["version"]).select_related("model__project").first()
        if version is None:
            access.note_hidden(ModelVersion, request.user, pk=form.validated_data["version"])
            raise InvalidInput("This model has no such version.", fields={"version": "A version of this model."})
        services.alias_set(actor=request.user, model=model, name=name, version=version)
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(responses={204: None})
    @alias.mapping.delete
    def alias_remove(self, request: Request, pk: str, name: str) -> Response:
        services.alias_remove(actor=request.user, model=self.get_object(), name=name)
        return Response(status=status.HTTP_204_NO_CONTENT)


class VersionSerializer(StrictModelFields):
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
        """What has to be said before the version can be used: of its contract, licence, intended use and training data."""
        open_ = version.checks.get("questions", {}) if version.state == VersionState.INCOMPLETE else {}
        return {**open_, **statements.missing(version)}


class VersionFilter(ByIdFilterSet):
    project = filters.UUIDFilter(field_name="model__project_id")

    class Meta:
        model = ModelVersion
        fields = ["model", "parent", "task", "state", "origin", "architecture", "sha256"]


class VersionViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet):
    queryset = ModelVersion.objects.select_related("model__project").prefetch_related("aliases")
    serializer_class = VersionSerializer
    filterset_class = VersionFilter
    parser_classes = [ObjectParser, MultiPartParser]
    needs = {
        "list": Action.MODEL_VIEW, "retrieve": Action.MODEL_VIEW, "create": Action.MODEL_EDIT, "destroy": Action.MODEL_DELETE,
        "download": Action.MODEL_DOWNLOAD, "card": Action.MODEL_VIEW, "card_update": Action.MODEL_EDIT, "accept": Action.MODEL_EXCHANGE,
        "try_it": Action.MODEL_EDIT, "lineage": Action.MODEL_VIEW, "contract": Action.MODEL_EDIT, "retire": Action.MODEL_EXCHANGE, "reinstate": Action.MODEL_EXCHANGE,
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
                    **{
                        name: {"type": "string", "description": text}
                        for name, text in (ANSWERS | statements.STATEMENTS).items()
                    },
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
        only(request.data, ("file", "project", "name", *NAMES, *statements.STATEMENTS))
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
            card=statements.read_statements(request.data),
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
        """Say what a version leaves open. A job completes one in the state ``incomplete``; licence, intended use and
        training data alone are taken at once (200, without a job)."""
        version = self.get_object()
        only(request.data, (*NAMES, *statements.STATEMENTS))
        said = statements.read_statements(request.data)
        if said:
            version = services.card_update(actor=request.user, version=version, card=said)
            if version.state != VersionState.INCOMPLETE or not set(request.data) - set(statements.STATEMENTS):
                return Response({"id": version.pk, "job": None, "state": version.state})
        job = services.version_complete(actor=request.user, version=version, answers=read_answers(request.data))
        return Response({"id": version.pk, "job": job.pk, "state": job.state}, status=status.HTTP_202_ACCEPTED)

    @extend_schema(request=TrySerializer, responses={202: OpenApiTypes.OBJECT})
    @action(detail=True, methods=["post"], url_path="try")
    def try_it(self, request: Request, pk: str) -> Response:
        """Ask the version for one record of its project; the job's ``result`` holds the answers, nothing is kept."""
        version, record = self.get_object(), record_to_try(request.user, request.data)
        if record.dataset.project_id != version.model.project_id:
            raise InvalidInput(
                "The record lies in another project.", fields={"record": "One of the version's project."}
            )
        job = trying.try_start(actor=request.user, version=version, record=record)
        return Response({"id": job.pk, "job": job.pk, "state": job.state}, status=status.HTTP_202_ACCEPTED)

    @extend_schema(responses=OpenApiTypes.OBJECT)
    @action(detail=True)
    def lineage(self, request: Request, pk: str) -> Response:
        """Where the version comes from, the oldest first, and what was made from it: fine-tuned or copied."""
        return Response(family(self.get_object(), request.user).facts)

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


class PredictionRunSerializer(StrictModelFields):
    state = serializers.CharField(source="job.state", read_only=True)
    progress = serializers.FloatField(source="job.progress", read_only=True)
    records = serializers.ListField(source="record_ids", child=serializers.UUIDField())
    threshold_origin = serializers.SerializerMethodField()
    care_basis = serializers.SerializerMethodField()
    agreement = serializers.SerializerMethodField()

    class Meta:
        model = PredictionRun
        fields = [
            "id", "project", "version", "dataset", "records", "label_map", "job", "state", "progress", "thresholds",
            "threshold_origin", "care_basis", "agreement", "refused", "created_at",
        ]  # fmt: skip

    def get_threshold_origin(self, run: PredictionRun) -> str:
        return downloads.threshold_origin(run)

    def get_care_basis(self, run: PredictionRun) -> str:
        """What records were compared with before their answers were given; empty until the job has ended."""
        return (run.job.result or {}).get("care_basis", "")

    @extend_schema_field({"type": "object", "nullable": True})
    def get_agreement(self, run: PredictionRun) -> dict[str, Any] | None:
        return (run.job.result or {}).get("agreement")


class PredictionCreateSerializer(StrictFields):
    version = serializers.UUIDField()
    dataset = serializers.UUIDField(required=False)
    records = serializers.ListField(child=serializers.UUIDField(), required=False, max_length=10_000)
    label_map = serializers.UUIDField(required=False, allow_null=True)


_OF_LISTS = [
    OpenApiParameter(
        "agreement", str, enum=list(AGREEMENTS),
        description="Only records where " + "; ".join(f"`{name}`: {words}" for name, words in AGREEMENTS.items()) + ".",
    ),
    OpenApiParameter(
        "class", str,
        description="With `agreement`, compare this class alone; without, only records that are predicted to have it.",
    ),
    OpenApiParameter(
        "label_map", OpenApiTypes.UUID,
        description="What sorts the labels into the model's classes: a map of the project that has all of them. Without it the "
        "run's own, which is the one that the version was trained with where the project has it.",
    ),
    OpenApiParameter("notices", str, enum=["1"], description="Only answers that are to be read with care."),
    OpenApiParameter(
        "sort", str,
        description="`key`, `sureness` (lists of mistakes) or a class, with `-` before it from the end.",
    ),
]  # fmt: skip


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
            if len(records) < len(wanted):
                access.note_hidden(Record, request.user, pk__in=wanted - {row.pk for row in records})
            if len(records) != len(wanted) or len({row.dataset_id for row in records}) != 1:
                raise InvalidInput(
                    "Some records are not visible to you, or they lie in different datasets.",
                    fields={"records": "Records of one dataset."},
                )
            dataset = records[0].dataset
            if data.get("dataset") not in (None, dataset.pk):
                other = "Give the dataset of the records, or leave one of the two out."
                raise InvalidInput("The records lie in another dataset.", fields={"dataset": other, "records": other})
        elif data.get("dataset"):
            dataset = self.related(Dataset.objects.select_related("project"), data["dataset"], "dataset")
        else:
            raise InvalidInput("Say what to predict on.", fields={"dataset": "Give a dataset or records."})
        label_map = None
        if data.get("label_map"):
            label_map = label_map_of(version.model.project, data["label_map"], request.user)
        run = services_predictions.prediction_start(
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
        run = services_predictions.prediction_resume(actor=request.user, run=self.get_object())
        return Response(self.get_serializer(run).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(
        parameters=[OpenApiParameter("format", str, enum=["json", "csv", "sr"]), *_OF_LISTS],
        responses=OpenApiTypes.OBJECT,
    )
    @action(detail=True, filterset_class=None, filterset_fields=None)
    def rows(self, request: Request, pk: str) -> HttpResponse | Response:
        """One row per record: probabilities by class, what is predicted, and the thresholds used.

        `labels` are the classes that the record's labels have by the label map, null where the map knows none of them;
        `agreement` compares both. In lists of mistakes (`differs`, `false_positive`, `false_negative`) `sureness` says how far
        the wrong probability lies beyond its threshold, from 0 (at it) to 1, and the surest come first.
        """
        run = self.get_object()
        listed = answer_list.read(run, request.query_params)
        if request.query_params.get("format") in ("csv", "sr"):
            return downloads.predictions_file(listed, request.query_params["format"], actor=request.user)
        page = self.paginate_queryset(listed.rows())
        audit("prediction.downloaded", run, actor=request.user, project=run.project)
        return self.get_paginated_response(downloads.prediction_rows(listed, page))
