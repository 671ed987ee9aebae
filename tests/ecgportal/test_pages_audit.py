"""Pages of the audit trail."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ecgportal.audit.models import AuditEvent
from ecgportal.audit.trail import record
from ecgportal.projects.models import Project, Role
from ecgportal.version import VERSION
from tests.factories import make_project, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def owner():
    return make_user("olga")


@pytest.fixture
def project(owner) -> Project:
    return make_project({owner: Role.OWNER}, name="Mine")


def test_owners_see_their_project_only(client: Client, owner, project: Project) -> None:
    other = make_project(name="Other")
    record("project.created", project, actor=owner, project=project)
    record("project.created", other, actor=owner, project=other)
    client.force_login(owner)
    answer = client.get(reverse("audit:project", kwargs={"project": project.pk}))
    assert [event.object_label for event in answer.context["page_obj"]] == ["Mine"]
    assert "created the project Mine" in answer.content.decode()
    client.force_login(make_user(is_administrator=True))
    labels = {event.object_label for event in client.get(reverse("audit:all")).context["page_obj"]}
    assert {"Mine", "Other"} <= labels


def test_filters(client: Client, owner, project: Project) -> None:
    bob = make_user("bob")
    record("project.changed", project, actor=owner, project=project)
    record("member.set", bob, actor=bob, project=project)
    record("access.refused", project, actor=bob, project=project, outcome="refused")
    client.force_login(owner)
    address = reverse("audit:project", kwargs={"project": project.pk})

    def actions(**params: str) -> list[str]:
        return [event.action for event in client.get(address, params).context["page_obj"]]

    today = timezone.now().date()
    assert actions() == ["access.refused", "member.set", "project.changed"]
    assert actions(actor="BOB", outcome="success") == ["member.set"]
    assert actions(action="project.changed") == ["project.changed"]
    assert len(actions(since=str(today), until=str(today))) == 3
    assert actions(since=str(today + timedelta(days=1))) == []
    assert actions(until=str(today - timedelta(days=1))) == []


def test_an_impossible_filter_is_shown_and_the_page_stays(client: Client, owner, project: Project) -> None:
    client.force_login(owner)
    answer = client.get(
        reverse("audit:project", kwargs={"project": project.pk}), {"since": "2024-05-02", "until": "2024-05-01"}
    )
    assert answer.status_code == 200 and "lies before the first one" in answer.content.decode()
    assert client.get(reverse("audit:project", kwargs={"project": project.pk}), {"since": "soon"}).status_code == 200


def test_the_export_is_csv_without_formulas_and_is_recorded(client: Client, owner, project: Project) -> None:
    record("member.set", "=1+1", actor=owner, project=project)
    client.force_login(owner)
    answer = client.get(reverse("audit:project_export", kwargs={"project": project.pk}), {"action": "member.set"})
    rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))
    assert answer["Content-Type"].startswith("text/csv") and [
        (row["object_label"], row["object_id"]) for row in rows
    ] == [("'=1+1", "")]
    event = AuditEvent.objects.get(action="audit.exported")
    assert event.project_id == project.pk and event.actor_name == "olga"


def test_the_export_as_json_holds_changes_role_and_version(client: Client, owner, project: Project) -> None:
    record("member.set", "vera", actor=owner, project=project, changes={"role": ["viewer", "editor"]})
    client.force_login(owner)
    address = reverse("audit:project_export", kwargs={"project": project.pk})
    rows = json.loads(client.get(address, {"action": "member.set", "format": "json"}).getvalue())
    (row,) = rows
    assert (row["changes"], row["actor_role"], row["software"]) == ({"role": ["viewer", "editor"]}, "owner", VERSION)
    assert row["hash"] == AuditEvent.objects.get(action="member.set").hash
    empty = client.get(address, {"action": "dataset.deleted", "format": "json"})
    assert json.loads(empty.getvalue()) == []
    assert client.get(address, {"format": "xml"}).status_code == 422


def test_the_export_as_fhir_has_what_the_standard_requires(client: Client, owner, project: Project) -> None:
    record("member.set", "vera", actor=owner, project=project, changes={"role": ["viewer", "editor"]})
    record("session.sign_in_failed", "vera", project=project, outcome="failure")
    record("member.removed", "vera", actor=owner, project=project)
    client.force_login(owner)
    address = reverse("audit:project_export", kwargs={"project": project.pk})
    answer = client.get(address, {"format": "fhir"})
    assert answer["Content-Type"].startswith("application/fhir+json")
    bundle = json.loads(answer.getvalue())
    assert (bundle["resourceType"], bundle["type"]) == ("Bundle", "collection")
    events = {entry["resource"]["subtype"][0]["code"]: entry["resource"] for entry in bundle["entry"]}
    assert all(
        {"resourceType", "type", "recorded", "agent", "source"} <= set(event) and event["source"]["observer"]["display"]
        for event in events.values()
    )
    assert {name: event["action"] for name, event in events.items()} == {
        "member.set": "U",
        "session.sign_in_failed": "E",
        "member.removed": "D",
    }
    assert events["session.sign_in_failed"]["outcome"] == "4"
    assert events["session.sign_in_failed"]["type"]["code"] == "110114"
    agent = events["member.set"]["agent"][0]
    assert agent["who"] == {"display": "olga"} and agent["role"] == [{"text": "owner"}] and agent["requestor"] is True
    details = {one["type"]: one["valueString"] for one in events["member.set"]["entity"][0]["detail"]}
    assert json.loads(details["role"]) == ["viewer", "editor"] and details["correlation"]

    def holds_nothing_empty(value) -> bool:
        if isinstance(value, dict):
            return bool(value) and all(holds_nothing_empty(one) for one in value.values())
        if isinstance(value, list):
            return bool(value) and all(holds_nothing_empty(one) for one in value)
        return value != "" and value is not None

    assert all(holds_nothing_empty(event) for event in events.values())


def test_the_administrators_export_is_recorded(client: Client) -> None:
    client.force_login(make_user(is_administrator=True))
    assert client.get(reverse("audit:export")).status_code == 200
    assert AuditEvent.objects.filter(action="audit.exported", project_id=None).count() == 1


def test_labels_from_outside_are_escaped(client: Client, owner, project: Project) -> None:
    record("member.set", "<script>alert(1)</script>", actor=owner, project=project, changes={"role": ["<b>", None]})
    client.force_login(owner)
    text = client.get(reverse("audit:project", kwargs={"project": project.pk})).content.decode()
    assert "<script>alert" not in text and "&lt;script&gt;" in text and "<b>" not in text


def test_pages_are_bounded(client: Client, owner, project: Project, django_assert_max_num_queries) -> None:
    for _ in range(70):
        record("project.changed", project, actor=owner, project=project)
    client.force_login(owner)
    with django_assert_max_num_queries(10):
        assert len(client.get(reverse("audit:project", kwargs={"project": project.pk})).context["page_obj"]) == 50
    client.force_login(make_user(is_administrator=True))
    with django_assert_max_num_queries(7):
        client.get(reverse("audit:all"), {"page": "2"})
