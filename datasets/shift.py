"""How two datasets differ, field by field, with effect sizes. The database counts; nothing is read record by record."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connection
from django.db.models import Avg, Count, F, StdDev
from psycopg import sql

from datasets.insight import FIELDS, Counts, count
from datasets.measure.effects import cohens_d, cramers_v, word
from datasets.measure.features import FEATURES
from datasets.models import Dataset, Record

# Below this many known values in either dataset nothing is said.
SMALLEST = 10
_TITLES = {
    "labels": "Labels", "sex": "Sex", "rate": "Sampling rate", "length": "Length", "format": "File format", "device": "Device",
    "site": "Hospital", "quality": "Quality flags", "leads": "Missing leads",
}  # fmt: skip
_KS = """
WITH v AS (
  SELECT {column} AS x, CASE WHEN r.dataset_id = %s THEN 1 ELSE 0 END AS own
  FROM datasets_record r LEFT JOIN datasets_recordfeatures f ON f.record_id = r.id
  WHERE r.dataset_id IN (%s, %s) AND {column} IS NOT NULL),
c AS (
  SELECT sum(own) OVER w / nullif(sum(own) OVER (), 0)::float AS a, sum(1 - own) OVER w / nullif(sum(1 - own) OVER (), 0)::float AS b
  FROM v WINDOW w AS (ORDER BY x))
SELECT max(abs(a - b)) FROM c
"""


@dataclass(frozen=True)
class Difference:
    """One field of two datasets.

    effect: Cohen's d (second - first) of kind ``d``, Cramér's V of kind ``v``; size: its word. ks: the largest distance of
    the two cumulative distributions, 0 to 1. first, second: what each holds, in words.
    """

    name: str
    title: str
    kind: str
    effect: float
    size: str
    first: str
    second: str
    sentence: str
    ks: float | None = None

    @property
    def measure(self) -> str:
        return "Cohen's d" if self.kind == "d" else "Cramér's V"


def shift(first: Dataset, second: Dataset) -> list[Difference]:
    """Return the fields of two datasets by how far they differ, the largest effect first. About forty queries."""
    found = [*_numbers(first, second), *_categories(first, second)]
    # Both scales are brought to one by their own limit of "large".
    return sorted(found, key=lambda one: -abs(one.effect) / (0.8 if one.kind == "d" else 0.5))


def summary(first: Dataset, second: Dataset, found: list[Difference]) -> str:
    """Return what differs in one paragraph."""
    told = [one.sentence for one in found if one.size in ("medium", "large")][:5]
    if not found:
        return "Too little is known of one of the datasets to compare them."
    if not told:
        return f"No field differs by more than a small effect between {first.name} and {second.name}."
    return " ".join(told)


def _numbers(first: Dataset, second: Dataset) -> list[Difference]:
    columns = {"age": ("Age", "years", "age")} | {
        name: (feature.title, feature.unit, f"features__{name}") for name, feature in FEATURES.items()
    }
    one, two = (
        Record.objects.filter(dataset=dataset).order_by().aggregate(**{
            f"{name}_{what}": function(F(column), **({"sample": True} if function is StdDev else {}))
            for name, (_, _, column) in columns.items()
            for what, function in (("n", Count), ("mean", Avg), ("sd", StdDev))
        })
        for dataset in (first, second)
    )  # fmt: skip
    found = []
    for name, (title, unit, _) in columns.items():
        if min(one[f"{name}_n"], two[f"{name}_n"]) < SMALLEST:
            continue
        a, b = (one[f"{name}_mean"], one[f"{name}_sd"]), (two[f"{name}_mean"], two[f"{name}_sd"])
        effect = cohens_d(*a, *b)
        if effect is None:
            continue
        size = word(effect, "d")
        more = "higher" if effect > 0 else "lower"
        told = f"{title} is {more} in {second.name}: mean {b[0]:.4g} against {a[0]:.4g} {unit}, a {size} difference (d = {effect:.2f})."
        texts = [
            f"mean {mean:.4g}, SD {sd:.3g} {unit} ({n} records)"
            for (mean, sd), n in ((a, one[f"{name}_n"]), (b, two[f"{name}_n"]))
        ]
        found.append(Difference(name, title, "d", effect, size, texts[0], texts[1], told, _ks(first, second, name)))
    return found


def _ks(first: Dataset, second: Dataset, name: str) -> float | None:
    column = sql.Identifier("r", "age") if name == "age" else sql.Identifier("f", name)
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(_KS).format(column=column), [first.pk, first.pk, second.pk])
        return cursor.fetchone()[0]


def _categories(first: Dataset, second: Dataset) -> list[Difference]:
    records = [Record.objects.filter(dataset=dataset).order_by() for dataset in (first, second)]
    totals = [rows.count() for rows in records]
    if min(totals) < SMALLEST:
        return []
    found = []
    for name, title in _TITLES.items():
        one, two = (count(rows, FIELDS[name]).worded(FIELDS[name].words) for rows in records)
        made = _divided if FIELDS[name].many else _exclusive
        difference = made(name, title, one, two, totals, second.name)
        if difference is not None:
            found.append(difference)
    return found


def _exclusive(name: str, title: str, one: Counts, two: Counts, totals: list[int], second: str) -> Difference | None:
    """Compare a field of which each record has one value."""
    names = list(dict.fromkeys([*one.counts, *two.counts]))
    effect = cramers_v([one.counts.get(key, 0) for key in names], [two.counts.get(key, 0) for key in names])
    if effect is None or len(names) < 2:
        return None
    return _told(name, title, one, two, totals, second, effect, names)


def _divided(name: str, title: str, one: Counts, two: Counts, totals: list[int], second: str) -> Difference | None:
    """Compare a field of which a record may have several values: the value whose share differs most speaks for it."""
    names = list(dict.fromkeys([*one.counts, *two.counts]))
    if not names:
        return None
    effects = {}
    for key in names:
        a, b = one.counts.get(key, 0), two.counts.get(key, 0)
        effects[key] = cramers_v([a, totals[0] - a], [b, totals[1] - b]) or 0.0
    return _told(name, title, one, two, totals, second, max(effects.values()), names)


def _told(
    name: str, title: str, one: Counts, two: Counts, totals: list[int], second: str, effect: float, names: list[str]
) -> Difference:  # fmt: skip
    shares = {
        key: (100 * one.counts.get(key, 0) / totals[0], 100 * two.counts.get(key, 0) / totals[1]) for key in names
    }
    most = max(names, key=lambda key: abs(shares[key][1] - shares[key][0]))
    a, b = shares[most]
    size = word(effect, "v")
    told = (
        f"{title}: {most} is {'more' if b > a else 'less'} frequent in {second}, {b:.1f} % against {a:.1f} % of the records, "
        f"a {size} difference (V = {effect:.2f})."
    )
    return Difference(name, title, "v", effect, size, _shares(one, totals[0]), _shares(two, totals[1]), told)


def _shares(counts: Counts, total: int) -> str:
    most = sorted(counts.counts.items(), key=lambda item: -item[1])[:5]
    rest = len(counts.counts) - len(most)
    text = ", ".join(f"{name} {100 * n / total:.1f} %" for name, n in most) or "none"
    return text + (f" and {rest} more" if rest > 0 else "")
