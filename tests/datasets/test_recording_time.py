"""When records were made: read, shifted where no identifiers are kept, listed, and held back by."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from datasets import labelling, record_filters, selectors
from datasets.models import LabelImport, Record
from datasets.recording_time import apart, parse, shifted, text_of
from datasets.services import upload_receive
from datasets.simulate import simulate
from ecgportal import storage
from ecgportal.jobs.models import JobState
from ecgportal.projects.services import pseudonym_key
from tests.ecgfiles import wfdb_pair
from tests.factories import make_dataset, make_project, make_record, make_user
from tests.working import work_off


def logged_in(user) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.parametrize(
    ("stated", "read"),
    [
        ("2013-01-25T10:59:19", "2013-01-25T10:59:19"),
        ("1984-11-09 09:17:34", "1984-11-09T09:17:34"),
        ("2020-02-03T04:05:06.789+02:00", "2020-02-03T04:05:06"),
        ("20210304", "2021-03-04T00:00:00"),
        ("20210304121314", "2021-03-04T12:13:14"),
        ("24.12.1999 12:30", "1999-12-24T12:30:00"),
        ("24/12/1999", "1999-12-24T00:00:00"),
        ("12/24/1999", "1999-12-24T00:00:00"),
        ("2180-06-27 08:44:00", "2180-06-27T08:44:00"),
    ],
)
def test_times_are_read_as_wall_clock(stated: str, read: str) -> None:
    found = parse(stated)
    assert found is not None and text_of(found) == read and found.tzinfo is UTC


@pytest.mark.parametrize(
    "stated", ["", None, "03/04/2020", "yesterday", "1985-01-01T00:00:00", "1970-01-01", "0001-01-01", "31.02.2020"]
)
def test_what_states_no_time_is_none(stated: str | None) -> None:
    assert parse(stated) is None


def test_the_shift_keeps_order_intervals_and_time_of_day() -> None:
    first, second = parse("2013-01-25T10:59:19"), parse("2013-03-01T08:00:00")
    assert first is not None and second is not None
    a, b = shifted(first, b"k" * 32), shifted(second, b"k" * 32)
    assert b - a == second - first and a.time() == first.time() and timedelta(days=400) <= first - a
    assert shifted(first, b"other" * 6) != a
    assert (apart(first, second), apart(second, first), apart(first, first)) == (
        "34 days later",
        "34 days earlier",
        "at the same time",
    )
    assert apart(first, first + timedelta(minutes=90)) == "90 minutes later"


def timed_pair(name: str, at: str, seed: int) -> dict[str, bytes]:
    files = wfdb_pair(simulate("SNR", seed, fs_hz=250).record, name)
    lines = files[f"{name}.hea"].decode().splitlines()
    lines[0] += f" {at}"
    return {**files, f"{name}.hea": "\n".join(lines).encode()}


def take_in(project, django_capture_on_commit_callbacks):
    dataset = make_dataset(project)
    files = timed_pair("one", "10:11:12 11/04/2019", 1) | timed_pair("two", "07:00:00 12/04/2019", 2)
    sent = [SimpleUploadedFile(name, data) for name, data in files.items()]
    upload_receive(actor=make_user(), dataset=dataset, files=sent)
    table = b"file,patient_id,age,recording_date,label\none,77,93,2019-04-11 10:11:12,NORM\ntwo,77,93,2019-06-01 09:00:00,AFIB\n"
    with django_capture_on_commit_callbacks(execute=True):
        assert [job.state for job in work_off()] == [JobState.SUCCEEDED]
        labelling.import_start(actor=make_user(), dataset=dataset, file=SimpleUploadedFile("t.csv", table))
        assert [job.state for job in work_off()] == [JobState.SUCCEEDED]
    return dataset, {record.key: record for record in Record.objects.filter(dataset=dataset)}


def test_dates_are_shifted_where_no_identifiers_are_kept(db, django_capture_on_commit_callbacks) -> None:
    project = make_project()
    dataset, records = take_in(project, django_capture_on_commit_callbacks)
    key = pseudonym_key(project)
    assert records["one"].recorded_at == shifted(datetime(2019, 4, 11, 10, 11, 12, tzinfo=UTC), key)
    # The table was read after the file, and wins.
    assert records["two"].recorded_at == shifted(datetime(2019, 6, 1, 9, 0, tzinfo=UTC), key)
    assert all(record.has_shifted_time and record.age == 90 for record in records.values())
    kept = storage.read_blob(LabelImport.objects.get(dataset=dataset).sha256)
    assert b"2019-" not in kept and b",93," not in kept and text_of(records["two"].recorded_at).encode() in kept
    labelling.read(LabelImport.objects.get(dataset=dataset))
    assert Record.objects.get(dataset=dataset, key="two").recorded_at == records["two"].recorded_at


def test_true_times_stand_where_identifiers_are_kept(db, django_capture_on_commit_callbacks) -> None:
    _, records = take_in(make_project(keeps_identifiers=True), django_capture_on_commit_callbacks)
    assert text_of(records["one"].recorded_at) == "2019-04-11T10:11:12" and not records["one"].has_shifted_time
    assert text_of(records["two"].recorded_at) == "2019-06-01T09:00:00" and records["two"].age == 93


@pytest.fixture
def serial(db):
    owner = make_user()
    dataset = make_dataset(make_project({owner: "owner"}))
    for key, day in (("c", 1), ("a", 20), ("b", 9)):
        make_record(
            dataset, key, subject="p1", recorded_at=datetime(2001, 5, day, 8, tzinfo=UTC), has_shifted_time=True
        )
    make_record(dataset, "none", subject="p1")
    return dataset, owner


def test_lists_sort_and_filter_by_time(serial) -> None:
    dataset, owner = serial
    client = logged_in(owner)
    page = reverse("datasets:detail", args=[dataset.pk])

    def keys(**params: str) -> list[str]:
        return [record.key for record in client.get(page, params).context["page_obj"]]

    assert keys(sort="recorded_at", subject="p1") == ["c", "b", "a", "none"]
    assert keys(sort="-recorded_at") == ["a", "b", "c", "none"]
    assert keys(recorded_from="2001-05-09", recorded_to="2001-05-20") == ["a", "b"]
    assert keys(missing="time") == ["none"]
    rows = client.get(
        "/api/v1/records/", {"dataset": str(dataset.pk), "sort": "recorded_at", "recorded_to": "2001-05-09"}
    ).json()
    assert [(row["key"], row["recorded_at"], row["has_shifted_time"]) for row in rows["results"]] == [
        ("c", "2001-05-01T08:00:00", True), ("b", "2001-05-09T08:00:00", True),
    ]  # fmt: skip


def test_the_record_page_says_when_and_lists_the_others_by_time(serial) -> None:
    dataset, owner = serial
    answer = logged_in(owner).get(reverse("viz:record", args=[Record.objects.get(dataset=dataset, key="b").pk]))
    assert [(each.key, apart) for each, apart in answer.context["serial"]] == [
        ("c", "8 days earlier"), ("a", "11 days later"), ("none", ""),
    ]  # fmt: skip
    text = answer.content.decode()
    assert "2001-05-09 08:00:00 (date shifted)" in text and "one secret number of days" in text


class TestOneSetOfFilters:
    def test_page_and_rest_find_the_same(self, db) -> None:
        owner = make_user()
        dataset = make_dataset(make_project({owner: "owner"}))
        noisy = {"flags": ["missing_leads"], "leads": [{"lead": "V1", "flags": ["noisy"]}, {"lead": "II", "flags": []}]}
        make_record(dataset, "noisy", quality=noisy, quality_score=0.2, leads=("I", "II", "V1"), age=70.0)
        make_record(
            dataset,
            "clean",
            quality={"flags": [], "leads": [{"lead": "I", "flags": []}]},
            quality_score=0.9,
            fs_hz=500.0,
        )
        client = logged_in(owner)
        for params, wanted in (
            ({"quality": "missing_leads"}, ["noisy"]), ({"quality": "lead:noisy"}, ["noisy"]), ({"quality": "V1:noisy"}, ["noisy"]),
            ({"quality": "II:noisy"}, []), ({"quality": "none"}, ["clean"]), ({"quality": "any"}, ["noisy"]),
            ({"quality": "missing_leads,lead:noisy"}, ["noisy"]), ({"missing": "lead:V6"}, ["noisy"]),
            ({"missing": "lead:V6,subject"}, ["noisy"]), ({"missing": "age"}, ["clean"]), ({"quality_min": "0.5"}, ["clean"]),
            ({"fs_hz": "500"}, ["clean"]), ({"age_min": "60", "age_max": "80"}, ["noisy"]), ({"duration_max": "1"}, []),
        ):  # fmt: skip
            rows = client.get("/api/v1/records/", {"dataset": str(dataset.pk), **params}).json()["results"]
            assert [row["key"] for row in rows] == wanted, params
            found = selectors.filtered(Record.objects.filter(dataset=dataset), params).order_by("key")
            assert [record.key for record in found] == wanted, params
            if "," not in str(params):
                answer = client.get(reverse("datasets:detail", args=[dataset.pk]), params)
                assert [record.key for record in answer.context["page_obj"]] == wanted, params

    def test_what_cannot_be_used_is_named(self, db) -> None:
        rest = logged_in(make_user())
        for params in (
            {"missing": "lead:Q9"},
            {"quality": "V1:no such:flag"},
            {"age_min": "old"},
            {"fs_hz": "9" * 400},
            {"recorded_to": "soon"},
            {"sex": "x"},
            {"sort": "pack"},
        ):
            answer = rest.get("/api/v1/records/", params)
            assert answer.status_code in (400, 422) and set(answer.json()["error"]["fields"]) == set(params), params
        assert record_filters.usable({"age_min": "old", "age_max": "40", "page": "2"}) == {"age_max": "40"}

    def test_the_schema_describes_every_filter(self, db) -> None:
        from drf_spectacular.generators import SchemaGenerator

        listed = SchemaGenerator().get_schema(request=None, public=True)["paths"]["/api/v1/records/"]["get"]
        told = {each["name"]: each for each in listed["parameters"]}
        assert set(record_filters.FILTERS) | {"dataset", "key", "sort", "page"} <= set(told)
        assert all(told[name]["description"] for name in record_filters.FILTERS)
