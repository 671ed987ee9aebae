"""Groups of records of one signal: found once, kept beside changes that concern no signal, and found anew after those that do."""

from __future__ import annotations

import uuid

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from datasets import removing, selectors, twins
from datasets.models import LabelSource, Record, RecordLabel, Subject, TwinGroup
from tests.bench.bench_lists import fill
from tests.factories import make_dataset, make_project, make_record, make_user

pytestmark = pytest.mark.django_db
SIGNS = "0123456789abcdef" * 4
# Two signs differ, in the first bucket and in the last.
NEAR = "3" + SIGNS[1:-7] + "8" + SIGNS[-6:]


@pytest.fixture
def dataset():
    dataset = make_dataset(make_project())
    fill(dataset, 60)
    return dataset


def signed(dataset, **codes: str) -> dict[str, uuid.UUID]:
    """Add records with these fingerprints by key; return their ids."""
    return {key: make_record(dataset, key, fingerprint=code).pk for key, code in codes.items()}


def keys(dataset) -> list[list[str]]:
    named = dict(dataset.records.values_list("pk", "key"))
    return [[named.get(pk, "gone") for pk in group.records] for group in twins.groups(dataset)]


def is_found_anew(dataset) -> bool:
    with CaptureQueriesContext(connection) as asked:
        twins.groups(dataset).count()
    return any("INSERT INTO datasets_twingroup" in query["sql"] for query in asked)


def test_groups_and_their_records_come_in_the_order_of_keys(dataset) -> None:
    other = SIGNS[::-1]
    signed(dataset, z=SIGNS, b=other, m=NEAR, y=other, c="", d="", alone="5a" * 32)
    assert keys(dataset) == [["b", "y"], ["m", "z"]]
    # Another dataset's copies are none of this one.
    signed(make_dataset(dataset.project), q="5a" * 32)
    assert keys(dataset) == [["b", "y"], ["m", "z"]]


def test_what_concerns_no_signal_leaves_the_groups_kept(dataset) -> None:
    ids = signed(dataset, a=SIGNS, b=NEAR)
    assert is_found_anew(dataset) and not is_found_anew(dataset)
    changes = [
        lambda: RecordLabel.objects.create(record_id=ids["a"], system="scp", code="NEW", source=LabelSource.USER),
        lambda: RecordLabel.objects.filter(record=ids["a"]).delete(),
        lambda: Record.objects.filter(pk=ids["a"]).update(
            age=50, subject=Subject.objects.filter(dataset=dataset).first()
        ),
        lambda: Subject.objects.create(dataset=dataset, key="new"),
    ]
    for change in changes:
        change()
        assert not is_found_anew(dataset)
        # The other figures are counted again, and the groups outlast that.
        selectors.totals(dataset)
        assert not is_found_anew(dataset)
    before = selectors.totals(dataset)
    Record.objects.filter(pk=ids["a"]).update(quality={"flags": ["no_beats"]})
    assert keys(dataset) == [["a", "b"]]
    assert selectors.totals(dataset) != before


def test_what_brings_a_signal_or_takes_it_away_is_seen_at_once(dataset) -> None:
    ids = signed(dataset, a=SIGNS, b=NEAR)
    assert keys(dataset) == [["a", "b"]]
    ids |= signed(dataset, c=SIGNS)
    assert keys(dataset) == [["a", "b", "c"]]
    Record.objects.filter(pk=ids["c"]).update(fingerprint="")
    assert keys(dataset) == [["a", "b"]]
    Record.objects.filter(pk=ids["a"]).update(key="x")
    assert keys(dataset) == [["b", "x"]]
    Record.objects.filter(pk=ids["b"]).delete()
    assert keys(dataset) == [] and not TwinGroup.objects.filter(dataset=dataset).exists()
    # Figures that are counted after a signal came do not hide that the groups are old.
    signed(dataset, d=NEAR)
    selectors.totals(dataset)
    assert keys(dataset) == [["d", "x"]]


def test_keeping_is_noted_without_finding_the_groups_anew(dataset) -> None:
    ids = signed(dataset, a=SIGNS, b=NEAR, c="5a" * 32, d="5a" * 32)
    assert keys(dataset) == [["a", "b"], ["c", "d"]]

    def decide(*kept):
        return removing.twins_decide(actor=None, dataset=dataset, keep=[ids[key] for key in kept])

    decide("a")
    assert list(twins.groups(dataset).values_list("is_decided", flat=True)) == [False, False]
    decide("b")
    assert not is_found_anew(dataset)
    assert list(twins.groups(dataset).values_list("is_decided", flat=True)) == [True, False]
    signed(dataset, e="11" * 32)
    assert is_found_anew(dataset)
    assert list(twins.groups(dataset).values_list("is_decided", flat=True)) == [True, False]


def test_page_and_rest_ask_as_much_for_many_groups_and_nothing_of_other_records(dataset) -> None:
    owner = make_user()
    dataset.project.memberships.create(user=owner, role="owner")
    client = Client()
    client.force_login(owner)
    paths = [f"/datasets/{dataset.pk}/duplicates/", f"/api/v1/datasets/{dataset.pk}/duplicates/?page_size=10"]
    asked = []
    for more in (2, 30):
        for number in range(more):
            code = f"{more:02x}{number:02x}" * 16
            signed(dataset, **{f"{more} {number} a": code, f"{more} {number} b": code})
        for path in paths:
            assert client.get(path).status_code == 200
        for path in paths:
            with CaptureQueriesContext(connection) as queries:
                assert client.get(path).status_code == 200
            asked.append(len(queries))
            assert not any("fingerprint" in query["sql"] and "ANY" in query["sql"] for query in queries)
    assert asked[:2] == asked[2:] and max(asked) <= 12
    found = client.get(paths[1] + "&page=2").json()
    assert found["count"] == 32 and len(found["results"]) == 10
    assert [len(group["records"]) for group in found["results"]] == [2] * 10


def test_persons_are_listed_with_their_records_counted_for_one_page_alone(dataset) -> None:
    owner = make_user()
    dataset.project.memberships.create(user=owner, role="owner")
    client = Client()
    client.force_login(owner)
    Subject.objects.create(dataset=dataset, key="T nobody")
    seen, page = {}, 1
    while page:
        with CaptureQueriesContext(connection) as asked:
            found = client.get(f"/api/v1/subjects/?dataset={dataset.pk}&page_size=20&page={page}").json()
        assert len(asked) <= 6 and not any(
            "LEFT OUTER JOIN" in query["sql"] and "GROUP BY" in query["sql"] for query in asked
        )
        seen |= {row["key"]: row["record_count"] for row in found["results"]}
        page = page + 1 if found["next"] else 0
    counted = {subject.key: subject.records.count() for subject in dataset.subjects.all()}
    assert seen == counted and seen["T nobody"] == 0 and list(seen) == sorted(seen)
    one = dataset.subjects.first()
    assert client.get(f"/api/v1/subjects/{one.pk}/").json()["record_count"] == one.records.count()
