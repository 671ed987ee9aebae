"""The insight page and the gallery: counts, the links behind the bars, bounded queries, the pictures."""

from __future__ import annotations

import re
from html import unescape

import numpy as np
import pytest
from django.test import Client
from django.urls import reverse

from datasets.insight import insight
from datasets.models import Dataset, LabelSource, Record, RecordLabel
from tests.factories import LEADS, make_dataset, make_project, make_record, make_team

pytestmark = pytest.mark.django_db


@pytest.fixture
def dataset() -> Dataset:
    return make_dataset(make_project())


@pytest.fixture
def viewer(client: Client, dataset: Dataset) -> Client:
    client.force_login(make_team(dataset.project)["viewer"])
    return client


@pytest.fixture
def filled(dataset: Dataset) -> Dataset:
    make_record(
        dataset,
        "a",
        subject="s1",
        labels=("NORM",),
        age=69.5,
        sex="F",
        quality={"flags": ["flat_lead"]},
        quality_score=0.2,
    )
    make_record(dataset, "b", labels=("AFIB", "LBBB"), age=70.0, sex="M", quality_score=0.9)
    make_record(
        dataset,
        "c",
        labels=("AFIB",),
        signal=np.zeros((2, 5000), np.float32),
        fs_hz=500.0,
        leads=LEADS[:2],
        format="dicom",
    )
    make_record(dataset, "d", signal=np.ones((12, 70_000), np.float32), fs_hz=1000 / 3)
    RecordLabel.objects.create(record=Record.objects.get(key="b"), system="scp", code="AFIB", source=LabelSource.USER)
    return dataset


def test_counts_of_every_field(filled: Dataset) -> None:
    fields = {name: counts.counts for name, counts in insight(filled).fields.items()}
    assert fields["labels"] == {"AFIB": 2, "LBBB": 1, "NORM": 1}
    assert fields["gaps"] == {"No label": 1, "Age unknown": 2, "Sex unknown": 2, "Subject unknown": 3}
    assert fields["age"] == {"60 to 69": 1, "70 to 79": 1}
    assert fields["sex"] == {"female": 1, "male": 1, "unknown": 2}
    assert fields["rate"] == {"100 Hz": 2, "333.333 Hz": 1, "500 Hz": 1}
    assert fields["length"] == {"under 5 s": 2, "9.5 s to 10.5 s": 1, "1 min to 5 min": 1}
    assert fields["format"] == {"wfdb": 3, "dicom": 1}
    assert fields["quality"] == {"flat lead": 1}
    assert fields["leads"] == dict.fromkeys(LEADS[2:], 1)


def test_each_bar_leads_to_as_many_records_as_it_counts(viewer: Client, filled: Dataset) -> None:
    found = insight(filled)
    page = viewer.get(reverse("viz:insight", args=[filled.pk]))
    assert page.status_code == 200
    checked = 0
    for panel in page.context["panels"]:
        for _, count, _, url in panel["rows"]:
            answer = viewer.get(url.partition("#")[0])
            assert answer.context["page_obj"].paginator.count == count, url
            assert answer.context["is_filtered"], url
            checked += 1
    assert checked == sum(len(counts.counts) for counts in found.fields.values()) == 31
    links = {unescape(x) for x in re.findall(r'<a href="([^"]+)" aria-label=', page.content.decode())}
    assert links == {url for panel in page.context["panels"] for *_, url in panel["rows"]}


def test_a_code_of_two_sources_counts_once_together(filled: Dataset) -> None:
    found = insight(filled)
    assert found.frequent == ["AFIB", "LBBB", "NORM"]
    assert found.together == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_queries_do_not_grow_with_records(viewer: Client, filled: Dataset, django_assert_max_num_queries) -> None:
    for number in range(20):
        make_record(filled, f"more{number}", labels=(f"L{number}",), age=float(number))
    # The figures of the dataset are counted once after a change.
    for most in (46, 14):
        with django_assert_max_num_queries(most):
            viewer.get(reverse("viz:insight", args=[filled.pk]))
    with django_assert_max_num_queries(22):
        viewer.get(reverse("viz:gallery", args=[filled.pk]))


def test_downloads_and_empty_datasets(viewer: Client, filled: Dataset) -> None:
    insight_url = reverse("viz:insight", args=[filled.pk])
    assert viewer.get(insight_url + "?csv=sex").content.decode().splitlines()[1] == "female,1,0.25"
    assert "with AFIB (records)" in viewer.get(insight_url + "?csv=together").content.decode()
    assert viewer.get(insight_url + "?csv=nothing").status_code == 422
    bare = make_dataset(filled.project)
    for name in ("viz:insight", "viz:gallery"):
        assert viewer.get(reverse(name, args=[bare.pk])).status_code == 200


class TestGallery:
    def test_filter_order_and_pictures(self, viewer: Client, filled: Dataset) -> None:
        url = reverse("viz:gallery", args=[filled.pk])
        worst = viewer.get(url + "?sort=quality")
        assert [row.key for row, *_ in worst.context["cards"]][:2] == ["a", "b"]
        assert worst.content.decode().count('class="ecg-thumbnail"') == 4
        assert [row.key for row, *_ in viewer.get(url + "?missing=lead:V6").context["cards"]] == ["c"]
        assert "flat" in viewer.get(url + "?missing=lead:V6").content.decode()

    def test_24_a_page_and_a_lost_signal_spoils_nothing(self, viewer: Client, dataset: Dataset) -> None:
        for number in range(25):
            make_record(dataset, f"r{number:02d}")
        Record.objects.filter(key="r03").update(offset=10**9)
        shown = viewer.get(reverse("viz:gallery", args=[dataset.pk]))
        assert len(shown.context["cards"]) == 24
        assert shown.content.decode().count('class="ecg-thumbnail"') == 23
        assert "The stored signal of r03 is missing" in shown.content.decode()


def test_people_read_what_a_format_is_called_and_machines_its_key(viewer: Client, filled: Dataset) -> None:
    title, key = "WFDB record", "wfdb"
    address = f"/datasets/{filled.pk}/"
    panel = next(one for one in viewer.get(f"{address}insight/").context["panels"] if one["name"] == "format")
    names = [title, "DICOM waveform"]
    assert [row[0] for row in panel["rows"]] == names and f"format={key}" in panel["rows"][0][3]
    assert title in viewer.get(f"{address}insight/?csv=format").content.decode()
    crossed = viewer.get(f"{address}insight/?what=format&by=sex").context["grouping"]
    assert [name for name, _ in crossed["cells"]] == names
    assert viewer.get(f"{address}insight/?what=sex&by=format").context["grouping"]["columns"] == names
    page = viewer.get(address)
    assert title in dict(page.context["filters"]["format"].field.choices)[key]
    assert f'data-label="Format">{title}<' in page.content.decode()
    fields = viewer.get(f"/api/v1/datasets/{filled.pk}/insight/").json()["fields"]
    assert key in str(fields["format"]) and title not in str(fields)


@pytest.mark.parametrize(
    ("query", "field", "sentence"),
    [
        ("what=labels&by=labels", "by", "another field than the one shown: Labels"),
        ("what=sex&by=", "by", "whose values are told apart"),
        ("by=sex", "what", "what is shown for each"),
    ],
)
def test_a_choice_that_shows_nothing_says_why(viewer: Client, filled: Dataset, query, field, sentence) -> None:
    page = viewer.get(f"/datasets/{filled.pk}/insight/?{query}")
    assert "figure" not in page.context["grouping"] and sentence in str(page.context["grouping"]["form"].errors[field])
    assert sentence in page.content.decode()


def test_codes_that_are_numbers_are_told_in_words_and_stay_apart(viewer: Client, dataset: Dataset) -> None:
    codes = {
        "164889003": "AF",
        "733534002": "CLBBB",
        "251148003": "lower voltage QRS in chest lead",
        "999000999": "999000999",
    }
    for number, code in enumerate(codes):
        make_record(dataset, f"n{number}", labels=(code, "AF"), system="snomed")
    page = viewer.get(reverse("viz:insight", args=[dataset.pk]))
    named = {name: count for name, count, *_ in page.context["panels"][0]["rows"]}
    told = {words: 1 for code, words in codes.items() if code != "164889003"}
    assert {name.lower(): n for name, n in named.items()} == {name.lower(): n for name, n in told.items()} | {
        "af (snomed ct)": 1, "af": 4,
    }  # fmt: skip
    figure = str(page.context["together"]["body"]) + str(page.context["panels"][0]["svg"])
    assert "CLBBB" in figure and ">733534002" not in figure and "999000999" in figure
