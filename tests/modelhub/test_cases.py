"""The table of bad input, rows 1 to 18, 41 and 42, by every way into the model hub: the page, REST, and an exchange.

Where a row is proven (``test_importing`` takes each file of its table through all three ways):

| row | file or server | test |
|---|---|---|
| 1 to 5 | external data, wherever it points | ``test_importing.test_harmful_files_are_refused_by_every_way_in``, and below |
| 6, 7 | class names that are code, too long, twice, too many | the same, and below |
| 8 to 10 | domains, operators, control flow, sizes | the same, and below |
| 11 | another length, double precision | below |
| 12, 13, 15 | pickles, archives, safetensors | ``test_importing``, and below; ``test_weights`` for the forms |
| 14 | too old a torch | the tests of the health check |
| 16 | one byte of a signed bundle changed | ``test_importing``, and below |
| 17 | an unknown key, expired, replayed | below |
| 18 | patients in a bundle, a card, a model's metadata | ``test_importing`` on the way in, below on the way out |
| 41, 42 | servers that lead elsewhere or never end | below; ``test_webdav`` for the forms |
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from django.urls import reverse
from onnx import TensorProto, helper

from ecgportal.audit.models import AuditEvent
from ecgportal.errors import InvalidInput, NotAllowed
from modelhub import exchange, services, services_exchanges, webdav_guard
from modelhub.bundle import new_signing_key
from modelhub.models import Exchange, ModelVersion
from tests import factories
from tests.modelhub.test_importing import bundle, bytes_of, tiny_onnx
from tests.modelhub.test_importing import place as place  # a fixture
from tests.modelhub.test_onnx_safety import external, model
from tests.modelhub.test_pages import signed_in
from tests.modelhub.test_predicting import make_version
from tests.modelhub.test_webdav import endless, multistatus, rogue, send
from tests.working import work_off

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _no_second_try(monkeypatch):
    monkeypatch.setattr(exchange, "WAITS_S", ())


WAYS = ("by_page", "by_api", "by_exchange")


def infinite_weights() -> bytes:
    return safetensors.numpy.save({"head.weight": np.array([[np.inf]], np.float32)})


def vendor_operator() -> bytes:
    built = model([helper.make_node("FusedConv", ["x", "w"], ["y"], domain="com.microsoft")])
    built.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return bytes_of(built)


def broken_signature() -> bytes:
    """A bundle with the signature of another one."""
    import io
    import zipfile

    def members(data: bytes) -> dict[str, bytes]:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {info.filename: archive.read(info) for info in archive.infolist()}

    key = new_signing_key()
    changed = members(bundle(key)) | {"SIGNATURE": members(bundle(key, number=2))["SIGNATURE"]}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in changed.items():
            archive.writestr(name, data)
    return buffer.getvalue()


REFUSED: dict[str, tuple[str, Any, str]] = {
    "3 absolute": ("a.onnx", lambda: bytes_of(model(tensors=[external(location="/etc/passwd")])), "external_data"),
    "3 share": ("a.onnx", lambda: bytes_of(model(tensors=[external(location="\\\\host\\share\\w")])), "external_data"),
    "5 huge": ("a.onnx", lambda: bytes_of(model(tensors=[external(location="w", length=str(2**62))])), "external_data"),
    "8 vendor": ("a.onnx", vendor_operator, "custom_domain"),
    "15 infinite": ("a.safetensors", infinite_weights, "weights_not_finite"),
    "16 signature": ("a.ecgmodel.zip", broken_signature, "signature_broken"),
    "18 metadata": ("a.onnx", lambda: tiny_onnx(note="MRN: 4711-0815"), "identifiers_found"),
    "18 weights": (
        "a.safetensors",
        lambda: safetensors.numpy.save({"w": np.ones(1, np.float32)}, {"note": "date of birth: 1950-01-02"}),
        "identifiers_found",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("row", REFUSED)
def test_harmful_files_are_refused(place, row, way):
    name, make, code = REFUSED[row]
    job = getattr(place, way)(name, make())
    assert (job.state, job.error_code) == ("failed", code), job.error_message
    event = AuditEvent.objects.filter(action="model_version.refused").latest("sequence")
    assert (event.outcome, event.changes["code"]) == ("refused", code)
    assert not ModelVersion.objects.exists()


ASKED = {
    "6 code": "__import__('os').system('id')",
    "7 twice": "['a', 'a', 'b', 'c', 'd']",
    "7 count": "['a', 'b']",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("row", ASKED)
def test_class_names_that_cannot_be_read_are_asked_for(place, row, way):
    job = getattr(place, way)("a.onnx", tiny_onnx(target_keys=ASKED[row], sampling_rate="100"))
    assert job.state == "succeeded", job.error_message
    version = ModelVersion.objects.get(pk=job.result["version"])
    assert version.state == "incomplete" and "classes" in version.checks["questions"]
    shown = place.client.get(reverse("modelhub:version", kwargs={"pk": version.pk})).content.decode()
    assert "What does it expect?" in shown


def of_length(n_samples: int, kind: int = TensorProto.FLOAT) -> bytes:
    weight = np.ones((12, 5), np.float64 if kind == TensorProto.DOUBLE else np.float32)
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["m"], axes=[2], keepdims=0), helper.make_node("MatMul", ["m", "w"], ["y"])],
        "g", [helper.make_tensor_value_info("x", kind, ["b", 12, n_samples])], [helper.make_tensor_value_info("y", kind, ["b", 5])],
        [helper.make_tensor("w", kind, weight.shape, weight.ravel())],
    )  # fmt: skip
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(built, {"target_keys": "['a', 'b', 'c', 'd', 'e']", "sampling_rate": "500"})
    return bytes_of(built)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_another_length_and_double_precision_are_adapted_and_told(place, way, kind):
    """Row 11: ten seconds at 500 Hz are what the version expects from then on, and records are brought to that."""
    job = getattr(place, way)("a.onnx", of_length(5000, kind))
    version = ModelVersion.objects.get(pk=job.result["version"])
    assert (version.contract["n_samples"], version.contract["fs_hz"]) == (5000, 500)
    shown = place.client.get(reverse("modelhub:version", kwargs={"pk": version.pk})).content.decode()
    assert "5,000 samples" in shown and "500 Hz" in shown
    if kind == TensorProto.DOUBLE:
        assert any("number type" in note for note in version.checks["notes"])


@pytest.mark.parametrize("way", WAYS)
def test_unknown_keys_expiry_and_replay_wait_for_an_owner(place, way):
    bring, number = getattr(place, way), iter(range(9))

    def version(**manifest: Any) -> ModelVersion:
        job = bring(f"n{next(number)}.ecgmodel.zip", bundle(new_signing_key(), **manifest))
        return ModelVersion.objects.get(pk=job.result["version"])

    first = version(number=3)
    older = version(number=2, expires_at="2020-01-01T00:00:00+00:00")
    said = " ".join(older.checks["concerns"])
    assert "not among the trusted keys" in said and "expired on 2020-01-01" in said and "version 3 of this" in said
    assert (first.state, older.state) == ("quarantined", "quarantined")
    editor = factories.make_team(place.project)["editor"]
    client, accept = signed_in(editor), reverse("modelhub:accept", kwargs={"pk": older.pk})
    assert client.post(accept).status_code == 403
    assert client.post(f"/api/v1/model-versions/{older.pk}/accept/").status_code == 403
    shown = place.client.get(reverse("modelhub:version", kwargs={"pk": older.pk})).content.decode()
    assert "In quarantine" in shown and "expired on 2020-01-01" in shown
    assert place.client.post(accept).status_code == 302
    older.refresh_from_db()
    assert older.state == "ready"


def test_what_may_name_a_patient_does_not_leave(place):
    """Row 18 on the way out: by the page, by REST, and by an exchange; from the card and from the model's metadata."""
    carded = make_version(place.project)
    services.card_update(actor=place.owner, version=carded, card={"limits": "Tried on MRN: 4711-0815."})
    noted = make_version(second_project(place), tiny_onnx(note="patient id: K-4711"))
    for version in (carded, noted):
        page = reverse("modelhub:download", kwargs={"pk": version.pk}) + "?format=bundle"
        for address in (page, f"/api/v1/model-versions/{version.pk}/download/?format=bundle"):
            answer = place.client.get(address, headers={"accept": "application/json"})
            assert answer.status_code == 422 and b"may name a patient" in answer.content
        body = {"version": str(version.pk)}
        place.client.post(
            f"/api/v1/exchanges/{place.exchange.pk}/push/", json.dumps(body), content_type="application/json"
        )
        job = work_off()[-1]
        assert (job.state, job.error_code) == ("failed", "identifiers_found")
    assert list(place.dav.folder.iterdir()) == []


def second_project(place) -> Any:
    """A second project of the same owner, since a project has each model's name once."""
    from ecgportal.projects.services import member_set

    project = factories.make_project()
    lead = factories.make_team(project)["owner"]
    member_set(actor=lead, project=project, user=place.owner, role="owner")
    return project


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/",
        "http://[fe80::1]/",
        "http://[::ffff:169.254.169.254]/",
        "file:///etc/passwd",
        "ftp://x/",
    ],
)
def test_addresses_that_are_never_reached_are_not_even_stored(administrator, url):
    client = signed_in(administrator)
    page = client.post(reverse("modelhub:exchange_admin"), {"name": "Evil", "url": url})
    assert page.status_code == 422
    answer = client.post("/api/v1/exchanges/", {"name": "Evil", "url": url}, content_type="application/json")
    assert answer.status_code in (400, 422) and "url" in answer.json()["error"]["fields"]
    assert not Exchange.objects.exists()


def everything(place, administrator, remote: Exchange) -> list[str]:
    """Return what the connection test (page, REST), the list (page, REST), a pull and a push say about a server."""
    client = signed_in(administrator)
    page = client.get(reverse("modelhub:exchange_edit", kwargs={"pk": remote.pk}) + "?test=1").content.decode()
    assert "Not connected" in page
    told = [client.post(f"/api/v1/exchanges/{remote.pk}/test/")]
    shown = place.client.get(reverse("modelhub:exchanges", kwargs={"project": place.project.pk})).content.decode()
    assert "Not reachable" in shown
    told.append(place.client.get(f"/api/v1/exchanges/{remote.pk}/models/?project={place.project.pk}"))
    codes = [answer.json()["error"]["code"] for answer in told]
    assert all(answer.status_code >= 400 for answer in told)
    services_exchanges.pull_start(actor=place.owner, exchange=remote, project=place.project, remote_path="m/a.onnx")
    services_exchanges.push_start(actor=place.owner, exchange=remote, version=make_version(second_project(place)))
    return codes + [job.error_code for job in work_off()]


def saved(administrator, url: str) -> Exchange:
    return services_exchanges.exchange_save(actor=administrator, name="Theirs", url=url, username="u", password="p")


def test_loopback_and_private_addresses_are_blocked_where_they_are_not_allowed(place, administrator, settings):
    settings.EXCHANGE_ALLOW_PRIVATE = False
    Exchange.objects.all().delete()
    assert set(everything(place, administrator, saved(administrator, "http://127.0.0.1:9/dav/"))) == {"remote_blocked"}


def test_a_name_that_resolves_to_a_metadata_address_is_blocked_at_every_use(place, administrator, monkeypatch):
    """Row 41: the name is harmless when it is stored; what it resolves to later counts, each time."""
    Exchange.objects.all().delete()
    remote = saved(administrator, "http://models.example/dav/")
    monkeypatch.setattr(webdav_guard.socket, "getaddrinfo", lambda *_a, **_k: [(2, 1, 6, "", ("169.254.169.254", 80))])
    assert set(everything(place, administrator, remote)) == {"remote_blocked"}


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/", "http://localhost:1/", "file:///etc/passwd"])
def test_a_server_that_sends_the_portal_elsewhere_is_not_followed(place, administrator, target):
    Exchange.objects.all().delete()
    with rogue(lambda handler: send(handler, 302, Location=target)) as url:
        codes = everything(place, administrator, saved(administrator, url))
    assert set(codes) <= {"remote_redirected", "remote_blocked", "remote_unreachable"}
    assert not ModelVersion.objects.filter(origin="pulled").exists()


@pytest.mark.parametrize("answer", [endless, lambda handler: send(handler, 207, multistatus(80_000))])
def test_a_server_that_never_ends_costs_neither_the_page_nor_the_job(place, administrator, answer):
    Exchange.objects.all().delete()
    with rogue(answer) as url:
        codes = everything(place, administrator, saved(administrator, url))
    assert set(codes) == {"remote_too_large"}


def test_nobody_below_an_administrator_says_where_the_portal_connects(place):
    body = {"name": "Mine", "url": "http://127.0.0.1:9/"}
    assert place.client.post("/api/v1/exchanges/", body, content_type="application/json").status_code == 403
    assert place.client.post(reverse("modelhub:exchange_admin"), body).status_code == 403
    with pytest.raises((InvalidInput, NotAllowed)):
        services_exchanges.pull_start(
            actor=place.owner, exchange=place.exchange, project=place.project, remote_path="../x"
        )
