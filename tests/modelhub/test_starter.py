"""The starter model: it comes with the portal, is in the catalogue of a fresh one, and predicts and can be trained on."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.models import Dataset
from datasets.preprocess.recipe import Recipe
from datasets.simulate import simulate
from modelhub import catalogue, loading, packaging, services_predictions, starter
from modelhub.bundle import read_bundle
from modelhub.models import CatalogueEntry, Prediction
from tests import factories
from tests.working import work_off

pytestmark = pytest.mark.django_db


def test_the_file_is_small_and_states_what_it_was_made_of():
    bundle = read_bundle(starter.FILE)
    assert starter.FILE.stat().st_size < 1_000_000
    assert bundle.manifest["made_by"] == "manage.py make_starter_model"
    assert "simulated" in bundle.card and bundle.manifest["metrics"]["auroc_macro"]["value"] > 0.9
    assert bundle.manifest["reference"]["n"] >= 200


def test_it_can_be_copied_from_the_catalogue_predicts_and_can_be_trained_on():
    administrator = factories.make_user("admin", is_administrator=True)
    entry = starter.install(administrator)
    assert starter.install(administrator) is None
    project = factories.make_project()
    editor = factories.make_team(project)["editor"]
    assert list(catalogue.visible(editor)) == [entry]
    version = catalogue.copy(actor=editor, entry=CatalogueEntry.objects.get(), project=project)
    dataset = factories.make_dataset(project)
    for number, condition in enumerate(("AF", "SNR")):
        record = simulate(condition, 40 + number, fs_hz=250).record
        factories.make_record(dataset, condition, signal=record.signal, fs_hz=250, quality_score=1.0)
    services_predictions.prediction_start(actor=editor, project=project, version=version, dataset=dataset)
    assert work_off()[-1].state == "succeeded"
    answers = {
        row.record.key: dict(zip(version.classes, row.values)) for row in Prediction.objects.select_related("record")
    }
    assert answers["AF"]["AF"] > answers["SNR"]["AF"]
    import torch

    module = loading.start_module(
        version.architecture,
        packaging.contract_of(version).with_changes(classes=("x", "y"), thresholds={}),
        version,
        seed=1,
    )
    module.train()(torch.zeros(2, 12, 1000)).sum().backward()
    signal = (
        Recipe.from_json(loading.recipe_of(packaging.contract_of(version)))
        .apply(simulate("AF", 40, fs_hz=250).record)
        .signal
    )
    own = loading.module_of(version).eval()(torch.from_numpy(signal[None]))
    assert np.abs(torch.sigmoid(own).detach().numpy()[0] - list(answers["AF"].values())).max() < 1e-3
    assert b"simulated ECGs only" in packaging.card_markdown(version).encode()


@pytest.mark.parametrize(("wanted", "demonstrations"), [("1", 1), ("0", 0)])
def test_a_fresh_portal_has_it_in_its_catalogue_beside_the_demonstration(monkeypatch, wanted, demonstrations):
    import io

    from datasets import demo
    from datasets.management.commands.setup import Command

    monkeypatch.setenv("PORTAL_DEMO", wanted)
    monkeypatch.setitem(demo.create.__kwdefaults__, "n", 4)
    Command(stdout=io.StringIO())._first_start()
    entry = CatalogueEntry.objects.get()
    assert (entry.state, entry.visible_to_all) == ("approved", True)
    assert not entry.version.model.project.memberships.exists()
    made = Dataset.objects.filter(project__name=demo.PROJECT, project__memberships__role="owner")
    assert [row.records.count() for row in made] == [4] * demonstrations
