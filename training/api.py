"""Architectures, training runs and evaluations over REST."""

from __future__ import annotations

from typing import Any, ClassVar

from django.http import HttpResponse
from django_filters import rest_framework as filters
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from datasets.models import Dataset
from datasets.selectors import label_map_of
from ecgportal.api.strict import StrictFields, StrictModelFields
from ecgportal.api.viewsets import ByIdFilterSet, ProjectViewSet
from ecgportal.audit.trail import record as audit
from ecgportal.errors import InvalidInput
from ecgportal.forms import count_of
from ecgportal.jobs import services as jobs
from ecgportal.projects.access import Action
from modelhub.models import ModelVersion
from training import kept, reports, selectors, services
from training.checking import check
from training.costs import costs_of_networks
from training.metrics.base import Figure
from training.models import Evaluation, Mode, StudyKind, TrainingRun
from training.studies import is_unchosen, study_json, with_search


class TrainingRunSerializer(StrictModelFields):
    state = serializers.CharField(source="job.state", read_only=True)
    progress = serializers.FloatField(source="job.progress", read_only=True)
    message = serializers.CharField(source="job.message", read_only=True)
    datasets = serializers.SerializerMethodField()
    split = serializers.SerializerMethodField()
    epochs = serializers.SerializerMethodField()
    report = serializers.SerializerMethodField()
    error = serializers.SerializerMethodField()
    architecture = serializers.SerializerMethodField(help_text="null until a search has chosen")
    outcome = serializers.SerializerMethodField(
        help_text="of a cancelled run: which model was kept, or why there is none"
    )

    class Meta:
        model = TrainingRun
        fields = [
            "id", "project", "name", "dataset", "datasets", "selection", "label_map", "classes", "task", "target", "architecture", "base_version",
            "mode", "settings", "members", "state", "progress", "message", "outcome", "error", "job", "split", "split_settings", "learning_rate", "epochs",
            "best_epoch", "produced_version", "report", "manifest", "warnings", "resumed", "repeats", "live", "pretraining", "recipe",
            "drawn_by", "created_at",
        ]  # fmt: skip

    @extend_schema_field({"type": "array", "items": {"type": "string", "format": "uuid"}})
    def get_datasets(self, run: TrainingRun) -> list[str]:
        return [str(row.pk) for row in run.datasets.all()]

    @extend_schema_field({"type": "object"})
    def get_split(self, run: TrainingRun) -> dict[str, Any]:
        known = self.context.get("splits")
        return selectors.split_counts(run) if known is None else known.get(run.pk, {})

    @extend_schema_field({"type": "string", "nullable": True})
    def get_architecture(self, run: TrainingRun) -> str | None:
        return None if is_unchosen(run) else run.architecture

    @extend_schema_field({"type": "integer"})
    def get_epochs(self, run: TrainingRun) -> int | None:
        return run.settings.get("epochs")

    @extend_schema_field({"type": "string", "format": "uuid", "nullable": True})
    def get_report(self, run: TrainingRun) -> str | None:
        report = getattr(run, "report", None)
        return str(report.pk) if report else None

    @extend_schema_field({"type": "string"})
    def get_outcome(self, run: TrainingRun) -> str:
        return selectors.outcome(run)

    @extend_schema_field({"type": "object", "nullable": True})
    def get_error(self, run: TrainingRun) -> dict[str, str] | None:
        return {"code": run.job.error_code, "message": run.job.error_message} if run.job.error_code else None


class TrainingRunCreateSerializer(StrictFields):
    project = serializers.UUIDField()
    dataset = serializers.UUIDField(required=False)
    datasets = serializers.ListField(child=serializers.UUIDField(), required=False)
    label_map = serializers.UUIDField(required=False, allow_null=True)
    classes = serializers.ListField(child=serializers.CharField(), required=False)
    task = serializers.ChoiceField(
        choices=["multiclass", "multilabel", "binary", "regression", "pretraining"],
        default="multilabel",
        help_text="pretraining learns without labels and gives a trunk to fine-tune; a label map then only says what a later "
        "run will hold back",
    )
    target = serializers.CharField(required=False, allow_blank=True, default="")
    architecture = serializers.CharField(required=False)
    base_version = serializers.UUIDField(required=False, allow_null=True)
    mode = serializers.ChoiceField(choices=Mode.choices, required=False)
    settings = serializers.DictField(required=False, default=dict)
    selection = serializers.DictField(
        required=False, default=dict, help_text="filter (as of the record list), balanced, cap"
    )
    split = serializers.DictField(
        required=False,
        default=dict,
        help_text="method (fractions, k_fold, given_folds, site, time) and what it takes; time: test, a share, or since, a day",
    )
    search = serializers.DictField(
        required=False, default=dict, help_text="minutes for choosing network and settings, then without architecture"
    )
    recipe = serializers.DictField(
        required=False,
        default=dict,
        help_text="version and steps that prepare a record; the portal's own when left out",
    )
    pretraining = serializers.DictField(
        required=False,
        default=dict,
        help_text="of the task pretraining: method (contrastive or masked); contrastive takes window_s (s) and ahead (windows), "
        "masked takes span_s (s), hidden (share of time) and hidden_leads (chance of a lead)",
    )
    name = serializers.CharField(required=False, max_length=120, default="")


class TrainingRunRenameSerializer(StrictFields):
    name = serializers.CharField(max_length=120)


class TakeTrialSerializer(StrictFields):
    number = serializers.IntegerField(min_value=1)


class LearningCurveSerializer(StrictFields):
    repeats = serializers.IntegerField(required=False, default=1, min_value=1, max_value=10)


class MeasureSerializer(StrictFields):
    project = serializers.UUIDField()


class TrainingRunFilter(ByIdFilterSet):
    dataset = filters.UUIDFilter(field_name="datasets")

    class Meta:
        model = TrainingRun
        fields: ClassVar[list[str]] = ["project", "repeats"]


class TrainingRunViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet):
    queryset = with_search(TrainingRun.objects.select_related("job", "split", "report").prefetch_related("datasets"))
    serializer_class = TrainingRunSerializer
    filterset_class = TrainingRunFilter
    needs = {
        "list": Action.MODEL_VIEW, "retrieve": Action.MODEL_VIEW, "create": Action.MODEL_EDIT, "cancel": Action.JOB_CANCEL,
        "resume": Action.MODEL_EDIT, "metrics": Action.MODEL_VIEW, "lr_finder": Action.MODEL_VIEW, "destroy": Action.MODEL_DELETE,
        "partial_update": Action.MODEL_EDIT, "again": Action.MODEL_EDIT, "check": Action.MODEL_EDIT, "find_rate": Action.MODEL_EDIT,
        "measure": Action.MODEL_EDIT, "search": Action.MODEL_VIEW, "take_trial": Action.MODEL_EDIT, "learning_curve": Action.MODEL_VIEW, "learning_curve_start": Action.MODEL_EDIT,
    }  # fmt: skip

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        context = self.get_serializer_context() | {"splits": selectors.split_counts_of(page)}
        return self.get_paginated_response(TrainingRunSerializer(page, many=True, context=context).data)

    def _asked(self, request: Request) -> dict[str, Any]:
        """Return what a request asks a run to be, with its rows found."""
        form = TrainingRunCreateSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        data = form.validated_data
        project = self.project(data["project"])
        if data.get("dataset") and data.get("datasets") and data["dataset"] not in data["datasets"]:
            other = "Name each dataset in datasets, or leave one of the two out."
            raise InvalidInput("The dataset is not one of the datasets.", fields={"dataset": other, "datasets": other})
        ids = [*([data["dataset"]] if data.get("dataset") else []), *data.get("datasets", [])]
        datasets = Dataset.objects.select_related("project")
        label_map = None
        if data.get("label_map"):
            label_map = label_map_of(project, data["label_map"], self.request.user)
        base = None
        if data.get("base_version"):
            base = self.related(ModelVersion.objects.select_related("model"), data["base_version"], "base_version")
        return {
            "project": project, "datasets": [self.related(datasets, pk, "dataset") for pk in ids], "label_map": label_map,
            "classes": data.get("classes"), "task": data["task"], "target": data["target"], "architecture": data.get("architecture"),
            "base_version": base, "mode": data.get("mode"), "settings": data["settings"], "selection": data["selection"], "split": data["split"],
            "search": data["search"], "recipe": data["recipe"] or None, "name": data["name"],
            "pretraining": data["pretraining"] or None,
        }  # fmt: skip

    @extend_schema(request=TrainingRunCreateSerializer, responses={202: TrainingRunSerializer})
    def create(self, request: Request) -> Response:
        run = services.run_start(actor=request.user, **self._asked(request))
        return Response(self.get_serializer(run).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(request=TrainingRunCreateSerializer, responses={200: OpenApiTypes.OBJECT})
    @action(detail=False, methods=["post"])
    def check(self, request: Request) -> Response:
        """What is wrong or risky about a run, what it will cost, and what it would cost with each network from scratch
        (``networks``); takes what a create takes and starts nothing."""
        asked = self._asked(request)
        found = check(**asked)
        networks = [row.to_json() for row in costs_of_networks(asked, found.split)]
        return Response(found.to_json() | {"networks": networks})

    @extend_schema(request=TrainingRunCreateSerializer, responses={202: OpenApiTypes.OBJECT})
    @action(detail=False, methods=["post"], url_path="find-rate")
    def find_rate(self, request: Request) -> Response:
        """Find a learning rate for a run before it starts; takes what a create takes. The job's ``result`` has rates, losses,
        ``valley``, ``steepest`` and ``suggestion``."""
        job = services.rate_start(actor=request.user, **self._asked(request))
        return Response({"job": str(job.pk), "state": job.state}, status=status.HTTP_202_ACCEPTED)

    @extend_schema(request=MeasureSerializer, responses={202: OpenApiTypes.OBJECT})
    @action(detail=False, methods=["post"])
    def measure(self, request: Request) -> Response:
        """Measure what each network costs on the machine that trains, for estimates."""
        form = MeasureSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        job = services.measure_start(actor=request.user, project=self.project(form.validated_data["project"]))
        return Response({"job": str(job.pk), "state": job.state}, status=status.HTTP_202_ACCEPTED)

    @extend_schema(request=TrainingRunRenameSerializer, responses={200: TrainingRunSerializer})
    def partial_update(self, request: Request, pk: str) -> Response:
        """Rename a run."""
        run, form = self.get_object(), TrainingRunRenameSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        run = services.run_rename(actor=request.user, run=run, name=form.validated_data["name"])
        return Response(self.get_serializer(run).data)

    @extend_schema(request=None, responses={202: TrainingRunSerializer})
    @action(detail=True, methods=["post"])
    def again(self, request: Request, pk: str) -> Response:
        """Do a run again with its choices and seed; on a processor the weights come out the same."""
        run = services.run_again(actor=request.user, run=self.get_object())
        return Response(self.get_serializer(run).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(responses=OpenApiTypes.OBJECT)
    @action(detail=True)
    def search(self, request: Request, pk: str) -> Response:
        """What a search has tried so far, and its winner. ``score`` of a network that is trained in full with a linear companion is
        of what it says beside the linear model, and ``alone`` its own; ``alone`` is null for others. ``start``, ``settings`` and
        ``outcome`` of a trial, and ``notes``, say in words what the page shows."""
        return Response(study_json(self.get_object(), StudyKind.SEARCH))

    @extend_schema(request=TakeTrialSerializer, responses={202: TrainingRunSerializer})
    @action(detail=True, methods=["post"], url_path="take-trial")
    def take_trial(self, request: Request, pk: str) -> Response:
        """Start a run of its own with the network and settings of one trial of a search."""
        searched, form = self.get_object(), TakeTrialSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        run = services.trial_take(actor=request.user, run=searched, number=form.validated_data["number"])
        return Response(self.get_serializer(run).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(responses=OpenApiTypes.OBJECT)
    @action(detail=True, url_path="learning-curve")
    def learning_curve(self, request: Request, pk: str) -> Response:
        """The trainings on growing parts so far, and what twice the records would bring."""
        return Response(study_json(self.get_object(), StudyKind.LEARNING_CURVE))

    @extend_schema(request=LearningCurveSerializer, responses={202: OpenApiTypes.OBJECT})
    @learning_curve.mapping.post
    def learning_curve_start(self, request: Request, pk: str) -> Response:
        """Start, or go on with, the learning curve of a run."""
        run, form = self.get_object(), LearningCurveSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        services.learning_curve_start(actor=request.user, run=run, repeats=form.validated_data["repeats"])
        return Response(study_json(run, StudyKind.LEARNING_CURVE), status=status.HTTP_202_ACCEPTED)

    def destroy(self, request: Request, pk: str) -> Response:
        services.run_delete(actor=request.user, run=self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        run = self.get_object()
        run.job = jobs.cancel(actor=request.user, job=run.job)
        return Response(self.get_serializer(run).data)

    @extend_schema(request=None, responses={202: TrainingRunSerializer})
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: str) -> Response:
        run = services.run_resume(actor=request.user, run=self.get_object())
        return Response(self.get_serializer(run).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(
        parameters=[OpenApiParameter("after", int), OpenApiParameter("member", int)], responses=OpenApiTypes.OBJECT
    )
    @action(detail=True, filterset_class=None, filterset_fields=None)
    def metrics(self, request: Request, pk: str) -> Response:
        """Rows by epoch; ``?after=`` gives only later ones. Of several networks the latest, or that of ``?member=``."""
        after, member = (request.query_params.get(name, "") for name in ("after", "member"))
        rows = selectors.epoch_rows(self.get_object(), count_of(after) or 0, count_of(member))
        return Response({"count": len(rows), "next": None, "previous": None, "results": rows})

    @extend_schema(responses=OpenApiTypes.OBJECT)
    @action(detail=True, url_path="lr-finder")
    def lr_finder(self, request: Request, pk: str) -> Response:
        """Learning rates and losses of the finder, with the suggestions and the rate taken; empty where a rate was given."""
        run = self.get_object()
        empty = {"rates": [], "losses": [], "valley": None, "steepest": None, "suggestion": None, "rule": ""}
        return Response({**empty, **run.lr_finder, "learning_rate": run.learning_rate})


class EvaluationSerializer(StrictModelFields):
    state = serializers.SerializerMethodField()
    n = serializers.SerializerMethodField()
    summary = serializers.SerializerMethodField()

    class Meta:
        model = Evaluation
        fields = [
            "id",
            "project",
            "version",
            "dataset",
            "label_map",
            "part",
            "run",
            "job",
            "state",
            "n",
            "summary",
            "created_at",
        ]

    @extend_schema_field({"type": "string"})
    def get_state(self, row: Evaluation) -> str:
        return row.job.state if row.job else "succeeded"

    @extend_schema_field({"type": "integer", "nullable": True})
    def get_n(self, row: Evaluation) -> int | None:
        return row.report.get("n")

    @extend_schema_field({"type": "object"})
    def get_summary(self, row: Evaluation) -> dict[str, Any]:
        return {name: row.report.get(name) for name in ("f1_weighted", "f1_macro", "auroc_macro", "auprc_macro")}


class EvaluationCreateSerializer(StrictFields):
    version = serializers.UUIDField()
    dataset = serializers.UUIDField()
    label_map = serializers.UUIDField(required=False, allow_null=True)


class EvaluationViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet):
    queryset = Evaluation.objects.defer("curves").select_related(
        "job", "version__model", "dataset", "label_map", "project"
    )
    serializer_class = EvaluationSerializer
    filterset_fields = ["project", "version", "dataset", "run"]
    needs = {
        "list": Action.MODEL_VIEW, "retrieve": Action.MODEL_VIEW, "create": Action.MODEL_EDIT, "report": Action.MODEL_DOWNLOAD,
        "thresholds": Action.MODEL_VIEW, "paired": Action.MODEL_VIEW,
    }  # fmt: skip

    @extend_schema(request=EvaluationCreateSerializer, responses={202: EvaluationSerializer})
    def create(self, request: Request) -> Response:
        form = EvaluationCreateSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        data = form.validated_data
        version = self.find(ModelVersion.objects.select_related("model__project"), data["version"])
        label_map = None
        if data.get("label_map"):
            label_map = label_map_of(version.model.project, data["label_map"], request.user)
        row = services.evaluation_start(
            actor=request.user,
            version=version,
            dataset=self.related(Dataset.objects.select_related("project"), data["dataset"], "dataset"),
            label_map=label_map,
        )
        return Response(self.get_serializer(row).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(
        parameters=[OpenApiParameter("format", str, enum=list(reports.FORMATS))], responses=OpenApiTypes.OBJECT
    )
    @action(detail=True)
    def report(self, request: Request, pk: str) -> HttpResponse | Response:
        """All figures with their 95 % intervals as JSON, HTML or PDF; Conflict while the evaluation is not finished."""
        row = self.get_object()
        kind = request.query_params.get("format", "json")
        if kind != "json":
            return reports.file_of(row, kind, request.user)
        reports.check(row, kind)
        audit("evaluation.downloaded", row, actor=request.user, project=row.project, changes={"format": kind})
        return Response(reports.as_json(row))

    @extend_schema(
        parameters=[OpenApiParameter("class", str), OpenApiParameter("threshold", float)], responses=OpenApiTypes.OBJECT
    )
    @action(detail=True)
    def thresholds(self, request: Request, pk: str) -> Response:
        """What happens to one class at the threshold in use, at ``?threshold=`` and at those that follow from rules."""
        row = self.get_object()
        name = request.query_params.get("class") or next(iter(row.report.get("classes", [])), "")
        asked = _number(request.query_params.get("threshold"))
        rows = [as_plain(one) for one in kept.threshold_rows(row, name, asked)]
        return Response({"class": name, "rows": rows})

    @extend_schema(parameters=[OpenApiParameter("with", str, required=True)], responses=OpenApiTypes.OBJECT)
    @action(detail=True)
    def paired(self, request: Request, pk: str) -> Response:
        """The difference to another evaluation (``?with=``) on the records that both hold, by a paired bootstrap."""
        row = self.get_object()
        other = self.related(Evaluation.objects.select_related("project"), request.query_params.get("with", ""), "with")
        found = kept.paired(row, other)
        rows = [as_plain(one) for one in found.rows]
        return Response(
            {"first": str(row.pk), "second": str(other.pk), "n": found.n, "n_subjects": found.n_subjects, "rows": rows}
        )


def as_plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its figures as JSON."""
    return {name: value.to_json() if isinstance(value, Figure) else value for name, value in row.items()}


def _number(text: str | None) -> float | None:
    if text in (None, ""):
        return None
    try:
        return float(text)  # type: ignore[arg-type]
    except ValueError:
        raise InvalidInput(
            "The threshold is not a number.", fields={"threshold": "Give a number from 0 to 1."}
        ) from None
