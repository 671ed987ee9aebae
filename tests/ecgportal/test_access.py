"""Who may do what, decided in one module and held by the database."""

from __future__ import annotations

import uuid
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from datasets.models import Dataset
from ecgportal.accounts.services import token_create, user_create
from ecgportal.audit.later import answering
from ecgportal.audit.models import AuditEvent
from ecgportal.errors import Conflict, NotAllowed, NotFound
from ecgportal.projects import access, services
from ecgportal.projects.access import ROLE_ALLOWS, Action
from ecgportal.projects.models import Membership, Project, Role
from tests.api_client import Api
from tests.factories import make_dataset, make_project, make_user

pytestmark = pytest.mark.django_db


def _user(name: str):
    return user_create(actor=None, username=name, password="a long password 1")


@pytest.fixture
def team():
    owner, editor, viewer, outsider = (_user(name) for name in ("owner", "editor", "viewer", "outsider"))
    project = services.project_create(actor=owner, name="Ours")
    services.member_set(actor=owner, project=project, user=editor, role="editor")
    services.member_set(actor=owner, project=project, user=viewer, role="viewer")
    services.project_create(actor=outsider, name="Theirs")
    return project, {"owner": owner, "editor": editor, "viewer": viewer, "outsider": outsider}


def test_a_stronger_role_allows_all_that_a_weaker_one_does():
    assert ROLE_ALLOWS[Role.VIEWER] < ROLE_ALLOWS[Role.EDITOR] < ROLE_ALLOWS[Role.OWNER] == set(Action)


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("role", ["outsider", "viewer", "editor", "owner"])
def test_require_follows_the_table(team, role, action):
    project, users = team
    if role == "outsider":
        with pytest.raises(NotFound):
            access.require(users[role], action, project)
    elif action in ROLE_ALLOWS[role]:
        assert access.require(users[role], action, project) == role
    else:
        with pytest.raises(NotAllowed, match=access.needed_role(action)):
            access.require(users[role], action, project)
        assert AuditEvent.objects.filter(action="access.refused", actor_id=users[role].pk).exists()


def test_visible_shows_only_own_projects(team):
    project, users = team
    assert list(access.visible(Project.objects.all(), users["viewer"])) == [project]
    assert project not in access.visible(Project.objects.all(), users["outsider"])
    assert list(access.visible(Project.objects.all(), users["viewer"], Action.DATA_EDIT)) == []


def test_an_administrator_sees_no_project_data_without_membership(team):
    admin = user_create(actor=None, username="root", password="a long password 1", is_administrator=True)
    assert list(access.visible(Project.objects.all(), admin)) == []


def test_the_last_owner_stays(team):
    project, users = team
    with pytest.raises(Conflict, match="needs an owner"):
        services.member_set(actor=users["owner"], project=project, user=users["owner"], role="viewer")
    with pytest.raises(Conflict, match="needs an owner"):
        services.member_remove(actor=users["owner"], project=project, user=users["owner"])
    services.member_set(actor=users["owner"], project=project, user=users["editor"], role="owner")
    services.member_remove(actor=users["owner"], project=project, user=users["owner"])
    assert access.role_in(users["owner"], project) is None


def test_the_database_refuses_unknown_roles_and_double_membership(team):
    project, users = team
    with pytest.raises(IntegrityError, match="membership_role_known"), transaction.atomic():
        Membership.objects.create(project=project, user=users["outsider"], role="king")
    with pytest.raises(IntegrityError, match="membership_once"), transaction.atomic():
        Membership.objects.create(project=project, user=users["viewer"], role="viewer")


def test_project_names_are_unique_whatever_their_case(team):
    _, users = team
    with pytest.raises(Exception, match="cannot be saved") as error:
        services.project_create(actor=users["editor"], name="OURS")
    assert "already" in str(error.value.fields)


def test_an_owner_who_cannot_sign_in_does_not_count(team):
    project, users = team
    services.member_set(actor=users["owner"], project=project, user=users["editor"], role="owner")
    users["editor"].is_active = False
    users["editor"].save()
    with pytest.raises(Conflict, match="needs an owner"):
        services.member_remove(actor=users["owner"], project=project, user=users["owner"])
    api = Api(session=users["owner"])
    address = f"projects/{project.pk}/members/{users['editor'].pk}/"
    api.refused("put", address, {"role": "viewer"}, status=404)
    api.delete(address)
    assert access.role_in(users["editor"], project) is None


class TestHidden:
    """Somebody who asks for a row of a project that is none of theirs is told nothing; the project's trail tells of it."""

    @pytest.fixture
    def ward(self):
        owner, stranger = make_user("owner"), make_user("stranger")
        project = make_project({owner: "owner"}, name="Ward")
        make_project({stranger: "owner"}, name="Elsewhere")
        return SimpleNamespace(owner=owner, stranger=stranger, project=project, dataset=make_dataset(project))

    def asked(self, ward, row, model=None):
        with pytest.raises(NotFound):
            access.get_or_404(
                (model or type(row)).objects.all(), ward.stranger, Action.DATA_VIEW, pk=getattr(row, "pk", row)
            )

    def events(self):
        return list(AuditEvent.objects.filter(action="access.hidden").order_by("id"))

    def test_one_event_an_hour_for_each_kind_of_row(self, ward, monkeypatch):
        for _ in range(3):
            self.asked(ward, ward.dataset)
        self.asked(ward, make_dataset(ward.project))
        self.asked(ward, uuid.uuid4(), Dataset)
        (event,) = self.events()
        assert (event.object_id, event.object_type, event.project_id) == (
            str(ward.dataset.pk),
            "dataset",
            ward.project.pk,
        )
        assert (event.actor_id, event.outcome, event.actor_role) == (ward.stranger.pk, "refused", "")
        self.asked(ward, ward.project)
        assert len(self.events()) == 2
        monkeypatch.setattr(access, "HIDDEN_ONCE_IN", timedelta(0))
        self.asked(ward, ward.dataset)
        assert len(self.events()) == 3

    def test_nothing_happens_before_the_answer_and_nothing_is_taken_back_with_it(self, ward):
        counts = []
        with answering():
            for row in (ward.dataset, uuid.uuid4()):
                with (
                    CaptureQueriesContext(connection) as queries,
                    pytest.raises(ZeroDivisionError),
                    transaction.atomic(),
                ):
                    self.asked(ward, row, Dataset)
                    raise ZeroDivisionError
                counts.append(len(queries))
            assert not self.events()
        assert counts[0] == counts[1] and len(self.events()) == 1

    def test_only_the_projects_own_readers_see_it(self, ward):
        stranger, owner = Api(session=ward.stranger), Api(session=ward.owner)
        stranger.call("get", f"datasets/{ward.dataset.pk}/", status=404)
        assert len(self.events()) == 1
        assert owner.get("audit-events/", project=str(ward.project.pk), action="access.hidden")["count"] == 1
        assert stranger.get("audit-events/", action="access.hidden")["count"] == 0
        # A token has no project; that it exists is not the asking user's to know either.
        token, _ = token_create(user=ward.owner, name="mine")
        stranger.call("delete", f"auth/tokens/{token.pk}/", status=404)
        assert [event.object_type for event in self.events()] == ["dataset", "apitoken"]
        assert stranger.get("audit-events/", action="access.hidden")["count"] == 0
        # A trail that is not there and one that is another's look the same.
        for pk in (ward.project.pk, uuid.uuid4()):
            stranger.get("audit-events/", project=str(pk), status=404)

    def test_rows_that_a_body_names_and_the_webdav_door_count_too(self, ward):
        own = Project.objects.get(name="Elsewhere")
        stranger = Api(session=ward.stranger)
        body = {"project": str(own.pk), "dataset": str(ward.dataset.pk), "task": "multilabel"}
        stranger.call("post", "training-runs/", body, status=422)
        assert [event.object_id for event in self.events()] == [str(ward.dataset.pk)]
        _, key = token_create(user=ward.stranger, name="dav")
        door = {"Authorization": f"Token {key}", "Depth": "0"}
        for slug, count in ((ward.project.slug, 2), ("no-such-project", 2)):
            assert Client().generic("PROPFIND", f"/dav/{slug}/", headers=door).status_code == 404
            assert len(self.events()) == count
        assert self.events()[-1].channel == "webdav"

    def test_the_question_whether_it_is_told_already_has_an_index(self, ward):
        self.asked(ward, ward.dataset)
        with connection.cursor() as cursor, CaptureQueriesContext(connection) as queries:
            self.asked(ward, ward.dataset)
            sql = next(q["sql"] for q in queries if '"audit_auditevent"."at" >' in q["sql"])
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute("EXPLAIN " + sql)
            assert "audit_hidden" in str(cursor.fetchall())
