"""Model files through the page, the API and the exchange: taken, asked about, or refused with nothing left behind."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse
from onnx import TensorProto, helper, numpy_helper

from ecgportal import storage
from ecgportal.audit.models import AuditEvent
from ecgportal.errors import Conflict, InvalidInput
from ecgportal.jobs.models import Job
from modelhub import packaging, services, services_exchanges
from modelhub.answers import read_answers
from modelhub.architectures.registry import build
from modelhub.bundle import new_signing_key, write_bundle
from modelhub.models import Exchange, ModelAlias, ModelVersion
from modelhub.naming import version_lookup
from tests import factories
from tests.modelhub.conftest import make_contract
from tests.modelhub.test_onnx_safety import external, model
from tests.working import work_off

pytestmark = pytest.mark.django_db


def bytes_of(built: onnx.ModelProto) -> bytes:
    return built.SerializeToString()


def zipped(members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("this must never be printed",))


def tiny_onnx(**metadata: str) -> bytes:
    """Return a file that answers each of 12 leads' means with five numbers."""
    weight = np.linspace(-1, 1, 60, dtype=np.float32).reshape(12, 5)
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2], keepdims=0),
        helper.make_node("MatMul", ["m", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 12, 1000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 5])], [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(built, metadata)
    return bytes_of(built)


def bundle(key: bytes | None = None, **manifest: Any) -> bytes:
    return write_bundle(
        make_contract(), card="# Net\n", onnx=tiny_onnx(), manifest={"name": "Net", "number": 1, **manifest}, signing_key=key
    )  # fmt: skip


def changed_weight() -> bytes:
    with zipfile.ZipFile(io.BytesIO(bundle(new_signing_key()))) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    at = members["model.onnx"].index(np.float32(1).tobytes())
    members["model.onnx"] = members["model.onnx"][:at] + b"\x01" + members["model.onnx"][at + 1 :]
    return zipped(members)


def with_card(card: bytes) -> bytes:
    """Return a bundle with another card whose checksums agree."""
    with zipfile.ZipFile(io.BytesIO(bundle())) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    members["card.md"] = card
    del members["SHA256SUMS"]
    sums = "".join(f"{hashlib.sha256(members[n]).hexdigest()}  {n}\n" for n in sorted(members))
    return zipped({**members, "SHA256SUMS": sums.encode()})


def overlapping_safetensors() -> bytes:
    header = json.dumps({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(8)


def many_nodes() -> bytes:
    names = [f"n{i}" for i in range(20_001)]
    pairs = zip(["x", *names], [*names, "y"])
    return bytes_of(model([helper.make_node("Relu", [a], [b]) for a, b in pairs], tensors=[]))


def branch() -> onnx.NodeProto:
    inner = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "i", [], [onnx.ValueInfoProto(name="z")])
    return helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)


PT = pickle.dumps(Evil(), protocol=4)
REFUSED: dict[str, tuple[str, Any, str]] = {
    "1": ("a.onnx", lambda: bytes_of(model(tensors=[external(location="../../etc/passwd")])), "external_data"),
    "2": ("a.onnx", lambda: bytes_of(model(tensors=[external(location="sub/../../x")])), "external_data"),
    "3 url": ("a.onnx", lambda: bytes_of(model(tensors=[external(location="file:///etc/passwd")])), "external_data"),
    "3 nul": ("a.onnx", lambda: bytes_of(model(tensors=[external(location="a\x00b")])), "external_data"),
    "4": ("a.onnx", lambda: bytes_of(model(tensors=[external(location="link")])), "external_data"),
    "5": ("a.onnx", lambda: bytes_of(model(tensors=[external(location="w", offset="-1", strange="x")])), "external_data"),
    "7 long": ("a.onnx", lambda: bytes_of(model(target_keys="[" + "'a'," * 2_500_000 + "]")), "metadata_too_large"),
    "8 domain": ("a.onnx", lambda: bytes_of(model(domain="org.evil")), "custom_domain"),
    "8 opset": ("a.onnx", lambda: bytes_of(model(opset=99)), "unknown_opset"),
    "8 operator": ("a.onnx", lambda: bytes_of(model([helper.make_node("QuickGelu", ["x"], ["y"])])), "operator_not_allowed"),
    "9 branch": ("a.onnx", lambda: bytes_of(model([branch()])), "control_flow"),
    "9 nodes": ("a.onnx", many_nodes, "too_many_nodes"),
    "10": (
        "a.onnx",
        lambda: bytes_of(model(tensors=[TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40], raw_data=b"0000")])),
        "bad_tensor",
    ),
    "11": ("a.onnx", lambda: bytes_of(model(shape=("b", 3, 224, 224))), "input_mismatch"),
    "12 zip": ("a.pt", lambda: zipped({"a/data.pkl": PT, "a/version": b"3"}), "bad_pt_file"),
    "12 plain": ("a.pt", lambda: PT, "pickle_refused"),
    "13 path": ("a.pt", lambda: zipped({"a/data.pkl": PT, "a/../../x": b""}), "bad_pt_file"),
    "13 inflate": ("a.pt", lambda: zipped({"a/data.pkl": PT, "a/data/0": bytes(10**6)}, zipfile.ZIP_DEFLATED), "bad_pt_file"),
    "15 overlap": ("a.safetensors", overlapping_safetensors, "bad_safetensors"),
    "15 header": ("a.safetensors", lambda: (90_000_000).to_bytes(8, "little") + b"{" + bytes(100), "bad_safetensors"),
    "15 nan": (
        "a.safetensors",
        lambda: safetensors.numpy.save({"head.weight": np.array([[np.nan]], np.float32)}),
        "weights_not_finite",
    ),
    "16": ("a.ecgmodel.zip", changed_weight, "checksum_differs"),
    "18 csv": ("a.ecgmodel.zip", lambda: zipped({"manifest.json": b"{}", "patients.csv": b"name"}), "unexpected_member"),
    "18 number": ("a.ecgmodel.zip", lambda: with_card(b"# Net\n\nMRN: 4711-0815\n"), "identifiers_found"),
    "nothing": ("a.onnx", lambda: b"hello", "not_onnx"),
}  # fmt: skip


@dataclass
class Place:
    project: Any
    owner: Any
    client: Client
    dav: Any
    exchange: Exchange

    def by_page(self, name: str, data: bytes, **fields: Any) -> Job:
        address = reverse("modelhub:import", kwargs={"project": self.project.pk})
        answer = self.client.post(address, {"name": "Net", "file": SimpleUploadedFile(name, data), **fields})
        assert answer.status_code == 302, answer.content[:2000]
        return work_off()[-1]

    def by_api(self, name: str, data: bytes, **fields: Any) -> Job:
        body = {"project": str(self.project.pk), "name": "Net", "file": SimpleUploadedFile(name, data), **fields}
        answer = self.client.post("/api/v1/model-versions/", body)
        assert answer.status_code == 202, answer.content
        return work_off()[-1]

    def by_exchange(self, name: str, data: bytes) -> Job:
        (self.dav.folder / name).write_bytes(data)
        body = {"project": str(self.project.pk), "path": name}
        answer = self.client.post(
            f"/api/v1/exchanges/{self.exchange.pk}/pull/", json.dumps(body), content_type="application/json"
        )
        assert answer.status_code == 202, answer.content
        return work_off()[-1]


@pytest.fixture
def place(dav_server, settings) -> Place:
    settings.EXCHANGE_ALLOW_PRIVATE = True
    project = factories.make_project()
    owner = factories.make_team(project)["owner"]
    client = Client()
    client.force_login(owner)
    exchange = services_exchanges.exchange_save(
        actor=owner, name="Hall", url=dav_server.url, username=dav_server.user, password=dav_server.password
    )
    return Place(project, owner, client, dav_server, exchange)


@pytest.mark.parametrize("row", REFUSED)
def test_harmful_files_are_refused_by_every_way_in(place, row, capfd):
    name, make, code = REFUSED[row]
    data = make()
    for way in (place.by_page, place.by_api, place.by_exchange):
        job = way(name, data)
        assert (job.state, job.error_code) == ("failed", code), (way.__name__, job.error_message)
        event = AuditEvent.objects.filter(action="model_version.refused").latest("sequence")
        assert (event.outcome, event.changes["code"]) == ("refused", code)
    assert not ModelVersion.objects.exists()
    assert not storage.blob_path(event.changes["sha256"]).exists()
    assert "never be printed" not in capfd.readouterr().out


def test_class_names_are_read_as_a_list_and_never_evaluated(place, capfd):
    data = tiny_onnx(target_keys="__import__('os').system('echo evaluated')", sampling_rate="100")
    version = ModelVersion.objects.get(pk=place.by_api("a.onnx", data).result["version"])
    assert version.state == "incomplete"
    assert "__import__" in version.checks["questions"]["classes"]
    assert "It was not evaluated" in version.checks["questions"]["classes"]
    assert "evaluated\n" not in capfd.readouterr().out
    page = place.client.get(reverse("modelhub:version", kwargs={"pk": version.pk}))
    assert b"__import__(&#x27;os&#x27;)" in page.content


def test_a_version_cannot_be_run_until_someone_says_what_it_expects(place):
    job = place.by_api("a.onnx", tiny_onnx())
    assert job.state == "succeeded"
    assert set(job.result["questions"]) == {"classes", "fs_hz", "task"}
    version = ModelVersion.objects.get(pk=job.result["version"])
    asked = place.client.get(f"/api/v1/model-versions/{version.pk}/").json()
    assert (asked["state"], asked["input"]["n_samples"], set(asked["questions"])) == (
        "incomplete",
        1000,
        {"classes", "fs_hz", "task", "licence", "intended_use", "training_data"},
    )
    for call in (lambda: services.check_runnable(version), lambda: packaging.bundle_of(version)):
        with pytest.raises(Conflict) as caught:
            call()
        assert caught.value.code == "contract_incomplete"
    address = f"/api/v1/model-versions/{version.pk}/contract/"
    wrong = place.client.patch(address, {"fs_hz": "fast"}, content_type="application/json")
    assert (wrong.status_code, list(wrong.json()["error"]["fields"])) == (422, ["fs_hz"])
    said = {"classes": ["a", "b"], "fs_hz": 100, "task": "multilabel"}
    assert place.client.patch(address, said, content_type="application/json").status_code == 202
    failed = work_off()[-1]
    assert (failed.state, failed.error_code) == ("failed", "contract_incomplete")
    version.refresh_from_db()
    assert version.state == "incomplete"
    page = reverse("modelhub:complete", kwargs={"pk": version.pk})
    place.client.post(page, {"classes": "a, b, c, d, e", "fs_hz": "100", "task": "multilabel"})
    assert work_off()[-1].state == "succeeded"
    version.refresh_from_db()
    assert (version.state, version.classes, version.contract["fs_hz"]) == ("ready", list("abcde"), 100.0)
    with pytest.raises(IntegrityError), transaction.atomic():
        ModelVersion.objects.filter(pk=version.pk).update(classes=["x"])
    with pytest.raises(Conflict):
        services.version_complete(actor=place.owner, version=version, answers={})


@pytest.mark.parametrize("way", ["by_page", "by_api"])
def test_answers_may_come_with_the_file(place, way):
    fields = {"classes": "a, b, c, d, e", "fs_hz": "100", "task": "multilabel"}
    job = getattr(place, way)("a.onnx", tiny_onnx(), **fields)
    version = ModelVersion.objects.get(pk=job.result["version"])
    assert (version.state, version.classes, version.task) == ("ready", list("abcde"), "multilabel")


def test_pytorch_weights_of_a_known_network_become_a_version(place):
    module = build("xresnet1d18", n_leads=12, n_samples=1000, fs_hz=100, n_classes=3, seed=2).eval()
    stream = io.BytesIO()
    torch.save({"state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}, "epoch": 3}, stream)
    job = place.by_api("a.pt", stream.getvalue())
    assert job.state == "succeeded", job.error_message
    version = ModelVersion.objects.get(pk=job.result["version"])
    assert (version.state, version.architecture, len(version.classes)) == ("incomplete", "xresnet1d18", 3)
    said = {"classes": ["a", "b", "c"], "fs_hz": 100, "n_samples": 1000, "task": "multiclass"}
    place.client.post(f"/api/v1/model-versions/{version.pk}/contract/", said, content_type="application/json")
    assert work_off()[-1].state == "succeeded"
    version.refresh_from_db()
    signals = np.random.default_rng(0).normal(0, 0.3, (2, 12, 1000)).astype(np.float32)
    from modelhub import loading

    expected = torch.softmax(module(torch.from_numpy(signals)), 1).detach().numpy()
    assert np.abs(loading.predictor(version).predict(signals) - expected).max() < 1e-5
    assert torch.equal(
        loading.module_of(version).state_dict()["head.classes.weight"], module.state_dict()["head.classes.weight"]
    )


def test_weights_of_no_known_network_are_refused(place):
    stream = io.BytesIO()
    torch.save({"layer.weight": torch.zeros(2, 2)}, stream)
    job = place.by_api("a.pt", stream.getvalue())
    assert (job.state, job.error_code) == ("failed", "unknown_architecture")
    named = place.by_api("a.pt", stream.getvalue(), architecture="inception_time")
    assert (named.state, named.error_code) == ("failed", "weights_do_not_fit")


def test_files_of_exchangeai_get_its_detrending(place):
    keys = {
        "target_keys": "['a', 'b', 'c', 'd', 'e']",
        "standardizer": "meanStd",
        "scale": "mikroVolt",
        "sampling_rate": "100",
    }
    for way, state in ((place.by_page, "ready"), (place.by_api, "ready"), (place.by_exchange, "quarantined")):
        version = ModelVersion.objects.get(pk=way("a.onnx", tiny_onnx(**keys)).result["version"])
        assert version.state == state
        steps = [entry["step"] for entry in version.contract["recipe"]["steps"]]
        assert steps == ["select_leads", "resample", "crop", "moving_median", "expand", "fill"]
        assert any("median over two seconds" in note for note in version.checks["notes"])


def test_a_bundle_waits_with_what_speaks_against_it(place):
    first = ModelVersion.objects.get(pk=place.by_api("a.zip", bundle(new_signing_key(), number=3)).result["version"])
    assert (first.state, first.checks["signature"]) == ("quarantined", "unknown")
    older = bundle(new_signing_key(), number=2, expires_at="2020-01-01T00:00:00+00:00")
    second = ModelVersion.objects.get(pk=place.by_api("a.zip", older).result["version"])
    text = " ".join(second.checks["concerns"])
    assert (
        "not among the trusted keys" in text and "expired on 2020-01-01" in text and "version 3 of this model" in text
    )
    with pytest.raises(Conflict):
        services.check_runnable(second)


def test_aliases_move_and_every_move_is_kept(place):
    fields = {
        "classes": "a, b, c, d, e",
        "fs_hz": "100",
        "task": "multilabel",
        "licence": "MIT",
        "intended_use": "r",
        "training_data": "t",
    }
    first, second = (
        ModelVersion.objects.get(pk=place.by_api("a.onnx", tiny_onnx(), **fields).result["version"]) for _ in "12"
    )
    address = f"/api/v1/models/{first.model_id}/aliases/champion/"
    for version in (first, second):
        answer = place.client.put(address, {"version": str(version.pk)}, content_type="application/json")
        assert answer.json()["aliases"] == {"champion": str(version.pk)}
    assert ModelVersion.objects.get(**version_lookup("Net@champion")) == second
    moves = AuditEvent.objects.filter(action="model_version.alias_moved")
    assert sorted(str(event.changes["version"]) for event in moves) == ["[1, 2]", "[None, 1]"]
    with pytest.raises(Conflict, match="alias"):
        services.version_delete(actor=place.owner, version=second)
    with pytest.raises(InvalidInput):
        services.alias_set(actor=place.owner, model=first.model, name="No Name", version=first)
    services.version_retire(actor=place.owner, version=first, retired=True)
    with pytest.raises(Conflict):
        services.alias_set(actor=place.owner, model=first.model, name="candidate", version=first)
    place.client.post(reverse("modelhub:alias", kwargs={"pk": second.pk}), {"name": "champion", "remove": "1"})
    assert not ModelAlias.objects.exists()


def test_answers_are_read_from_text_as_from_json():
    read = read_answers(
        {
            "classes": "a, b",
            "leads": '["i", "avr"]',
            "fs_hz": "100",
            "n_samples": "1000",
            "scale": "mikroVolt",
            "contract": '{"task": "multilabel"}',
        }
    )
    assert read == {
        "task": "multilabel",
        "classes": ["a", "b"],
        "leads": ["I", "aVR"],
        "fs_hz": 100.0,
        "n_samples": 1000,
        "unit": "uV",
    }
    with pytest.raises(InvalidInput) as caught:
        read_answers({"fs_hz": "-1", "n_samples": "2.5", "task": "guess", "contract": "[]", "recipe": "1"})
    assert set(caught.value.fields) == {"fs_hz", "n_samples", "task", "contract", "recipe"}
