"""Annotations and labels that people set: rules, pages, REST, trail, and the figure."""

from __future__ import annotations

import json

import pytest
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse

from datasets import annotating
from datasets.models import LabelSource, Record, RecordAnnotation, RecordLabel
from ecgportal.audit.models import AuditEvent
from ecgportal.errors import Conflict, InvalidInput, NotAllowed
from ecgportal.projects.models import Membership
from tests.factories import make_dataset, make_record, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def record(project) -> Record:
    return make_record(make_dataset(project), "ecg1", labels=("NORM",))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"t0_s": -0.1}, "t0_s"), ({"t0_s": 2.1}, "t0_s"), ({"t0_s": float("nan")}, "t0_s"), ({"t1_s": 0.5}, "t1_s"), ({"t1_s": 2.01}, "t1_s"),
        ({"t1_s": float("inf")}, "t1_s"), ({"lead": "V9"}, "lead"), ({"text": "  "}, "text"), ({"text": "x" * 501}, "text"), ({"text": "a\x00b"}, "text"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_record_is_named(team, record, values, field) -> None:
    with pytest.raises(InvalidInput) as caught:
        annotating.annotation_add(actor=team["editor"], record=record, **({"t0_s": 0.5, "text": "ST"} | values))
    assert list(caught.value.fields) == [field]
    assert not RecordAnnotation.objects.exists()


def test_the_database_refuses_what_the_service_would(record) -> None:
    for values in ({"t0_s": -1.0}, {"t0_s": 1.0, "t1_s": 1.0}, {"t0_s": 1.0, "text": ""}, {"t0_s": 1.0, "lead": ""}):
        with pytest.raises(IntegrityError), transaction.atomic():
            RecordAnnotation.objects.create(record=record, **({"text": "x"} | values))


def test_only_the_author_or_an_owner_deletes(project, team, record) -> None:
    second = make_user()
    Membership.objects.create(project=project, user=second, role="editor")
    rows = [annotating.annotation_add(actor=team["editor"], record=record, t0_s=0.1, text="a") for _ in range(2)]
    labels = [annotating.label_add(actor=team["editor"], record=record, system="scp", code=code) for code in "AB"]
    for actor in (second, team["viewer"], team["outsider"]):
        with pytest.raises(NotAllowed):
            annotating.annotation_delete(actor=actor, annotation=rows[0])
        with pytest.raises(NotAllowed):
            annotating.label_delete(actor=actor, label=labels[0])
    for actor, row, label in zip((team["editor"], team["owner"]), rows, labels):
        annotating.annotation_delete(actor=actor, annotation=row)
        annotating.label_delete(actor=actor, label=label)
    assert not RecordAnnotation.objects.exists()
    assert not RecordLabel.objects.filter(source=LabelSource.USER).exists()


def test_the_author_who_became_a_viewer_deletes_no_more(project, team, record) -> None:
    row = annotating.annotation_add(actor=team["editor"], record=record, t0_s=0.1, text="a")
    Membership.objects.filter(user=team["editor"], project=project).update(role="viewer")
    with pytest.raises(NotAllowed):
        annotating.annotation_delete(actor=team["editor"], annotation=row)


def test_labels_of_files_stay_and_a_label_is_set_once(team, record) -> None:
    with pytest.raises(Conflict) as caught:
        annotating.label_delete(actor=team["owner"], label=record.labels.get())
    assert caught.value.code == "label_of_source"
    annotating.label_add(actor=team["editor"], record=record, system="scp", code="NORM")
    with pytest.raises(Conflict):
        annotating.label_add(actor=team["owner"], record=record, system="scp", code="NORM")
    with pytest.raises(InvalidInput) as wrong:
        annotating.label_add(actor=team["editor"], record=record, system="x", code=" ")
    assert set(wrong.value.fields) == {"system", "code"}
    assert record.labels.count() == 2


def test_the_trail_says_where_but_not_what(team, record) -> None:
    row = annotating.annotation_add(actor=team["editor"], record=record, t0_s=0.5, t1_s=1.0, lead="V2", text="secret")
    annotating.annotation_delete(actor=team["owner"], annotation=row)
    events = AuditEvent.objects.filter(action__startswith="record.annot").order_by("at")
    assert [(event.action, event.actor_name) for event in events] == [
        ("record.annotated", team["editor"].username), ("record.annotation_deleted", team["owner"].username),
    ]  # fmt: skip
    assert events[0].changes == {"t0_s": 0.5, "t1_s": 1.0, "lead": "V2"}
    assert "secret" not in events[0].payload


class TestPages:
    def test_forms_without_script(self, editor: Client, record: Record, team: dict) -> None:
        page = reverse("viz:record", args=[record.pk])
        annotate = reverse("viz:annotate", args=[record.pk])
        answer = editor.post(annotate, {"t0_s": "0.5", "t1_s": "1", "lead": "V2", "text": "<b>ST</b> elevation"})
        assert answer.status_code == 302
        assert answer["Location"].startswith(page)
        shown = editor.get(page).content.decode()
        assert "&lt;b&gt;ST&lt;/b&gt; elevation" in shown
        assert f'data-label="By"><span>{team["editor"].username}' in shown
        editor.post(reverse("viz:annotation_delete", args=[RecordAnnotation.objects.get().pk]))
        assert not RecordAnnotation.objects.exists()

    def test_what_was_typed_comes_back_with_the_reason(self, editor: Client, record: Record) -> None:
        answer = editor.post(reverse("viz:annotate", args=[record.pk]), {"t0_s": "9", "text": "late"})
        assert answer.status_code == 422
        assert "Give a time from 0 to 2 s." in answer.content.decode()
        assert ">late</textarea>" in answer.content.decode().replace("\n", "")

    def test_label_by_hand(self, editor: Client, record: Record) -> None:
        add = reverse("viz:label", args=[record.pk])
        assert editor.post(add, {"system": "scp", "code": "AFIB"}).status_code == 302
        assert editor.post(add, {"system": "scp", "code": "AFIB"}).status_code == 409
        label = RecordLabel.objects.get(source=LabelSource.USER)
        assert (
            reverse("viz:label_delete", args=[label.pk])
            in editor.get(reverse("viz:record", args=[record.pk])).content.decode()
        )
        editor.post(reverse("viz:label_delete", args=[label.pk]))
        assert not RecordLabel.objects.filter(source=LabelSource.USER).exists()

    @pytest.mark.parametrize(
        ("typed", "system", "stored"),
        [
            ("afib", "", ("scp", "AFIB")), ("164889003", "", ("snomed", "164889003")), ("Atrial  Fibrillation", "", ("scp", "AFIB")),
            ("atrial fibrillation", "snomed", ("snomed", "164889003")), ("house code 7", "aha", ("aha", "house code 7")),
        ],
    )  # fmt: skip
    def test_a_finding_is_found_by_code_or_words(self, editor: Client, record: Record, typed, system, stored) -> None:
        assert editor.post(reverse("viz:label", args=[record.pk]), {"system": system, "code": typed}).status_code == 302
        label = RecordLabel.objects.get(source=LabelSource.USER)
        assert (label.system, label.code) == stored

    def test_what_no_table_knows_needs_its_code_system(self, editor: Client, record: Record) -> None:
        answer = editor.post(reverse("viz:label", args=[record.pk]), {"code": "atrial fibrilation"})
        assert answer.status_code == 422 and "choose the code system" in answer.content.decode()
        assert not RecordLabel.objects.filter(source=LabelSource.USER).exists()

    def test_a_likelihood_of_zero_is_not_stated_in_scp(self, editor: Client, record: Record) -> None:
        for code, likelihood in (("SR", 0.0), ("NORM", 0.8)):
            RecordLabel.objects.create(
                record=record, system="scp", code=code, likelihood=likelihood, source=LabelSource.TABLE
            )
        shown = editor.get(reverse("viz:record", args=[record.pk])).content.decode()
        assert 'data-label="Likelihood">not stated</td>' in shown and 'data-label="Likelihood">0.80</td>' in shown
        assert "0.00</td>" not in shown

    def test_the_list_and_the_view_are_kept(self, editor: Client, record: Record) -> None:
        query = "?label=NORM&speed=50"
        page = editor.get(reverse("viz:record", args=[record.pk]) + query).content.decode()
        add = reverse("viz:label", args=[record.pk]) + query
        assert f'action="{add.replace("&", "&amp;")}"' in page
        answer = editor.post(add, {"code": "AFIB"})
        assert answer["Location"] == f"{reverse('viz:record', args=[record.pk])}{query}#labels-heading"

    def test_who_reads_without_knowing_sets_labels_and_sees_their_own(
        self, editor: Client, record: Record, team: dict
    ) -> None:
        annotating.label_add(actor=team["owner"], record=record, system="scp", code="LVOLT")
        editor.post(reverse("viz:label", args=[record.pk]) + "?blind=1", {"code": "AFIB"})
        labels = editor.get(reverse("viz:record", args=[record.pk]), {"blind": "1"}).context["labels"]
        assert [label.code for label in labels] == ["AFIB"]

    def test_a_viewer_sees_but_has_no_forms(self, client: Client, team: dict, record: Record) -> None:
        annotating.annotation_add(actor=team["editor"], record=record, t0_s=0.5, text="seen by all")
        client.force_login(team["viewer"])
        shown = client.get(reverse("viz:record", args=[record.pk])).content.decode()
        assert "seen by all" in shown
        assert reverse("viz:annotate", args=[record.pk]) not in shown


def test_rest(editor: Client, record: Record, team: dict) -> None:
    url = f"/api/v1/records/{record.pk}/annotations/"
    made = editor.post(url, json.dumps({"t0_s": 0.25, "text": "P wave"}), content_type="application/json")
    assert made.status_code == 201
    assert made.json()["author"] == team["editor"].username
    assert made.json()["t1_s"] is None
    assert made.json()["lead"] is None
    assert [row["text"] for row in editor.get(url).json()["results"]] == ["P wave"]
    wrong = editor.post(url, json.dumps({"t0_s": 5, "text": "x"}), content_type="application/json")
    assert wrong.status_code == 422
    assert editor.delete(f"/api/v1/annotations/{made.json()['id']}/").status_code == 204
    label = editor.post(
        f"/api/v1/records/{record.pk}/labels/",
        json.dumps({"system": "scp", "code": "AFIB"}),
        content_type="application/json",
    )
    assert label.status_code == 201
    assert label.json()["source"] == "user"
    assert editor.delete(f"/api/v1/record-labels/{label.json()['id']}/").status_code == 204
    stated = record.labels.get()
    assert editor.delete(f"/api/v1/record-labels/{stated.pk}/").status_code == 409


def test_the_figure_draws_what_people_marked_with_the_author(team, record) -> None:
    from viz.dash_apps.ecg import draw

    annotating.annotation_add(actor=team["editor"], record=record, t0_s=0.5, t1_s=1.0, lead="II", text="long PR")
    view = (
        "3x4+rhythm",
        "25",
        "10",
        "II",
        "none",
        "pink",
        "none",
        "original",
        "none",
        "10",
        "0",
        0,
        "light",
        None,
        None,
    )
    figure, *_ = draw(record, *view)
    notes = [one for one in figure["layout"]["annotations"] if one.get("name") == "annotation"]
    assert notes
    assert {one["hovertext"] for one in notes} == {f"long PR ({team['editor'].username})"}
    spans = [one for one in figure["layout"]["shapes"] if one["type"] == "rect"]
    assert {round(one["x1"] - one["x0"], 3) for one in spans} == {12.5}
