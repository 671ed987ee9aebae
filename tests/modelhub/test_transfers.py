"""Publishing and pulling over a line that breaks: a transfer goes on by itself, and a later one goes on where it ended."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from django.urls import reverse

from ecgportal import storage
from ecgportal.errors import Conflict
from modelhub import exchange, services_exchanges, webdav, webdav_pieces
from modelhub.bundle import write_bundle
from modelhub.models import ModelVersion, Transfer
from modelhub.webdav import Remote
from tests import factories
from tests.modelhub.breaking_line import breaking
from tests.modelhub.conftest import make_contract
from tests.modelhub.dav_server import PASSWORD, USER, serve
from tests.modelhub.test_importing import place as place  # a fixture
from tests.modelhub.test_importing import tiny_onnx
from tests.modelhub.test_predicting import make_version
from tests.working import work_off

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch, settings):
    settings.EXCHANGE_ALLOW_PRIVATE = True
    monkeypatch.setattr(exchange, "WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(webdav, "_CHUNK", 50_000)


def large_onnx() -> bytes:
    """A file of 1 MB that does not shrink in a zip."""
    model = onnx.load_from_string(tiny_onnx())
    noise = np.random.default_rng(5).integers(0, 2**30, 250_000, dtype=np.int32).view(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(noise, "noise"))
    return model.SerializeToString()


def large_bundle() -> bytes:
    return write_bundle(make_contract(), card="# Net\n", onnx=large_onnx(), manifest={"name": "Net", "number": 1})


@pytest.fixture
def owner():
    project = factories.make_project()
    return factories.make_team(project)["owner"], project


def through(line, owner):
    return services_exchanges.exchange_save(actor=owner, name="Hall", url=line.url, username=USER, password=PASSWORD)


def test_a_published_bundle_goes_on_where_the_line_broke(owner, tmp_path, monkeypatch):
    user, project = owner
    version = make_version(project, large_onnx())
    folder = tmp_path / "dav"
    folder.mkdir()
    monkeypatch.setattr(webdav_pieces, "PIECE", 100_000)
    with serve(folder, extension="patch") as server, breaking(server.url) as line:
        remote = through(line, user)
        line.breaks_after(500_000)
        services_exchanges.push_start(actor=user, exchange=remote, version=version)
        with pytest.raises(Conflict) as caught:
            services_exchanges.push_start(actor=user, exchange=remote, version=version)
        assert caught.value.code == "transfer_running"
        (job,) = work_off()
        # The line stayed broken for every try: what arrived waits for the next push.
        assert (job.state, job.error_code) == ("failed", "remote_unreachable")
        [left] = folder.iterdir()
        assert ".part-" in left.name and left.stat().st_size > 300_000
        line.breaks_after(None)
        services_exchanges.push_start(actor=user, exchange=remote, version=version)
        (job,) = work_off()
        assert job.state == "succeeded", job.error_message
        assert job.result["resumed_bytes"] > 300_000
        names = sorted(path.name for path in folder.iterdir())
        assert names == [services_exchanges.remote_name(version), services_exchanges.remote_name(version) + ".json"]
        # A third time nothing is sent, and a manifest that was cut off is added.
        (folder / names[1]).unlink()
        line.breaks_after(None)
        services_exchanges.push_start(actor=user, exchange=remote, version=version)
        (job,) = work_off()
        assert job.state == "succeeded" and line.sent_up < 20_000
        assert sorted(path.name for path in folder.iterdir()) == names


def test_a_pull_goes_on_by_itself_and_after_a_failure(place, monkeypatch):
    data = large_bundle()
    (place.dav.folder / "net.ecgmodel.zip").write_bytes(data)
    fetched: list[int] = []
    fetch = Remote.fetch

    def cut(self, path, target, limit, progress=None):
        """Break the line after each half of what is missing."""
        have = target.stat().st_size if target.exists() else 0
        fetched.append(have)

        def tell(done):
            progress(done)
            if len(fetched) < 4 and done > have:
                raise exchange.RemoteError("The server broke the connection off.", code="remote_unreachable")

        return fetch(self, path, target, limit, tell)

    monkeypatch.setattr(Remote, "fetch", cut)
    services_exchanges.pull_start(
        actor=place.owner, exchange=place.exchange, project=place.project, remote_path="net.ecgmodel.zip"
    )
    (job,) = work_off()
    assert job.state == "succeeded", job.error_message
    assert fetched[0] == 0 and fetched[1] > 0
    version = ModelVersion.objects.get()
    assert version.state == "quarantined"
    # What was fetched is not kept twice.
    transfer = Transfer.objects.get()
    assert not list(storage.area("checkpoints", transfer.pk).iterdir())


def test_a_second_pull_begins_with_what_the_first_one_brought(place, monkeypatch):
    data = large_bundle()
    (place.dav.folder / "net.ecgmodel.zip").write_bytes(data)
    fetch = Remote.fetch
    begun: list[int] = []

    def dies(self, path, target, limit, progress=None):
        begun.append(target.stat().st_size if target.exists() else 0)

        def tell(done):
            raise exchange.RemoteError("The server broke the connection off.", code="remote_unreachable")

        return fetch(self, path, target, limit, tell if len(begun) <= 3 else progress)

    monkeypatch.setattr(Remote, "fetch", dies)
    page = reverse("modelhub:exchanges", kwargs={"project": place.project.pk})
    for expected in ("failed", "succeeded"):
        place.client.post(page, {"exchange": str(place.exchange.pk), "path": "net.ecgmodel.zip"})
        assert work_off()[-1].state == expected
    assert begun[0] == 0 and begun[-1] > 0
    first, second = Transfer.objects.order_by("created_at")
    assert first.version is None and second.version is not None
    assert not list(storage.area("checkpoints", first.pk).iterdir())
