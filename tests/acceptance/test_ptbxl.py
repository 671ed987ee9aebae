"""The real part of PTB-XL, uploaded as a zip with its own label table."""

from __future__ import annotations

import csv
from collections import Counter

import pytest
import wfdb

from datasets.demo import sync_label_maps
from tests.acceptance.test_main_job_api import same_person
from tests.api_client import Api
from tests.ecgfiles import zip_of
from tests.shared import needs_shared, shared_path
from tests.working import work_off

# 143 and 144 are one signal of one patient; 145 and 463 one signal under two patients.
TWINS = ("00143_hr", "00144_hr", "00145_hr", "00463_hr")


@needs_shared
def test_ptbxl_comes_in_with_its_labels(owner: Api):
    sync_label_maps()
    folder = shared_path("ecg", "labelled", "ptbxl")
    present = sorted(path.stem for path in (folder / "records500").rglob("*.hea"))
    chosen = present[:26] + list(TWINS)
    paths = [path for path in sorted((folder / "records500").rglob("*")) if path.stem in chosen]
    archive = zip_of((str(path.relative_to(folder)), path.read_bytes()) for path in paths)
    project = owner.post("projects/", {"name": "PTB-XL"})["id"]
    dataset = owner.post("datasets/", {"project": project, "name": "Part"})["id"]
    ingest = owner.post(f"datasets/{dataset}/uploads/", {}, status=202, files={"files": [("ptbxl.zip", archive)]})[
        "ingest"
    ]
    table = (folder / "ptbxl_database.csv").read_bytes()
    answer = owner.post(f"datasets/{dataset}/labels/", {}, status=202, files={"file": [("ptbxl_database.csv", table)]})
    work_off()
    outcomes = Counter(item["outcome"] for item in owner.rows(f"ingests/{ingest}/items/", page_size=500))
    assert outcomes == {"accepted": 30, "companion": 30}
    result = owner.get(f"jobs/{answer['job']}/")["result"]
    assert (result["taken"], result["unknown_codes"]) == (30, [])

    with shared_path("ecg", "labelled", "labels_all.csv").open(newline="", encoding="utf-8") as stream:
        truth = {f"{row['record']}_hr": row for row in csv.DictReader(stream) if row["dataset"] == "ptbxl"}
    records = owner.rows("records/", dataset=dataset, page_size=100)
    assert [row["key"] for row in records] == sorted(chosen)
    entries = next(row for row in owner.rows("label-maps/") if row["name"] == "PTB-XL superclass")["entries"]
    for row in records:
        known = truth[row["key"]]
        stated = {label["code"]: label["likelihood"] for label in row["labels"] if label["source"] == "table"}
        assert stated == {
            code: float(percent) / 100 for code, percent in (x.split(":") for x in known["native"].split(";"))
        }
        classes = {entries[code]["class"] for code in stated if code in entries} - {None}
        assert classes == set(filter(None, known["superclass"].split(";")))
        assert (row["sex"], row["fs_hz"], row["n_samples"]) == (known["sex"], 500.0, 5000)
        assert row["age"] == min(float(known["age"]), 90.0) and len(row["leads"]) == 12
    same_person(records, {key: truth[key]["patient"] for key in chosen})
    summary = owner.get(f"datasets/{dataset}/")
    assert summary["record_count"] == 30
    assert summary["subject_count"] == len({truth[key]["patient"] for key in chosen})
    assert summary["label_counts"] == Counter(
        x.split(":")[0] for key in chosen for x in truth[key]["native"].split(";")
    )
    messages = {
        item["name"]: item for item in owner.rows(f"ingests/{ingest}/items/", outcome="accepted", page_size=500)
    }
    twins = {
        name.rsplit("/", 1)[-1].removesuffix(".hea") for name, item in messages.items() if item["code"] == "same_signal"
    }
    assert twins == {"00144_hr", "00463_hr"}

    first = records[0]
    signal = owner.get(f"records/{first['id']}/signal/", leads="II,aVR", end_s="1")
    expected = wfdb.rdrecord(str(folder / "records500" / "00000" / first["key"])).p_signal
    assert signal["samples"] == [pytest.approx(expected[:500, lead], abs=1e-6) for lead in (1, 3)]
