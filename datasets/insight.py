"""What a dataset holds, counted by the database: every count comes with the filter that finds the records behind it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from django.db import connection
from django.db.models import Count, F, FloatField, Q
from django.db.models.functions import Cast, Floor

from datasets import selectors
from datasets.ecg import LEADS_12
from datasets.models import Dataset, Record

CO_OCCURRING = 12
# Lower bound of each range of lengths in seconds; most standard ECGs last ten.
_LENGTHS_S = (0.0, 5.0, 9.5, 10.5, 30.0, 60.0, 300.0, 3600.0)
# The next range begins there; a number of samples over a rate is never nearer to it.
_LESS = 1e-6


@dataclass(frozen=True)
class Counts:
    """One field of a dataset. counts: records by name in the order to show; filters: the query of the record list that
    finds them."""

    counts: dict[str, int] = field(default_factory=dict)
    filters: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, name: str, count: int, **query: str) -> None:
        self.counts[name] = count
        self.filters[name] = query


@dataclass(frozen=True)
class Insight:
    """Counts by field. together: records with both labels, ``(labels, labels)`` in the order of ``frequent``."""

    totals: selectors.Totals
    fields: dict[str, Counts]
    frequent: list[str]
    together: list[list[int]]


def insight(dataset: Dataset) -> Insight:
    """Count a dataset by every field in at most fifteen queries, however many records it has."""
    totals = selectors.totals(dataset)
    labels = selectors.label_counts(dataset)
    records = Record.objects.filter(dataset=dataset).order_by()
    frequent = list(labels)[:CO_OCCURRING]
    label_counts = Counts()
    for code, count in labels.items():
        label_counts.add(code, count, label=code)
    formats, flags = Counts(), Counts()
    for name, count in sorted(totals.formats.items(), key=lambda item: -item[1]):
        formats.add(name, count, format=name)
    for flag, count in totals.flags.items():
        flags.add(flag.replace("_", " "), count, quality=flag)
    fields = {
        "labels": label_counts, "gaps": _gaps(records, totals), "age": _ages(records), "sex": _sexes(records), "rate": _rates(records),
        "length": _lengths(records), "format": formats, "quality": flags, "leads": _missing_leads(records),
    }  # fmt: skip
    return Insight(totals, fields, frequent, _together(dataset, frequent))


def _gaps(records: Any, totals: selectors.Totals) -> Counts:
    sums = records.aggregate(
        age=Count("pk", filter=Q(age__isnull=True)), sex=Count("pk", filter=Q(sex="")), subject=Count("pk", filter=Q(subject__isnull=True))
    )  # fmt: skip
    found = Counts()
    rows = (
        ("No label", totals.records - totals.labelled, "labels"), ("Age unknown", sums["age"], "age"),
        ("Sex unknown", sums["sex"], "sex"), ("Subject unknown", sums["subject"], "subject"),
    )  # fmt: skip
    for name, count, key in rows:
        if count:
            found.add(name, count, missing=key)
    return found


def _ages(records: Any) -> Counts:
    found = Counts()
    rows = (
        records.filter(age__isnull=False)
        .annotate(decade=Floor(F("age") / 10.0))
        .values_list("decade")
        .annotate(n=Count("pk"))
        .order_by("decade")
    )
    for decade, count in rows:
        first = 10 * int(decade)
        found.add(f"{first} to {first + 9}", count, age_min=str(first), age_max=f"{first + 10 - _LESS:.6f}")
    return found


def _sexes(records: Any) -> Counts:
    found = Counts()
    rows = dict(records.values_list("sex").annotate(n=Count("pk")))
    for key, word in (("F", "female"), ("M", "male")):
        if rows.get(key):
            found.add(word, rows[key], sex=key)
    if rows.get(""):
        found.add("unknown", rows[""], missing="sex")
    return found


def _rates(records: Any) -> Counts:
    found = Counts()
    for fs_hz, count in records.values_list("fs_hz").annotate(n=Count("pk")).order_by("fs_hz"):
        found.add(f"{fs_hz:g} Hz", count, fs_hz=repr(fs_hz))
    return found


def _lengths(records: Any) -> Counts:
    seconds = Cast("n_samples", FloatField()) / F("fs_hz")
    rows = Counter()
    for value, count in records.annotate(seconds=seconds).values_list("seconds").annotate(n=Count("pk")):
        rows[max(k for k, low in enumerate(_LENGTHS_S) if value >= low)] += count
    found = Counts()
    for k, low in enumerate(_LENGTHS_S):
        if not rows[k]:
            continue
        last = _LENGTHS_S[k + 1] if k + 1 < len(_LENGTHS_S) else None
        name = (
            f"{_words(low)} or longer"
            if last is None
            else f"{_words(low)} to {_words(last)}"
            if low
            else f"under {_words(last)}"
        )
        query = {"duration_min": f"{low:g}"} | ({"duration_max": f"{last - _LESS:.6f}"} if last is not None else {})
        found.add(name, rows[k], **query)
    return found


def _words(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:g} min" if seconds < 3600 else f"{seconds / 3600:g} h"


def _missing_leads(records: Any) -> Counts:
    missing: Counter[str] = Counter()
    for leads, count in records.values_list("leads").annotate(n=Count("pk")):
        for name in LEADS_12:
            missing[name] += count if name not in leads else 0
    found = Counts()
    for name in LEADS_12:
        if missing[name]:
            found.add(name, missing[name], missing=f"lead:{name}")
    return found


def _together(dataset: Dataset, codes: list[str]) -> list[list[int]]:
    """Count the records with each pair of codes; a code from several sources counts once."""
    place = {code: k for k, code in enumerate(codes)}
    matrix = [[0] * len(codes) for _ in codes]
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH l AS (SELECT DISTINCT x.record_id, x.code FROM datasets_recordlabel x "
            "JOIN datasets_record r ON r.id = x.record_id WHERE r.dataset_id = %s AND x.code = ANY(%s)) "
            "SELECT a.code, b.code, count(*) FROM l a JOIN l b USING (record_id) GROUP BY a.code, b.code",
            [dataset.pk, codes],
        )
        for first, second, count in cursor.fetchall():
            matrix[place[first]][place[second]] = count
    return matrix
