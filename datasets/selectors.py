"""Read datasets, records and labels. Lists come with their counts in a bounded number of queries."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from django.db.models import Count, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from datasets.labels import builtin
from datasets.labels.maps import LabelMapSpec, apply_map
from datasets.ecg import SourceLabel
from datasets.models import Dataset, LabelMap, Record, RecordLabel, Subject
from ecgportal.projects import access


def with_counts(queryset: QuerySet[Dataset]) -> QuerySet[Dataset]:
    """Add ``record_count`` and ``subject_count``."""

    def count(model: Any) -> Coalesce:
        rows = model.objects.filter(dataset=OuterRef("pk")).order_by().values("dataset").annotate(n=Count("pk")).values("n")
        return Coalesce(Subquery(rows), 0)

    return queryset.annotate(record_count=count(Record), subject_count=count(Subject))


def label_counts(dataset: Dataset) -> dict[str, int]:
    """Return how many records bear each code, the most frequent first."""
    rows = (
        RecordLabel.objects.filter(record__dataset=dataset).values("code").annotate(n=Count("record", distinct=True)).order_by("-n", "code")
    )
    return {row["code"]: row["n"] for row in rows}


def label_counts_of_many(datasets: QuerySet[Dataset]) -> dict[uuid.UUID, dict[str, int]]:
    """Return the label counts of several datasets in one query."""
    found: dict[uuid.UUID, dict[str, int]] = defaultdict(dict)
    rows = (
        RecordLabel.objects.filter(record__dataset__in=datasets.order_by().values("pk"))
        .values("record__dataset", "code").annotate(n=Count("record", distinct=True)).order_by("-n", "code")
    )  # fmt: skip
    for row in rows:
        found[row["record__dataset"]][row["code"]] = row["n"]
    return found


def search(queryset: QuerySet[Record], text: str) -> QuerySet[Record]:
    """Narrow to records whose key or subject contains ``text``."""
    return queryset.filter(search_text__contains=text.strip().lower()) if text.strip() else queryset


def filtered(queryset: QuerySet[Record], params: Any) -> QuerySet[Record]:
    """Apply the filters of the record list: search, label, format, sex, subject, quality flag, age range."""
    queryset = search(queryset, params.get("search", ""))
    if label := params.get("label"):
        queryset = queryset.filter(pk__in=RecordLabel.objects.filter(code=label).values("record"))
    for name in ("format", "sex"):
        if value := params.get(name):
            queryset = queryset.filter(**{name: value})
    if subject := params.get("subject"):
        queryset = queryset.filter(subject__key=subject)
    if flag := params.get("quality"):
        queryset = queryset.filter(quality__flags__contains=[flag])
    for name, lookup in (("age_min", "age__gte"), ("age_max", "age__lte")):
        try:
            queryset = queryset.filter(**{lookup: float(params[name])}) if params.get(name) else queryset
        except ValueError:
            queryset = queryset.none()
    return queryset


def neighbours(record: Record, queryset: QuerySet[Record]) -> tuple[Record | None, Record | None]:
    """Return the records before and after ``record`` in the order of ``queryset`` (by key)."""
    before = queryset.filter(Q(key__lt=record.key)).order_by("-key").first()
    after = queryset.filter(Q(key__gt=record.key)).order_by("key").first()
    return before, after


def labels_of(records: Iterable[uuid.UUID]) -> dict[uuid.UUID, list[SourceLabel]]:
    """Return the labels of many records in one query."""
    found: dict[uuid.UUID, list[SourceLabel]] = defaultdict(list)
    rows = RecordLabel.objects.filter(record__in=list(records)).values_list("record", "code", "system", "likelihood")
    for record, code, system, likelihood in rows:
        found[record].append(SourceLabel(code, system, likelihood))
    return found


def dataset_labels(dataset: Dataset) -> dict[uuid.UUID, list[SourceLabel]]:
    """Return the labels of all records of a dataset in one query; records without labels are not in it."""
    found: dict[uuid.UUID, list[SourceLabel]] = defaultdict(list)
    rows = RecordLabel.objects.filter(record__dataset=dataset).values_list("record", "code", "system", "likelihood")
    for record, code, system, likelihood in rows:
        found[record].append(SourceLabel(code, system, likelihood))
    return found


def label_maps(user: Any) -> QuerySet[LabelMap]:
    """The maps that the portal brings along and those of the user's projects."""
    mine = access.visible(LabelMap.objects.filter(project__isnull=False), user)
    return LabelMap.objects.filter(Q(project__isnull=True) | Q(pk__in=mine.values("pk")))


def label_maps_for(project: Any) -> QuerySet[LabelMap]:
    return LabelMap.objects.filter(Q(project__isnull=True) | Q(project=project)).order_by("project", "name", "-version")


def spec_of(label_map: LabelMap) -> LabelMapSpec:
    """Return the map in the pure core's form."""
    entries = {code: (entry.get("class"), entry.get("relation", "exact")) for code, entry in label_map.entries.items()}
    return LabelMapSpec(label_map.name, label_map.version, label_map.system, tuple(label_map.classes), entries)


def class_counts(dataset: Dataset, label_map: LabelMap) -> dict[str, int]:
    """Return how many records of the dataset bear each class of the map."""
    spec = spec_of(label_map)
    counts = dict.fromkeys(label_map.classes, 0)
    for labels in dataset_labels(dataset).values():
        for name in apply_map(labels, spec).classes:
            counts[name] += 1
    return counts


def builtin_specs() -> tuple[LabelMapSpec, ...]:
    return builtin.all_maps()
