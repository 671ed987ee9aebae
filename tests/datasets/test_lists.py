"""Lists over many records: what they read from the database, and that pages fit together."""

from __future__ import annotations

import pytest
from django.core.paginator import Paginator
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from datasets import selectors, services, tallies
from datasets.models import LabelSource, Record, RecordLabel
from tests.bench.bench_lists import fill, requests_of
from tests.factories import make_dataset, make_label_map, make_project, make_record, make_user

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
    fast, plain = selectors.IndexPaginator(rows, 3), Paginator(rows, 3)
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
    assert max(asked.values()) <= 30, asked
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


def test_signals_of_a_batch_are_looked_up_and_not_searched_for(filled) -> None:
    dataset, _ = filled
    other = make_dataset(dataset.project)
    fill(other, 2000)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE datasets_record")
    records = Record.objects.filter(dataset=other).order_by("key")
    batch = {bucket for row in records[:64] for bucket in row.fingerprint_buckets}
    with CaptureQueriesContext(connection) as asked:
        found = selectors.signals_in_buckets(other, batch)
    plainly = records.filter(fingerprint_buckets__overlap=list(batch)).values_list("key", "fingerprint")
    assert found == list(plainly) and len(found) >= 64
    assert selectors.signals_in_buckets(make_dataset(dataset.project), batch) == []
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {asked[0]['sql']}")
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "record_signal_buckets" in plan and "Seq Scan on datasets_record" not in plan


class TestTallies:
    """Figures are counted once, and again after any change, whoever made it."""

    def figures(self, dataset) -> tuple:
        totals = selectors.totals(dataset)
        maps = list(selectors.label_maps_for(dataset.project))
        covered = [
            (found.label_map.pk, found.classified, found.by_class) for found in selectors.coverages(dataset, maps)
        ]
        return totals, selectors.label_counts(dataset), covered, selectors.full_coverage(dataset, maps[0]).codes

    def test_an_unchanged_dataset_is_not_counted_again(self, filled) -> None:
        dataset, _ = filled
        make_label_map(dataset.project)
        first = self.figures(dataset)
        with CaptureQueriesContext(connection) as asked:
            assert self.figures(dataset) == first
        assert not any("recordlabel" in query["sql"] or 'FROM "datasets_record"' in query["sql"] for query in asked)

    def test_every_kind_of_change_is_seen(self, filled) -> None:
        dataset, _ = filled
        label = RecordLabel.objects.filter(record__dataset=dataset, code="C04").first()
        changes = [
            lambda: RecordLabel.objects.filter(pk=label.pk).delete(),
            lambda: RecordLabel.objects.create(record=label.record, system="scp", code="NEW", source=LabelSource.USER),
            lambda: RecordLabel.objects.filter(code="NEW").update(code="NEWER"),
            lambda: make_record(dataset, "one more", subject="somebody"),
            lambda: Record.objects.filter(key="one more").update(quality={"flags": ["no_beats"]}),
            lambda: Record.objects.filter(key="one more").delete(),
            lambda: dataset.subjects.filter(key="somebody").delete(),
        ]
        before = (selectors.totals(dataset), selectors.label_counts(dataset))
        for change in changes:
            change()
            after = (selectors.totals(dataset), selectors.label_counts(dataset))
            assert after != before
            assert after[0] == selectors._totals(dataset)
            assert selectors.label_counts_of_many(type(dataset).objects.filter(pk=dataset.pk))[dataset.pk] == after[1]
            before = after

    def test_a_change_of_one_dataset_leaves_the_others_kept(self, filled) -> None:
        dataset, _ = filled
        other = make_dataset(dataset.project)
        selectors.totals(dataset)
        make_record(other)
        assert dataset.pk in tallies.kept_of_many([dataset.pk, other.pk]) and other.pk not in tallies.kept_of_many(
            [other.pk]
        )
        make_record(dataset)
        services.dataset_delete(actor=make_user(), dataset=dataset)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM datasets_change WHERE dataset_id = %s", [dataset.pk])
            assert cursor.fetchone() == (0,)
