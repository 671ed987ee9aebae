"""Pages of projects and members, the start page, and the health check."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ecgportal import storage
from ecgportal.jobs import health
from ecgportal.jobs.models import JobState, WorkerBeat
from ecgportal.jobs.services import worker_beat
from ecgportal.projects.access import ROLE_ALLOWS, Action
from ecgportal.projects.models import Membership, Project, Role
from tests.factories import make_job, make_project, make_team, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return make_project(name="Atrial study")


@pytest.fixture
def team(project: Project) -> dict:
    return make_team(project)


def test_the_start_page_shows_my_projects_and_jobs_only(client: Client, team: dict, project: Project) -> None:
    other = make_project(name="Secret study")
    make_job(other, title="Hidden job")
    make_job(project, title="Take in 5 files")
    client.force_login(team["viewer"])
    text = client.get("/").content.decode()
    assert "Atrial study" in text and "Take in 5 files" in text
    assert "Secret study" not in text and "Hidden job" not in text and "Administration" not in text
    client.force_login(make_user(is_administrator=True))
    text = client.get("/").content.decode()
    assert "Administration" in text and "Atrial study" not in text


def test_lists_of_projects_take_a_bounded_number_of_queries(client: Client, django_assert_max_num_queries) -> None:
    user = make_user()
    for _ in range(30):
        make_job(make_project({user: Role.EDITOR}))
    client.force_login(user)
    for address in ("/", reverse("projects:list")):
        with django_assert_max_num_queries(8):
            client.get(address)


def test_the_project_list_filters(client: Client) -> None:
    user = make_user()
    for name in ("Alpha", "Beta"):
        make_project({user: Role.OWNER}, name=name)
    make_project({user: Role.OWNER}, name="Old alpha", archived_at=timezone.now())
    client.force_login(user)

    def names(**params: str) -> list[str]:
        return [each.name for each in client.get(reverse("projects:list"), params).context["page_obj"]]

    assert names() == ["Alpha", "Beta"]
    assert names(search="ALPHA", show="all") == ["Alpha", "Old alpha"]
    assert names(show="archived") == ["Old alpha"]


def test_creating_a_project_makes_me_its_owner(client: Client) -> None:
    user = make_user()
    client.force_login(user)
    answer = client.post(reverse("projects:create"), {"name": " Rhythm ", "description": "From two clinics"})
    project = Project.objects.get(name="Rhythm")
    assert answer["Location"] == reverse("projects:detail", kwargs={"project": project.pk})
    assert Membership.objects.get(project=project).role == Role.OWNER
    answer = client.post(reverse("projects:create"), {"name": "RHYTHM", "description": "kept text"})
    assert answer.status_code == 422
    assert (
        "There is a project with this name already." in answer.content.decode()
        and "kept text" in answer.content.decode()
    )


def test_outsiders_get_404_and_weak_roles_403_with_the_role(client: Client, team: dict, project: Project) -> None:
    pages = {
        "projects:detail": Action.PROJECT_VIEW,
        "projects:members": Action.PROJECT_VIEW,
        "projects:edit": Action.PROJECT_EDIT,
        "jobs:list": Action.JOB_VIEW,
        "audit:project": Action.AUDIT_VIEW,
    }
    for name, action in pages.items():
        for role, user in team.items():
            client.force_login(user)
            answer = client.get(reverse(name, kwargs={"project": project.pk}))
            expected = 404 if role == "outsider" else 200 if action in ROLE_ALLOWS[role] else 403
            assert answer.status_code == expected, (name, role)
            if expected == 403:
                assert "owner" in answer.content.decode()


def test_an_owner_renames_and_archives(client: Client, team: dict, project: Project) -> None:
    client.force_login(team["owner"])
    client.post(
        reverse("projects:edit", kwargs={"project": project.pk}), {"name": "Atrial fibrillation", "description": "x"}
    )
    project.refresh_from_db()
    assert project.name == "Atrial fibrillation"
    archive = reverse("projects:archive", kwargs={"project": project.pk})
    assert "leaves the lists" in client.get(archive).content.decode()
    client.post(archive)
    project.refresh_from_db()
    assert project.archived_at is not None
    client.post(archive)
    project.refresh_from_db()
    assert project.archived_at is None


def test_a_rejected_name_does_not_show_as_the_projects_name(client: Client, team: dict, project: Project) -> None:
    make_project(name="Taken")
    client.force_login(team["owner"])
    answer = client.post(
        reverse("projects:edit", kwargs={"project": project.pk}), {"name": "taken", "description": "kept"}
    )
    text = answer.content.decode()
    assert answer.status_code == 422 and "Edit Atrial study" in text and 'value="taken"' in text and "kept" in text


def test_members_are_added_changed_and_removed(client: Client, team: dict, project: Project) -> None:
    members = reverse("projects:members", kwargs={"project": project.pk})
    newcomer = team["outsider"]
    client.force_login(team["owner"])
    answer = client.post(members, {"username": "nobody-here", "role": "viewer"})
    assert (
        answer.status_code == 422
        and "no active user of this name" in answer.content.decode()
        and "nobody-here" in answer.content.decode()
    )
    client.post(members, {"username": newcomer.username.upper(), "role": "viewer"})
    client.post(members, {"username": newcomer.username, "role": "editor"})
    assert Membership.objects.get(project=project, user=newcomer).role == "editor"
    remove = reverse("projects:member_remove", kwargs={"project": project.pk, "user": newcomer.pk})
    assert client.post(remove).status_code == 302
    assert not Membership.objects.filter(project=project, user=newcomer).exists()
    assert client.post(remove).status_code == 404


def test_the_last_owner_stays(client: Client, team: dict, project: Project) -> None:
    client.force_login(team["owner"])
    answer = client.post(
        reverse("projects:members", kwargs={"project": project.pk}),
        {"username": team["owner"].username, "role": "viewer"},
    )
    assert answer.status_code == 422 and "A project needs an owner" in answer.content.decode()
    remove = reverse("projects:member_remove", kwargs={"project": project.pk, "user": team["owner"].pk})
    assert client.post(remove).status_code == 409


def test_members_page_is_bounded_and_has_no_forms_for_viewers(
    client: Client, team: dict, project: Project, django_assert_max_num_queries
) -> None:
    for _ in range(20):
        Membership.objects.create(project=project, user=make_user(), role="viewer")
    client.force_login(team["viewer"])
    with django_assert_max_num_queries(10):
        text = client.get(reverse("projects:members", kwargs={"project": project.pk})).content.decode()
    assert "member_remove" not in text and "/remove/" not in text and "Add a member" not in text


def test_the_role_table_is_the_one_of_the_rules(client: Client) -> None:
    client.force_login(make_user())
    answer = client.get(reverse("projects:roles"))
    assert [(row["action"], row["allowed"]) for row in answer.context["rows"]] == [
        (action.value, [action in ROLE_ALLOWS[role] for role in Role.values]) for action in Action
    ]


class TestHealth:
    def test_503_names_the_missing_workers(self, client: Client) -> None:
        answer = client.get("/healthz")
        assert answer.status_code == 503
        body = answer.json()
        assert body["status"] == "failed" and body["database"] == "ok" and body["storage"] == "ok"
        assert "worker" in body["workers"]

    def test_200_without_sign_in_when_all_is_well(self, client: Client) -> None:
        worker_beat("host-a")
        worker_beat("host-a")
        answer = client.get("/healthz")
        assert answer.status_code == 200 and WorkerBeat.objects.count() == 1
        assert (
            set(answer.json()) >= {"status", "database", "workers", "storage", "version"}
            and answer.json()["status"] == "ok"
        )

    def test_looking_after_the_jobs_shows_itself(self) -> None:
        call_command("supervise_jobs", "--once")
        assert health.workers() == "ok"

    def test_an_old_beat_does_not_count(self) -> None:
        WorkerBeat.objects.create(name="host-a", at=timezone.now() - timedelta(seconds=health.BEAT_LIMIT_S + 1))
        assert health.workers() != "ok"

    def test_full_disk_is_told(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        worker_beat("host-a")

        def full(**named: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(storage.tempfile, "NamedTemporaryFile", full)
        answer = client.get("/healthz")
        assert answer.status_code == 503 and "free space" in answer.json()["storage"]

    @pytest.mark.parametrize(
        ("version", "is_well"),
        [("2.9.1", False), ("1.13.0+cpu", False), ("2.10.0+cpu", True), ("2.12.0", True), ("3.0.0a1", True)],
    )
    def test_old_torch_fails(self, monkeypatch: pytest.MonkeyPatch, version: str, is_well: bool) -> None:
        monkeypatch.setattr(health.importlib.metadata, "version", lambda name: version)
        assert (health.torch() == "ok") is is_well


class TestJobs:
    def test_the_list_filters_and_is_bounded(
        self, client: Client, team: dict, project: Project, django_assert_max_num_queries
    ) -> None:
        for number in range(40):
            make_job(project, state=JobState.FAILED if number % 4 == 0 else JobState.SUCCEEDED, user=team["editor"])
        client.force_login(team["viewer"])
        address = reverse("jobs:list", kwargs={"project": project.pk})
        with django_assert_max_num_queries(9):
            assert client.get(address).context["page_obj"].paginator.count == 40
        assert client.get(address, {"state": "failed"}).context["page_obj"].paginator.count == 10

    def test_open_jobs_poll_and_closed_ones_do_not(self, client: Client, team: dict, project: Project) -> None:
        client.force_login(team["viewer"])
        running = make_job(project, state=JobState.RUNNING, progress=0.4, message="4 of 10 files")
        text = client.get(reverse("jobs:detail", args=[running.pk])).content.decode()
        assert 'hx-trigger="every 2s"' in text and "4 of 10 files" in text and "40 %" in text
        assert "/cancel/" not in text
        fragment = client.get(reverse("jobs:fragment", args=[running.pk]), headers={"HX-Request": "true"})
        assert "<html" not in fragment.content.decode() and "HX-Refresh" not in fragment
        failed = make_job(project, state=JobState.FAILED)
        fragment = client.get(reverse("jobs:fragment", args=[failed.pk]), headers={"HX-Request": "true"})
        assert "hx-trigger" not in fragment.content.decode() and fragment["HX-Refresh"] == "true"
        assert "because the test wanted it" in fragment.content.decode()

    def test_cancel_needs_an_editor_and_an_open_job(self, client: Client, team: dict, project: Project) -> None:
        job = make_job(project)
        address = reverse("jobs:cancel", args=[job.pk])
        client.force_login(team["viewer"])
        assert client.post(address).status_code == 403
        client.force_login(team["editor"])
        assert client.get(address).status_code == 405
        assert client.post(address)["Location"] == reverse("jobs:detail", args=[job.pk])
        job.refresh_from_db()
        assert job.state == JobState.CANCELLED
        answer = client.post(address)
        assert answer.status_code == 409 and "nothing to cancel" in answer.content.decode()

    def test_jobs_of_other_projects_are_invisible(self, client: Client, team: dict) -> None:
        job = make_job(make_project())
        client.force_login(team["owner"])
        for name in ("jobs:detail", "jobs:fragment"):
            assert client.get(reverse(name, args=[job.pk])).status_code == 404
        assert client.post(reverse("jobs:cancel", args=[job.pk])).status_code == 404
