"""The portal's own WebDAV server: who sees what, what a client is told, and two projects that exchange through it."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
from xml.etree import ElementTree as ET

import pytest
from django.test import Client
from webdav4.client import Client as DavClient

from ecgportal import storage
from ecgportal.accounts.services import token_create
from ecgportal.audit.models import AuditEvent
from ecgportal.errors import RemoteError
from modelhub import exchange, loading, services, services_exchanges
from modelhub.bundle import read_bundle
from modelhub.models import Model, ModelBundle, ModelVersion
from modelhub.webdav import Remote
from tests import factories
from tests.modelhub.conftest import make_contract
from tests.modelhub.test_architectures import small
from tests.working import work_off

pytestmark = pytest.mark.django_db
CONTRACT = make_contract(
    leads=("I", "II", "V2"), n_samples=200, classes=("a", "b", "c", "d"), architecture="xresnet1d18"
)
WRITING = ("PUT", "DELETE", "MKCOL", "MOVE", "COPY", "PROPPATCH", "LOCK", "UNLOCK")


@pytest.fixture(scope="module")
def files() -> loading.Files:
    return loading.export(small("xresnet1d18").eval(), CONTRACT)


class Place:
    """A project with one ready version, its team, and their tokens."""

    def __init__(self, files: loading.Files) -> None:
        self.project = factories.make_project(name="Ward A")
        self.team = factories.make_team(self.project)
        self.model = Model.objects.create(project=self.project, name="Rhythm net")
        self.version = self.add(files)
        self.name = services_exchanges.remote_name(self.version)
        self.folder = f"/dav/{self.project.slug}/rhythm-net/"
        self.file = self.folder + self.name

    def add(self, files: loading.Files, **fields: object) -> ModelVersion:
        return services.version_add(
            actor=self.team["owner"], model=self.model, onnx=files.main, contract=CONTRACT, origin="trained", parameters=files.parameters,
            weights=files.weights, checks=files.checks, card={"licence": "CC BY 4.0", "intended_use": "Research.", "training_data": "Not known."}, **fields,
        )  # fmt: skip


@pytest.fixture
def place(db, files) -> Place:
    return Place(files)


def key_of(user) -> str:
    return token_create(user=user, name="dav")[1]


def ask(method: str, path: str, user=None, **headers: str):
    if user is not None:
        headers |= {"Authorization": f"Token {key_of(user)}"}
    return Client().generic(method, path, headers=headers)


def hrefs(answer) -> list[str]:
    return [element.text for element in ET.fromstring(answer.content).iter("{DAV:}href")]


def content(answer) -> bytes:
    return b"".join(answer.streaming_content)


def test_only_a_token_of_the_named_user_opens_the_door(place):
    viewer, editor = place.team["viewer"], place.team["editor"]

    def basic(name: str, key: str) -> str:
        return "Basic " + base64.b64encode(f"{name}:{key}".encode()).decode()

    key = key_of(viewer)
    for header, status in (
        (basic(viewer.username, key), 207), (f"Token {key}", 207), (basic(editor.username, key), 401), (basic(viewer.username, factories.PASSWORD), 401),
        ("Basic !!!", 401), ("Basic ", 401), ("Token x", 401), ("Bearer " + key, 401),
    ):  # fmt: skip
        answer = Client().generic("PROPFIND", "/dav/", headers={"Authorization": header, "Depth": "0"})
        assert answer.status_code == status, header
    signed_in = Client()
    signed_in.force_login(viewer)
    refused = signed_in.get(place.file)
    assert refused.status_code == 401
    assert refused["WWW-Authenticate"].startswith("Basic ")


def test_the_tree_shows_what_the_user_may_download(place, files):
    viewer = place.team["viewer"]
    place.add(files, state="quarantined")
    other = factories.make_project({viewer: "viewer"}, name="Empty ward")
    factories.make_project(name="Foreign ward")
    top = ask("PROPFIND", "/dav/", viewer, Depth="1")
    assert top.status_code == 207 and top["DAV"] == "1"
    assert hrefs(top) == ["/dav/", f"/dav/{other.slug}/", f"/dav/{place.project.slug}/"]
    assert hrefs(ask("PROPFIND", "/dav/", viewer, Depth="0")) == ["/dav/"]
    project = ask("PROPFIND", f"/dav/{place.project.slug}", viewer, Depth="1")
    assert hrefs(project) == [f"/dav/{place.project.slug}/", place.folder]
    assert hrefs(ask("PROPFIND", place.folder, viewer, Depth="1")) == [place.folder, place.file]
    outsider = place.team["outsider"]
    assert hrefs(ask("PROPFIND", "/dav/", outsider, Depth="1")) == ["/dav/"]
    for path in (f"/dav/{place.project.slug}/", place.folder, place.file):
        assert ask("PROPFIND", path, outsider, Depth="0").status_code == 404
        assert ask("GET", path, outsider).status_code == 404
    for path in (
        "/dav/nothing/",
        place.folder + "x.ecgmodel.zip",
        place.file + "/deeper",
        place.folder + "../" + place.name,
    ):
        assert ask("GET", path, viewer).status_code == 404, path


def test_archived_projects_are_hidden(place):
    from ecgportal.projects.services import project_archive

    project_archive(actor=place.team["owner"], project=place.project)
    assert hrefs(ask("PROPFIND", "/dav/", place.team["owner"], Depth="1")) == ["/dav/"]
    assert ask("GET", place.file, place.team["owner"]).status_code == 404


def test_size_and_etag_are_those_of_the_file_and_the_download_is_audited(place):
    viewer = place.team["viewer"]
    listed = ET.fromstring(ask("PROPFIND", place.file, viewer, Depth="0").content)
    size, etag = (listed.find(f".//{{DAV:}}{name}").text for name in ("getcontentlength", "getetag"))
    head = ask("HEAD", place.file, viewer)
    assert not AuditEvent.objects.filter(action="model_version.downloaded").exists()
    answer = ask("GET", place.file, viewer)
    data = content(answer)
    assert etag == f'"{hashlib.sha256(data).hexdigest()}"' == answer["ETag"] == head["ETag"]
    assert int(size) == len(data) == int(answer["Content-Length"]) == int(head["Content-Length"])
    assert read_bundle(data).contract.classes == CONTRACT.classes
    event = AuditEvent.objects.get(action="model_version.downloaded")
    assert (event.channel, event.actor_id, event.project_id) == ("webdav", viewer.pk, place.project.pk)
    assert ask("GET", place.file, viewer, **{"If-None-Match": etag}).status_code == 304


def test_a_download_can_be_continued(place):
    viewer = place.team["viewer"]
    whole = ask("GET", place.file, viewer)
    data = content(whole)
    rest = ask("GET", place.file, viewer, Range="bytes=1000-")
    assert rest.status_code == 206 and content(rest) == data[1000:]
    assert rest["Content-Range"] == f"bytes 1000-{len(data) - 1}/{len(data)}"
    few = ask("GET", place.file, viewer, Range="bytes=10-19", **{"If-Range": whole["ETag"]})
    assert few.status_code == 206 and content(few) == data[10:20] and few["Content-Length"] == "10"
    tail = ask("GET", place.file, viewer, Range="bytes=-5")
    assert content(tail) == data[-5:]
    changed = ask("GET", place.file, viewer, Range="bytes=10-19", **{"If-Range": '"another"'})
    assert changed.status_code == 200 and content(changed) == data
    assert ask("GET", place.file, viewer, Range=f"bytes={len(data)}-").status_code == 416


def test_a_bundle_is_written_once_and_anew_when_its_content_changes(place, monkeypatch):
    from modelhub import dav_bundles

    first = dav_bundles.bundle_file(place.version)
    with monkeypatch.context() as patch:
        patch.setattr("modelhub.packaging.bundle_of", None)
        assert dav_bundles.bundle_file(place.version).sha256 == first.sha256
    services.card_update(actor=place.team["owner"], version=place.version, card={"licence": "CC0"})
    second = dav_bundles.bundle_file(place.version)
    assert second.sha256 != first.sha256
    assert not storage.blob_path(first.sha256).exists()
    storage.blob_path(second.sha256).unlink()
    assert dav_bundles.bundle_file(place.version).sha256 == second.sha256
    assert storage.blob_path(second.sha256).exists()
    services.version_delete(actor=place.team["owner"], version=place.version)
    assert not ModelBundle.objects.exists() and not storage.blob_path(second.sha256).exists()


def test_a_version_whose_card_names_a_patient_is_listed_but_not_given(place):
    services.card_update(actor=place.team["owner"], version=place.version, card={"limits": "MRN: 4711-22"})
    listed = ask("PROPFIND", place.folder, place.team["viewer"], Depth="1")
    assert place.file in hrefs(listed) and b"getcontentlength" not in listed.content
    refused = ask("GET", place.file, place.team["viewer"])
    assert refused.status_code == 422 and b"may name a patient" in refused.content


@pytest.mark.parametrize("method", [*WRITING, "POST", "PATCH", "REPORT"])
def test_nothing_is_written(place, method):
    answer = ask(method, place.file, place.team["owner"])
    assert answer.status_code == (403 if method in WRITING else 405)
    assert answer["Allow"] == "OPTIONS, PROPFIND, GET, HEAD"
    assert ModelVersion.objects.count() == 1


def test_propfind_answers_what_is_asked(place):
    viewer = place.team["viewer"]
    assert ask("OPTIONS", "/dav/", viewer)["Allow"] == "OPTIONS, PROPFIND, GET, HEAD"
    endless = ask("PROPFIND", "/dav/", viewer, Depth="infinity")
    assert endless.status_code == 403 and b"propfind-finite-depth" in endless.content
    assert hrefs(ask("PROPFIND", "/dav/", viewer)) == ["/dav/", f"/dav/{place.project.slug}/"]
    assert hrefs(ask("PROPFIND", place.file, viewer, Depth="infinity")) == [place.file]

    def propfind(body: str):
        headers = {"Authorization": f"Token {key_of(viewer)}", "Depth": "0"}
        return Client().generic("PROPFIND", place.file, data=body, content_type="application/xml", headers=headers)

    some = propfind('<propfind xmlns="DAV:"><prop><getetag/><x:secret xmlns:x="urn:x"/></prop></propfind>')
    states = {
        stat.find("{DAV:}status").text.split()[1]: [child.tag for child in stat.find("{DAV:}prop")]
        for stat in ET.fromstring(some.content).iter("{DAV:}propstat")
    }
    assert states == {"200": ["{DAV:}getetag"], "404": ["{urn:x}secret"]}
    names = propfind('<propfind xmlns="DAV:"><propname/></propfind>')
    assert ET.fromstring(names.content).find(".//{DAV:}getetag").text is None
    bomb = '<!DOCTYPE p [<!ENTITY a "aaaa">]><propfind xmlns="DAV:"><prop>&a;</prop></propfind>'
    for body in (bomb, "<propfind", '<other xmlns="DAV:"/>'):
        assert propfind(body).status_code == 422, body
    assert propfind("<a>" + " " * 70_000 + "</a>").status_code == 413


@pytest.fixture
def online(transactional_db, live_server, files, settings):
    """A place behind a real server on a free port, and a viewer's token for it."""
    settings.ALLOWED_HOSTS = ["*"]
    place = Place(files)
    return place, f"{live_server.url}/dav/", key_of(place.team["viewer"])


def test_a_stock_client_lists_and_fetches(online):
    place, url, key = online
    client = DavClient(url, auth=(place.team["viewer"].username, key))
    path = f"{place.project.slug}/rhythm-net/{place.name}"
    assert client.ls("", detail=False) == [place.project.slug]
    assert client.ls(f"{place.project.slug}/rhythm-net", detail=False) == [path]
    buffer = io.BytesIO()
    client.download_fileobj(path, buffer)
    assert client.content_length(path) == len(buffer.getvalue())
    assert read_bundle(buffer.getvalue()).manifest["name"] == "Rhythm net"
    client.http.close()


@pytest.mark.skipif(shutil.which("cadaver") is None, reason="cadaver is not installed")
def test_cadaver_lists_and_fetches(online, tmp_path):
    place, url, key = online
    host = url.split("/")[2].split(":")[0]
    (tmp_path / ".netrc").write_text(f"machine {host} login {place.team['viewer'].username} password {key}\n")
    (tmp_path / ".netrc").chmod(0o600)
    script = f"ls\nget {place.name}\nput .netrc\nquit\n"
    done = subprocess.run(
        ["cadaver", f"{url}{place.project.slug}/rhythm-net/"],
        input=script, capture_output=True, text=True, cwd=tmp_path, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, timeout=60, check=False,
    )  # fmt: skip
    assert place.name in done.stdout, done.stdout + done.stderr
    fetched = (tmp_path / place.name).read_bytes()
    assert hashlib.sha256(fetched).hexdigest() == ModelBundle.objects.get().sha256
    assert "403" in done.stdout


def test_one_project_pulls_from_another_through_our_own_server(online):
    place, url, key = online
    target = factories.make_project(name="Ward B")
    owner = factories.make_team(target)["owner"]
    administrator = factories.make_user(is_administrator=True)
    remote = services_exchanges.exchange_save(
        actor=administrator,
        name="Ward A's models",
        url=f"{url}{place.project.slug}/",
        username=place.team["viewer"].username,
        password=key,
    )
    assert exchange.test(remote)["ok"]
    (row,) = exchange.listing(remote, target)
    assert (row["state"], row["path"]) == ("remote_only", f"rhythm-net/{place.name}")
    services_exchanges.pull_start(actor=owner, exchange=remote, project=target, remote_path=row["path"])
    (job,) = work_off()
    assert job.state == "succeeded", job.error_message
    pulled = ModelVersion.objects.get(model__project=target)
    assert (pulled.state, pulled.origin, pulled.sha256) == ("quarantined", "pulled", place.version.sha256)
    assert pulled.checks["signature"] == "trusted"
    assert exchange.listing(remote, target)[0]["state"] == "same"
    pulled = services.version_accept(actor=owner, version=pulled)
    push = services_exchanges.push_start(actor=owner, exchange=remote, version=pulled)
    (job,) = work_off()
    assert job.state == "failed" and "does not allow" in job.error_message
    assert push.version_id == pulled.pk


def test_a_wrong_token_is_told_as_such(online):
    place, url, _ = online
    with Remote(url, place.team["viewer"].username, "wrong", allow_private=True) as remote:
        with pytest.raises(RemoteError) as refused:
            remote.list()
    assert refused.value.code == "remote_refused"
