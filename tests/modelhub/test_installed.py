"""Networks that an administrator installed on the server: listed without being run, used by their digest, else refused."""

from __future__ import annotations

import hashlib
import io
import json
import os

import numpy as np
import onnxruntime
import pytest
import torch
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from ecgportal.errors import Conflict, InvalidInput, NotFound
from modelhub import loading, services
from modelhub.architectures.catalog import built_in, catalog, definition_of
from modelhub.architectures.installed import definitions, folders
from modelhub.architectures.registry import build
from modelhub.importing import examine
from modelhub.models import ModelVersion, Origin
from tests import factories
from tests.modelhub.conftest import beats

SOURCE = """
from pathlib import Path

import torch
from torch import nn

from modelhub.architectures.base import LinearHeadNetwork, conv, mean_over_time
from modelhub.architectures.registry import architecture

(Path(__file__).parent / "ran").touch()


class WardNet(LinearHeadNetwork):
    def __init__(self, *, n_leads, n_samples, n_classes):
        super().__init__(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes)
        self.first, self.norm1 = conv(n_leads, 32, 7, 2), nn.BatchNorm1d(32)
        self.second, self.norm2 = conv(32, 64, 5, 2), nn.BatchNorm1d(64)
        self.head = nn.Linear(64, n_classes)

    def forward(self, x):
        x = torch.relu(self.norm1(self.first(x)))
        return self.head(mean_over_time(torch.relu(self.norm2(self.second(x)))))


@architecture(
    name="ward_net",
    title="WardNet",
    paper="written on the ward",
    varies=("n_leads", "n_samples", "fs_hz", "n_classes"),
    parameters=13_445,
    million_macs=3.904,
)
def ward_net(*, n_leads, n_samples, fs_hz, n_classes):
    return WardNet(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes)
"""
SAID = {
    "classes": ["NORM", "MI", "STTC", "CD", "HYP"], "task": "multilabel", "fs_hz": 100.0, "n_samples": 1000,
    "licence": "CC BY 4.0", "intended_use": "research", "training_data": "Not known.",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    place = tmp_path / "networks"
    place.mkdir(mode=0o755)
    monkeypatch.setenv("PORTAL_ARCHITECTURES", str(place))
    return place


@pytest.fixture
def installed(folder):
    return install(folder, SOURCE)


def install(folder, source, name="ward.py"):
    path = folder / name
    path.write_text(source, encoding="utf-8")
    path.chmod(0o644)
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ward_net(seed=3):
    return build("ward_net", n_leads=12, n_samples=1000, fs_hz=100, n_classes=5, seed=seed).eval()


def state_dict():
    buffer = io.BytesIO()
    torch.save(ward_net().state_dict(), buffer)
    return buffer.getvalue()


def test_nothing_is_read_without_the_setting(monkeypatch, tmp_path):
    monkeypatch.delenv("PORTAL_ARCHITECTURES", raising=False)
    assert folders() == []
    assert catalog() == built_in()
    monkeypatch.setenv("PORTAL_ARCHITECTURES", os.pathsep.join(["networks", str(tmp_path)]))
    assert [path.is_absolute() for path in folders()] == [True, True]
    assert definitions()[0].problem == "There is no such folder."


def test_listing_names_the_digest_and_runs_nothing(installed):
    facts = catalog()["ward_net"]
    assert (facts.title, facts.definition, facts.parameters) == ("WardNet", digest(installed), 13_445)
    assert not (installed.parent / "ran").exists()
    ward_net()
    assert (installed.parent / "ran").exists()
    assert list(installed.parent.glob("**/*.pyc")) == []


@pytest.mark.parametrize(
    "change,sentence",
    [
        (lambda path: path.write_text(SOURCE.replace('"ward_net"', '"inception_time"')), "already"),
        (lambda path: path.write_text("def broken(:"), "cannot be read"),
        (lambda path: path.write_text(SOURCE.replace("13_445", "int('1')")), "cannot be read"),
        (lambda path: path.write_text("x = 1\n"), "marks no function"),
        (lambda path: path.write_text(SOURCE.replace("13_445,", "13_445, definition='a',")), "its own digest"),
        (lambda path: path.chmod(0o666), "chmod go-w"),
        (lambda path: path.parent.chmod(0o777), "chmod go-w"),
        (lambda path: path.write_text("#" * 1_000_001), "larger"),
    ],
)
def test_a_file_that_cannot_be_used_is_listed_with_the_reason(installed, change, sentence):
    change(installed)
    [row] = definitions(tuple(built_in()))
    assert sentence in row.problem
    assert row.networks == ()
    assert catalog() == built_in()


def test_a_definition_that_fails_when_it_runs_harms_only_its_own_network(folder):
    install(folder, SOURCE.replace("(Path(__file__)", "1 / 0; (Path(__file__)"))
    with pytest.raises(InvalidInput, match=r"ward\.py does not run: ZeroDivisionError"):
        ward_net()
    assert build("xresnet1d18", n_leads=2, n_samples=100, fs_hz=100, n_classes=2)
    install(folder, SOURCE)
    assert ward_net()


def test_weights_of_an_installed_network_become_a_version_that_names_its_definition(installed):
    found = examine(state_dict(), "ward.pt", SAID)
    assert found.contract.architecture == "ward_net"
    assert found.contract.definition == digest(installed) == definition_of("ward_net")
    assert found.checks["format"] == "onnx"
    signals = beats(3)
    expected = ward_net()(torch.from_numpy(signals)).detach().numpy()
    session = onnxruntime.InferenceSession(found.main)
    assert np.abs(session.run(None, {session.get_inputs()[0].name: signals})[0] - expected).max() < 1e-4
    # Its ONNX and its safetensors come back as the same network.
    for data in (found.main, found.weights):
        again = examine(data, "again", {})
        assert again.contract == found.contract
        assert again.weights == found.weights


def test_without_the_definition_or_with_another_one_it_is_refused_with_a_sentence(installed):
    found = examine(state_dict(), "ward.pt", SAID)
    version = ModelVersion(contract=found.contract.to_dict(), checks={}, state="ready", origin=Origin.TRAINED)
    install(installed.parent, SOURCE + "\n# changed\n")
    for data in (found.main, found.weights):
        with pytest.raises(Conflict, match="another definition of ward_net") as refusal:
            examine(data, "ward", {})
        assert refusal.value.code == "definition_differs"
    installed.unlink()
    for data in (found.main, found.weights):
        with pytest.raises(Conflict, match=r"has to be installed by an administrator") as refusal:
            examine(data, "ward", {})
        assert refusal.value.code == "definition_missing"
    with pytest.raises(Conflict, match="has to be installed"):
        loading.module_of(version)
    with pytest.raises(NotFound):
        ward_net()


@pytest.mark.django_db
def test_fine_tuning_asks_for_the_definition_before_the_run(installed):
    found = examine(state_dict(), "ward.pt", SAID)
    project = factories.make_project()
    actor = factories.make_team(project)["owner"]
    version = services.version_add(
        actor=actor, model=services.model_get_or_create(actor=actor, project=project, name="Ward"), onnx=found.main,
        contract=found.contract, origin=Origin.IMPORTED, parameters=found.parameters, weights=found.weights,
        card={"licence": "CC BY 4.0", "intended_use": "research", "training_data": "Not known."},
    )  # fmt: skip
    assert services.check_trainable(version).definition == digest(installed)
    installed.unlink()
    with pytest.raises(Conflict, match="has to be installed"):
        services.check_trainable(version)


def test_the_command_runs_the_contract_suite(installed, capsys):
    call_command("check_architectures", "--json")
    [row] = json.loads(capsys.readouterr().out)
    assert (row["network"], row["definition"], row["failed"]) == ("ward_net", digest(installed), {})
    assert {"parameters", "onnx", "learning", "head"} <= set(row["passed"])


def test_the_command_says_which_promise_is_broken(folder, capsys):
    install(folder, SOURCE.replace("13_445", "13_444").replace("return self.head(", "return 0 * x.sum() + self.head("))
    install(folder, "def broken(:", "zz.py")
    with pytest.raises(SystemExit):
        call_command("check_architectures", "--json")
    broken, row = json.loads(capsys.readouterr().out)
    assert broken["network"] == "zz.py"
    assert row["failed"]["parameters"] == "CheckFailed: it states 13,444 parameters and has 13,445"
    assert "onnx" in row["passed"]


@pytest.mark.django_db
def test_the_page_shows_administrators_the_files(installed):
    client = Client()
    client.force_login(factories.make_user(is_administrator=True))
    page = client.get(reverse("modelhub:networks")).content.decode()
    assert definitions()[0].shown in page
    assert definitions()[0].shown.replace(" ", "") == digest(installed)
    assert "WardNet" in page
    assert not (installed.parent / "ran").exists()
