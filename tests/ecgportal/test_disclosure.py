"""No answer tells of the inside: no trace, no debugging page, no path, no name of a library with its version."""

from __future__ import annotations

import http.client
import json
import os
import platform
import re
import socket
import subprocess
from importlib.metadata import version
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from ecgportal.accounts.services import token_create
from ecgportal.home import REPOSITORY
from ecgportal.projects import access
from ecgportal.supervisor import portal_children
from tests.ecgportal.test_supervisor import free_port, until
from tests.factories import make_project, make_user

SECRET = "a secret at /srv/data"
_WITH_VERSION = ("Django", "gunicorn", "djangorestframework", "psycopg", "whitenoise", "dash")
_TELLING = re.compile(
    r"Traceback|File \"|line \d+, in |\w+\.py\b|[A-Z]\w+(?:Error|Exception)\b|SELECT |DEBUG|settings\.|/srv/|/site-packages|"
    r"(?i:psycopg|postgres|django|gunicorn|a secret)|" + re.escape(str(REPOSITORY))
)
_OUT = ("X-Powered-By", "X-Runtime", "Via", "X-AspNet-Version")


def told(status: int, headers: dict[str, str], content: bytes) -> list[str]:
    """Return what an answer gives away."""
    text = content.decode("utf-8", "replace")
    found = [match[0] for match in _TELLING.finditer(text)]
    versions = [platform.python_version(), *map(version, _WITH_VERSION)]
    whole = f"{text} {headers}"
    found += [number for number in versions if re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", whole)]
    found += [name for name in headers if name.title() in _OUT]
    return found + ([headers["Server"]] if re.search(r"[\d/]", headers.get("Server", "")) else [])


@pytest.fixture
def door(db: None) -> Any:
    """Return how to ask as a signed-in user."""
    user = make_user()
    make_project({user: "owner"})
    key = token_create(user=user, name="mine")[1]
    client = Client(raise_request_exception=False, enforce_csrf_checks=True)
    client.force_login(user)

    def ask(method: str, path: str, **headers: str) -> Any:
        if path.startswith(("/api/", "/dav/")) and not headers.pop("stranger", ""):
            headers["Authorization"] = f"Token {key}"
        body = headers.pop("body", "")
        kind = headers.pop("kind", "application/json")
        return client.generic(method, path, body, content_type=kind, headers=headers)

    return ask


ASKED = [
    (400, "GET", "/", {"Host": "no host"}), (400, "GET", "/api/v1/projects/", {"Host": "no host"}), (400, "GET", "/dav/", {"Host": "no host"}),
    (400, "POST", "/api/v1/projects/", {"body": "{"}), (401, "GET", "/dav/", {"stranger": "1"}),
    (403, "GET", "/accounts/users/", {}), (403, "POST", "/projects/new/", {}), (403, "GET", "/api/v1/users/", {}), (403, "PUT", "/dav/x", {}),
    (404, "GET", "/nothing/", {}), (404, "GET", "/api/v1/nothing/", {}), (404, "PROPFIND", "/dav/nothing/", {}), (404, "GET", "/static/nothing.js", {}),
    (404, "GET", "/dash/app/Nothing/", {}), (404, "GET", "/projects/00000000-0000-0000-0000-000000000000/", {}),
    (405, "OPTIONS", "/help/", {}), (405, "PUT", "/api/v1/projects/", {}), (405, "PATCH", "/dav/", {}),
    (413, "POST", "/api/v1/projects/", {"body": json.dumps({"name": "x" * 3_000_000})}),
    (413, "PROPFIND", "/dav/", {"body": "x" * 1_000_000, "kind": "application/xml"}),
    (415, "POST", "/api/v1/projects/", {"body": "<a/>", "kind": "application/xml"}),
    (500, "GET", "/", {}), (500, "GET", "/api/v1/jobs/", {}), (500, "GET", "/dav/", {}),
]  # fmt: skip


@pytest.mark.parametrize(("status", "method", "path", "changed"), ASKED)
def test_an_error_tells_nothing_of_the_inside(door, monkeypatch, status, method, path, changed):
    def broken(*arguments: Any, **more: Any) -> Any:
        raise RuntimeError(SECRET)

    if status == 500:
        monkeypatch.setattr(access, "visible", broken)
    answer = door(method, path, **changed)
    assert answer.status_code == status, answer.content[:300]
    assert told(status, dict(answer.headers), answer.content) == []


def test_a_stranger_who_sends_much_is_told_nothing(db):
    client = Client(raise_request_exception=False)
    for path in ("/accounts/login/", "/api/v1/auth/token/"):
        answer = client.generic("POST", path, "x" * 1_200_000, content_type="application/x-www-form-urlencoded")
        assert answer.status_code == 413 and told(413, dict(answer.headers), answer.content) == []


def test_what_tells_is_found():
    """Else a search that finds nothing would prove nothing."""
    assert settings.DEBUG is False
    trace = b'<pre>Traceback (most recent call last):\n  File "/srv/app/views.py", line 3, in get\nValueError: x</pre>'
    assert {"Traceback", 'File "', "views.py", "line 3, in ", "ValueError"} <= set(told(500, {}, trace))
    assert told(200, {"Server": f"gunicorn/{version('gunicorn')}", "X-Powered-By": "x"}, b"") == [
        version("gunicorn"), "X-Powered-By", f"gunicorn/{version('gunicorn')}",
    ]  # fmt: skip


def test_the_real_server_without_its_database_tells_nothing(tmp_path):
    """What the server itself refuses, and what breaks behind it, as in production."""
    port = free_port()
    (command,) = (child.command for child in portal_children("web", "127.0.0.1", port))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PORTAL_", "DJANGO_"))}
    environment |= {
        "PORTAL_HOME": str(tmp_path), "PORTAL_ENV": "production", "PORTAL_SECRET_KEY": "k" * 60, "PORTAL_ALLOWED_HOSTS": "127.0.0.1",
        "DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/gone", "PORTAL_WEB_WORKERS": "1",
    }  # fmt: skip
    with (tmp_path / "web.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
    session, token = {"Cookie": f"{settings.SESSION_COOKIE_NAME}={'x' * 32}"}, {"Authorization": "Token x"}
    try:
        until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, "the server listens", 120)
        for status, method, path, headers in (
            (404, "GET", "/nothing", {}), (404, "GET", "/api/v1/nothing/", {}), (400, "GET", "/", {"Host": "elsewhere"}),
            (405, "OPTIONS", "/healthz", {}), (403, "POST", "/accounts/login/", {}), (401, "GET", "/dav/", {}), (503, "GET", "/healthz", {}),
            (500, "GET", "/", session), (500, "GET", "/api/v1/projects/", token), (500, "GET", "/dav/", token),
            (500, "GET", "/dash/app/EcgView/", session),
        ):  # fmt: skip
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == status, (path, content[:300], (tmp_path / "web.log").read_text()[-2000:])
            assert told(status, dict(answer.getheaders()), content) == [], path
            connection.close()
        for sent in (
            b"nonsense\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: " + b"x" * 9000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port), 60) as plain:
                plain.sendall(sent)
                answer = http.client.HTTPResponse(plain)
                answer.begin()
                content = answer.read()
            assert 400 <= answer.status < 600
            assert told(answer.status, dict(answer.getheaders()), content) == [], sent[:40]
        assert "Traceback" in (tmp_path / "web.log").read_text(), "nothing broke, so nothing was proven"
    finally:
        server.terminate()
        server.wait(30)
