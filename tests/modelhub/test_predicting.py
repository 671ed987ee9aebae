"""Predictions: a selection, comparison with labels, notices, files, cancel and resume, a folder, age and sex."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import wfdb
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from datasets.removing import record_delete
from datasets.simulate import simulate
from ecgportal import storage
from ecgportal.commands import PortalCommand
from ecgportal.errors import InvalidInput
from ecgportal.jobs import services as jobs
from ecgportal.jobs.models import Job
from modelhub import (
    answering,
    dav_bundles,
    explaining,
    folder,
    loading,
    novelty,
    packaging,
    predicting,
    services_predictions,
    sr_json,
)
from modelhub.architectures.person import person_features
from modelhub.architectures.registry import build
from modelhub.bundle import read_bundle
from modelhub.models import Model, ModelVersion, Prediction, PredictionRun
from modelhub.onnx.export import export_onnx
from modelhub.onnx.load import load_own
from modelhub.runtime.predictor import load_predictor
from modelhub.runtime.reference import distances, reference_of
from tests import factories
from tests.modelhub.conftest import beats, make_contract
from tests.modelhub.test_importing import tiny_onnx
from tests.working import work_off

pytestmark = pytest.mark.django_db


def make_version(project, data: bytes | None = None, **changes) -> ModelVersion:
    contract = make_contract(**{"classes": ("NORM", "MI", "A", "B", "C")} | changes)
    sha256, size = storage.put_bytes(data or tiny_onnx())
    return ModelVersion.objects.create(
        model=Model.objects.create(project=project, name="Net"), number=1, state="ready", origin="imported", card={"licence": "CC BY 4.0", "intended_use": "research", "training_data": "Not known."},
        contract=contract.to_dict(), classes=list(contract.classes), task=contract.task, sha256=sha256, size=size, checks={"format": "onnx"},
    )  # fmt: skip


class World:
    def __init__(self) -> None:
        self.project = factories.make_project()
        self.owner = factories.make_team(self.project)["owner"]
        self.dataset = factories.make_dataset(self.project)
        self.map = factories.make_label_map(self.project, classes=["NORM", "MI", "A", "B", "C"])
        signals = beats(4, seed=3)
        labels = (("NORM",), ("IMI",), ("strange",), ())
        self.records = [
            factories.make_record(
                self.dataset, f"r{i}", signal=signal, labels=codes, quality_score=0.2 if i == 1 else 0.9
            )
            for i, (signal, codes) in enumerate(zip(signals, labels))
        ]
        self.version = make_version(self.project)
        self.client = Client()
        self.client.force_login(self.owner)

    def predict(self, **fields) -> PredictionRun:
        body = {"version": str(self.version.pk), **fields}
        answer = self.client.post("/api/v1/predictions/", json.dumps(body), content_type="application/json")
        assert answer.status_code == 202, answer.content
        assert work_off()[-1].state == "succeeded"
        return PredictionRun.objects.get(pk=answer.json()["id"])


@pytest.fixture
def world() -> World:
    return World()


def test_a_selection_is_compared_with_its_labels_and_leaves_in_three_forms(world):
    run = world.predict(records=[str(row.pk) for row in world.records])
    assert run.label_map == world.map
    address = f"/api/v1/predictions/{run.pk}/rows/"
    rows = {row["key"]: row for row in world.client.get(address).json()["results"]}
    assert [rows[f"r{i}"]["labels"] for i in range(4)] == [["NORM"], ["MI"], None, None]
    assert rows["r1"]["notices"] == ["Its technical quality is poor (score 0.20)."] and rows["r0"]["notices"] == []
    signals = np.stack([beats(4, seed=3)[i] for i in range(4)])
    expected = load_predictor(tiny_onnx(), make_contract(), 1).predict(signals)
    assert np.abs(np.array([list(rows[f"r{i}"]["probabilities"].values()) for i in range(4)]) - expected).max() < 1e-4
    told = world.client.get(f"/api/v1/predictions/{run.pk}/").json()
    assert told["agreement"]["known"] == 2 and told["threshold_origin"].startswith("0.5")
    cell = told["agreement"]["classes"]["NORM"]
    assert sum(cell.values()) == 2 and cell["both"] + cell["label_only"] == 1
    page = reverse("modelhub:prediction_file", kwargs={"pk": run.pk})
    table = list(csv.DictReader(io.StringIO(world.client.get(page).content.decode())))
    assert [row["labels"] for row in table] == ["NORM", "MI", "", ""]
    assert {row["threshold(NORM)"] for row in table} == {"0.500000"}
    assert "brings no statistics of its training data" in told["care_basis"]
    whole = json.loads(world.client.get(page + "?format=json").content)
    assert whole["rows"] == list(rows.values()) and whole["sha256"] == world.version.sha256
    reports = json.loads(world.client.get(address + "?format=sr").content)
    texts = [item["0040A160"]["Value"][0] for item in reports[0]["0040A730"]["Value"] if "0040A160" in item]
    assert told["threshold_origin"] in texts
    assert len(reports) == 4 and reports[0]["0040A493"]["Value"] == ["UNVERIFIED"]
    numbers = [item for item in reports[0]["0040A730"]["Value"] if item["0040A040"]["Value"] == ["NUM"]]
    assert len(numbers) == 5
    assert world.client.get(page + "?format=xls").status_code == 422
    shown = world.client.get(reverse("modelhub:prediction", kwargs={"pk": run.pk})).content.decode()
    assert "Its technical quality is poor" in shown and "labelled records" in shown
    assert "brings no statistics" in shown
    first = world.version.classes[0]
    for sort, reverse_ in ((first, False), (f"-{first}", True)):
        answer = world.client.get(reverse("modelhub:prediction", kwargs={"pk": run.pk}), {"sort": sort})
        values = [row.values[0] for row in answer.context["predictions"]]
        assert values == sorted(values, reverse=reverse_) and answer.context["sort"] == sort


def test_what_jobs_and_runs_tell_of_a_record_goes_with_it(world):
    """The name of a tried record, a model's answers about it, and why a run left it out."""
    gone, kept = world.records[0], world.records[1]
    for record in (gone, kept):
        body = json.dumps({"record": str(record.pk)})
        address = f"/api/v1/model-versions/{world.version.pk}/try/"
        assert world.client.post(address, body, content_type="application/json").status_code == 202
    assert [job.result["key"] for job in work_off()] == ["r0", "r1"]
    run = world.predict(records=[str(kept.pk)])
    entries = [{"record": str(record.pk), "key": record.key, "reason": "Too short."} for record in (gone, kept)]
    PredictionRun.objects.filter(pk=run.pk).update(refused=entries)
    record_delete(actor=world.owner, record=gone)
    first, second = Job.objects.filter(kind="try_model").order_by("created_at")
    assert (first.title, first.result) == ("A record that was deleted", {}) and first.state == "succeeded"
    assert second.result["key"] == "r1" and "r1" in second.title
    run.refresh_from_db()
    assert run.refused == entries[1:]


def test_no_cell_of_predictions_is_a_formula(world):
    run = world.predict(records=[str(row.pk) for row in world.records])
    Prediction.objects.filter(run=run).update(predicted=["-2+3|cmd"], notices=["=HYPERLINK(1)"])
    content = world.client.get(f"/api/v1/predictions/{run.pk}/rows/?format=csv").content.decode()
    for row in csv.DictReader(io.StringIO(content)):
        assert (row["predicted"], row["notices"]) == ("'-2+3|cmd", "'=HYPERLINK(1)")
        assert float(row["p(NORM)"]) <= 1


def test_a_structured_report_can_be_read_by_a_dicom_library():
    pydicom = pytest.importorskip("pydicom")
    from django.utils import timezone

    row = {
        "record": "a",
        "key": "k",
        "probabilities": {"NORM": 0.25},
        "predicted": ["NORM"],
        "thresholds": {"NORM": 0.5},
    }
    document = sr_json.document(row, model="Net v1", sha256="0" * 64, at=timezone.now(), task="multilabel")
    dataset = pydicom.Dataset.from_json(json.dumps(document))
    number = next(item for item in dataset.ContentSequence if item.ValueType == "NUM")
    assert float(number.MeasuredValueSequence[0].NumericValue) == 0.25
    assert float(number.ContentSequence[0].MeasuredValueSequence[0].NumericValue) == 0.5


def test_keys_choose_records_on_the_page(world):
    page = reverse("modelhub:predictions", kwargs={"project": world.project.pk})
    fields = {"version": str(world.version.pk), "dataset": str(world.dataset.pk)}
    answer = world.client.post(page, fields | {"records": "r1, nobody"})
    assert answer.status_code == 422 and b"has no record nobody" in answer.content
    assert world.client.post(page, fields | {"records": "r1\nr3"}).status_code == 302
    work_off()
    assert sorted(Prediction.objects.values_list("record__key", flat=True)) == ["r1", "r3"]


def test_cancelled_predictions_go_on_where_they_stopped(world, monkeypatch):
    monkeypatch.setattr(predicting, "_BATCH", 2)
    run = services_predictions.prediction_start(
        actor=world.owner, project=world.project, version=world.version, dataset=world.dataset
    )
    asked = []
    real = loading.predictor

    def stopping(version, **options):
        inner = real(version, **options)

        class Stops:
            pieces = inner.pieces

            def predict_with_features(self, batch, person=None):
                asked.append(len(batch))
                if len(asked) == 2:
                    raise InvalidInput("The machine was needed elsewhere.")
                return inner.predict_with_features(batch, person)

        return Stops()

    monkeypatch.setattr(loading, "predictor", stopping)
    assert work_off()[-1].state == "failed"
    assert run.predictions.count() == 2
    first = set(run.predictions.values_list("pk", flat=True))
    assert world.client.post(f"/api/v1/predictions/{run.pk}/resume/").status_code == 202
    assert work_off()[-1].state == "succeeded"
    assert run.predictions.count() == 4 and first <= set(run.predictions.values_list("pk", flat=True))
    assert asked == [2, 2, 2]
    assert world.client.post(f"/api/v1/predictions/{run.pk}/resume/").status_code == 409
    other = services_predictions.prediction_start(
        actor=world.owner, project=world.project, version=world.version, dataset=world.dataset
    )
    jobs.cancel(actor=world.owner, job=Job.objects.get(pk=other.job_id))
    page = reverse("modelhub:prediction_resume", kwargs={"pk": other.pk})
    assert world.client.post(page).status_code == 302
    assert work_off()[-1].state == "succeeded" and other.predictions.count() == 4


def test_records_that_do_not_fit_are_refused_with_a_remedy(world):
    factories.make_record(world.dataset, "few", signal=beats(1, 2)[0], leads=("I", "II"))
    factories.make_record(world.dataset, "short", signal=beats(1, n_samples=200)[0])
    factories.make_record(world.dataset, "slow", signal=beats(1, n_samples=400)[0], fs_hz=40.0)
    run = world.predict(dataset=str(world.dataset.pk))
    reasons = {row["key"]: row["reason"] for row in run.refused}
    assert set(reasons) == {"few", "short", "slow"}
    assert all("Choose a model" in reason for reason in reasons.values())
    assert run.predictions.count() == 4


def test_records_outside_the_training_data_are_told(world):
    features = np.random.default_rng(0).normal(2, 0.5, (200, 12))
    reference = reference_of(features)
    assert distances(features, reference).mean() == pytest.approx(1, abs=0.2)
    assert np.isnan(distances(features[:, :5], reference)).all()
    assert reference_of(features[:5]) is None
    own = load_predictor(tiny_onnx(), make_contract(), 2, features=True).predict_with_features(beats(40, seed=5))[1]
    assert own.shape == (40, 12)
    assert np.abs(own - beats(40, seed=5).mean(2)).max() < 1e-5
    ModelVersion.objects.filter(pk=world.version.pk).update(facts={"reference": reference_of(own)})
    far = factories.make_record(world.dataset, "far", signal=beats(1, seed=9)[0] + 50, quality_score=0.9)
    run = world.predict(dataset=str(world.dataset.pk))
    said = run.predictions.get(record=far).notices
    assert len(said) == 1 and "outside the training data" in said[0]
    assert novelty.reference_for(run.version)["n"] == 40
    assert "40 training records" in world.client.get(f"/api/v1/predictions/{run.pk}/").json()["care_basis"]


def test_the_statistics_of_the_training_travel_although_nobody_predicted_before(world, monkeypatch):
    computed = reference_of(np.random.default_rng(1).normal(0, 1, (30, 12)))
    monkeypatch.setattr(novelty, "_computed", lambda version: computed)
    bundle = read_bundle(packaging.bundle_of(world.version))
    assert bundle.manifest["reference"]["n"] == 30
    first = dav_bundles.bundle_file(world.version)
    assert dav_bundles.bundle_file(ModelVersion.objects.get(pk=world.version.pk)).sha256 == first.sha256


def test_age_and_sex_reach_a_network_that_takes_them(world, monkeypatch):
    module = build("se_wrn_metadata", n_leads=12, n_samples=1000, fs_hz=100, n_classes=5, seed=4).eval()
    contract = make_contract(
        classes=("NORM", "MI", "A", "B", "C"), architecture="se_wrn_metadata", needs=("age", "sex")
    )
    data = export_onnx(module, contract)
    assert load_own(data).contract.needs == ("age", "sex")
    import torch

    signals = beats(2)
    person, imputed = person_features([70, None], ["F", "M"])
    assert imputed.tolist() == [False, True]
    expected = torch.sigmoid(module(torch.from_numpy(signals), torch.from_numpy(person))).detach().numpy()
    predictor = load_predictor(data, contract, 2)
    assert np.abs(predictor.predict(signals, person) - expected).max() < 1e-4
    unknown = torch.sigmoid(module(torch.from_numpy(signals))).detach().numpy()
    assert np.abs(predictor.predict(signals) - unknown).max() < 1e-4
    assert np.abs(expected - unknown).max() > 1e-4
    Model.objects.all().delete()
    world.version = make_version(world.project, data, architecture="se_wrn_metadata", needs=("age", "sex"))
    world.records[0].age, world.records[0].sex = 70, "F"
    world.records[0].save()
    run = world.predict(records=[str(row.pk) for row in world.records[:2]])
    first, second = run.predictions.order_by("record__key")
    assert first.notices == [] and any("imputed" in sentence for sentence in second.notices)
    explained, real = [], explaining.occlusion

    def coarse(predict, signal, **how):
        explained.append(real(predict, signal, **how, windows=1))
        return explained[-1]

    monkeypatch.setattr(explaining, "occlusion", coarse)
    explaining.saliency_start(actor=world.owner, prediction=first)
    assert work_off()[-1].state == "succeeded"
    np.testing.assert_allclose(explained[0].base, first.values, atol=1e-4)


def test_a_folder_is_answered_by_command_and_nothing_of_it_is_stored(world, tmp_path):
    ecgs = tmp_path / "ecgs"
    ecgs.mkdir()
    record = simulate("SNR", 1, fs_hz=250).record
    names = [name.lower() if name.startswith("x") else name for name in record.leads]
    wfdb.wrsamp(
        "a",
        fs=250,
        units=["mV"] * 12,
        sig_name=names,
        p_signal=record.signal.T.astype(float),
        write_dir=str(ecgs),
        fmt=["16"] * 12,
    )
    (ecgs / "notes.txt").write_text("no ECG")
    (ecgs / "a.atr").write_bytes(b"\x00\x01")
    out = tmp_path / "out.csv"
    stdout = io.StringIO()
    call_command(
        "predict", "--model-version", "Net v1", "--folder", str(ecgs), "--output", str(out), "--as-user", world.owner.username, "--json", stdout=stdout
    )  # fmt: skip
    told = json.loads(stdout.getvalue())
    assert (told["predicted"], told["refused"]) == (1, 1)
    assert told["refused_files"][0]["name"] == "notes.txt"
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 1 and 0 <= float(rows[0]["p(NORM)"]) <= 1
    assert world.dataset.records.count() == 4


def write_wfdb(folder, name: str, seed: int) -> None:
    record = simulate("SNR", seed, fs_hz=250).record
    wfdb.wrsamp(
        name, fs=250, units=["mV"] * 12, sig_name=list(record.leads), p_signal=record.signal.T.astype(float), write_dir=str(folder),
        fmt=["16"] * 12,
    )  # fmt: skip


def test_a_folder_that_was_broken_off_goes_on_and_is_written_in_every_form(world, tmp_path, monkeypatch):
    ecgs = tmp_path / "ecgs"
    ecgs.mkdir()
    for number in range(3):
        write_wfdb(ecgs, f"r{number}", number)
    (ecgs / "notes.txt").write_text("no ECG")
    monkeypatch.setattr(folder, "_BATCH", 1)
    asked, real = [], novelty.notices

    def cut(found, *rest):
        asked.extend(row.key for row in found)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(found, *rest)

    monkeypatch.setattr(novelty, "notices", cut)
    out = tmp_path / "out.json"

    def run(output):
        return folder.predict_folder(world.version, ecgs, output, actor=world.owner, tell=lambda done, of: None)

    with pytest.raises(KeyboardInterrupt):
        run(out)
    draft = tmp_path / "out.json.part"
    assert not out.exists()
    # As a kill in the middle of a line leaves it.
    draft.write_text(draft.read_text() + '{"key": "r1.h')
    told = run(out)
    assert (told["predicted"], told["refused"], told["resumed"]) == (3, 1, True)
    assert len(asked) == 4
    assert not draft.exists()
    whole = json.loads(out.read_text())
    assert len({row["key"] for row in whole["rows"]}) == 3
    assert set(whole["rows"][0]["probabilities"]) == set(world.version.classes)
    assert "brings no statistics" in whole["care_basis"] and whole["threshold_origin"].startswith("0.5")
    assert run(tmp_path / "out.sr.json")["resumed"] is False
    assert len(json.loads((tmp_path / "out.sr.json").read_text())) == 3
    with pytest.raises(InvalidInput, match="does not say how"):
        run(tmp_path / "out.txt")


def test_a_selection_is_predicted_by_command(world, tmp_path, monkeypatch):
    # The command works a job off in a thread of its own, which does not see the rows of a test's transaction.
    monkeypatch.setattr(PortalCommand, "follow", lambda command, job: work_off()[-1])
    out = tmp_path / "out.json"
    call = [
        "predict",
        "--model-version",
        "Net v1",
        "--dataset",
        str(world.dataset.pk),
        "--as-user",
        world.owner.username,
    ]
    call_command(*call, "--records", "r0", "r2", "--output", str(out), "--json", stdout=io.StringIO())
    assert [row["key"] for row in json.loads(out.read_text())["rows"]] == ["r0", "r2"]
    with pytest.raises(SystemExit):
        call_command(*call, "--records", "nobody", "--json", stdout=io.StringIO())


def test_a_record_that_is_deleted_while_the_model_answers_is_left_out(world, monkeypatch):
    real = answering.Answerer.answers

    def late(answerer, records, batch):
        if world.records[1].pk in {record.pk for record in records}:
            record_delete(actor=world.owner, record=world.records[1])
        return real(answerer, records, batch)

    monkeypatch.setattr(answering.Answerer, "answers", late)
    run = world.predict(dataset=str(world.dataset.pk))
    assert set(run.predictions.values_list("record__key", flat=True)) == {"r0", "r2", "r3"}
    assert run.job.result["predicted"] == 3 and run.refused == []
    assert run.job.result["notes"] == ["Records that were deleted before the model had answered: 1."]


def test_a_record_that_is_deleted_before_its_batch_is_left_out(world, monkeypatch):
    real = predicting._reader

    def late(*asked):
        read = real(*asked)
        record_delete(actor=world.owner, record=world.records[2])
        return read

    monkeypatch.setattr(predicting, "_reader", late)
    run = world.predict(dataset=str(world.dataset.pk))
    assert set(run.predictions.values_list("record__key", flat=True)) == {"r0", "r1", "r3"}
    assert (run.job.result["predicted"], run.job.result["refused"]) == (3, 0)
