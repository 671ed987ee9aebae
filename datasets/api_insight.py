"""What a dataset holds over REST: counts, distributions, measures of each record, outliers, and how it differs from another."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from datasets import featuring
from datasets.insight import ALL, FIELDS, MEASURES, Counts, cross, insight, measure_by
from datasets.measure.features import FEATURES
from datasets.models import Dataset, RecordFeatures
from datasets.outliers import outliers
from datasets.shift import shift, summary
from ecgportal.api.strict import StrictFields
from ecgportal.errors import InvalidInput
from ecgportal.projects.access import Action


class MeasuresSerializer(StrictFields):
    """One record's measures; null where it could not be measured, with ``reason`` where no beat could be."""

    record = serializers.UUIDField(source="record_id")
    key = serializers.CharField(source="record.key")
    reason = serializers.CharField()

    def get_fields(self) -> dict[str, Any]:
        numbers = {
            name: serializers.FloatField(allow_null=True, help_text=f"{one.title}, {one.unit}")
            for name, one in FEATURES.items()
        }
        return super().get_fields() | numbers


class OutlierSerializer(StrictFields):
    """score: robust standard deviations from the dataset's median; null for a record whose beats could not be measured."""

    record = serializers.UUIDField(source="pk")
    key = serializers.CharField()
    score = serializers.SerializerMethodField()
    reason = serializers.SerializerMethodField()
    measures = MeasuresSerializer(source="features")

    def get_score(self, record: Any) -> float | None:
        return None if record.features.reason else round(record.score, 3)

    def get_reason(self, record: Any) -> str:
        return self.context["found"].reason(record)


class JobStartedSerializer(StrictFields):
    id = serializers.UUIDField()
    job = serializers.UUIDField()
    state = serializers.CharField()


NEEDS = {
    "insight": Action.DATA_VIEW, "insight_by": Action.DATA_VIEW, "measures": Action.DATA_VIEW, "measures_start": Action.DATA_EDIT,
    "outliers": Action.DATA_VIEW, "shift": Action.DATA_VIEW,
}  # fmt: skip
_PLAIN: dict[str, Any] = {"detail": True, "filterset_class": None, "filterset_fields": None}


class WithInsight:
    """The dataset at a glance, as calls of its resource. ``filter`` is the query of the record list (``records/?``, pages alike)."""

    @extend_schema(responses=OpenApiTypes.OBJECT)
    @action(**_PLAIN)
    def insight(self: Any, request: Request, pk: str) -> Response:
        """Counts and gaps by every field, distributions of every measure, and how often labels stand together."""
        dataset = self.get_object()
        found = insight(dataset)
        measures = {
            name: {
                "title": FEATURES[name].title, "unit": FEATURES[name].unit, "bar_width": FEATURES[name].width,
                "quartiles": found.spread.get(name), "bars": _bars(counts),
            }
            for name, counts in found.measures.items()
        }  # fmt: skip
        totals = found.totals
        return Response({
            "dataset": dataset.pk, "records": totals.records, "labelled": totals.labelled, "measured": found.measured,
            "fields": {name: _bars(counts) for name, counts in found.fields.items()}, "measures": measures,
            "co_occurrence": {"labels": found.frequent, "counts": found.together},
        })  # fmt: skip

    @extend_schema(
        parameters=[OpenApiParameter("what", str, required=True, enum=list(ALL)), OpenApiParameter("by", str, required=True, enum=list(FIELDS))],
        responses=OpenApiTypes.OBJECT,
    )  # fmt: skip
    @action(**_PLAIN, url_path="insight/by")
    def insight_by(self: Any, request: Request, pk: str) -> Response:
        """One field or measure within each value of another field: quartiles of a measure, else a table of counts."""
        dataset = self.get_object()
        what, by = request.query_params.get("what", ""), request.query_params.get("by", "")
        if what not in ALL:
            raise InvalidInput(f"There is no field {what[:40]!r}.", fields={"what": f"Choose one of {', '.join(ALL)}."})
        if by not in FIELDS or by == what:
            raise InvalidInput(
                f"Records cannot be divided by {by[:40]!r}.", fields={"by": f"Choose another of {', '.join(FIELDS)}."}
            )
        if what in MEASURES:
            groups = [
                {"value": one.name, "records": one.records, "measured": one.known, "quartiles": one.quartiles, "filter": one.filters}
                for one in measure_by(dataset, what, FIELDS[by])
            ]  # fmt: skip
            return Response({"what": what, "by": by, "unit": FEATURES[what].unit, "groups": groups})
        return Response({"what": what, "by": by, **asdict(cross(dataset, ALL[what], FIELDS[by]))})

    @extend_schema(responses=MeasuresSerializer(many=True))
    @action(**_PLAIN)
    def measures(self: Any, request: Request, pk: str) -> Response:
        """Rate, intervals, axis, amplitude and noise of each measured record, in the order of their keys."""
        rows = RecordFeatures.objects.filter(record__dataset=self.get_object()).select_related("record")
        page = self.paginate_queryset(rows.order_by("record__key", "record"))
        return self.get_paginated_response(MeasuresSerializer(page, many=True).data)

    @extend_schema(request=None, responses={202: JobStartedSerializer})
    @measures.mapping.post
    def measures_start(self: Any, request: Request, pk: str) -> Response:
        """Measure the records that are not measured yet. 409 while that is being done, and when there is nothing to do."""
        job = featuring.measuring_start(actor=request.user, dataset=self.get_object())
        return Response({"id": job.pk, "job": job.pk, "state": job.state}, status=status.HTTP_202_ACCEPTED)

    @extend_schema(responses=OutlierSerializer(many=True))
    @action(**_PLAIN)
    def outliers(self: Any, request: Request, pk: str) -> Response:
        """Records that stand apart from the dataset, the most striking first, each with the reason."""
        found = outliers(self.get_object())
        page = self.paginate_queryset(found.records)
        return self.get_paginated_response(OutlierSerializer(page, many=True, context={"found": found}).data)

    @extend_schema(
        parameters=[OpenApiParameter("other", OpenApiTypes.UUID, required=True)], responses=OpenApiTypes.OBJECT
    )
    @action(**_PLAIN)
    def shift(self: Any, request: Request, pk: str) -> Response:
        """How another dataset of the same project differs, field by field with effect sizes, the largest first."""
        dataset = self.get_object()
        wanted = request.query_params.get("other")
        if not wanted:
            raise InvalidInput(
                "Name the dataset to compare with.", fields={"other": "Give the id of a dataset of the same project."}
            )
        other = self.related(Dataset.objects.filter(project=dataset.project_id).exclude(pk=dataset.pk), wanted, "other")
        found = shift(dataset, other)
        rows = [
            {
                "field": one.name, "title": one.title, "measure": one.measure, "effect": one.effect, "size": one.size, "first": one.first,
                "second": one.second, "ks_distance": one.ks, "sentence": one.sentence,
            }
            for one in found
        ]  # fmt: skip
        return Response(
            {"dataset": dataset.pk, "other": other.pk, "summary": summary(dataset, other, found), "differences": rows}
        )


def _bars(counts: Counts) -> list[dict[str, Any]]:
    return [{"value": name, "records": n, "filter": counts.filters[name]} for name, n in counts.counts.items()]
