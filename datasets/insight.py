"""What a dataset holds, counted by the database: every count comes with the filter that finds the records behind it.

A field divides the records into named values, a measure into bars of equal width; both are database expressions, so that
any of them can be counted alone or by any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.db import connection
from django.db.models import (
    Aggregate,
    Case,
    Count,
    F,
    FloatField,
    Func,
    IntegerField,
    Q,
    QuerySet,
    TextField,
    Value,
    When,
)
from django.db.models.fields.json import KT
from django.db.models.functions import Floor

from datasets import selectors, tallies
from datasets.ecg import LEADS_12
from datasets.formats.registry import title_of
from datasets.labels import builtin
from datasets.measure.features import FEATURES, Feature
from datasets.models import Dataset, Record, Sex

CO_OCCURRING = 12
# Lower bound of each range of lengths in seconds; most standard ECGs last ten.
_LENGTHS_S = (0.0, 5.0, 9.5, 10.5, 30.0, 60.0, 300.0, 3600.0)
# The next range begins there; a number of samples over a rate is never nearer to it.
_LESS = 1e-6
_LACKING = "unnest(ARRAY(SELECT x FROM unnest('{I,II,III,aVR,aVL,aVF,V1,V2,V3,V4,V5,V6}'::text[]) x WHERE NOT x = ANY(%(expressions)s)))"
Query = dict[str, str]


@dataclass(frozen=True)
class Counts:
    """One field of a dataset. counts: records by name in the order to show; filters: the query of the record list that
    finds them."""

    counts: dict[str, int] = field(default_factory=dict)
    filters: dict[str, Query] = field(default_factory=dict)

    def add(self, name: str, count: int, **query: str) -> None:
        self.counts[name] = count
        self.filters[name] = query

    def worded(self, words: Callable[[str], str]) -> Counts:
        """Return the same for people to read. Names that would be the same keep what tells them apart."""
        times = Counter(words(name) for name in self.counts)
        said = {
            name: told if times[told := words(name)] == 1 or told == name else f"{told} ({_apart(name)})"
            for name in self.counts
        }
        return Counts(*({said[name]: value for name, value in each.items()} for each in (self.counts, self.filters)))

    def rows(self) -> list[list[Any]]:
        """Return name, count and query of each."""
        return [[name, n, self.filters[name]] for name, n in self.counts.items()]


def _apart(name: str) -> str:
    """Return what tells a name apart from another one with the same words: of a number, whose it is."""
    return "SNOMED CT" if name.isdigit() else name


@dataclass(frozen=True)
class Field:
    """What divides records. value: expression; named: from its value to the name and the query that finds it.

    many: a record may have several values. by_size: shown by count, not in the order of the values. words: how people read
    a name; machines get the name itself.
    """

    name: str
    value: Callable[[], Any]
    named: Callable[[Any], tuple[str, Query]]
    many: bool = False
    by_size: bool = False
    words: Callable[[str], str] = str


def _age(decade: float) -> tuple[str, Query]:
    first = 10 * int(decade)
    return f"{first} to {first + 9}", {"age_min": str(first), "age_max": f"{first + 10 - _LESS:.6f}"}


def _sex(stored: str) -> tuple[str, Query]:
    return (Sex(stored).label, {"sex": stored}) if stored else ("unknown", {"missing": "sex"})


def _length(place: int) -> tuple[str, Query]:
    low = _LENGTHS_S[place]
    if place + 1 == len(_LENGTHS_S):
        return f"{_words(low)} or longer", {"duration_min": f"{low:g}"}
    last = _LENGTHS_S[place + 1]
    query = {"duration_min": f"{low:g}", "duration_max": f"{last - _LESS:.6f}"}
    return (f"{_words(low)} to {_words(last)}" if low else f"under {_words(last)}"), query


def _words(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:g} min" if seconds < 3600 else f"{seconds / 3600:g} h"


def _length_band() -> Any:
    # Multiplied out, as the filter of the record list divides: a limit counts for the upper band.
    limits = [When(n_samples__lt=F("fs_hz") * low, then=Value(k)) for k, low in enumerate(_LENGTHS_S[1:])]
    return Case(*limits, default=Value(len(_LENGTHS_S) - 1), output_field=IntegerField())


def _simple(name: str, empty: str) -> Callable[[Any], tuple[str, Query]]:
    return lambda value: (str(value), {name: str(value)}) if value else (empty, {"missing": name})


FIELDS = {
    one.name: one
    for one in (
        Field("labels", lambda: F("labels__code"), lambda code: (code, {"label": code}), many=True, by_size=True,
              words=builtin.named),
        Field("age", lambda: Floor(F("age") / 10.0), _age),
        Field("sex", lambda: F("sex"), _sex),
        Field("rate", lambda: F("fs_hz"), lambda fs_hz: (f"{fs_hz:g} Hz", {"fs_hz": repr(fs_hz)})),
        Field("length", _length_band, _length),
        Field("format", lambda: F("format"), lambda name: (name, {"format": name}), by_size=True, words=title_of),
        Field("device", lambda: KT("meta__device"), _simple("device", "not stated"), by_size=True),
        Field("site", lambda: F("site"), _simple("site", "not stated"), by_size=True),
        Field("quality", lambda: Func(F("quality_flags"), function="unnest", output_field=TextField()),
              lambda flag: (flag.replace("_", " "), {"quality": flag}), many=True, by_size=True),
        Field("leads", lambda: Func(F("leads"), template=_LACKING, output_field=TextField()),
              lambda lead: (lead, {"missing": f"lead:{lead}"}), many=True),
    )
}  # fmt: skip


def _bar(feature: Feature) -> Field:
    def named(place: float) -> tuple[str, Query]:
        low = place * feature.width
        query = {f"{feature.name}_min": f"{low:.6g}", f"{feature.name}_max": f"{low + feature.width - _LESS:.6f}"}
        return f"{low:g} to {low + feature.width:g}", query

    return Field(feature.name, lambda: Floor(F(f"features__{feature.name}") / feature.width), named)


MEASURES = {name: _bar(feature) for name, feature in FEATURES.items()}
ALL = FIELDS | MEASURES


@dataclass(frozen=True)
class Insight:
    """Counts by field and by bar of a measure. together: records with both labels, ``(labels, labels)`` in the order of
    ``frequent``. measured: records whose features are known; spread: the quartiles of each measure."""

    totals: selectors.Totals
    fields: dict[str, Counts]
    measures: dict[str, Counts]
    frequent: list[str]
    together: list[list[int]]
    measured: int
    spread: dict[str, list[float]]


def insight(dataset: Dataset) -> Insight:
    """Count a dataset by every field and measure in at most 27 queries, and in two while it does not change."""
    totals = selectors.totals(dataset)
    kept = tallies.kept(dataset.pk, ["insight"], lambda _: {"insight": _counted(dataset, totals)})["insight"]
    counts = ({name: _counts(rows) for name, rows in kept[part]} for part in ("fields", "measures"))
    return Insight(totals, *counts, kept["frequent"], kept["together"], kept["measured"], kept["spread"])


def _counted(dataset: Dataset, totals: selectors.Totals) -> dict[str, Any]:
    """Return what :func:`insight` counts as values that JSON keeps in order."""
    records = Record.objects.filter(dataset=dataset).order_by()
    fields = {"labels": count(records, FIELDS["labels"]), "gaps": _gaps(records, totals)}
    fields |= {name: count(records, one) for name, one in FIELDS.items() if name != "labels"}
    for name in ("device", "site"):
        # A dataset whose files never say it is not divided by it.
        if set(fields[name].counts) <= {"not stated"}:
            fields[name] = Counts()
    frequent = list(fields["labels"].counts)[:CO_OCCURRING]
    measured = records.filter(features__isnull=False).count()
    measures = {name: count(records, one) for name, one in MEASURES.items()} if measured else {}
    return {
        "fields": [[name, own.rows()] for name, own in fields.items()],
        "measures": [[name, own.rows()] for name, own in measures.items()],
        "frequent": frequent, "together": _together(dataset, frequent), "measured": measured,
        "spread": quartiles(records) if measured else {},
    }  # fmt: skip


def _counts(rows: Iterable[Any]) -> Counts:
    found = Counts()
    for name, n, query in rows:
        found.add(name, n, **query)
    return found


def count(records: QuerySet[Record], one: Field) -> Counts:
    """Count records by one field."""
    rows = _grouped(records, one).values_list("first").annotate(n=Count("pk", distinct=one.many)).order_by("first")
    found: Counter[str] = Counter()
    filters: dict[str, Query] = {}
    for value, n in rows:
        # An expression with no value names nothing, but for texts whose absence has a name of its own.
        if value is None and one.name != "device":
            continue
        name, query = one.named(value)
        found[name] += n
        filters[name] = query
    names = sorted(found, key=lambda name: (-found[name], name)) if one.by_size else list(found)
    if one.name == "leads":
        names = [name for name in LEADS_12 if name in found]
    if one.name == "sex":
        names = [name for name in ("female", "male", "unknown") if name in found]
    return Counts({name: found[name] for name in names}, {name: filters[name] for name in names})


def _grouped(records: QuerySet[Record], *fields: Field) -> QuerySet[Record]:
    return records.annotate(**{name: one.value() for name, one in zip(("first", "second"), fields)})


class Quartiles(Aggregate):
    """The quartiles of a number as a list of three, null without a value."""

    function = "PERCENTILE_CONT"
    template = "%(function)s(ARRAY[0.25, 0.5, 0.75]) WITHIN GROUP (ORDER BY %(expressions)s)"
    output_field = ArrayField(FloatField())


def quartiles(records: QuerySet[Record]) -> dict[str, list[float]]:
    """Return the quartiles of every measure that any of the records has, in one query."""
    found = records.order_by().aggregate(**{name: Quartiles(F(f"features__{name}")) for name in MEASURES})
    return {name: three for name, three in found.items() if three and three[1] is not None}


@dataclass(frozen=True)
class Group:
    """A measure within one part of a dataset. quartiles: in the measure's unit, None where no record has it."""

    name: str
    records: int
    known: int
    quartiles: list[float] | None
    filters: Query


def measure_by(dataset: Dataset, measure: str, by: Field, most: int = 20) -> list[Group]:
    """Return the quartiles of a measure within each value of a field, in two queries."""
    records = Record.objects.filter(dataset=dataset).order_by()
    alone = count(records, by)
    column = F(f"features__{measure}")
    found: dict[str, tuple[int, list[float] | None]] = {}
    rows = _grouped(records, by).values_list("first").annotate(n=Count(column), three=Quartiles(column))
    for value, n, three in rows.order_by("first"):
        if value is not None or by.name == "device":
            found[by.named(value)[0]] = (n, three)
    return [
        Group(name, total, *found.get(name, (0, None)), alone.filters[name])
        for name, total in list(alone.counts.items())[:most]
    ]


@dataclass(frozen=True)
class Cross:
    """Records by two fields: ``rows`` and ``columns`` are names in order, ``counts`` ``(rows, columns)``, ``filters`` alike."""

    rows: list[str]
    columns: list[str]
    counts: list[list[int]]
    filters: list[list[Query]]


def cross(dataset: Dataset, first: Field, second: Field, most: int = 20) -> Cross:
    """Count records by each pair of values of two fields, in three queries; at most ``most`` values of each."""
    records = Record.objects.filter(dataset=dataset).order_by()
    alone = (count(records, first), count(records, second))
    rows, columns = (list(one.counts)[:most] for one in alone)
    where = {name: k for k, name in enumerate(rows)}, {name: k for k, name in enumerate(columns)}
    table = [[0] * len(columns) for _ in rows]
    pairs = _grouped(records, first, second).values_list("first", "second")
    for a, b, n in pairs.annotate(n=Count("pk", distinct=True)).order_by("first", "second"):
        if (a is None and first.name != "device") or (b is None and second.name != "device"):
            continue
        r, c = where[0].get(first.named(a)[0]), where[1].get(second.named(b)[0])
        if r is not None and c is not None:
            table[r][c] += n
    filters = [[_both(alone[0].filters[r], alone[1].filters[c]) for c in columns] for r in rows]
    return Cross(rows, columns, table, filters)


def _both(first: Query, second: Query) -> Query:
    """Return one query for two; empty where they ask the same field for different things."""
    if any(first.get(name, value) != value for name, value in second.items()):
        return {}
    return first | second


def _gaps(records: Any, totals: selectors.Totals) -> Counts:
    sums = records.aggregate(
        age=Count("pk", filter=Q(age__isnull=True)), sex=Count("pk", filter=Q(sex="")), subject=Count("pk", filter=Q(subject__isnull=True))
    )  # fmt: skip
    found = Counts()
    rows = (
        ("No label", totals.records - totals.labelled, "labels"), ("Age unknown", sums["age"], "age"),
        ("Sex unknown", sums["sex"], "sex"), ("Subject unknown", sums["subject"], "subject"),
    )  # fmt: skip
    for name, n, key in rows:
        if n:
            found.add(name, n, missing=key)
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
        for first, second, n in cursor.fetchall():
            matrix[place[first]][place[second]] = n
    return matrix
