"""What a file calls its channels is stored as far as it can be, and harms no other file of the upload."""

from __future__ import annotations

import json

import numpy as np
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from datasets.ecg import LEADS_12, LONGEST_LEAD, Record, RecordMeta, name_leads
from datasets.models import Outcome
from datasets.models import Record as Row
from datasets.presenting import Window, signal_csv
from datasets.services import upload_receive
from datasets.simulate import simulate
from ecgportal import storage
from ecgportal.jobs.models import JobState
from tests.datasets.formats.test_fhir_observation import observation
from tests.ecgfiles import wfdb_pair
from tests.factories import make_dataset, make_project, make_user
from tests.working import work_off


def pair_with(name: str, seed: int, **called: str) -> dict[str, bytes]:
    """Return a WFDB record; called: what its header calls some leads."""
    files = wfdb_pair(simulate("SNR", seed, fs_hz=250).record, name)
    lines = files[f"{name}.hea"].decode().splitlines()
    for lead, other in called.items():
        lines = [line.removesuffix(f" {lead}") + f" {other}" if line.endswith(f" {lead}") else line for line in lines]
    return {**files, f"{name}.hea": "\n".join(lines).encode()}


def take_in(files: dict[str, bytes], **project):
    dataset = make_dataset(make_project(**project))
    sent = [SimpleUploadedFile(name, data) for name, data in files.items()]
    ingest = upload_receive(actor=make_user(), dataset=dataset, files=sent)
    (job,) = work_off()
    assert job.state == JobState.SUCCEEDED, job.error_message
    return dataset, ingest


@pytest.mark.django_db
def test_a_long_name_of_a_channel_harms_no_file_of_the_upload():
    long = "bipolar oesophageal ecg of the second kind"
    odd = observation()
    # Files of uploads outlive a test, and others look for this name.
    del odd["subject"]
    odd["component"][0]["code"] = {"text": "oesophageal \ud83d\udc93 \ud800"}
    files = {
        **pair_with("good", 1), **pair_with("long", 2, V5=long, V6=f"{long} again"), "odd.json": json.dumps(odd).encode(),
    }  # fmt: skip
    dataset, ingest = take_in(files, keeps_identifiers=True)
    assert {item.name: item.outcome for item in ingest.items.filter(outcome=Outcome.ACCEPTED)}.keys() >= {
        "good.hea",
        "long.hea",
    }
    row = Row.objects.get(dataset=dataset, key="long")
    assert all(len(lead) <= LONGEST_LEAD for lead in row.leads) and len(set(row.leads)) == len(row.leads)
    assert row.leads[-2:] == ["bipolar oesophageal", "bipolar oesophag (2)"]
    assert {entry["lead"] for entry in row.quality["leads"]} == set(row.leads)


@pytest.mark.django_db
def test_a_person_in_the_name_of_a_channel_is_nowhere():
    dataset, _ = take_in(pair_with("a", 3, V5="Vandersloot, Hermine", V6="oesophageal 2"))
    row = Row.objects.get(dataset=dataset)
    assert "oesophageal 2" in row.leads and "channel 11" in row.leads
    for original in row.originals.all():
        assert b"Vandersloot" not in storage.read_blob(original.sha256)
    assert "Vandersloot" not in json.dumps([row.quality, row.meta, row.leads])


@pytest.mark.django_db
def test_a_project_that_keeps_identifiers_keeps_the_name_of_a_channel():
    dataset, _ = take_in(pair_with("a", 3, V5="Vandersloot, Hermine"), keeps_identifiers=True)
    assert "Vandersloot, Hermine" in Row.objects.get(dataset=dataset).leads


def test_names_that_cannot_be_stored_get_others_everywhere_in_the_record():
    names = ("I", "x" * 30, "x" * 31, "a\x00b\ud800", " ", "II")
    meta = RecordMeta(annotations=((0.5, "N", "x" * 30, ""), (0.7, "N", None, ""), (0.9, "N", "II", "")))
    record = Record(np.zeros((6, 100), np.float32), 100.0, names, computed=("x" * 31,), meta=meta)
    named = name_leads(record)
    assert named.leads == ("I", "x" * 20, "x" * 16 + " (2)", "a b?", "channel 5", "II")
    assert named.computed == ("x" * 16 + " (2)",)
    assert [mark[2] for mark in named.meta.annotations] == ["x" * 20, None, "II"]
    plain = Record(np.zeros((12, 100), np.float32), 100.0, LEADS_12)
    assert name_leads(plain) is plain
    hidden = name_leads(record, lambda name: name.startswith("x") or name == "II")
    # The name of a lead is no person's, whoever says so.
    assert hidden.leads == ("I", "channel 2", "channel 3", "a b?", "channel 5", "II")


def test_the_name_of_a_channel_is_no_formula_in_a_table():
    window = Window(np.zeros((2, 3), np.float32), 100.0, ("I", "=cmd|x!A1"), 0.0, "original")
    assert signal_csv(window).splitlines()[0] == "time_s,I (mV),'=cmd|x!A1 (mV)"
