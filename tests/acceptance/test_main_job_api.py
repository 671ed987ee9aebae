"""The main job over REST alone: from files and a label table to a trained, evaluated, shared model."""

from __future__ import annotations

import csv
import io
import re
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import pytest
from django.db import connection
from safetensors.numpy import load as load_safetensors

from datasets.demo import sync_label_maps
from ecgportal.audit.trail import verify
from tests.acceptance.conftest import signed_in
from tests.api_client import Api
from tests.ecgfiles import Cohort, make_cohort, zip_of
from tests.working import work_off
from training.models import SplitMember

SUPERCLASSES = ["NORM", "MI", "STTC", "CD", "HYP"]
FAST = {"epochs": 2, "batch_size": 16, "threads": 1, "seed": 5}
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")


def promised(row: dict[str, Any], names: str) -> None:
    """Assert that a resource has the named fields, that ids are UUIDs and times UTC."""
    missing = [name for name in names.replace(",", " ").split() if name not in row]
    assert not missing, f"{missing} missing in {sorted(row)}"
    for name, value in row.items():
        if name == "id" or (name in {"project", "dataset", "job", "version", "model"} and isinstance(value, str)):
            uuid.UUID(value)
        if name.endswith("_at") and value is not None:
            assert _UTC.fullmatch(value), (name, value)


def same_person(records: list[dict[str, Any]], truth: dict[str, str]) -> None:
    """Assert that records share a subject exactly where ``truth`` (key to person) does; the subject may be a pseudonym."""
    pairs = {(row["subject"], truth[row["key"]]) for row in records}
    assert len(pairs) == len({shown for shown, _ in pairs}) == len({person for _, person in pairs})


@dataclass
class Study:
    """What the steps of the main job hand on to each other."""

    owner: Api
    viewer: Api
    cohort: Cohort
    project: str = ""
    dataset: str = ""
    records: dict[str, str] = field(default_factory=dict)
    label_map: str = ""
    run: str = ""
    version: str = ""

    def job(self, job: str, state: str = "succeeded") -> dict[str, Any]:
        """Do the waiting work and return the job, which must have ended as told."""
        work_off()
        row = self.owner.get(f"jobs/{job}/")
        promised(row, "id, kind, state, progress, message, error, created_at, started_at, finished_at, result")
        assert row["state"] == state, row
        assert 0 <= row["progress"] <= 1 and (row["error"] is None) == (state != "failed")
        return row


@pytest.mark.django_db(transaction=True)
def test_the_main_job_over_rest(few_threads, dav_server):
    sync_label_maps()
    study = Study(signed_in("olga"), signed_in("viktor"), make_cohort(40))
    administrator = signed_in("root", is_administrator=True)
    _project_and_member(study)
    _upload(study)
    _labels(study)
    _records(study)
    _train(study)
    _judge(study)
    _download(study)
    predicted = _predict(study)
    _share(study, administrator, dav_server, predicted)
    _cancel_and_resume(study)
    _delete(study)
    _audit(study, administrator)


def _project_and_member(study: Study) -> None:
    owner, viewer = study.owner, study.viewer
    me = owner.get("users/me/")
    promised(me, "id, username, is_active, is_administrator")
    assert me["username"] == "olga" and me["is_administrator"] is False and "password" not in me
    project = owner.post("projects/", {"name": "Ward study"})
    promised(project, "id, name, slug, role")
    assert (project["role"], project["slug"]) == ("owner", "ward-study")
    study.project = project["id"]
    viewer.refused("get", f"projects/{study.project}/", status=404)
    member = owner.put(f"projects/{study.project}/members/{viewer.user.pk}/", {"role": "viewer"})
    assert (member["username"], member["role"]) == ("viktor", "viewer")
    assert {row["role"] for row in owner.rows(f"projects/{study.project}/members/")} == {"viewer", "owner"}
    assert viewer.get(f"projects/{study.project}/")["role"] == "viewer"
    error = viewer.refused(
        "post", "datasets/", {"project": study.project, "name": "Mine"}, status=403, code="role_needed"
    )
    assert "editor" in error["message"]
    assert owner.patch(f"projects/{study.project}/", {"description": "By the ward"})["description"] == "By the ward"


def _upload(study: Study) -> None:
    owner = study.owner
    dataset = owner.post("datasets/", {"project": study.project, "name": "Simulated ward"})
    promised(dataset, "id, project, name, record_count, subject_count, label_counts")
    assert (dataset["record_count"], dataset["subject_count"], dataset["label_counts"]) == (0, 0, {})
    study.dataset = dataset["id"]
    owner.refused("post", "datasets/", {"project": study.project, "name": "simulated WARD"}, status=422)
    bad = {
        "study/notes.txt": b"Call the ward.",
        "study/alone.hea": study.cohort.files["study/case000.hea"].replace(b"case000", b"alone"),
    }
    archive = zip_of({**study.cohort.files, **bad})
    answer = owner.post(
        f"datasets/{study.dataset}/uploads/",
        {},
        status=202,
        files={"files": [("study.zip", archive), ("again.hea", b"")]},
    )
    promised(answer, "job, ingest")
    assert (
        owner.get(f"ingests/{answer['ingest']}/")["state"] == owner.get(f"jobs/{answer['job']}/")["state"] == "queued"
    )
    job = study.job(answer["job"])
    assert (job["kind"], job["progress"], job["result"]["accepted"]) == ("ingest", 1.0, 40)
    items = owner.rows(f"ingests/{answer['ingest']}/items/")
    for item in items:
        promised(item, "name, outcome, code, message, record")
    by_outcome = {
        name: [x for x in items if x["outcome"] == name] for name in ("accepted", "companion", "refused", "duplicate")
    }
    assert {name: len(rows) for name, rows in by_outcome.items()} == {
        "accepted": 40,
        "companion": 40,
        "refused": 3,
        "duplicate": 0,
    }
    refused = {item["name"]: item for item in by_outcome["refused"]}
    assert set(refused) == {"study/notes.txt", "study/alone.hea", "again.hea"}
    assert all(item["code"] and item["record"] is None for item in refused.values())
    assert "alone" in refused["study/alone.hea"]["message"] and "notes.txt" in refused["study/notes.txt"]["message"]
    assert owner.rows(f"ingests/{answer['ingest']}/items/", outcome="refused") == by_outcome["refused"]
    assert all(owner.get(f"records/{item['record']}/")["key"] in item["name"] for item in by_outcome["accepted"][:3])
    study.viewer.refused(
        "post", f"datasets/{study.dataset}/uploads/", {}, status=403, files={"files": [("a.hea", b"x")]}
    )


def _labels(study: Study) -> None:
    owner = study.owner
    table = study.cohort.table() + b"nobody,p,50,0,{'NORM': 100.0},1\n" + b"case000,case-p000,50,0,{'XYZZY': 100.0},1\n"
    answer = owner.post(f"datasets/{study.dataset}/labels/", {}, status=202, files={"file": [("table.csv", table)]})
    result = study.job(answer["job"])["result"]
    promised(result, "rows, taken, unmatched, unknown_codes")
    assert (result["rows"], result["unmatched"], result["unknown_codes"]) == (42, 1, ["XYZZY"])
    assert any("nobody" in row["reason"] for row in result["rows_with_reason"])
    answer = owner.post(
        f"datasets/{study.dataset}/labels/", {}, status=202, files={"file": [("table.csv", study.cohort.table())]}
    )
    assert study.job(answer["job"])["result"]["taken"] == 40
    dataset = owner.get(f"datasets/{study.dataset}/")
    assert dataset["label_counts"] == {"SR": 40, "NORM": 10, "LVH": 10, "CRBBB": 10, "AMI": 10}
    assert dataset["subject_count"] == len(set(study.cohort.subjects.values())) < 40 == dataset["record_count"]
    assert owner.rows("datasets/", project=study.project)[0]["label_counts"] == dataset["label_counts"]
    rows = owner.rows(f"datasets/{study.dataset}/labels/")
    assert [row["key"] for row in rows] == sorted(study.cohort.subjects)
    assert {label["code"] for label in rows[0]["labels"]} == {"NORM", "SR"}
    maps = owner.rows("label-maps/", project=study.project)
    superclass = next(row for row in maps if row["name"] == "PTB-XL superclass")
    promised(superclass, "id, name, version, system, classes, entries, frozen")
    assert superclass["classes"] == SUPERCLASSES and superclass["frozen"] is True
    assert superclass["entries"]["CRBBB"] == {"class": "CD", "relation": superclass["entries"]["CRBBB"]["relation"]}
    study.label_map = superclass["id"]
    own = owner.post(
        "label-maps/",
        {
            "project": study.project,
            "name": "Block",
            "system": "scp",
            "classes": ["block"],
            "entries": {"CRBBB": "block"},
        },
    )
    text = owner.get(f"label-maps/{own['id']}/export/")
    assert next(csv.DictReader(io.StringIO(text.decode()))) == {"code": "CRBBB", "class": "block", "relation": "exact"}
    again = owner.post(
        "label-maps/import/", {"project": study.project, "name": "Block"}, files={"file": [("m.csv", text)]}
    )
    assert (again["version"], again["classes"], again["entries"]) == (2, ["block"], own["entries"])


def _records(study: Study) -> None:
    api = study.viewer
    rows = api.rows("records/", dataset=study.dataset, page_size=15)
    study.records = {row["key"]: row["id"] for row in rows}
    assert [row["key"] for row in rows] == sorted(study.cohort.subjects)
    for row in rows:
        promised(
            row, "id dataset key subject format fs_hz n_samples duration_s leads leads_computed age sex quality labels"
        )
        assert (row["format"], row["fs_hz"], row["n_samples"], row["duration_s"]) == ("wfdb", 250.0, 1500, 6.0)
        assert len(row["leads"]) == 12 and row["leads_computed"] == []
        assert all(set(label) == {"code", "system", "likelihood", "source"} for label in row["labels"])
    same_person(rows, study.cohort.subjects)
    assert len(api.rows("records/", dataset=study.dataset, label="CRBBB")) == 10
    assert [row["key"] for row in api.rows("records/", dataset=study.dataset, search="CASE01")] == [
        f"case{n:03d}" for n in range(10, 20)
    ]
    assert len(api.rows("records/", format="wfdb")) == 40 and api.rows("records/", format="dicom") == []
    assert api.rows("records/", dataset=str(uuid.uuid4())) == []
    record = study.records["case001"]
    expected = np.frombuffer(study.cohort.files["study/case001.dat"], "<i2").reshape(-1, 12).T / 1000
    signal = api.get(f"records/{record}/signal/", stage="original")
    promised(signal, "fs_hz, leads, unit, samples")
    assert (signal["fs_hz"], signal["unit"], signal["leads"][:4]) == (250.0, "mV", ["I", "II", "III", "aVR"])
    np.testing.assert_allclose(signal["samples"], expected, atol=1e-6)
    part = api.get(f"records/{record}/signal/", leads="V2,II", start_s="1", end_s="2.5")
    assert part["leads"] == ["V2", "II"]
    np.testing.assert_allclose(part["samples"], expected[[7, 1], 250:625], atol=1e-6)
    array = np.load(io.BytesIO(api.get(f"records/{record}/signal/", format="npy")))
    np.testing.assert_allclose(array, expected, atol=1e-6)
    table = list(csv.reader(io.StringIO(api.get(f"records/{record}/signal/", format="csv", leads="II").decode())))
    assert table[0] == ["time_s", "II (mV)"] and [float(v) for v in table[2]] == pytest.approx([0.004, expected[1, 1]])
    prepared = api.get(f"records/{record}/signal/", stage="prepared")
    assert (prepared["fs_hz"], len(prepared["leads"]), {len(row) for row in prepared["samples"]}) == (100.0, 12, {1000})
    measured = api.get(f"records/{study.records['case000']}/measurements/")
    promised(
        measured,
        "heart_rate_bpm rr_ms pr_ms qrs_ms qt_ms qtc_ms qtc_formula axis_deg r_peaks_s fiducials median_beat quality reasons",
    )
    assert 40 < measured["heart_rate_bpm"] < 120 and measured["rr_ms"] == pytest.approx(
        60000 / measured["heart_rate_bpm"], rel=0.01
    )
    assert measured["qtc_formula"] and 250 < measured["qtc_ms"] < 600 and -180 <= measured["axis_deg"] <= 180
    assert len(measured["fiducials"]) == len(measured["r_peaks_s"]) > 3
    for stage, value in (
        ("start_s", "nan"),
        ("end_s", "inf"),
        ("leads", "X9"),
        ("stage", "raw"),
        ("format", "exe"),
        ("start_s", "abc"),
    ):
        api.refused("get", f"records/{record}/signal/", status=422, query={stage: value})


def _train(study: Study) -> None:
    owner = study.owner
    networks = {row["name"]: row for row in owner.get("architectures/")["results"]}
    promised(networks["inception_time"], "name, title, parameters, needs")
    assert {"inception_time", "xception_time", "se_wrn", "xresnet1d101"} <= set(networks)
    choice = {
        "project": study.project, "dataset": study.dataset, "label_map": study.label_map, "task": "multilabel",
        "classes": ["NORM", "MI", "CD", "HYP"], "architecture": "inception_time", "settings": FAST,
    }  # fmt: skip
    study.viewer.refused("post", "training-runs/", choice, status=403)
    error = owner.refused("post", "training-runs/", {**choice, "classes": ["NORM", "GOUT"]}, status=422)
    assert "GOUT" in error["message"] and "classes" in error["fields"]
    owner.refused("post", "training-runs/", {**choice, "architecture": "perceptron"}, status=422)
    owner.refused("post", "training-runs/", {**choice, "settings": {"epochs": -1}}, status=422)
    owner.refused("post", "training-runs/", {"project": study.project}, status=422)
    owner.refused("post", "training-runs/", {**choice, "task": "telepathy"}, status=400)
    run = owner.post("training-runs/", choice, status=202)
    assert (run["state"], run["split"], run["produced_version"], run["report"]) == ("queued", {}, None, None)
    study.run = run["id"]
    study.job(run["job"])
    run = owner.get(f"training-runs/{study.run}/")
    promised(
        run,
        "id state progress job split learning_rate epochs best_epoch produced_version report manifest resumed project dataset label_map classes "
        "task architecture base_version mode settings",
    )
    assert (run["state"], run["progress"], run["epochs"], run["resumed"], run["mode"]) == (
        "succeeded",
        1.0,
        2,
        0,
        "scratch",
    )
    assert run["learning_rate"] > 0 and run["best_epoch"] in (1, 2)
    parts = run["split"]
    assert set(parts) == {"train", "validation", "test"} and sum(part["records"] for part in parts.values()) == 40
    # Each subject counted once over the three parts: nobody is on two sides.
    assert sum(part["subjects"] for part in parts.values()) == len(set(study.cohort.subjects.values()))
    sides: dict[str, set[str]] = {}
    for subject, part in SplitMember.objects.filter(split__training_run=study.run).values_list(
        "record__subject__key", "group__part"
    ):
        sides.setdefault(subject, set()).add(part)
    assert all(len(found) == 1 for found in sides.values())
    rows = owner.get(f"training-runs/{study.run}/metrics/")["results"]
    assert [row["epoch"] for row in rows] == [1, 2] and all(np.isfinite(row["train_loss"]) for row in rows)
    assert owner.get(f"training-runs/{study.run}/metrics/", after=1)["results"] == rows[1:]
    promised(owner.get(f"training-runs/{study.run}/lr-finder/"), "learning_rate")
    assert [row["id"] for row in owner.rows("training-runs/", dataset=study.dataset)] == [study.run]
    study.version = run["produced_version"]


def _judge(study: Study) -> None:
    api = study.viewer
    run = api.get(f"training-runs/{study.run}/")
    report = api.get(f"evaluations/{run['report']}/report/", format="json")
    promised(report, "n n_subjects f1_weighted f1_macro auroc_macro auprc_macro per_class confusion_matrix calibration")
    assert (report["n"], report["n_subjects"]) == tuple(run["split"]["test"].values())
    for name in ("f1_weighted", "f1_macro", "auroc_macro", "auprc_macro"):
        _figure(report[name])
    assert list(report["per_class"]) == ["NORM", "MI", "CD", "HYP"]
    for row in report["per_class"].values():
        promised(row, "n_positive, f1, auroc, auprc, sensitivity, specificity, threshold")
        for name in ("f1", "auroc", "auprc", "sensitivity", "specificity"):
            _figure(row[name])
    page = api.get(f"evaluations/{run['report']}/report/", format="html").decode()
    assert "<script" not in page and "AUROC" in page
    other = study.owner.post("evaluations/", {"version": study.version, "dataset": study.dataset}, status=202)
    promised(other, "id, job, state")
    api.refused("get", f"evaluations/{other['id']}/report/", status=409, code="not_finished")
    study.job(other["job"])
    # Only those count on whose subjects the model was not trained.
    assert api.get(f"evaluations/{other['id']}/report/")["n"] == run["split"]["test"]["records"]
    assert len(api.rows("evaluations/", version=study.version)) == 2


def _figure(value: dict[str, Any]) -> None:
    assert {"value", "low", "high"} <= set(value)
    if value["value"] is None or value["low"] is None:
        assert value["reason"]
    else:
        assert 0 <= value["low"] <= value["value"] <= value["high"] <= 1


def _download(study: Study) -> None:
    api = study.viewer
    version = api.get(f"model-versions/{study.version}/")
    promised(version, "id model number state input classes task architecture parameters sha256 parent card")
    assert (version["state"], version["number"], version["task"], version["architecture"]) == (
        "ready",
        1,
        "multilabel",
        "inception_time",
    )
    promised(version["input"], "leads, fs_hz, n_samples, unit, normalisation")
    assert (version["input"]["fs_hz"], version["input"]["n_samples"], version["input"]["unit"]) == (100.0, 1000, "mV")
    assert (
        version["classes"] == ["NORM", "MI", "CD", "HYP"] and version["parameters"] > 1000 and version["parent"] is None
    )
    onnx = api.get(f"model-versions/{study.version}/download/", format="onnx")
    prepared = api.get(f"records/{study.records['case000']}/signal/", stage="prepared")["samples"]
    session = onnxruntime.InferenceSession(onnx)
    logits = session.run(None, {session.get_inputs()[0].name: np.array([prepared], np.float32)})[0]
    assert logits.shape == (1, 4)
    weights = load_safetensors(api.get(f"model-versions/{study.version}/download/", format="safetensors"))
    assert sum(array.size for array in weights.values()) >= version["parameters"]
    bundle = api.get(f"model-versions/{study.version}/download/", format="bundle")
    assert bundle[:4] == b"PK\x03\x04"
    api.refused("get", f"model-versions/{study.version}/download/", status=422, query={"format": "pickle"})
    card = api.get(f"model-versions/{study.version}/card/")
    assert "NORM" in card["markdown"]
    study.owner.patch(f"model-versions/{study.version}/card/", {"intended_use": "Teaching."})
    assert api.get(f"model-versions/{study.version}/")["card"]["intended_use"] == "Teaching."
    assert [row["versions"] for row in api.rows("models/", project=study.project)] == [[study.version]]
    assert [row["id"] for row in api.rows("model-versions/", project=study.project)] == [study.version]
    job = study.owner.post(
        "model-versions/", {"project": study.project, "name": "Taken back"}, status=202, files={"file": [("net.onnx", onnx)]}
    )["job"]  # fmt: skip
    found = study.job(job)["result"]["version"]
    assert study.owner.get(f"model-versions/{found}/")["sha256"] == version["sha256"]


def _predict(study: Study) -> dict[str, dict[str, float]]:
    owner = study.owner
    chosen = [study.records[key] for key in ("case000", "case001", "case039")]
    some = owner.post("predictions/", {"version": study.version, "records": chosen}, status=202)
    promised(some, "id, version, dataset, records, job, state")
    study.job(some["job"])
    assert {row["record"] for row in owner.rows(f"predictions/{some['id']}/rows/")} == set(chosen)
    whole = owner.post("predictions/", {"version": study.version, "dataset": study.dataset}, status=202)
    study.viewer.refused("post", f"predictions/{whole['id']}/cancel/", status=403)
    study.job(whole["job"])
    rows = study.viewer.rows(f"predictions/{whole['id']}/rows/", format="json")
    assert [row["key"] for row in rows] == sorted(study.records)
    for row in rows:
        promised(row, "record, key, probabilities, predicted, thresholds")
        assert list(row["probabilities"]) == ["NORM", "MI", "CD", "HYP"]
        assert row["predicted"] == [name for name, p in row["probabilities"].items() if p >= row["thresholds"][name]]
    lines = list(
        csv.DictReader(io.StringIO(study.viewer.get(f"predictions/{whole['id']}/rows/", format="csv").decode()))
    )
    assert [line["key"] for line in lines] == sorted(study.records)
    assert float(lines[3]["p(CD)"]) == pytest.approx(rows[3]["probabilities"]["CD"], abs=1e-6)
    assert len(owner.rows("predictions/", version=study.version)) == 2
    return {row["key"]: row["probabilities"] for row in rows}


def _share(study: Study, administrator: Api, dav_server: Any, predicted: dict[str, dict[str, float]]) -> None:
    owner, viewer = study.owner, study.viewer
    remote = {
        "name": "Ward server",
        "url": dav_server.url,
        "username": dav_server.user,
        "password": dav_server.password,
    }
    owner.refused("post", "exchanges/", remote, status=403, code="administrator_needed")
    exchange = administrator.post("exchanges/", remote)
    assert "password" not in exchange and dav_server.password not in str(
        administrator.get(f"exchanges/{exchange['id']}/")
    )
    assert administrator.post(f"exchanges/{exchange['id']}/test/", status=200)["ok"] is True
    place = f"exchanges/{exchange['id']}"
    mine = {row["version"]: row["state"] for row in owner.get(f"{place}/models/", project=study.project)["results"]}
    assert mine[study.version] == "local_only"
    viewer.refused("post", f"{place}/push/", {"version": study.version}, status=403)
    transfer = owner.post(f"{place}/push/", {"version": study.version}, status=202)
    study.job(transfer["job"])
    row = next(
        row
        for row in owner.get(f"{place}/models/", project=study.project)["results"]
        if row["version"] == study.version
    )
    assert row["state"] == "same" and len(list(dav_server.folder.rglob("*.ecgmodel.zip"))) == 1
    # The viewer of the first project owns the second.
    second = viewer.post("projects/", {"name": "Sister ward"})["id"]
    found = viewer.get(f"{place}/models/", project=second)["results"]
    assert [row["state"] for row in found] == ["remote_only"]
    transfer = viewer.post(f"{place}/pull/", {"project": second, "path": found[0]["path"]}, status=202)
    work_off()
    job = viewer.get(f"jobs/{transfer['job']}/")
    assert job["state"] == "succeeded", job
    owner.refused("get", f"jobs/{transfer['job']}/", status=404)
    version = job["result"]["version"]
    assert viewer.get(f"model-versions/{version}/")["state"] == "quarantined"
    dataset = viewer.post("datasets/", {"project": second, "name": "Theirs"})["id"]
    viewer.post(f"datasets/{dataset}/uploads/", {}, status=202, files={"files": [("study.zip", study.cohort.zip())]})
    work_off()
    ask = {"version": version, "dataset": dataset}
    viewer.refused("post", "predictions/", ask, status=409, code="version_quarantined")
    viewer.refused("get", f"model-versions/{version}/download/", status=409, code="version_quarantined")
    owner.refused("post", f"model-versions/{version}/accept/", status=404)
    assert viewer.post(f"model-versions/{version}/accept/", status=200)["state"] == "ready"
    run = viewer.post("predictions/", ask, status=202)
    work_off()
    rows = viewer.rows(f"predictions/{run['id']}/rows/")
    assert {row["key"] for row in rows} == set(predicted)
    for row in rows:
        assert row["probabilities"] == pytest.approx(predicted[row["key"]], abs=1e-6)
    fetched = next(row for row in viewer.get(f"{place}/models/", project=second)["results"])
    assert fetched["state"] == "same"


def _cancel_and_resume(study: Study) -> None:
    owner = study.owner
    choice = {
        "project": study.project, "dataset": study.dataset, "label_map": study.label_map, "task": "binary", "classes": ["CD"],
        "architecture": "xresnet1d18", "settings": {**FAST, "epochs": 1},
    }  # fmt: skip
    run = owner.post("training-runs/", choice, status=202)
    assert owner.post(f"training-runs/{run['id']}/cancel/", status=200)["state"] == "cancelled"
    owner.refused("post", f"training-runs/{run['id']}/cancel/", status=409, code="job_finished")
    again = owner.post(f"training-runs/{run['id']}/resume/", status=202)
    assert (again["state"], again["resumed"]) == ("queued", 1) and again["job"] != run["job"]
    owner.refused("post", f"training-runs/{run['id']}/resume/", status=409, code="not_resumable")
    study.job(again["job"])
    owner.refused("post", f"training-runs/{run['id']}/resume/", status=409, code="not_resumable")
    # A cancel in the middle of the work: the epochs so far count, and the best of them becomes a version.
    run = owner.post("training-runs/", {**choice, "settings": {**FAST, "epochs": 900}}, status=202)
    told = threading.Thread(target=_cancel_after_first_epoch, args=(owner.headers, run["id"]))
    told.start()
    work_off()
    told.join()
    run = owner.get(f"training-runs/{run['id']}/")
    rows = owner.get(f"training-runs/{run['id']}/metrics/")["results"]
    assert run["state"] == owner.get(f"jobs/{run['job']}/")["state"] == "cancelled"
    assert (
        run["produced_version"]
        and 1 <= len(rows) < 900
        and [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    )


def _cancel_after_first_epoch(headers: dict[str, str], run: str) -> None:
    api = Api()
    api.headers = headers
    try:
        for _ in range(600):
            if api.get(f"training-runs/{run}/metrics/")["results"]:
                api.post(f"training-runs/{run}/cancel/", status=200)
                return
            time.sleep(0.05)
    finally:
        connection.close()


def _delete(study: Study) -> None:
    owner = study.owner
    study.viewer.refused("delete", f"records/{study.records['case039']}/", status=403)
    owner.delete(f"records/{study.records['case039']}/")
    owner.refused("get", f"records/{study.records['case039']}/", status=404)
    assert owner.get(f"datasets/{study.dataset}/")["record_count"] == 39
    owner.refused("delete", f"datasets/{study.dataset}/", status=409, code="dataset_in_use")
    spare = owner.post("datasets/", {"project": study.project, "name": "Spare"})["id"]
    pair = pair_of(study, "case002")
    owner.post(f"datasets/{spare}/uploads/", {}, status=202, files={"files": list(pair.items())})
    work_off()
    assert owner.get(f"datasets/{spare}/")["record_count"] == 1
    owner.delete(f"datasets/{spare}/")
    owner.refused("get", f"datasets/{spare}/", status=404)


def pair_of(study: Study, key: str) -> dict[str, bytes]:
    return {f"{key}{ending}": study.cohort.files[f"study/{key}{ending}"] for ending in (".hea", ".dat")}


def _audit(study: Study, administrator: Api) -> None:
    study.viewer.refused("get", "audit-events/", status=403, query={"project": study.project})
    events = study.owner.rows("audit-events/", project=study.project, page_size=500)
    for event in events:
        promised(event, "sequence, at, actor, action, object, outcome, channel, changes, hash")
        assert len(event["hash"]) == 64 and _UTC.fullmatch(event["at"])
    assert {event["action"] for event in events} >= {
        "project.created", "project.changed", "member.set", "access.refused", "dataset.created", "dataset.deleted", "upload.received",
        "upload.ingested", "labels.imported", "label_map.created", "label_map.exported", "record.downloaded", "record.deleted", "run.started",
        "run.finished", "run.resumed", "job.cancelled", "model.created", "model_version.created", "model_version.downloaded", "model_version.changed",
        "evaluation.started", "evaluation.finished", "evaluation.downloaded", "prediction.started", "prediction.downloaded", "exchange.pushed",
    }  # fmt: skip
    assert {event["channel"] for event in events} == {"api", "worker"}
    sequences = [event["sequence"] for event in events]
    assert sequences == sorted(sequences, reverse=True)
    by_viewer = study.owner.rows("audit-events/", project=study.project, actor=str(study.viewer.user.pk))
    assert by_viewer and {event["actor"]["username"] for event in by_viewer} == {"viktor"}
    assert study.owner.rows("audit-events/", project=study.project, actor="viktor") == by_viewer
    refusals = study.owner.rows("audit-events/", project=study.project, action="access.refused")
    assert refusals and {event["outcome"] for event in refusals} == {"refused"}
    everything = administrator.rows("audit-events/", page_size=500)
    assert {"exchange.created", "exchange.pulled", "model_version.accepted"} <= {
        event["action"] for event in everything
    }
    assert dict.fromkeys(["token.created"]).keys() <= {event["action"] for event in everything}
    table = csv.DictReader(io.StringIO(administrator.get("audit-events/export/", format="csv").decode()))
    assert len(list(table)) == len(everything)
    assert list(verify()) == []
