"""Bodies of requests that no script of good will sends get an answer, not an error of the server."""

from __future__ import annotations

import csv
import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from datasets.models import ArrivingFile, Ingest
from ecgportal.accounts.services import token_create
from ecgportal.api.parsers import MAX_BYTES
from ecgportal.projects.models import Role
from tests.api_client import ROOT, Api
from tests.factories import make_dataset, make_job, make_label_map, make_project, make_record, make_user
from training.models import TrainingRun


@pytest.fixture
def desk(db):
    owner = make_user()
    project = make_project({owner: Role.OWNER})
    return Api(session=owner), project, make_dataset(project)


def send(api: Api, path: str, body: str) -> tuple[int, dict]:
    answer = api.client.post(ROOT + path, body, content_type="application/json")
    return answer.status_code, answer.json()


@pytest.mark.parametrize("body", ["[]", "null", '"text"', "5", "[" * 100_000, '{"name": "\\ud800"}', '{"name": 1e999}'])
def test_a_body_that_is_no_object_is_refused_everywhere(desk, body):
    api, _, dataset = desk
    for path in (
        "projects/", "ingests/", f"datasets/{dataset.pk}/uploads/", "label-maps/import/", "model-versions/", "training-runs/",
    ):  # fmt: skip
        status, told = send(api, path, body)
        assert (status, told["error"]["code"]) == (400, "bad_request"), path


@pytest.mark.parametrize(
    ("field", "value"),
    [("unit", "²/mV"), ("unit", ["mV"]), ("unit", "9" * 400 + "/mV"), ("lead_order", 5), ("lead_order", [1, {}]), ("lead_order", {"I": 1}), ("fs_hz", [])],
)  # fmt: skip
def test_an_answer_for_files_that_cannot_be_one_names_its_field(desk, field, value):
    api, _, dataset = desk
    error = api.refused("post", "ingests/", {"dataset": str(dataset.pk), field: value}, status=422)
    assert set(error["fields"]) == {field}


@pytest.mark.parametrize("number", ["²", "9" * 5000])
def test_numbers_that_are_none_or_too_long(desk, number):
    api, project, dataset = desk
    record = make_record(dataset)
    run = TrainingRun.objects.create(
        project=project, name="Run", dataset=dataset, classes=["NORM"], task="multilabel", architecture="inception_time", job=make_job(project)
    )  # fmt: skip
    assert api.get(f"training-runs/{run.pk}/metrics/?after={number}&member={number}")["results"] == []
    error = api.refused("get", f"records/{record.pk}/signal/?start_s={number}{number}", status=422)
    assert set(error["fields"]) == {"start_s"}
    api.refused("get", f"records/{record.pk}/signal/?end_s=1e308", status=422)
    ingest = Ingest.objects.create(dataset=dataset, is_open=True)
    file = ArrivingFile.objects.create(ingest=ingest, position=0, name="a.dat", size=4)
    answer = api.client.patch(
        f"{ROOT}upload-files/{file.pk}/", b"abcd", content_type="application/octet-stream", headers={"Upload-Offset": "9" * 5000}
    )  # fmt: skip
    assert answer.status_code == 422
    _, key = token_create(user=project.memberships.get().user, name="t")
    sent = {"Authorization": f"Token {key}", "Range": f"bytes={'9' * 5000}-"}
    assert Client().get("/dav/", headers=sent).status_code == 200


@pytest.mark.parametrize("limit", [131_072, 10_000_000])
def test_a_label_map_with_a_cell_without_end(desk, limit):
    before = csv.field_size_limit(limit)
    try:
        _send_a_cell_without_end(desk)
    finally:
        csv.field_size_limit(before)


def _send_a_cell_without_end(desk):
    api, project, _ = desk
    table = b"code,class\n" + b"x" * 200_000 + b",NORM\n"
    body = {"project": str(project.pk), "name": "Long"}
    error = api.refused("post", "label-maps/import/", body, status=422, files={"file": [("m.csv", table)]})
    assert set(error["fields"]) == {"file"}


def test_a_body_that_would_fill_the_memory_is_refused_before_it_is_read(desk):
    api, _, dataset = desk
    long = json.dumps({"dataset": str(dataset.pk), "unit": "x" * MAX_BYTES})
    status, told = send(api, "ingests/", long)
    assert (status, told["error"]["code"]) == (413, "too_large")
    form = api.client.post(
        f"{ROOT}projects/", f"name={'x' * MAX_BYTES}", content_type="application/x-www-form-urlencoded"
    )
    assert form.status_code == 413


@pytest.mark.parametrize(
    "path", ["/accounts/login/", "/projects/new/", f"/{ROOT.strip('/')}/auth/token/", f"/{ROOT.strip('/')}/projects/"]
)
@pytest.mark.parametrize("header", [{}, {"Authorization": "Basic eDp4"}, {"Authorization": "Token none"}])
def test_a_stranger_cannot_fill_the_disk(db, monkeypatch, path, header):
    def never(*args, **kwargs):
        raise AssertionError("the file was taken")

    monkeypatch.setattr("django.core.files.uploadedfile.TemporaryUploadedFile.__init__", never)
    client = Client(raise_request_exception=False)
    sent = {"username": "ada", "password": "x", "file": SimpleUploadedFile("a.bin", b"x" * 1_200_000)}
    answer = client.post(path, sent, headers=header)
    assert answer.status_code == (401 if "Token none" in header.values() and "/api/" in path else 413)


def test_who_is_signed_in_sends_what_they_like(desk):
    api, project, dataset = desk
    table = b"code,class\n" + b"".join(b"c%d,NORM\n" % number for number in range(120_000))
    body = {"project": str(project.pk), "name": "Long"}
    assert api.post("label-maps/import/", body, files={"file": [("m.csv", table)]})["classes"] == ["NORM"]


@pytest.mark.django_db
def test_an_unknown_name_is_told_with_one_like_it_and_what_comes_anyway_may_be_asked_for():
    owner = make_user()
    project = make_project({owner: "owner"})
    api = Api(session=owner)
    error = api.refused("get", "datasets/", query={"projekt": str(project.pk)}, status=422, code="unknown_name")
    assert error["fields"] == {"projekt": "There is no such parameter. Did you mean project?"}
    error = api.refused("post", "datasets/", {"project": str(project.pk), "nam": "x"}, status=422, code="unknown_name")
    assert error["fields"] == {"nam": "There is no such field. Did you mean name?"}
    assert api.get("datasets/", project=str(project.pk), page=1, page_size=5, format="json")["count"] == 0
    label_map = make_label_map(project)
    assert api.get(f"label-maps/{label_map.pk}/export/", format="csv").startswith(b"code")
    api.refused("get", f"label-maps/{label_map.pk}/export/", query={"format": "json"}, status=422)
    row = api.get(f"projects/{project.pk}/")
    # What was read may be sent back as it is.
    assert api.patch(f"projects/{project.pk}/", {**row, "name": "Renamed"})["name"] == "Renamed"


@pytest.mark.django_db
def test_what_a_call_for_users_would_not_do_it_refuses():
    api = Api(session=make_user(is_administrator=True))
    body = {"username": "carol", "email": "", "password": "carols-long-secret"}
    assert "is_active" in api.refused("post", "users/", {**body, "is_active": False}, status=422)["fields"]
    carol = api.post("users/", {**body, "is_active": True})
    assert "username" in api.refused("patch", f"users/{carol['id']}/", {"username": "dora"}, status=422)["fields"]
    assert api.patch(f"users/{carol['id']}/", {"username": "carol", "is_active": False})["is_active"] is False


@pytest.mark.django_db
def test_values_of_a_parameter_that_cannot_be_read_are_refused():
    api = Api(session=make_user("ada", is_administrator=True))
    make_user("gone", is_active=False)
    for wrong in ("0", "-1", "x", "1.5", "", "\u0663"):
        assert "page_size" in api.refused("get", "users/", query={"page_size": wrong}, status=422)["fields"]
    assert len(api.get("users/", page_size=1)["results"]) == 1
    for path, name in (("users/", "is_active"), ("ingests/", "is_open")):
        assert name in api.refused("get", path, query={name: "perhaps"}, status=400)["fields"]
    for word, names in (("true", ["ada"]), ("false", ["gone"]), ("1", ["ada"]), ("False", ["gone"])):
        assert [row["username"] for row in api.get("users/", is_active=word)["results"]] == names
