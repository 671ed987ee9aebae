"""From record to record: through a dataset's list, or through the answers of predictions, in the order and under the filter that
the address names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.http import QueryDict
from django.urls import reverse

from datasets import record_filters, selectors
from datasets.models import Record
from ecgportal.forms import count_of
from ecgportal.projects import access
from ecgportal.views import PAGE_SIZE
from modelhub import agreement, answer_list
from modelhub.answer_list import AnswerList
from modelhub.models import Prediction, PredictionRun


@dataclass(frozen=True)
class Walk:
    """What lies before and after a record, with the queries of their addresses.

    back: the address of the list; listed: the list of answers, None for a dataset's. number, count: where the record stands in
    the list of answers; number is None when it has left it. answer: what was predicted; truth: the classes of its labels.
    """

    before: Record | None
    after: Record | None
    before_query: str
    after_query: str
    back: str
    listed: AnswerList | None = None
    number: int | None = None
    count: int = 0
    answer: Prediction | None = None
    truth: list[str] | None = None


def of(record: Record, query: QueryDict, project: Any) -> Walk:
    """Return the way on from a record: through the answers that ``?prediction=`` names, else through its dataset."""
    run = _run(record, query.get("prediction", ""), project)
    onward = query.copy()
    # A 40 Hz filter makes amplitudes wrong; it does not go along to the next record (AHA/ACCF/HRS 2007).
    if onward.get("band") == "monitor":
        del onward["band"]
    if run is not None:
        return _through_answers(record, onward, run)
    filters, sort = record_filters.usable(query), query.get("sort", "key")
    rows = selectors.filtered(Record.objects.filter(dataset=record.dataset), filters)
    # A long list is walked by its index.
    follows = sort in selectors.SORTS and (sort in ("key", "-key") or not _is_long(record))
    before, after = selectors.neighbours(record, rows, sort if follows else "key")
    way, kept = onward.urlencode(), filters | ({"sort": sort} if sort in selectors.SORTS else {})
    back = reverse("datasets:detail", args=[record.dataset_id]) + (f"?{urlencode(kept)}#records" if kept else "")
    return Walk(before, after, way, way, back)


def _is_long(record: Record) -> bool:
    most = selectors.MOST_BY_MEASURE
    return Record.objects.filter(dataset=record.dataset_id).order_by()[: most + 1].count() > most


def _run(record: Record, pk: str, project: Any) -> PredictionRun | None:
    try:
        key = UUID(pk)
    except ValueError:
        return None
    rows = PredictionRun.objects.select_related("version__model", "dataset", "label_map", "project", "job")
    found = rows.filter(pk=key, project=project, dataset=record.dataset_id).first()
    if found is None:
        access.note_asked(PredictionRun, key)
    return found


def _through_answers(record: Record, onward: QueryDict, run: PredictionRun) -> Walk:
    listed = answer_list.usable(run, onward)
    last = count_of(onward.get("at", ""))
    place = listed.place_of(record, last)
    beside = Record.objects.in_bulk([pk for pk in (place.before, place.after) if pk])
    number = place.number or last or 0

    def way(at: int) -> str:
        told = onward.copy()
        told["at"] = str(at)
        return told.urlencode()

    # Where the record itself has left the list, the next one has taken its place.
    following = number + 1 if place.number else number
    answer = Prediction.objects.filter(run=run, record=record).first()
    page = -(-number // PAGE_SIZE)
    return Walk(
        beside.get(place.before), beside.get(place.after), way(number - 1), way(following),
        f"{reverse('modelhub:prediction', args=[run.pk])}?{listed.query(page=page if page > 1 else '')}#answers",
        listed, place.number, place.count, answer, agreement.truth_of(record, run.version, listed.label_map),
    )  # fmt: skip
