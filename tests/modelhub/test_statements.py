"""Licence, intended use and training data: asked for before a model from outside is used, stated by what is trained here."""

from __future__ import annotations

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from ecgportal.audit.models import AuditEvent
from ecgportal.errors import Conflict, InvalidInput
from modelhub import dav, importing, loading, services, services_exchanges, services_predictions, statements
from modelhub.architectures.registry import build
from modelhub.contract import statements_in
from modelhub.importing import examine
from modelhub.models import Model, ModelVersion, Origin
from modelhub.onnx.safety import check_onnx
from modelhub.safetensors_check import check_safetensors
from tests import factories
from tests.modelhub.conftest import make_contract
from tests.modelhub.test_importing import bundle, tiny_onnx
from tests.modelhub.test_importing import place as place  # a fixture
from tests.working import work_off

SAID = {"classes": "a, b, c, d, e", "fs_hz": "100", "task": "multilabel"}
BOTH = {"licence": "CC BY 4.0", "intended_use": "Research on rhythm.", "training_data": "Not known."}
COUNTS = {"train": 80, "validation": 10, "test": 10}


class Ward:
    def __init__(self) -> None:
        self.project = factories.make_project()
        team = factories.make_team(self.project)
        self.owner, self.viewer = team["owner"], team["viewer"]
        self.client = Client()
        self.client.force_login(self.owner)
        self.dataset = factories.make_dataset(self.project)
        self.record = factories.make_record(self.dataset, "r1", signal=factories.ecg_signal(duration_s=10.0))

    def taken_in(self, **fields) -> ModelVersion:
        body = {"project": str(self.project.pk), "name": "Net", "file": SimpleUploadedFile("a.onnx", tiny_onnx())}
        answer = self.client.post("/api/v1/model-versions/", {**body, **SAID, **fields})
        assert answer.status_code == 202, answer.content
        job = work_off()[-1]
        assert job.state == "succeeded", job.error_message
        assert job.result["missing"] == [name for name in BOTH if name not in fields]
        return ModelVersion.objects.get(pk=job.result["version"])

    def patch(self, version, address, said):
        return self.client.patch(
            f"/api/v1/model-versions/{version.pk}/{address}/", said, content_type="application/json"
        )


@pytest.fixture
def ward(db) -> Ward:
    return Ward()


def test_a_model_from_outside_waits_until_both_are_said(ward):
    version = ward.taken_in()
    address = reverse("modelhub:version", kwargs={"pk": version.pk})
    started = {"project": ward.project, "version": version, "dataset": ward.dataset}
    with pytest.raises(Conflict, match="does not state its licence, its intended use and its training data") as refusal:
        services_predictions.prediction_start(actor=ward.owner, **started)
    assert refusal.value.code == "statements_missing"
    assert address in refusal.value.message
    with pytest.raises(Conflict, match="licence"):
        services.check_trainable(version)
    with pytest.raises(Conflict, match="licence"):
        services_exchanges.push_start(actor=ward.owner, exchange=None, version=version)
    assert dav.Tree(ward.owner)._versions(version.model) == []
    shown = ward.client.get(f"/api/v1/model-versions/{version.pk}/").json()
    assert set(shown["questions"]) == set(BOTH)
    page = ward.client.get(address).content.decode()
    assert "What has to be known before it is used" in page
    assert "Fine-tune" not in page
    # One said by REST, the other on the page.
    assert ward.patch(version, "contract", {"licence": "CC BY 4.0"}).json()["job"] is None
    left = {"intended_use", "training_data"}
    assert set(ward.client.get(f"/api/v1/model-versions/{version.pk}/").json()["questions"]) == left
    form = ward.client.get(address).content.decode()
    assert 'name="training_data"' in form and 'name="licence"' not in form
    ward.client.post(reverse("modelhub:card", kwargs={"pk": version.pk}), {name: BOTH[name] for name in left})
    version.refresh_from_db()
    assert version.card == BOTH
    event = AuditEvent.objects.get(action="model_version.changed", changes__has_key="intended_use")
    assert event.changes["intended_use"] == ["", BOTH["intended_use"]]
    assert services_predictions.prediction_start(actor=ward.owner, **started)
    # That nobody knows is said on the page and on the card.
    assert "may have been among them" in ward.client.get(address).content.decode()
    card = ward.client.get(f"/api/v1/model-versions/{version.pk}/card/").json()["markdown"]
    assert "## Training data\n\nNot known." in card
    assert "What has to be known before it is used" not in ward.client.get(address).content.decode()
    assert len(dav.Tree(ward.owner)._versions(version.model)) == 1


@pytest.mark.django_db
def test_a_bundle_of_a_portal_brings_the_counts_of_its_training_along(place):
    manifest = {"prose": {"licence": "MIT", "intended_use": "r"}, "records": COUNTS}
    version = ModelVersion.objects.get(pk=place.by_exchange("a.ecgmodel.zip", bundle(**manifest)).result["version"])
    assert statements.missing(version) == {}
    assert ModelVersion.objects.filter(statements.stated(), pk=version.pk).exists()
    shown = place.client.get(reverse("modelhub:card_read", kwargs={"pk": version.pk})).content.decode()
    assert "<dt>train</dt><dd>80</dd>" in shown
    silent = {"prose": manifest["prose"], "number": 2}
    version = ModelVersion.objects.get(pk=place.by_exchange("b.ecgmodel.zip", bundle(**silent)).result["version"])
    assert list(statements.missing(version)) == ["training_data"]
    assert not ModelVersion.objects.filter(statements.stated(), pk=version.pk).exists()


def test_both_may_come_with_the_file_and_are_not_taken_back(ward):
    version = ward.taken_in(**BOTH)
    assert version.card == BOTH
    assert services.check_runnable(version)
    with pytest.raises(InvalidInput, match="has to state its licence"):
        services.card_update(actor=ward.owner, version=version, card={"licence": " "})
    refused = ward.client.post(reverse("modelhub:card", kwargs={"pk": version.pk}), {"licence": ""})
    assert refused.status_code == 422
    assert ward.patch(version, "card", {"licence": ["CC0"]}).status_code == 422


def test_training_states_what_is_known_and_the_files_carry_it(ward):
    assert statements.licence_of(ward.project) == statements.DEFAULT_LICENCE
    address = reverse("modelhub:licence", kwargs={"project": ward.project.pk})
    assert ward.client.post(address, {"licence": "CC BY-NC 4.0"}).status_code == 302
    contract = make_contract(architecture="xresnet1d18")
    said = statements.prefilled(
        project=ward.project, contract=contract, data="Clinic A", base=None, records=COUNTS, label_map="Rhythm"
    )
    assert said["licence"] == "CC BY-NC 4.0"
    assert "NORM, MI, STTC, CD, HYP" in said["intended_use"]
    assert "Clinic A" in said["intended_use"]
    module = build("xresnet1d18", n_leads=12, n_samples=1000, fs_hz=100, n_classes=5, seed=1)
    files = loading.export(module, contract, prose=said)
    assert statements_in(check_onnx(files.main)[1].metadata) == said
    assert statements_in(check_safetensors(files.weights)) == said
    for data in (files.main, files.weights):
        found = examine(data, "again", {})
        version = importing.store(found, actor=ward.owner, project=ward.project, name="Again", origin=Origin.IMPORTED)
        assert version.card == said
        assert services.check_runnable(version)
    base = ModelVersion(card=BOTH, number=3, model=Model(name="Elder"))
    tuned = statements.prefilled(project=ward.project, contract=contract, data="B", base=base, records=COUNTS)
    assert tuned["licence"] == "CC BY 4.0"
    named = statements.prefilled(
        project=ward.project, contract=contract, data="MRN: 4711-0815", base=None, records=COUNTS
    )
    assert "4711" not in named["intended_use"] + named["training_data"]
    assert said["training_data"] == (
        "Clinic A: 80 records for training, 10 for validation, 10 held back; labels by Rhythm."
    )
    assert tuned["training_data"].endswith(
        "Fine-tuned from Elder, version 3, whose training data are stated as: Not known."
    )


def test_the_licence_of_a_project_over_rest(ward):
    address = "/api/v1/models/licence/"
    asked = {"project": str(ward.project.pk)}
    assert ward.client.get(address, asked).json()["licence"] == statements.DEFAULT_LICENCE
    chosen = ward.client.put(address, {**asked, "licence": "MIT"}, content_type="application/json")
    assert chosen.json() == {**asked, "licence": "MIT"}
    assert AuditEvent.objects.filter(action="model.licence_chosen").count() == 1
    back = ward.client.put(address, {**asked, "licence": ""}, content_type="application/json")
    assert back.json()["licence"] == statements.DEFAULT_LICENCE


def test_a_contract_whose_input_cannot_be_made_is_refused_at_the_import():
    module = build("xresnet1d18", n_leads=12, n_samples=1000, fs_hz=100, n_classes=5, seed=1)
    files = loading.export(module, make_contract(architecture="xresnet1d18", normalisation="mean_std"))
    for data in (files.main, files.weights):
        with pytest.raises(InvalidInput, match="give the recipe"):
            examine(data, "net", {})


def test_trying_lineage_and_keys_over_rest(ward):
    version = ward.taken_in(**BOTH)
    address = f"/api/v1/model-versions/{version.pk}"
    asked = ward.client.post(f"{address}/try/", {"record": str(ward.record.pk)}, content_type="application/json")
    assert asked.status_code == 202, asked.content
    work_off()
    result = ward.client.get(f"/api/v1/jobs/{asked.json()['job']}/").json()["result"]
    assert [answer["class"] for answer in result["answers"]] == list("abcde")
    other = factories.make_record(factories.make_dataset(factories.make_project()), "x")
    lost = ward.client.post(f"{address}/try/", {"record": str(other.pk)}, content_type="application/json")
    assert lost.status_code == 404
    found = ward.client.get(f"{address}/lineage/").json()
    assert [row["version"] for row in found["self"]] == [str(version.pk)]
    assert found["ancestors"] == found["children"] == []
    assert ward.client.get("/api/v1/signing-keys/").status_code == 403
    ward.client.force_login(factories.make_user(is_administrator=True))
    key = {"name": "North portal", "public_key": "ab" * 32}
    made = ward.client.post("/api/v1/signing-keys/", key, content_type="application/json").json()
    assert (made["name"], made["is_own"]) == ("North portal", False)
    rows = ward.client.get("/api/v1/signing-keys/").json()
    assert [row["is_own"] for row in rows["results"]] == [True, False]
    assert ward.client.delete(f"/api/v1/signing-keys/{made['id']}/").status_code == 204
    assert ward.client.get("/api/v1/signing-keys/").json()["count"] == 1
