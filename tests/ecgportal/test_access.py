"""Who may do what, decided in one module and held by the database."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, transaction

from ecgportal.accounts.services import user_create
from ecgportal.audit.models import AuditEvent
from ecgportal.errors import Conflict, NotAllowed, NotFound
from ecgportal.projects import access, services
from ecgportal.projects.access import ROLE_ALLOWS, Action
from ecgportal.projects.models import Membership, Project, Role
from tests.api_client import Api

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
