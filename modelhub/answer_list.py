"""The answers of a run as a list: narrowed by how they agree with the labels, in an order, walked record by record.

An address names the list in its query; pages, REST, files and the record page read it here.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.db.models import Count, F, FloatField, Func, Q, QuerySet, Window
from django.db.models.functions import Lag, Lead, RowNumber

from datasets.models import LabelMap, Record
from datasets.record_filters import BadFilter
from ecgportal.projects import access
from modelhub import agreement
from modelhub.contract import ModelContract
from modelhub.models import Prediction, PredictionRun

#: What ``?agreement=`` narrows to; with ``?class=`` each speaks of this class alone.
AGREEMENTS = {
    "differs": "the answer differs from the labels in some class",
    "false_positive": "some class is predicted that the labels do not give",
    "false_negative": "the labels give some class that is not predicted",
    "agrees": "the answer is that of the labels; with a class, both have it",
    "unlabelled": "no label of the record is known to the label map",
}
_MISTAKES = ("differs", "false_positive", "false_negative")
SUREST = "-sureness"


class _Sureness(Func):
    """How far the wrong probability lies beyond its threshold, from 0 (at it) to 1: the largest over the classes in which the
    answer differs from the labels. -1 where it differs in none, null where the labels are not known.

    Where one of several classes is predicted it is the probability of a class that was predicted in vain, and what the probability
    of a class that was missed lacks to 1.
    """

    output_field = FloatField(null=True)
    # The classes are written out: looped over inside the database they cost twice as much a row.
    template = """
(SELECT CASE WHEN truth.classes = '{{}}' THEN NULL ELSE coalesce(greatest({cases}), -1) END FROM (
  SELECT array_remove(ARRAY(
    SELECT %s::jsonb ->> (l.system || ' ' || l.code) FROM datasets_recordlabel l WHERE l.record_id = {record}
  ), NULL) AS classes OFFSET 0
) truth)"""
    _CASE = "CASE WHEN %s = ANY({predicted}) THEN {too_many} WHEN %s = ANY(truth.classes) THEN {missed} END"
    _TOO_MANY = "CASE WHEN NOT %s = ANY(truth.classes) THEN ({value} - %s::float8) / %s::float8 END"
    _MISSED = "(%s::float8 - {value}) / %s::float8"

    def __init__(self, run: PredictionRun, label_map: LabelMap, wanted: str, sides: list[bool]) -> None:
        """wanted: a class, or empty for all. sides: whether True (predicted in vain) and False (missed) count."""
        by_threshold = ModelContract.from_dict(run.version.contract).activation == "sigmoid"
        self.classes: list[tuple[int, str, float, float]] = []
        for number, name in enumerate(run.version.classes, start=1):
            threshold = float(run.thresholds.get(name, 0.5))
            if wanted in ("", name):
                self.classes.append((number, name, *((threshold, threshold) if by_threshold else (0.0, 1.0))))
        self.sides, self.codes = sides, json.dumps(agreement.codes_of(run, label_map))
        super().__init__(F("predicted"), F("values"), F("record_id"))

    def as_sql(self, compiler: Any, connection: Any, **_: Any) -> tuple[str, list[Any]]:
        predicted, values, record = (compiler.compile(column)[0] for column in self.get_source_expressions())
        cases: list[str] = []
        params: list[Any] = []
        for number, name, low, high in self.classes:
            parts = {"predicted": predicted, "too_many": "NULL", "missed": "NULL"}
            params.append(name)
            if True in self.sides:
                parts["too_many"] = self._TOO_MANY.format(value=f"{values}[{number}]")
                params += [name, low, max(1 - low, 1e-9)]
            params.append(name)
            if False in self.sides:
                parts["missed"] = self._MISSED.format(value=f"{values}[{number}]")
                params += [high, max(high, 1e-9)]
            cases.append(self._CASE.format(**parts))
        return self.template.format(cases=", ".join(cases), record=record), [*params, self.codes]


@dataclass(frozen=True)
class Place:
    """Where a record stands in a list. number: from 1, None when it is not in it (any more); count: of the list."""

    number: int | None
    count: int
    before: uuid.UUID | None
    after: uuid.UUID | None


@dataclass(frozen=True)
class AnswerList:
    """agreement: a key of ``AGREEMENTS`` or empty; name: a class or empty; label_map: None where no map has the model's
    classes; sort: ``key``, ``sureness`` (of a list of mistakes) or a class, with ``-`` before it from the end."""

    run: PredictionRun
    label_map: LabelMap | None
    agreement: str = ""
    name: str = ""
    only_noticed: bool = False
    sort: str = "key"

    @property
    def is_of_mistakes(self) -> bool:
        return self.agreement in _MISTAKES

    @property
    def is_whole(self) -> bool:
        return not (self.agreement or self.name or self.only_noticed)

    def query(self, **changed: Any) -> str:
        """Return the list as the query of an address, with parts changed."""
        usual = SUREST if self.is_of_mistakes else "key"
        named = {
            "agreement": self.agreement, "class": self.name, "notices": "1" if self.only_noticed else "",
            "sort": self.sort if self.sort != usual else "",
            "label_map": self.label_map.pk if self.label_map and self.label_map.pk != self.run.label_map_id else "",
        }  # fmt: skip
        return urlencode({name: value for name, value in (named | changed).items() if value})

    def rows(self) -> QuerySet[Prediction]:
        """Return the answers in their order; those of a list by agreement bear ``sureness``."""
        rows = self.run.predictions.select_related("record")
        if self.only_noticed:
            rows = rows.filter(notices__len__gt=0)
        if self.agreement and self.label_map:
            sides = {"false_positive": [True], "false_negative": [False]}.get(self.agreement, [True, False])
            rows = rows.annotate(sureness=_Sureness(self.run, self.label_map, self.name, sides))
            if self.agreement == "unlabelled":
                rows = rows.filter(sureness__isnull=True)
            else:
                rows = rows.filter(sureness__gte=0) if self.is_of_mistakes else rows.filter(sureness=-1)
        if self.name and not self.is_of_mistakes:
            rows = rows.filter(predicted__contains=[self.name])
        return rows.order_by(*self._order())

    def _order(self) -> list[Any]:
        column, is_down = self.sort.removeprefix("-"), self.sort.startswith("-")
        by_key = F("record__key").desc() if column == "key" and is_down else F("record__key").asc()
        if column == "key":
            return [by_key, F("id").asc()]
        value = F("sureness") if column == "sureness" else F(f"values__{self.run.version.classes.index(column)}")
        return [value.desc() if is_down else value.asc(), by_key, F("id").asc()]

    def place_of(self, record: Record, last: int | None = None) -> Place:
        """Return where a record stands. last: where it stood; a record that has left the list since, because its labels
        changed, keeps the neighbours that it had."""
        order = self._order()

        def over(what: Any) -> Window:
            return Window(what, order_by=order)

        # Both conditions stand outside the counting of places, as one of them speaks of a place.
        wanted = Q(record=record.pk) | Q(number__in=[last - 1, last] if last else [0])
        rows = self.rows().order_by().annotate(
            number=over(RowNumber()), before=over(Lag("record_id")), after=over(Lead("record_id")), count=Window(Count("*")),
        ).filter(wanted).values_list("record_id", "number", "before", "after", "count")  # fmt: skip
        found = {number: (pk, before, after, count) for pk, number, before, after, count in rows}
        for number, (pk, before, after, count) in found.items():
            if pk == record.pk:
                return Place(number, count, before, after)
        beside = [found.get(number) for number in ((last or 0) - 1, last or 0)]
        count = next((row[3] for row in beside if row), 0)
        return Place(None, count, *(row[0] if row else None for row in beside))


def read(run: PredictionRun, params: Mapping[str, Any]) -> AnswerList:
    """Return the list that an address names. BadFilter names every part that cannot be used."""
    maps = {str(row.pk): row for row in agreement.maps_for(run.version, run.project)}
    if run.label_map is not None:
        maps.setdefault(str(run.label_map.pk), run.label_map)
    asked = {name: str(params.get(name) or "") for name in ("agreement", "class", "label_map", "sort", "notices")}
    problems = {}
    if asked["agreement"] and asked["agreement"] not in AGREEMENTS:
        problems["agreement"] = f"Choose one of {', '.join(AGREEMENTS)}."
    if asked["class"] and asked["class"] not in run.version.named_classes:
        problems["class"] = f"The model has the classes {', '.join(run.version.named_classes)}."
    if asked["label_map"] and asked["label_map"] not in maps:
        access.note_asked(LabelMap, asked["label_map"])
        problems["label_map"] = "Give a label map of this project that has all classes of the model."
    chosen = maps.get(asked["label_map"]) or run.label_map or next(iter(maps.values()), None)
    if asked["agreement"] and chosen is None:
        problems["agreement"] = (
            "No label map of this project has the model's classes, so the labels cannot be compared."
        )
    if asked["agreement"] == "unlabelled" and asked["class"]:
        problems["class"] = "What no label is known of has no class to be told apart by."
    sorts = ["key", *run.version.classes, *(["sureness"] if asked["agreement"] in _MISTAKES else [])]
    if asked["sort"] and asked["sort"].removeprefix("-") not in sorts:
        problems["sort"] = f"Choose one of {', '.join(sorts)}, with a minus before it from the end."
    if problems:
        raise BadFilter(f"The answers cannot be listed like this: {' '.join(problems.values())}", fields=problems)
    usual = SUREST if asked["agreement"] in _MISTAKES else "key"
    return AnswerList(
        run, chosen, asked["agreement"], asked["class"], asked["notices"] in ("1", "true"), asked["sort"] or usual,
    )  # fmt: skip


def usable(run: PredictionRun, params: Mapping[str, Any]) -> AnswerList:
    """Return the list that an address names, without the parts that cannot be used."""
    left = {name: params.get(name) for name in ("agreement", "class", "label_map", "sort", "notices")}
    while True:
        try:
            return read(run, left)
        except BadFilter as error:
            left |= dict.fromkeys(error.fields, None)
