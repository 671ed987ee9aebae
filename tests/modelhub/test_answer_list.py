"""The list of a run's answers: mistakes against the labels, the surest first, walked record by record."""

from __future__ import annotations

import re

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from datasets.models import RecordLabel
from modelhub import agreement, answer_list
from modelhub.models import Model, Prediction, PredictionRun
from tests import factories
from tests.modelhub.test_predicting import make_version

pytestmark = pytest.mark.django_db

CLASSES = ["NORM", "MI", "A", "B", "C"]


def make_run(project, dataset, answers: dict[str, tuple[list[str], list[float]]], **changes) -> PredictionRun:
    """``answers``: predicted classes and values by the record's key; the thresholds are those of the contract."""
    version = make_version(project, thresholds={"NORM": 0.5, "MI": 0.2}, **changes)
    Model.objects.filter(pk=version.model_id).update(name=f"Net of {len(answers)} answers")
    run = PredictionRun.objects.create(
        project=project, version=version, dataset=dataset, thresholds={"NORM": 0.5, "MI": 0.2},
        job=factories.make_job(project, kind="predict", state="succeeded"), label_map=agreement.map_for(version, project),
    )  # fmt: skip
    records = {row.key: row for row in dataset.records.all()}
    Prediction.objects.bulk_create(
        Prediction(run=run, record=records[key], predicted=predicted, values=values + [0.0] * (5 - len(values)))
        for key, (predicted, values) in answers.items()
    )
    return run


class World:
    def __init__(self) -> None:
        self.project = factories.make_project()
        team = factories.make_team(self.project)
        self.dataset = factories.make_dataset(self.project)
        self.map = factories.make_label_map(self.project, classes=CLASSES)
        labels = {"a": ["NORM"], "b": ["IMI"], "c": ["NORM", "IMI"], "d": [], "e": ["strange"], "f": ["NORM"]}
        for key, codes in labels.items():
            factories.make_record(self.dataset, key, labels=tuple(codes))
        self.run = make_run(
            self.project, self.dataset,
            {
                "a": (["NORM"], [0.9, 0.1]),  # agrees
                "b": (["NORM"], [0.75, 0.1]),  # NORM predicted only by 0.5, MI labelled only by 0.5
                "c": (["NORM"], [0.6, 0.02]),  # MI labelled only by 0.9
                "d": (["MI"], [0.1, 0.9]),
                "e": (["MI"], [0.1, 0.9]),
                "f": (["NORM", "MI"], [0.8, 0.28]),  # MI predicted only by 0.1
            },
        )  # fmt: skip
        self.client = Client()
        self.client.force_login(team["viewer"])
        self.editor = team["editor"]

    def keys(self, **query: str) -> list[str]:
        answer = self.client.get(f"/api/v1/predictions/{self.run.pk}/rows/", query)
        assert answer.status_code == 200, answer.content
        return [row["key"] for row in answer.json()["results"]]

    def page(self, **query: str) -> str:
        return self.client.get(reverse("modelhub:prediction", args=[self.run.pk]), query).content.decode()


@pytest.fixture
def world() -> World:
    return World()


def test_mistakes_come_in_the_order_of_their_sureness(world: World) -> None:
    assert world.keys(agreement="differs") == ["c", "b", "f"]
    assert world.keys(agreement="differs", sort="sureness") == ["f", "b", "c"]
    assert world.keys(agreement="false_positive") == ["b", "f"]
    assert world.keys(agreement="false_negative") == ["c", "b"]
    assert world.keys(agreement="agrees") == ["a"]
    assert world.keys(agreement="unlabelled") == ["d", "e"]
    assert world.keys() == list("abcdef") and world.keys(sort="-MI") == ["d", "e", "f", "a", "b", "c"]
    rows = world.client.get(f"/api/v1/predictions/{world.run.pk}/rows/?agreement=differs").json()["results"]
    assert [round(row["sureness"], 6) for row in rows] == [0.9, 0.5, 0.1]
    assert [row["agreement"] for row in rows] == ["partly", "differs", "partly"]


def test_a_class_is_compared_alone(world: World) -> None:
    assert world.keys(**{"class": "NORM"}) == ["a", "b", "c", "f"]
    assert world.keys(agreement="differs", **{"class": "NORM"}) == ["b"]
    assert world.keys(agreement="false_positive", **{"class": "MI"}) == ["f"]
    assert world.keys(agreement="false_negative", **{"class": "MI"}) == ["c", "b"]
    # Both have the class, whatever else differs.
    assert world.keys(agreement="agrees", **{"class": "NORM"}) == ["a", "c", "f"]
    cells = agreement.of_run(world.run)["classes"]
    assert cells["MI"] == {"both": 0, "predicted_only": 1, "label_only": 2, "neither": 1}
    for name in CLASSES:
        for key, part in (("predicted_only", "false_positive"), ("label_only", "false_negative"), ("both", "agrees")):
            assert len(world.keys(agreement=part, **{"class": name})) == cells[name][key], (name, part)


def test_without_thresholds_the_label_that_was_thought_least_likely_comes_first() -> None:
    world = World()
    run = make_run(
        world.project, world.dataset, {"b": (["NORM"], [0.6, 0.3]), "f": (["MI"], [0.05, 0.9]), "a": (["NORM"], [0.9])},
        task="multiclass",
    )  # fmt: skip
    rows = answer_list.read(run, {"agreement": "differs"}).rows()
    assert [(row.record.key, round(row.sureness, 6)) for row in rows] == [("f", 0.95), ("b", 0.7)]


def test_a_list_of_mistakes_of_a_thousand_classes_is_read() -> None:
    world = World()
    names = ["NORM", "MI", *(f"class {number}" for number in range(998))]
    version = make_version(world.project, classes=tuple(names))
    run = PredictionRun.objects.create(
        project=world.project, version=version, dataset=world.dataset, label_map=world.map,
        job=factories.make_job(world.project, kind="predict", state="succeeded"),
    )  # fmt: skip
    record = world.dataset.records.get(key="a")
    Prediction.objects.create(run=run, record=record, predicted=["class 997"], values=[0.1] * 999 + [0.75])
    listed = answer_list.AnswerList(run, world.map, "differs", sort=answer_list.SUREST)
    assert [round(row.sureness, 3) for row in listed.rows()] == [0.8]


def test_the_map_is_the_one_of_the_training_and_another_can_be_asked_for(world: World) -> None:
    assert world.run.label_map == world.map
    entries = {"NORM": {"class": "MI", "relation": "exact"}, "IMI": {"class": "NORM", "relation": "exact"}}
    other = factories.make_label_map(world.project, "Turned", classes=CLASSES, entries=entries)
    foreign = factories.make_label_map(factories.make_project(), classes=CLASSES)
    assert agreement.maps_for(world.run.version, world.project) == [world.map, other]
    world.run.version.facts["label_map"] = str(other)
    assert agreement.maps_for(world.run.version, world.project) == [other, world.map]
    assert world.keys(agreement="agrees", label_map=str(other.pk)) == ["b"]
    for query in (
        {"label_map": str(foreign.pk)}, {"agreement": "maybe"}, {"class": "X"}, {"sort": "sureness"}, {"sort": "values"},
        {"agreement": "unlabelled", "class": "MI"},
    ):  # fmt: skip
        answer = world.client.get(f"/api/v1/predictions/{world.run.pk}/rows/", query)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_filter"), query
        assert set(answer.json()["error"]["fields"]) <= set(query)
        assert world.client.get(reverse("modelhub:prediction", args=[world.run.pk]), query).status_code == 200


def test_the_page_counts_afresh_what_was_labelled_since(world: World) -> None:
    def counts() -> dict[str, str]:
        found = re.findall(r'>([^<>]+)<span class="tabs__count">(\d+)</span>', world.page())
        return dict(found)

    assert counts() == {"All": "6", "Differ from the labels": "3", "Agree": "1", "Labels not known": "2"}
    assert "Agrees with the labels in 1 of 4 labelled records" in world.page()
    RecordLabel.objects.filter(record__key="b").update(code="NORM")
    assert counts() == {"All": "6", "Differ from the labels": "2", "Agree": "2", "Labels not known": "2"}
    shown = world.page(agreement="false_negative", **{"class": "MI"})
    assert "labelled as MI and not predicted so" in shown and ">c</a>" in shown and ">b</a>" not in shown
    assert ">0.90<" in shown


def test_files_hold_what_the_list_shows(world: World) -> None:
    address = reverse("modelhub:prediction_file", args=[world.run.pk])
    lines = world.client.get(f"{address}?format=csv&agreement=differs").content.decode().splitlines()
    assert [line.split(",")[1] for line in lines[1:]] == ["c", "b", "f"] and lines[0].endswith("sureness")
    assert len(world.client.get(address).content.decode().splitlines()) == 7


def test_a_list_is_walked_in_its_order_and_keeps_its_place_when_a_label_is_mended(world: World) -> None:
    listed = answer_list.read(world.run, {"agreement": "differs"})
    records = {row.key: row for row in world.dataset.records.all()}

    def place(key: str, last: int | None = None) -> tuple:
        found = listed.place_of(records[key], last)
        names = {row.pk: row.key for row in records.values()}
        return found.number, found.count, names.get(found.before), names.get(found.after)

    assert [place(key) for key in "cbf"] == [(1, 3, None, "b"), (2, 3, "c", "f"), (3, 3, "b", None)]
    assert place("a") == (None, 0, None, None)
    RecordLabel.objects.filter(record=records["b"]).update(code="NORM")
    assert place("b", last=2) == (None, 2, "c", "f")
    assert place("f", last=3) == (2, 2, "c", None)


def test_many_answers_take_few_queries_and_the_index_of_labels(world: World) -> None:
    from tests.bench.bench_lists import fill

    dataset = factories.make_dataset(world.project)
    fill(dataset, 3000)
    entries = {"C01": {"class": "NORM", "relation": "exact"}, "C04": {"class": "MI", "relation": "exact"}}
    label_map = factories.make_label_map(world.project, "Many", classes=CLASSES, entries=entries)
    run = make_run(world.project, dataset, {})
    run.label_map = label_map
    run.save()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO modelhub_prediction (id, created_at, run_id, record_id, values, predicted, notices, saliency) "
            "SELECT gen_random_uuid(), now(), %s, id, ARRAY[0.6, 0.1, 0, 0, 0], ARRAY['NORM'], ARRAY[]::text[], '{}' "
            "FROM datasets_record WHERE dataset_id = %s", [run.pk, dataset.pk],
        )  # fmt: skip
        cursor.execute("ANALYZE")
    world.run = run
    asked = {}
    for query in ({}, {"agreement": "differs"}, {"agreement": "false_positive", "class": "NORM", "page": "3"}):
        world.page(**query)
        with CaptureQueriesContext(connection) as queries:
            shown = world.page(**query)
        asked[str(query)] = len(queries)
        assert "Answers by record" in shown
    assert max(asked.values()) <= 22, asked
    rows = answer_list.read(run, {"agreement": "differs"}).rows()
    plan = rows[:50].explain()
    assert plan.count("Index Cond: (record_id = modelhub_prediction.record_id)") == 2
    assert "Seq Scan on datasets_recordlabel" not in plan


def test_the_record_page_walks_the_list_and_leads_back_to_it(world: World) -> None:
    records = {row.key: row for row in world.dataset.records.all()}
    names = {str(row.pk): key for key, row in records.items()}

    def links(text: str) -> dict[str, str]:
        found = re.findall(r'rel="(prev|next)"[^>]* href="/records/([^/]+)/\?([^"]*)"', text)
        return {rel: f"{names[pk]} {query}" for rel, pk, query in found}

    shown = world.page(agreement="differs")
    first = re.search(r'href="(/records/[^"]+)">c</a>', shown)
    assert first
    text = world.client.get(first[1].replace("&amp;", "&") + "&layout=12x1&band=monitor").content.decode()
    assert re.search(r"1 of 3 answers of [^<]+ that differ from the labels", text) and "prev" not in links(text)
    assert links(text)["next"].startswith("b ")
    for part in ("agreement=differs", "at=2", f"prediction={world.run.pk}", "layout=12x1"):
        assert part in links(text)["next"]
    assert "monitor" not in links(text)["next"]
    back = reverse("modelhub:prediction", args=[world.run.pk]) + "?agreement=differs#answers"
    assert text.count(f'href="{back}"') == 2 and "Predicted: <strong>NORM</strong>" in text
    assert "<strong>NORM, MI</strong>" in text
    # Somebody mends the label: the next record is the one that follows, not the start of the dataset.
    RecordLabel.objects.filter(record=records["b"]).update(code="NORM")
    query = f"?prediction={world.run.pk}&agreement=differs&at=2"
    text = world.client.get(reverse("viz:record", args=[records["b"].pk]) + query).content.decode()
    assert "Not in the list of answers any more" in text
    assert links(text)["prev"].startswith("c ") and links(text)["next"].startswith("f ")
    assert "at=1" in links(text)["prev"] and "at=2" in links(text)["next"]
    # A run of another project is no list.
    other = World()
    query = f"?prediction={other.run.pk}"
    text = world.client.get(reverse("viz:record", args=[records["b"].pk]) + query).content.decode()
    assert "Back to the list" not in text
    # Who reads blind is told nothing.
    query = f"?prediction={world.run.pk}&blind=1"
    text = world.client.get(reverse("viz:record", args=[records["a"].pk]) + query).content.decode()
    assert "Back to the list" in text and "Predicted:" not in text


def test_a_number_is_listed_without_classes_and_compared_with_no_labels() -> None:
    world = World()
    run = make_run(world.project, world.dataset, {"a": ([], [61.0])}, task="regression")
    assert run.label_map is None
    world.run = run
    text = world.page()
    assert "61.000" in text and "tabs__count" in text and "Predicted classes" not in text and "filter_class" not in text
    answer = world.client.get(f"/api/v1/predictions/{run.pk}/rows/?agreement=differs")
    assert answer.status_code == 400 and "No label map" in answer.json()["error"]["message"]
