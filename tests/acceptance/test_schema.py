"""The OpenAPI document, its page, and the one shape of every error."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.test import Client

from datasets import services
from ecgportal.accounts.throttle import MAX_PER_NAME
from ecgportal.jobs.services import claim, succeed
from ecgportal.projects.models import Role
from tests import factories
from tests.acceptance.conftest import signed_in
from tests.api_client import Api
from tests.route_table import routes


@pytest.fixture(scope="module")
def document(tmp_path_factory) -> dict:
    path: Path = tmp_path_factory.mktemp("schema") / "schema.yml"
    call_command("spectacular", "--fail-on-warn", "--validate", "--file", str(path))
    return yaml.safe_load(path.read_text())


def test_the_schema_builds_without_warnings_and_names_every_address(document):
    described = {re.sub(r"\{\w+\}", "{}", path) for path in document["paths"]}
    for route in routes():
        if not route.pattern.startswith("api/v1/") or route.name in {"schema", "docs", "api-root"}:
            continue
        path = "/" + route.pattern.replace("^", "").replace("$", "").replace("\\Z", "")
        path = re.sub(r"\(\?P<\w+>(?:[^()]|\([^)]*\))*\)|<[\w:]+>", "{}", path)
        assert path in described, f"{path} is not described"


def test_every_operation_has_an_answer_and_none_reads_a_secret_back(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["responses"], (method, path)
    schemas = document["components"]["schemas"]
    for name in ("Exchange", "User"):
        assert "password" not in schemas[name]["properties"] and "password" in schemas[f"{name}Request"]["properties"]


def test_the_docs_page_needs_nothing_from_outside(owner):
    page = owner.get("docs/").decode()
    sources = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page)
    assert sources and all(source.startswith("/") and not source.startswith("//") for source in sources)
    assert "<script>" not in page
    script = next(source for source in sources if "script" in source or "docs" in source)
    assert "http" not in re.findall(
        r"url:\s*\"([^\"]*)\"", owner.client.get(script, headers=owner.headers).content.decode()
    )
    assert owner.get("schema/").startswith(b"openapi: 3")
    assert json.loads(owner.get("schema/", format="json"))["openapi"].startswith("3")
    assert owner.get("schema/", format="yaml").startswith(b"openapi: 3")
    owner.refused("get", "schema/", query={"format": "xml"}, status=422, code="invalid_input")


def test_who_is_not_signed_in_gets_401_everywhere():
    nobody = Api()
    for path in ("projects/", "datasets/", "users/me/", "schema/", "architectures/", "audit-events/"):
        error = nobody.refused("get", path, status=401, code="not_signed_in")
        assert error["fields"] == {} and nobody.last.headers["WWW-Authenticate"] == "Token"


@pytest.mark.django_db
def test_a_token_lives_until_it_is_revoked():
    api = signed_in("ada")
    nobody = Api()
    nobody.refused("post", "auth/token/", {"username": "ada", "password": "wrong"}, status=401, code="sign_in_failed")
    nobody.refused("post", "auth/token/", {"username": "ada"}, status=400)
    mine = api.rows("auth/tokens/")
    assert [set(row) >= {"id", "name", "created_at", "last_used_at", "expires_at"} for row in mine] == [True]
    second = api.post("auth/tokens/", {"name": "night run"})
    assert "token" not in api.rows("auth/tokens/")[0]
    other = Api(second["token"])
    assert other.get("users/me/")["username"] == "ada"
    api.delete(f"auth/tokens/{second['id']}/")
    other.refused("get", "users/me/", status=401)
    signed_in("eve").refused("delete", f"auth/tokens/{mine[0]['id']}/", status=404)
    api.delete("auth/token/")
    api.refused("get", "users/me/", status=401)


@pytest.mark.django_db
def test_guessing_passwords_is_slowed_down():
    factories.make_user("ada")
    nobody = Api()
    for _ in range(MAX_PER_NAME):
        nobody.refused("post", "auth/token/", {"username": "ada", "password": "wrong"}, status=401)
    nobody.refused(
        "post", "auth/token/", {"username": "ada", "password": factories.PASSWORD}, status=429, code="too_many_sign_ins"
    )
    assert int(nobody.last.headers["Retry-After"]) > 0


@pytest.mark.django_db
def test_an_administrator_manages_users():
    root = signed_in("root", is_administrator=True)
    ada = root.post("users/", {"username": "ada", "email": "ada@example.org", "password": "a long password 1"})
    assert (ada["is_active"], ada["is_administrator"]) == (True, False)
    root.refused("post", "users/", {"username": "ADA", "password": "a long password 1"}, status=422)
    assert "password" in root.refused("post", "users/", {"username": "bob", "password": "short"}, status=422)["fields"]
    api = Api.sign_in("ada", "a long password 1")
    api.refused("get", "users/", status=403, code="administrator_needed")
    assert [row["username"] for row in root.rows("users/")] == ["ada", "root"]
    assert root.patch(f"users/{ada['id']}/", {"is_active": False})["is_active"] is False
    api.refused("get", "users/me/", status=401)
    Api().refused("post", "auth/token/", {"username": "ada", "password": "a long password 1"}, status=401)


@pytest.mark.django_db
def test_errors_have_one_shape(owner, monkeypatch):
    project = owner.post("projects/", {"name": "Errors"})["id"]
    dataset = owner.post("datasets/", {"project": project, "name": "Data"})["id"]
    owner.refused("get", "nothing/here/", status=404, code="not_found")
    owner.refused("get", "projects/not-a-uuid/", status=404)
    owner.refused("get", "projects/00000000-0000-4000-8000-000000000000/", status=404)
    owner.refused("get", "datasets/", status=404, query={"page": "99"})
    owner.refused("get", "datasets/", status=400, code="invalid_input", query={"project": "seven"})
    owner.refused("get", "records/", status=400, query={"search": "\x00"})
    owner.refused("delete", "schema/", status=405, code="method_not_allowed")
    owner.refused("put", f"datasets/{dataset}/", {"name": "x"}, status=405)
    assert "name" in owner.refused("post", "datasets/", {"project": project}, status=400)["fields"]
    assert "project" in owner.refused("post", "datasets/", {"project": "x", "name": "y"}, status=400)["fields"]
    owner.refused("post", "datasets/", {"project": project, "name": "data"}, status=422, code="invalid_input")
    owner.refused("post", "projects/", {"name": "errors"}, status=422)
    owner.refused("post", f"datasets/{dataset}/uploads/", {}, status=422, files={})
    owner.refused(
        "post", f"datasets/{dataset}/uploads/", {"fs_hz": "fast"}, status=422, files={"files": [("a.csv", b"1")]}
    )
    owner.refused("post", f"datasets/{dataset}/labels/", {}, status=422, files={})
    label_map = {"project": project, "name": "M", "system": "scp", "classes": ["A"], "entries": {"N\x00": "A"}}
    owner.refused("post", "label-maps/", label_map, status=422)
    monkeypatch.setattr(services, "MAX_UPLOAD_BYTES", 3)
    owner.refused(
        "post", f"datasets/{dataset}/uploads/", {}, status=413, code="too_large", files={"files": [("a.csv", b"1,2,3")]}
    )


@pytest.mark.django_db
def test_bodies_that_cannot_be_read(owner):
    project = owner.post("projects/", {"name": "Errors"})["id"]
    address = "/api/v1/datasets/"
    for body, kind, status in (
        (b'{"name": ', "application/json", 400),
        (b"name=x", "text/plain", 415),
        (b"x", "multipart/form-data", 400),
    ):
        answer = owner.client.post(address, body, content_type=kind, headers=owner.headers)
        assert answer.status_code == status and set(answer.json()["error"]) == {"code", "message", "fields"}
    owner.refused("get", "datasets/", status=406, headers={"Accept": "image/png"})
    odd = {"file": SimpleUploadedFile("t.csv", b"a,b\n1,2\n"), "mapping": "[1"}
    dataset = owner.post("datasets/", {"project": project, "name": "D"})["id"]
    answer = owner.client.post(f"{address}{dataset}/labels/", odd, headers=owner.headers)
    assert answer.status_code == 422 and "mapping" in answer.json()["error"]["fields"]


@pytest.mark.django_db
def test_a_fault_of_the_portal_tells_nothing_about_itself(owner, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("a secret detail")

    monkeypatch.setattr("ecgportal.projects.services.project_create", broken)
    error = owner.refused("post", "projects/", {"name": "X"}, status=500, code="internal_error")
    assert "secret" not in str(error)


@pytest.mark.django_db
def test_a_page_without_csrf_token_is_refused_in_the_same_shape():
    client = Client(enforce_csrf_checks=True)
    client.force_login(factories.make_user())
    answer = client.post("/api/v1/projects/", {"name": "X"}, content_type="application/json")
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "not_allowed"


@pytest.mark.django_db
def test_the_resource_and_its_job_carry_the_same_state(owner):
    project = factories.make_project({owner.user: Role.OWNER})
    dataset = factories.make_dataset(project)
    ingest = owner.post(f"datasets/{dataset.pk}/uploads/", {}, status=202, files={"files": [("a.csv", b"1")]})
    job = claim(ingest["job"], host="tests")
    assert owner.get(f"ingests/{ingest['ingest']}/")["state"] == owner.get(f"jobs/{job.pk}/")["state"] == "running"
    succeed(job.pk, job.attempt, {})
    assert owner.get(f"ingests/{ingest['ingest']}/")["state"] == owner.get(f"jobs/{job.pk}/")["state"] == "succeeded"
    owner.refused("post", f"jobs/{job.pk}/cancel/", status=409, code="job_finished")
    assert [row["id"] for row in owner.rows("jobs/", project=str(project.pk), state="succeeded", kind="ingest")] == [
        str(job.pk)
    ]


@pytest.mark.django_db
def test_a_project_is_put_aside_by_its_owner(owner):
    project = owner.post("projects/", {"name": "Old"})["id"]
    assert owner.post(f"projects/{project}/archive/", status=200)["archived_at"]
    owner.delete(f"projects/{project}/", status=405)
    owner.refused("delete", f"projects/{project}/members/{owner.user.pk}/", status=409, code="last_owner")
