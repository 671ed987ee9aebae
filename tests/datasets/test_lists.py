"""Lists over many records: what they read from the database, and that pages fit together."""

from __future__ import annotations

import pytest
from django.core.paginator import Paginator
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from datasets import selectors
from datasets.models import LabelSource, Record, RecordLabel
from tests.bench.bench_lists import fill, requests_of
from tests.factories import make_dataset, make_project, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def filled():
    owner = make_user()
    dataset = make_dataset(make_project({owner: "owner"}))
    fill(dataset, 230)
    client = Client()
    client.force_login(owner)
    return dataset, client


def test_pages_are_those_of_the_plain_paginator(filled) -> None:
    dataset, _ = filled
    rows = selectors.filtered(Record.objects.filter(dataset=dataset), {"label": "C04"}).order_by("key", "id")
    fast, plain = selectors.RecordPaginator(rows, 3), Paginator(rows, 3)
    assert fast.count == plain.count > 3
    for number in fast.page_range:
        assert list(fast.page(number)) == list(plain.page(number))


def test_lists_ask_no_more_of_a_larger_dataset(filled) -> None:
    dataset, client = filled
    asked = {}
    for name, path in requests_of(dataset, 230).items():
        with CaptureQueriesContext(connection) as queries:
            assert client.get(path).status_code == 200
        asked[name] = len(queries)
    assert max(asked.values()) <= 20, asked
    fill_again = make_dataset(dataset.project)
    fill(fill_again, 600)
    for name, path in requests_of(fill_again, 600).items():
        with CaptureQueriesContext(connection) as queries:
            client.get(path)
        assert len(queries) <= asked[name] + 1, name


def test_quality_flags_are_a_column_that_is_counted_and_filtered_by(filled) -> None:
    dataset, _ = filled
    records = Record.objects.filter(dataset=dataset)
    said = [row.quality["flags"] for row in records]
    assert [row.quality_flags or [] for row in records] == said
    assert selectors.totals(dataset).flags == {"missing_leads": 30, "pacing_spikes": 20}
    assert sum("pacing_spikes" in flags for flags in said) == 20
    assert selectors.filtered(records, {"quality": "pacing_spikes"}).count() == 20
    two = records.first()
    Record.objects.filter(pk=two.pk).update(quality={"flags": ["no_beats", "missing_leads"]})
    two.refresh_from_db()
    assert two.quality_flags == ["no_beats", "missing_leads"]
    Record.objects.filter(pk=two.pk).update(quality={})
    two.refresh_from_db()
    assert two.quality_flags is None


def test_a_code_that_two_sources_state_counts_once(filled) -> None:
    dataset, _ = filled
    before = selectors.label_counts(dataset)
    label = RecordLabel.objects.filter(record__dataset=dataset, code="C04").first()
    RecordLabel.objects.create(record=label.record, system=label.system, code="C04", source=LabelSource.FILE)
    assert selectors.label_counts(dataset) == before
    assert before == dict(sorted(before.items(), key=lambda item: (-item[1], item[0])))
    assert selectors.label_counts_of_many(type(dataset).objects.filter(pk=dataset.pk)) == {dataset.pk: before}
    totals = selectors.totals(dataset)
    assert totals.labelled == Record.objects.filter(dataset=dataset, labels__isnull=False).distinct().count()
    assert totals.duration_h == pytest.approx(sum(r.duration_s for r in Record.objects.filter(dataset=dataset)) / 3600)
