"""The catalogue over REST."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from ecgportal.api.strict import StrictFields, StrictModelFields, StrictQuery
from ecgportal.api.viewsets import IsAdministrator, ProjectViewSet, as_uuid
from ecgportal.errors import InvalidInput
from ecgportal.projects import access
from ecgportal.projects.access import Action
from ecgportal.projects.models import Project
from modelhub import catalogue
from modelhub.api import TrySerializer, VersionSerializer, record_to_try
from modelhub.lineage import family
from modelhub.models import CatalogueDecision, CatalogueEntry, ModelVersion

FILTERS = ("text", "task", "label", "architecture", "licence", "state", "data")
NUMBERS = {"leads": int, "fs_hz": float, "auroc": float}


def _number(text: str, name: str) -> float | int:
    """Return a filter's number; InvalidInput when it is none, or no sensible one."""
    try:
        value = NUMBERS[name](text)
    except ValueError:
        value = -1
    if not 0 < value < 1e6 or (name == "leads" and value > 64):
        raise InvalidInput(f"{name} is not a number that can be filtered by.", fields={name: "A number above 0."})
    return value


class DecisionSerializer(StrictModelFields):
    class Meta:
        model = CatalogueDecision
        fields = ["from_state", "to_state", "reason", "decided_by_name", "created_at"]


class EntrySerializer(StrictModelFields):
    name = serializers.CharField(source="version.model.name")
    number = serializers.IntegerField(source="version.number")
    task = serializers.CharField(source="version.task")
    classes = serializers.ListField(source="version.named_classes", child=serializers.CharField())
    architecture = serializers.CharField(source="version.architecture")
    parameters = serializers.IntegerField(source="version.parameters")
    sha256 = serializers.CharField(source="version.sha256")
    size = serializers.IntegerField(source="version.size")
    contract = serializers.JSONField(source="version.contract")
    licence = serializers.SerializerMethodField()
    metrics = serializers.SerializerMethodField()
    card = serializers.SerializerMethodField()
    approval = serializers.SerializerMethodField()
    history = serializers.SerializerMethodField()

    class Meta:
        model = CatalogueEntry
        fields = [
            "id", "version", "state", "name", "number", "task", "classes", "architecture", "parameters", "sha256", "size",
            "contract", "licence", "metrics", "card", "visible_to_all", "approval", "history", "created_at",
        ]  # fmt: skip

    def get_licence(self, entry: CatalogueEntry) -> str:
        return entry.shown.get("prose", {}).get("licence", "")

    @extend_schema_field({"type": "object"})
    def get_metrics(self, entry: CatalogueEntry) -> dict[str, Any]:
        return entry.shown.get("facts", {}).get("metrics", {})

    def get_card(self, entry: CatalogueEntry) -> str:
        return entry.shown.get("card", "")

    @extend_schema_field(DecisionSerializer(allow_null=True))
    def get_approval(self, entry: CatalogueEntry) -> dict[str, Any] | None:
        approved = catalogue.vouched(entry)
        return dict(DecisionSerializer(approved).data) if approved else None

    @extend_schema_field(DecisionSerializer(many=True))
    def get_history(self, entry: CatalogueEntry) -> list[dict[str, Any]]:
        """All decisions, for administrators and the members of the proposing project."""
        user = self.context["request"].user
        if not catalogue.sees_history(user, entry):
            return []
        return [dict(row) for row in DecisionSerializer(entry.decisions.all(), many=True).data]


class ProposeSerializer(StrictFields):
    version = serializers.UUIDField()
    reason = serializers.CharField(max_length=4000)


class ReasonSerializer(StrictFields):
    reason = serializers.CharField(max_length=4000)


class DecideSerializer(StrictFields):
    decision = serializers.ChoiceField(list(catalogue.DECISIONS))
    reason = serializers.CharField(max_length=4000)
    visible_to_all = serializers.BooleanField(required=False, allow_null=True, default=None)
    projects = serializers.ListField(child=serializers.UUIDField(), required=False, max_length=1000)


class ShareSerializer(StrictFields):
    visible_to_all = serializers.BooleanField(required=False, allow_null=True, default=None)
    projects = serializers.ListField(child=serializers.UUIDField(), required=False, max_length=1000)


class CopySerializer(StrictFields):
    project = serializers.UUIDField()


def projects_of(ids: list[Any] | None) -> list[Project] | None:
    """Return the projects that an administrator names; InvalidInput when one is not there."""
    if ids is None:
        return None
    found = list(Project.objects.filter(pk__in=ids))
    if len(found) != len(set(ids)):
        raise InvalidInput("One of the projects is not there.", fields={"projects": "Give ids of existing projects."})
    return found


class CatalogueViewSet(StrictQuery, GenericViewSet):
    """Models of the platform: owners propose, administrators decide, everybody to whom one is granted may copy it."""

    queryset = CatalogueEntry.objects.none()
    serializer_class = EntrySerializer
    filter_backends: ClassVar[list[Any]] = []
    lookup_value_regex = ProjectViewSet.lookup_value_regex
    #: What each method needs in the project of the entry, the version or the target; ``administrator`` for decisions.
    needs: ClassVar[dict[str, Action | str]] = {
        "list": Action.MODEL_VIEW, "retrieve": Action.MODEL_VIEW, "lineage": Action.MODEL_VIEW, "create": Action.MODEL_EXCHANGE, "withdraw": Action.MODEL_EXCHANGE,
        "copy": Action.MODEL_EDIT, "try_it": Action.MODEL_EDIT, "decide": "administrator", "share": "administrator",
    }  # fmt: skip

    def get_permissions(self) -> list:
        is_decision = self.needs.get(self.action) == "administrator"
        return [IsAuthenticated(), IsAdministrator()] if is_decision else [IsAuthenticated()]

    def _entry(self, pk: Any) -> CatalogueEntry:
        return catalogue.find(self.request.user, as_uuid(pk))

    def _answer(self, entry: CatalogueEntry, code: int = 200) -> Response:
        return Response(self.get_serializer(catalogue.find(self.request.user, entry.pk)).data, status=code)

    @extend_schema(
        parameters=[
            *(OpenApiParameter(name, str) for name in FILTERS), *(OpenApiParameter(name, kind) for name, kind in NUMBERS.items()),
        ]
    )  # fmt: skip
    def list(self, request: Request) -> Response:
        """Entries visible to the user; ``text`` searches names, classes and prose."""
        wanted = {name: request.query_params.get(name, "")[:200] for name in FILTERS}
        if any("\x00" in value for value in wanted.values()):
            raise InvalidInput("A filter holds a NUL character.")
        numbers = {
            name: _number(request.query_params[name], name) for name in NUMBERS if request.query_params.get(name)
        }
        page = self.paginate_queryset(catalogue.search(catalogue.visible(request.user), **wanted, **numbers))
        return self.get_paginated_response(self.get_serializer(page, many=True).data)

    def retrieve(self, request: Request, pk: str) -> Response:
        return self._answer(self._entry(pk))

    @extend_schema(responses=OpenApiTypes.OBJECT)
    @action(detail=True)
    def lineage(self, request: Request, pk: str) -> Response:
        """Where the version comes from, and what was made from it, as far as the user may see it."""
        return Response(family(self._entry(pk).version, request.user).facts)

    @extend_schema(request=ProposeSerializer, responses={201: EntrySerializer})
    def create(self, request: Request) -> Response:
        """Propose a version of a project that the user owns."""
        form = ProposeSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        rows = ModelVersion.objects.select_related("model__project")
        version: ModelVersion = access.get_or_404(
            rows, request.user, Action.MODEL_EXCHANGE, pk=form.validated_data["version"]
        )
        entry = catalogue.propose(actor=request.user, version=version, reason=form.validated_data["reason"])
        return self._answer(entry, status.HTTP_201_CREATED)

    @extend_schema(request=ReasonSerializer, responses=EntrySerializer)
    @action(detail=True, methods=["post"])
    def withdraw(self, request: Request, pk: str) -> Response:
        """Take a proposal back before it is decided."""
        entry = self._entry(pk)
        access.require(request.user, Action.MODEL_EXCHANGE, entry.version.model.project)
        form = ReasonSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        return self._answer(catalogue.withdraw(actor=request.user, entry=entry, reason=form.validated_data["reason"]))

    @extend_schema(request=DecideSerializer, responses=EntrySerializer)
    @action(detail=True, methods=["post"])
    def decide(self, request: Request, pk: str) -> Response:
        """Approve, refuse or retire, with a reason; an approval may also say who sees the entry."""
        form = DecideSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        data, entry = form.validated_data, self._entry(pk)
        projects = projects_of(data.get("projects"))
        entry = catalogue.decide(actor=request.user, entry=entry, decision=data["decision"], reason=data["reason"])
        if data["visible_to_all"] is not None or projects is not None:
            catalogue.share(actor=request.user, entry=entry, visible_to_all=data["visible_to_all"], projects=projects)
        if entry.state == "draft":
            return Response({"id": str(entry.pk), "state": entry.state})
        return self._answer(entry)

    @extend_schema(request=ShareSerializer, responses=EntrySerializer)
    @action(detail=True, methods=["post"])
    def share(self, request: Request, pk: str) -> Response:
        """Say who sees the entry once it is approved."""
        form = ShareSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        data = form.validated_data
        entry = catalogue.share(
            actor=request.user, entry=self._entry(pk), visible_to_all=data["visible_to_all"],
            projects=projects_of(data.get("projects")),
        )  # fmt: skip
        return self._answer(entry)

    @extend_schema(request=TrySerializer, responses={202: OpenApiTypes.OBJECT})
    @action(detail=True, methods=["post"], url_path="try")
    def try_it(self, request: Request, pk: str) -> Response:
        """Ask an approved version for one record of a project in which the user may predict."""
        job = catalogue.try_start(
            actor=request.user, entry=self._entry(pk), record=record_to_try(request.user, request.data)
        )
        return Response({"id": job.pk, "job": job.pk, "state": job.state}, status=status.HTTP_202_ACCEPTED)

    @extend_schema(request=CopySerializer, responses={201: VersionSerializer, 404: OpenApiTypes.OBJECT})
    @action(detail=True, methods=["post"])
    def copy(self, request: Request, pk: str) -> Response:
        """Copy an approved version into a project; the copy is ready at once."""
        entry = self._entry(pk)
        form = CopySerializer(data=request.data)
        form.is_valid(raise_exception=True)
        projects = Project.objects.all()
        project: Project = access.get_or_404(
            projects, request.user, Action.MODEL_EDIT, pk=form.validated_data["project"]
        )
        version = catalogue.copy(actor=request.user, entry=entry, project=project)
        return Response(VersionSerializer(version).data, status=status.HTTP_201_CREATED)
