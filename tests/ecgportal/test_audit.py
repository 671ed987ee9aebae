"""The audit trail cannot be changed, and shows it when somebody tried all the same."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from datetime import timedelta

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from ecgportal.accounts.models import User
from ecgportal.accounts.services import user_create
from ecgportal.audit import trail
from ecgportal.audit.context import AuditContext, acting
from ecgportal.audit.export import as_json
from ecgportal.audit.models import AuditEvent
from ecgportal.audit.trail import record, verify
from ecgportal.projects.services import project_create


@pytest.mark.django_db(transaction=True)
def test_events_are_chained_without_gaps():
    for number in range(5):
        record("audit.exported", f"number {number}")
    rows = list(AuditEvent.objects.order_by("sequence"))
    assert [row.sequence for row in rows] == [1, 2, 3, 4, 5]
    assert len({row.hash for row in rows}) == 5
    assert list(verify()) == []


@pytest.mark.django_db(transaction=True)
def test_a_rolled_back_change_leaves_no_event_and_no_gap():
    record("audit.exported", "before")
    with pytest.raises(RuntimeError), transaction.atomic():
        record("audit.exported", "never")
        raise RuntimeError
    record("audit.exported", "after")
    assert list(AuditEvent.objects.order_by("sequence").values_list("sequence", "object_label")) == [
        (1, "before"),
        (2, "after"),
    ]
    assert list(verify()) == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_auditevent SET actor_name = 'nobody'",
        "DELETE FROM audit_auditevent",
        "UPDATE audit_auditevent SET hash = 'x'",
    ],
)
def test_rows_cannot_be_changed_or_deleted(statement):
    record("audit.exported", "kept")
    with pytest.raises(DatabaseError, match="append-only"), connection.cursor() as cursor:
        cursor.execute(statement)
    assert list(verify()) == []


@pytest.mark.django_db(transaction=True)
def test_verification_names_the_row_that_was_changed_behind_the_triggers():
    for number in range(4):
        record("audit.exported", f"number {number}")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE audit_auditevent DISABLE TRIGGER audit_append_only")
        cursor.execute("UPDATE audit_auditevent SET actor_name = 'somebody else' WHERE sequence = 2")
        cursor.execute("DELETE FROM audit_auditevent WHERE sequence = 3")
        cursor.execute("ALTER TABLE audit_auditevent ENABLE TRIGGER audit_append_only")
    found = list(verify())
    assert any("Row 2 was changed" in sentence for sentence in found)
    assert any("3 to 3 are missing" in sentence for sentence in found)
    assert any("Row 4 does not continue the chain" in sentence for sentence in found)


@pytest.mark.django_db(transaction=True)
def test_many_events_at_once_under_a_clock_that_runs_backwards(monkeypatch):
    """None is lost, each transaction's events stand together, and each writer's in its order, whatever the clock says."""
    start, ticks = timezone.now(), itertools.count()
    monkeypatch.setattr(trail.timezone, "now", lambda: start - timedelta(minutes=next(ticks)))
    together = threading.Barrier(8)

    def work(name: str) -> None:
        try:
            together.wait(20)
            for number in range(30):
                with contextlib.suppress(RuntimeError), transaction.atomic():
                    for part in range(5):
                        record("audit.exported", f"{name} {number:02d} {part}")
                    if number % 10 == 9:
                        raise RuntimeError
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = [f"{number:02d} {part}" for number in range(30) if number % 10 != 9 for part in range(5)]
    rows = list(AuditEvent.objects.order_by("sequence").values_list("sequence", "object_label"))
    assert [sequence for sequence, _ in rows] == list(range(1, 8 * len(kept) + 1))
    for name in "abcdefgh":
        assert [label[2:] for _, label in rows if label[0] == name] == kept
    assert all(len({label[:-2] for _, label in rows[at : at + 5]}) == 1 for at in range(0, len(rows), 5))
    assert list(verify()) == []
    # Files of the trail hold each row once, and say its place.
    told = json.loads("".join(as_json(AuditEvent.objects.order_by("-id"))))
    assert sorted(int(row["sequence"]) for row in told) == [sequence for sequence, _ in rows]


@pytest.mark.django_db
def test_events_survive_the_deletion_of_user_and_project():
    user = user_create(actor=None, username="anna", password="a long password 1")
    project = project_create(actor=user, name="Ward 3")
    project.delete()
    User.objects.filter(pk=user.pk).delete()
    event = AuditEvent.objects.get(action="project.created")
    assert (event.actor_name, event.project_name) == ("anna", "Ward 3")


@pytest.mark.django_db
def test_events_carry_the_context_they_were_caused_in():
    with acting(AuditContext(channel="api", address="192.0.2.7")) as context:
        event = record("audit.exported", "x")
    assert (event.channel, event.address, event.correlation) == ("api", "192.0.2.7", context.correlation)


@pytest.mark.django_db
def test_an_unknown_verb_is_refused():
    with pytest.raises(KeyError, match="not a registered"):
        record("project.exploded")


@pytest.mark.django_db
def test_sign_in_and_failure_are_recorded(client):
    user_create(actor=None, username="anna", password="a long password 1")
    assert not client.login(username="anna", password="wrong")
    assert client.login(username="anna", password="a long password 1")
    client.logout()
    actions = list(AuditEvent.objects.exclude(action="user.created").order_by("id").values_list("action", "outcome"))
    assert actions == [
        ("session.sign_in_failed", "failure"),
        ("session.signed_in", "success"),
        ("session.signed_out", "success"),
    ]


@pytest.mark.django_db(transaction=True)
def test_rows_from_before_role_and_version_keep_the_chain(monkeypatch):
    monkeypatch.setattr("ecgportal.version.VERSION", "")
    record("audit.exported", "an older row")
    assert '"software"' not in AuditEvent.objects.get().payload
    monkeypatch.undo()
    record("audit.exported", "a newer row")
    assert '"software"' in AuditEvent.objects.latest("id").payload
    assert list(verify()) == []


@pytest.mark.django_db(transaction=True)
def test_a_clock_that_is_set_back_changes_neither_order_nor_chain(monkeypatch):
    before = timezone.now()
    for hours in (0, -5, 1, -30):
        monkeypatch.setattr(trail.timezone, "now", lambda hours=hours: before + timedelta(hours=hours))
        record("session.signed_in", f"at {hours}")
    rows = list(AuditEvent.objects.order_by("sequence").values_list("object_label", flat=True))
    assert rows == ["at 0", "at -5", "at 1", "at -30"]
    assert list(verify()) == []
