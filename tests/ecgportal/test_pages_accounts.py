"""Pages of accounts: signing in and its throttle, tokens, passwords, users."""

from __future__ import annotations

import base64
import io
from datetime import timedelta

import pytest
from django.contrib.auth import hashers
from django.core import serializers
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from datasets.management.commands import setup
from ecgportal.accounts import throttle
from ecgportal.accounts.models import ApiToken, User
from ecgportal.accounts.services import digest_of, token_create
from ecgportal.audit.models import AuditEvent
from tests.factories import PASSWORD, make_user

pytestmark = pytest.mark.django_db
LOGIN = "/accounts/login/"


def sign_in(client: Client, username: str, password: str = PASSWORD, **extra: str):
    return client.post(LOGIN, {"username": username, "password": password}, **extra)


@pytest.fixture
def administrator(client: Client) -> User:
    user = make_user("root", is_administrator=True)
    client.force_login(user)
    return user


def test_anonymous_is_sent_to_the_login_page_and_back(client: Client) -> None:
    make_user("ada")
    answer = client.get(reverse("accounts:tokens"))
    assert answer.status_code == 302 and answer["Location"].startswith(LOGIN)
    answer = client.post(answer["Location"], {"username": "ada", "password": PASSWORD, "next": "/accounts/tokens/"})
    assert answer["Location"] == "/accounts/tokens/"
    assert AuditEvent.objects.filter(action="session.signed_in", actor_name="ada", channel="web").count() == 1


def test_login_does_not_redirect_to_other_hosts(client: Client) -> None:
    make_user("ada")
    answer = client.post(LOGIN, {"username": "ada", "password": PASSWORD, "next": "https://evil.example/"})
    assert answer["Location"] == "/"


def test_wrong_password_and_inactive_user_get_the_same_sentence(client: Client) -> None:
    make_user("ada")
    make_user("gone", is_active=False)
    sentence = "The user name or the password is wrong, or the user is not active."
    for username, password in (("ada", "wrong"), ("gone", PASSWORD), ("nobody", "wrong")):
        answer = sign_in(client, username, password)
        assert answer.status_code == 200 and sentence in answer.content.decode()
        assert f'value="{username}"' in answer.content.decode()
    assert AuditEvent.objects.filter(action="session.sign_in_failed", outcome="failure").count() == 3


def test_a_name_is_locked_after_many_failures_even_for_the_right_password(client: Client) -> None:
    make_user("ada")
    make_user("bob")
    for number in range(throttle.MAX_PER_NAME):
        assert (
            sign_in(client, "ADA" if number % 2 else "ada", "wrong", REMOTE_ADDR=f"10.0.0.{number}").status_code == 200
        )
    answer = sign_in(client, "ada", REMOTE_ADDR="10.0.1.1")
    assert answer.status_code == 429 and "too many failed sign-ins" in answer.content.decode()
    assert AuditEvent.objects.filter(action="session.sign_in_failed").count() == throttle.MAX_PER_NAME
    assert sign_in(client, "bob").status_code == 302


def test_an_address_is_locked_after_spraying_many_names(client: Client) -> None:
    make_user("ada")
    for number in range(throttle.MAX_PER_ADDRESS):
        sign_in(client, f"name{number}", "wrong", REMOTE_ADDR="10.9.9.9")
    assert sign_in(client, "ada", REMOTE_ADDR="10.9.9.9").status_code == 429
    assert sign_in(client, "ada", REMOTE_ADDR="10.9.9.8").status_code == 302


def test_the_page_and_the_api_share_one_count(client: Client) -> None:
    make_user("ada")
    for _ in range(throttle.MAX_PER_NAME - 1):
        sign_in(client, "ada", "wrong")
    wrong = {"username": "ada", "password": "wrong"}
    assert client.post("/api/v1/auth/token/", wrong, content_type="application/json").status_code == 401
    right = {"username": "ada", "password": PASSWORD}
    answer = client.post("/api/v1/auth/token/", right, content_type="application/json")
    assert answer.status_code == 429 and answer.json()["error"]["code"] == "too_many_sign_ins"


def test_old_failures_do_not_count(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    make_user("ada")
    for _ in range(throttle.MAX_PER_NAME):
        sign_in(client, "ada", "wrong")
    later = timezone.now() + throttle.WINDOW + timedelta(seconds=1)
    monkeypatch.setattr(throttle.timezone, "now", lambda: later)
    assert sign_in(client, "ada").status_code == 302


def test_sign_out_needs_a_post_and_is_recorded(client: Client) -> None:
    client.force_login(make_user("ada"))
    assert client.get(reverse("accounts:logout")).status_code == 405
    assert client.post(reverse("accounts:logout"))["Location"] == LOGIN
    assert AuditEvent.objects.filter(action="session.signed_out").count() == 1


def test_a_new_token_is_shown_once_and_works(client: Client) -> None:
    client.force_login(make_user("ada"))
    answer = client.post(reverse("accounts:tokens"), {"name": "notebook", "days": "30"})
    key = answer.context["key"]
    assert key in answer.content.decode() and answer["Cache-Control"] == "no-store"
    token = ApiToken.objects.get(digest=digest_of(key))
    assert token.name == "notebook" and token.expires_at - token.created_at < timedelta(days=30, minutes=1)
    assert key not in client.get(reverse("accounts:tokens")).content.decode()


def test_a_token_is_revoked_by_its_owner_only(client: Client) -> None:
    ada, bob = make_user("ada"), make_user("bob")
    token, _ = token_create(user=ada, name="script")
    client.force_login(bob)
    assert client.post(reverse("accounts:token_delete", args=[token.pk])).status_code == 404
    client.force_login(ada)
    assert client.post(reverse("accounts:token_delete", args=[token.pk])).status_code == 302
    assert not ApiToken.objects.exists()


def test_changing_my_password_needs_the_old_one_and_ends_other_sessions(client: Client) -> None:
    ada = make_user("ada")
    client.force_login(ada)
    other = Client()
    other.force_login(ada)
    new = {"new_password1": "a-much-longer-secret", "new_password2": "a-much-longer-secret"}
    assert client.post(reverse("accounts:password"), {"old_password": "wrong", **new}).status_code == 422
    weak = {"old_password": PASSWORD, "new_password1": "short", "new_password2": "short"}
    assert "too short" in client.post(reverse("accounts:password"), weak).content.decode()
    assert client.post(reverse("accounts:password"), {"old_password": PASSWORD, **new}).status_code == 302
    ada.refresh_from_db()
    assert ada.check_password("a-much-longer-secret")
    assert client.get(reverse("accounts:password")).status_code == 200
    assert other.get(reverse("accounts:password")).status_code == 302


@pytest.mark.parametrize("name", ["accounts:users", "accounts:user_create", "audit:all", "audit:export"])
def test_administration_is_refused_to_others_with_the_role_that_is_needed(client: Client, name: str) -> None:
    client.force_login(make_user())
    answer = client.get(reverse(name))
    assert answer.status_code == 403 and "administrator" in answer.content.decode()
    assert AuditEvent.objects.filter(action="access.refused", outcome="refused").count() == 1


def test_an_administrator_creates_a_user_who_can_sign_in(client: Client, administrator: User) -> None:
    form = {"username": "carol", "email": "carol@example.org", "password": "carols-long-secret"}
    assert client.post(reverse("accounts:user_create"), form).status_code == 302
    assert sign_in(Client(), "carol", "carols-long-secret").status_code == 302
    assert not User.objects.get(username="carol").is_superuser


def test_what_is_wrong_with_a_new_user_stands_beside_the_field_and_the_rest_is_kept(
    client: Client, administrator: User
) -> None:
    make_user("carol")
    answer = client.post(
        reverse("accounts:user_create"),
        {"username": "Carol", "email": "c@example.org", "password": "carols-long-secret"},
    )
    text = answer.content.decode()
    assert (
        answer.status_code == 422
        and "There is a user with this name already." in text
        and 'value="c@example.org"' in text
    )
    assert "carols-long-secret" not in text
    answer = client.post(reverse("accounts:user_create"), {"username": "dora", "password": "12345"})
    assert "password" in answer.context["form"].errors


def test_deactivating_a_user_ends_sessions_and_tokens(client: Client, administrator: User) -> None:
    carol = make_user("carol")
    token_create(user=carol, name="script")
    session = Client()
    session.force_login(carol)
    assert client.post(reverse("accounts:user", args=[carol.pk]), {"email": ""}).status_code == 302
    assert session.get("/").status_code == 302
    assert not ApiToken.objects.exists()


def test_the_last_administrator_stays_one(client: Client, administrator: User) -> None:
    answer = client.post(reverse("accounts:user", args=[administrator.pk]), {"is_active": "on"})
    assert answer.status_code == 422 and "last administrator" in answer.content.decode()
    administrator.refresh_from_db()
    assert administrator.is_superuser


def opens(key: str) -> dict[str, int]:
    """Return what a key of carol's answers by REST and through the WebDAV door, by either kind of authentication."""
    basic = base64.b64encode(f"carol:{key}".encode()).decode()
    door = {"Depth": "0"}
    return {
        "rest": Client().get("/api/v1/users/me/", headers={"Authorization": f"Token {key}"}).status_code,
        "dav": Client().generic("PROPFIND", "/dav/", headers={"Authorization": f"Token {key}", **door}).status_code,
        "dav basic": Client()
        .generic("PROPFIND", "/dav/", headers={"Authorization": f"Basic {basic}", **door})
        .status_code,
    }


@pytest.mark.parametrize(
    "way", ["page", "rest", "create_user", "createsuperuser", "createsuperuser asks", "first start"]
)
def test_a_user_leaves_the_same_event_however_it_comes_to_be(
    client: Client, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "carols-long-secret"
    monkeypatch.setattr("getpass.getpass", lambda *_, **__: secret)
    monkeypatch.setattr("builtins.input", lambda *_: "carol")
    if way in ("page", "rest"):
        client.force_login(make_user("root", is_administrator=True))
    if way == "page":
        form = {"username": "carol", "password": secret, "is_administrator": "on"}
        assert client.post(reverse("accounts:user_create"), form).status_code == 302
    elif way == "rest":
        sent = {"username": "carol", "password": secret, "is_administrator": True}
        assert client.post("/api/v1/users/", sent, content_type="application/json").status_code == 201
    elif way == "create_user":
        call_command("create_user", "carol", "--administrator", stdout=io.StringIO())
    elif way == "createsuperuser":
        monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", secret)
        told = io.StringIO()
        call_command("createsuperuser", "--noinput", "--username", "carol", "--email", "c@example.org", stdout=told)
        assert "username: carol" in told.getvalue() and secret not in told.getvalue()
        assert User.objects.get(username="carol").email == "c@example.org"
    elif way == "createsuperuser asks":
        call_command("createsuperuser", stdout=io.StringIO())
    else:
        for name, value in (("USER", "carol"), ("PASSWORD", secret)):
            monkeypatch.setenv(f"PORTAL_ADMIN_{name}", value)
        monkeypatch.setenv("PORTAL_DEMO", "0")
        monkeypatch.setattr(setup, "call_command", lambda *_, **__: None)
        setup.Command(stdout=io.StringIO())._first_start()
    event = AuditEvent.objects.get(action="user.created")
    assert (event.object_label, event.changes) == ("carol", {"is_administrator": True})
    assert event.actor_name == ("root" if way in ("page", "rest") else "")
    carol = User.objects.get(username="carol")
    assert carol.is_administrator and carol.is_staff and carol.check_password(secret)


def test_a_user_that_cannot_be_is_refused_with_the_way_out_by_the_command_of_django(monkeypatch) -> None:
    make_user("ada")
    for name, password, sentence in (
        ("carol", "tiny", "too short"),
        ("Ada", "carols-long-secret", "a user with this name already"),
        ("carol", "", "DJANGO_SUPERUSER_PASSWORD"),
        ("", "carols-long-secret", "--username"),
    ):
        monkeypatch.setenv("DJANGO_SUPERUSER_USERNAME", name)
        monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", password)
        with pytest.raises(CommandError, match=sentence):
            call_command("createsuperuser", "--noinput")
    assert User.objects.count() == 1 and not AuditEvent.objects.exists()


@pytest.mark.parametrize("way", ["loaddata", "flush"])
def test_no_command_of_django_alters_users_past_the_trail(way: str, tmp_path) -> None:
    ada = make_user("ada")
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL portal.audit_truncate = 'off'")
    fixture = tmp_path / "users.json"
    fixture.write_text(serializers.serialize("json", [ada]).replace('"is_superuser": false', '"is_superuser": true'))
    given = [str(fixture)] if way == "loaddata" else ["--noinput"]
    with pytest.raises(CommandError, match="audit trail|flushed"):
        call_command(way, *given, stdout=io.StringIO())
    ada.refresh_from_db()
    assert not ada.is_superuser


@pytest.mark.parametrize("way", ["page", "rest", "own", "shell"])
def test_a_new_password_ends_every_session_and_token_of_the_user(
    client: Client, administrator: User, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    carol, ada = make_user("carol"), make_user("ada")
    (_, key), (_, others) = token_create(user=carol, name="script"), token_create(user=ada, name="script")
    session = Client()
    session.force_login(carol)
    assert opens(key) == {"rest": 200, "dav": 207, "dav basic": 207} and session.get("/projects/").status_code == 200
    if way == "page":
        page = reverse("accounts:user", args=[carol.pk])
        assert "all API tokens are revoked" in client.get(page).content.decode()
        assert client.post(page, {"password": "tiny"}).status_code == 422 and opens(key)["rest"] == 200
        answer = client.post(page, {"password": "carols-long-secret"}, follow=True)
        assert "1 API token" in answer.content.decode()
    elif way == "rest":
        sent = {"content_type": "application/json"}
        address = f"/api/v1/users/{carol.pk}/"
        assert client.patch(address, {"password": "tiny", "email": "c@example.org"}, **sent).status_code == 422
        carol.refresh_from_db()
        assert carol.email == "" and opens(key)["rest"] == 200
        assert client.patch(address, {"password": "carols-long-secret"}, **sent).status_code == 200
    elif way == "shell":
        monkeypatch.setattr("getpass.getpass", lambda *_, **__: "tiny")
        with pytest.raises(CommandError, match="too short"):
            call_command("changepassword", "carol")
        assert opens(key)["rest"] == 200
        monkeypatch.setattr("getpass.getpass", lambda *_, **__: "carols-long-secret")
        out = io.StringIO()
        call_command("changepassword", "Carol", stdout=out)
        assert "tokens revoked: 1" in out.getvalue() and "carols-long-secret" not in out.getvalue()
    else:
        own = Client()
        own.force_login(carol)
        form = {"new_password1": "carols-long-secret", "new_password2": "carols-long-secret"}
        answer = own.post(reverse("accounts:password"), {"old_password": PASSWORD, **form}, follow=True)
        assert answer.status_code == 200 and "1 API token" in answer.content.decode()
    assert opens(key) == {"rest": 401, "dav": 401, "dav basic": 401}
    assert session.get("/projects/").status_code == 302
    assert Client().get("/api/v1/users/me/", headers={"Authorization": f"Token {others}"}).status_code == 200
    event = AuditEvent.objects.get(action="user.password_changed")
    assert event.changes == {"tokens_revoked": 1} and event.object_label == "carol"
    carol.refresh_from_db()
    assert carol.check_password("carols-long-secret") and carol.is_active


def test_the_list_of_users_filters_in_a_bounded_number_of_queries(
    client: Client, administrator: User, django_assert_max_num_queries
) -> None:
    for number in range(60):
        make_user(f"person{number:02d}", is_active=number % 2 == 0)
    with django_assert_max_num_queries(6):
        answer = client.get(reverse("accounts:users"), {"state": "inactive"})
    assert [user.username for user in answer.context["page_obj"]] == [
        f"person{number:02d}" for number in range(1, 60, 2)
    ]
    assert len(client.get(reverse("accounts:users"), {"search": "PERSON1"}).context["page_obj"]) == 10


@pytest.mark.parametrize("spelled", [" ada", "ada ", "\uff41\uff44\uff41", "ada\u3000"])
def test_a_locked_name_stays_locked_however_it_is_spelled(client: Client, spelled: str) -> None:
    make_user("ada")
    for number in range(throttle.MAX_PER_NAME):
        assert sign_in(client, spelled, "wrong", REMOTE_ADDR=f"10.0.0.{number}").status_code == 200
    assert sign_in(client, spelled, REMOTE_ADDR="10.0.1.1").status_code == 429
    assert sign_in(client, "ada", REMOTE_ADDR="10.0.1.1").status_code == 429


def test_a_name_that_is_no_text_is_refused(client: Client) -> None:
    client.raise_request_exception = False
    assert sign_in(client, "a\x00da").status_code == 200


def test_no_page_and_no_answer_is_kept_by_a_browser(client: Client) -> None:
    user = make_user("ada")
    client.force_login(user)
    for address in ("/", "/projects/", "/accounts/password/", "/api/v1/users/me/", "/projects/no-such-page/"):
        assert client.get(address)["Cache-Control"] == "private, no-store", address


@pytest.mark.parametrize("way", ["page", "rest"])
def test_a_name_that_is_not_there_costs_as_much_work_as_a_wrong_password(client: Client, monkeypatch, way: str) -> None:
    make_user("ada")
    make_user("gone", is_active=False)
    hasher = type(hashers.get_hasher())
    real, worked = hasher.encode, []
    monkeypatch.setattr(hasher, "encode", lambda self, *given, **more: worked.append(1) or real(self, *given, **more))
    counts = []
    for name in ("ada", "nobody", "gone"):
        worked.clear()
        if way == "page":
            assert sign_in(client, name, "wrong").status_code == 200
        else:
            sent = {"username": name, "password": "wrong"}
            assert client.post("/api/v1/auth/token/", sent, content_type="application/json").status_code == 401
        counts.append(len(worked))
    assert counts == [1, 1, 1]
