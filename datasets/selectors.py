"""Read datasets, records and labels. Lists come with their counts in a bounded number of queries."""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from django.core.paginator import Page, Paginator
from django.db import connection
from django.db.models import Count, Exists, F, FloatField, OuterRef, Q, QuerySet, Subquery, Sum
from django.db.models.functions import Cast, Coalesce

from datasets import record_filters, tallies
from datasets.ecg import SourceLabel
from datasets.labels import builtin
from datasets.labels.maps import Coverage, LabelMapSpec, assembled, coverage
from datasets.measure.features import FEATURES
from datasets.models import Dataset, LabelMap, Record, RecordLabel, Subject
from datasets.record_filters import FILTERS
from ecgportal.errors import InvalidInput
from ecgportal.projects import access


def with_counts(queryset: QuerySet[Dataset]) -> QuerySet[Dataset]:
    """Add ``record_count`` and ``subject_count``."""

    def count(model: Any) -> Coalesce:
        rows = (
            model.objects.filter(dataset=OuterRef("pk"))
            .order_by()
            .values("dataset")
            .annotate(n=Count("pk"))
            .values("n")
        )
        return Coalesce(Subquery(rows), 0)

    return queryset.annotate(record_count=count(Record), subject_count=count(Subject))


def with_record_counts(queryset: QuerySet[Subject]) -> QuerySet[Subject]:
    """Add ``record_count``, counted for the rows that are read alone: a join would count those of all persons for each page."""
    rows = (
        Record.objects.filter(subject=OuterRef("pk")).order_by().values("subject").annotate(n=Count("pk")).values("n")
    )
    return queryset.annotate(record_count=Coalesce(Subquery(rows), 0))


# Each code of a record once, however many sources state it. Sorting for count(DISTINCT) takes several times as long.
_LABEL_COUNTS = """
SELECT dataset_id, code, count(*) FROM (
  SELECT DISTINCT r.dataset_id, l.code, l.record_id FROM datasets_recordlabel l JOIN datasets_record r ON r.id = l.record_id
  WHERE r.dataset_id = ANY(%s)
) held GROUP BY dataset_id, code ORDER BY count(*) DESC, code
"""


def label_counts(dataset: Dataset) -> dict[str, int]:
    """Return how many records bear each code, the most frequent first."""
    return _by_count(_kept(dataset)["labels"])


def _kept(dataset: Dataset) -> dict[str, Any]:
    """Return the figures that pages show together, counted together."""

    def count(_: list[str]) -> dict[str, Any]:
        return {"totals": asdict(_totals(dataset)), "labels": _label_counts([dataset.pk]).get(dataset.pk, {})}

    return tallies.kept(dataset.pk, ["totals", "labels"], count)


def label_counts_of_many(datasets: QuerySet[Dataset]) -> dict[uuid.UUID, dict[str, int]]:
    """Return the label counts of several datasets in three queries."""
    ids = list(datasets.order_by().values_list("pk", flat=True))
    known = {pk: parts["labels"] for pk, parts in tallies.kept_of_many(ids).items() if "labels" in parts}
    rest = [pk for pk in ids if pk not in known]
    found = known | (_label_counts(rest) if rest else {})
    return {pk: _by_count(counts) for pk, counts in found.items()}


def _label_counts(datasets: list[uuid.UUID]) -> dict[uuid.UUID, dict[str, int]]:
    found: dict[uuid.UUID, dict[str, int]] = defaultdict(dict)
    with connection.cursor() as cursor:
        cursor.execute(_LABEL_COUNTS, [datasets])
        for dataset, code, count in cursor.fetchall():
            found[dataset][code] = count
    return found


def search(queryset: QuerySet[Record], text: str) -> QuerySet[Record]:
    """Narrow to records whose key or subject contains ``text``."""
    return queryset.filter(search_text__contains=text.strip().lower()) if text.strip() else queryset


def filtered(queryset: QuerySet[Record], params: Mapping[str, Any]) -> QuerySet[Record]:
    """Apply the filters of records (``datasets.record_filters``) that ``params`` names; what it does not know is left aside.

    BadFilter names every filter whose value cannot be used.
    """
    values = record_filters.asked(params)
    queryset = search(queryset, values.pop("search", ""))
    if label := values.pop("label", None):
        queryset = queryset.filter(pk__in=RecordLabel.objects.filter(code=label).values("record"))
    for flag in values.pop("quality", ()):
        queryset = _flagged(queryset, flag)
    for what in values.pop("missing", ()):
        queryset = _without(queryset, what)
    if "duration_min" in values or "duration_max" in values:
        queryset = queryset.annotate(seconds=Cast("n_samples", FloatField()) / F("fs_hz"))
    return queryset.filter(**{FILTERS[name].lookup: value for name, value in values.items()})


def _flagged(queryset: QuerySet[Record], flag: str) -> QuerySet[Record]:
    """Narrow to records with a quality flag: of their own, of some lead (``lead:noisy``), of one lead, any, or none."""
    lead, colon, name = flag.partition(":")
    if flag in (record_filters.ANY_FLAG, record_filters.NO_FLAG):
        free = Q(quality_flags__isnull=True, lead_flags__isnull=True)
        return queryset.filter(free if flag == record_filters.NO_FLAG else ~free)
    if not colon:
        return queryset.filter(quality_flags__contains=[flag])
    queryset = queryset.filter(lead_flags__contains=[name])
    return queryset if lead == "lead" else queryset.filter(quality__leads__contains=[{"lead": lead, "flags": [name]}])


def _without(queryset: QuerySet[Record], what: str) -> QuerySet[Record]:
    """Narrow to records that lack something, one of ``record_filters.LACKING`` or ``lead:V1``."""
    if what == "labels":
        return queryset.exclude(Exists(RecordLabel.objects.filter(record=OuterRef("pk"))))
    if what in ("age", "subject"):
        return queryset.filter(**{f"{what}__isnull": True})
    if what == "time":
        return queryset.filter(recorded_at__isnull=True)
    if what in ("sex", "site"):
        return queryset.filter(**{what: ""})
    if what == "device":
        return queryset.filter(Q(meta__device__isnull=True) | Q(meta__device=None) | Q(meta__device=""))
    return queryset.exclude(leads__contains=[what.removeprefix("lead:")])


def neighbours(record: Record, queryset: QuerySet[Record], sort: str = "key") -> tuple[Record | None, Record | None]:
    """Return the records before and after ``record`` in an order of ``SORTS``."""
    is_down, name = sort.startswith("-"), sort.removeprefix("-")
    if name == "key":
        lower = queryset.filter(key__lt=record.key).order_by("-key").first()
        higher = queryset.filter(key__gt=record.key).order_by("key").first()
        return (higher, lower) if is_down else (lower, higher)
    field = _SORTED_BY[name]
    value = Record.objects.values_list(field, flat=True).get(pk=record.pk)
    known = Q(**{f"{field}__isnull": False})
    # Equal values follow each other by key; what is not known comes last either way.
    if value is None:
        first, last = known | Q(~known, key__lt=record.key), Q(~known, key__gt=record.key)
    else:
        less, more = Q(**{f"{field}__lt": value}), Q(**{f"{field}__gt": value})
        less, more = (more, less) if is_down else (less, more)
        same = Q(**{field: value})
        first, last = less | Q(same, key__lt=record.key), more | Q(same, key__gt=record.key) | ~known
    backwards = F(field).asc(nulls_first=True) if is_down else F(field).desc(nulls_first=True)
    before = queryset.filter(first).order_by(backwards, "-key").first()
    return before, queryset.filter(last).order_by(*SORTS[sort]).first()


def labels_of(records: Iterable[uuid.UUID]) -> dict[uuid.UUID, list[SourceLabel]]:
    """Return the labels of many records in one query."""
    found: dict[uuid.UUID, list[SourceLabel]] = defaultdict(list)
    rows = RecordLabel.objects.filter(record__in=list(records)).values_list("record", "code", "system", "likelihood")
    for record, code, system, likelihood in rows:
        found[record].append(SourceLabel(code, system, likelihood))
    return found


def label_maps(user: Any) -> QuerySet[LabelMap]:
    """The maps that the portal brings along and those of the user's projects."""
    mine = access.visible(LabelMap.objects.filter(project__isnull=False), user)
    return LabelMap.objects.filter(Q(project__isnull=True) | Q(pk__in=mine.values("pk")))


def label_maps_for(project: Any) -> QuerySet[LabelMap]:
    return LabelMap.objects.filter(Q(project__isnull=True) | Q(project=project)).order_by("project", "name", "-version")


def label_map_of(project: Any, pk: Any, user: Any) -> LabelMap:
    """Return a map that ``project`` can use; InvalidInput (``label_map``) when there is none with this id."""
    found = label_maps_for(project).filter(pk=pk).first()
    if found is None:
        access.note_hidden(LabelMap, user, pk=pk)
        raise InvalidInput("There is no such label map.", fields={"label_map": "A map of this project."})
    return found


def spec_of(label_map: LabelMap) -> LabelMapSpec:
    """Return the map in the pure core's form."""
    entries = {code: (entry.get("class"), entry.get("relation", "exact")) for code, entry in label_map.entries.items()}
    return LabelMapSpec(label_map.name, label_map.version, label_map.system, tuple(label_map.classes), entries)


def class_counts(dataset: Dataset, label_map: LabelMap) -> dict[str, int]:
    """Return how many records of the dataset bear each class of the map."""
    return coverages(dataset, [label_map])[0].by_class


@dataclass(frozen=True)
class MapCoverage:
    """What a map makes of a dataset. classified: records with one class at least."""

    label_map: LabelMap
    classified: int
    by_class: dict[str, int]

    @property
    def used(self) -> int:
        """How many classes have a record."""
        return sum(count > 0 for count in self.by_class.values())


def coverages(dataset: Dataset, label_maps: Iterable[LabelMap]) -> list[MapCoverage]:
    """Return the coverage of several maps. A map's entries never change, so what it makes of an unchanged dataset is kept."""
    maps = {f"map {label_map.pk}": label_map for label_map in label_maps}

    def count(names: list[str]) -> dict[str, Any]:
        sets = _label_sets(dataset)
        found = {name: coverage(sets, spec_of(maps[name])) for name in names}
        return {name: [own.classified, list(own.by_class.items())] for name, own in found.items()}

    known = tallies.kept(dataset.pk, list(maps), count)
    return [MapCoverage(maps[name], classified, dict(by_class)) for name, (classified, by_class) in known.items()]


def full_coverage(dataset: Dataset, label_map: LabelMap) -> Coverage:
    """Return the coverage of one map with every code of the dataset."""
    (found,) = coverages(dataset, [label_map])

    def count(names: list[str]) -> dict[str, Any]:
        seen, records = Counter[tuple[str, str]](), 0
        for labels, n in _label_sets(dataset).items():
            records += n
            for pair in {(label.system, label.code) for label in labels}:
                seen[pair] += n
        return {"codes": [records, [[*pair, n] for pair, n in seen.items()]]}

    records, codes = tallies.kept(dataset.pk, ["codes"], count)["codes"]
    seen = {(system, code): n for system, code, n in codes}
    return assembled(records, found.classified, found.by_class, seen, spec_of(label_map))


# The database brings equal sets together: of a large collection's millions of labels only the different sets are sent.
_LABEL_SETS = """
SELECT systems, codes, likelihoods, count(*) FROM (
  SELECT array_agg(l.system ORDER BY l.system, l.code, l.likelihood) AS systems,
    array_agg(l.code ORDER BY l.system, l.code, l.likelihood) AS codes,
    array_agg(l.likelihood ORDER BY l.system, l.code, l.likelihood) AS likelihoods
  FROM datasets_recordlabel l JOIN datasets_record r ON r.id = l.record_id WHERE r.dataset_id = %s GROUP BY l.record_id
) held GROUP BY systems, codes, likelihoods
"""


def _label_sets(dataset: Dataset) -> Counter[frozenset[SourceLabel]]:
    """Return how many records bear each set of labels; records without labels are not counted."""
    found: Counter[frozenset[SourceLabel]] = Counter()
    with connection.cursor() as cursor:
        cursor.execute(_LABEL_SETS, [dataset.pk])
        for systems, codes, likelihoods, count in cursor.fetchall():
            found[frozenset(map(SourceLabel, codes, systems, likelihoods))] += count
    return found


@dataclass(frozen=True)
class Totals:
    """Figures of a dataset. duration_h: recorded time in hours. flags, lead_flags: records by quality flag of their own, and of
    some lead. timed: records with a time of recording."""

    records: int
    subjects: int
    labelled: int
    duration_h: float
    rates_hz: tuple[float, ...]
    formats: dict[str, int]
    flags: dict[str, int]
    lead_flags: dict[str, int]
    timed: int

    @property
    def duration_min(self) -> float:
        return 60 * self.duration_h


def signals_in_buckets(dataset: Dataset, buckets: Collection[str]) -> list[tuple[str, str]]:
    """Return ``(key, fingerprint)`` of the records that lie in any of these buckets of fingerprints, by key.

    Each bucket is looked up by itself: for hundreds at once PostgreSQL expects so many hits that it reads the whole table
    and compares every row with every bucket, which took nine seconds a batch at 26,000 records.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT found.key, found.fingerprint FROM unnest(%s::text[]) AS asked(bucket) CROSS JOIN LATERAL "
            "(SELECT key, fingerprint FROM datasets_record "
            "WHERE fingerprint_buckets @> ARRAY[asked.bucket] AND dataset_id = %s OFFSET 0) AS found ORDER BY found.key",
            [sorted(buckets), dataset.pk],
        )
        return list(cursor.fetchall())


def totals(dataset: Dataset) -> Totals:
    """Return the figures of a dataset: one query while it does not change."""
    found = _kept(dataset)["totals"]
    counts = {name: _by_count(found[name]) for name in ("flags", "lead_flags")}
    formats = dict(sorted(found["formats"].items()))
    return Totals(**found | counts | {"formats": formats, "rates_hz": tuple(found["rates_hz"])})


def _totals(dataset: Dataset) -> Totals:
    records = Record.objects.filter(dataset=dataset).order_by()
    groups = list(
        records.values_list("format", "fs_hz")
        .annotate(n=Count("pk"), samples=Sum("n_samples"))
        .order_by("format", "fs_hz")
    )
    flags: Counter[str] = Counter()
    for held, count in records.filter(quality_flags__isnull=False).values_list("quality_flags").annotate(n=Count("pk")):
        flags.update(dict.fromkeys(held, count))
    lead_flags: Counter[str] = Counter()
    for held, count in records.filter(lead_flags__isnull=False).values_list("lead_flags").annotate(n=Count("pk")):
        lead_flags.update(dict.fromkeys(held, count))
    formats: dict[str, int] = defaultdict(int)
    for name, _, count, _ in groups:
        formats[name] += count
    return Totals(
        records=sum(formats.values()), subjects=Subject.objects.filter(dataset=dataset).count(),
        labelled=records.filter(Exists(RecordLabel.objects.filter(record=OuterRef("pk")))).count(),
        duration_h=sum(samples / fs_hz for _, fs_hz, _, samples in groups) / 3600,
        rates_hz=tuple(sorted({fs_hz for _, fs_hz, _, _ in groups})), formats=dict(formats),
        flags=_by_count(flags), lead_flags=_by_count(lead_flags), timed=records.filter(recorded_at__isnull=False).count(),
    )  # fmt: skip


def _by_count(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


class IndexPaginator(Paginator):
    """Pages of a long list: the page's ids are found in an index first, then the rows of these ids are read.

    Skipping to a page so touches no row of the pages before it.
    """

    def page(self, number: int | str) -> Page:
        number = self.validate_number(number)
        start = (number - 1) * self.per_page
        end = min(start + self.per_page, self.count)
        ids = list(self.object_list.values_list("pk", flat=True)[start:end])
        rows = {row.pk: row for row in self.object_list.filter(pk__in=ids)}
        return self._get_page([rows[pk] for pk in ids if pk in rows], number, self)


def _up(value: F) -> Any:
    return value.asc(nulls_last=True)


def _down(value: F) -> Any:
    return value.desc(nulls_last=True)


#: Up to so many records a list can be ordered by a measure: no index holds measures with their dataset, so all are read.
MOST_BY_MEASURE = 200_000
_SORTED_BY = {
    "age": "age", "quality": "quality_score", "recorded_at": "recorded_at", **{name: f"features__{name}" for name in FEATURES},
}  # fmt: skip
SORTS = {
    "key": ("key", "id"), "-key": ("-key", "id"), "age": ("age", "key"), "-age": (F("age").desc(nulls_last=True), "key"),
    "quality": (F("quality_score").asc(nulls_last=True), "key"), "-quality": (F("quality_score").desc(nulls_last=True), "key"),
    "recorded_at": (_up(F("recorded_at")), "key", "id"), "-recorded_at": (_down(F("recorded_at")), "key", "id"),
    **{sign + name: (order(F(f"features__{name}")), "key") for name in FEATURES for sign, order in (("", _up), ("-", _down))},
}  # fmt: skip


def sorts_for(records: int) -> list[str]:
    """Return by what a page orders the records of a dataset with so many."""
    return [name for name in SORTS if records <= MOST_BY_MEASURE or name.removeprefix("-") not in FEATURES]


def sorted_records(queryset: QuerySet[Record], sort: str) -> tuple[QuerySet[Record], str]:
    """Order by one of ``SORTS``; returns the order that was used."""
    used = sort if sort in SORTS else "key"
    return queryset.order_by(*SORTS[used]), used


def builtin_specs() -> tuple[LabelMapSpec, ...]:
    return builtin.all_maps()
