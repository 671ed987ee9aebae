"""Duplicates with the choice to keep or drop, and the deletion of a person with all that was made of their records."""

from __future__ import annotations

import os
import threading
import uuid

import numpy as np
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection, connections
from django.urls import reverse

from datasets import labelling, preparing, removing, signals, storing
from datasets import twins as twin_groups
from datasets.ecg import Record as Signal
from datasets.identity import pseudonym
from datasets.models import Dataset, IngestItem, LabelImport, OriginalFile, Record, RecordLabel, Subject
from datasets.preprocess.recipe import DEFAULT_RECIPE
from datasets.services import dataset_delete, upload_receive
from datasets.simulate import simulate
from ecgportal import storage
from ecgportal.audit.models import AuditEvent
from ecgportal.errors import InvalidInput
from ecgportal.jobs.models import Job, JobState
from ecgportal.projects.services import pseudonym_key
from tests.api_client import Api
from tests.ecgfiles import wfdb_pair
from tests.factories import make_dataset, make_job, make_project, make_record, make_user
from tests.planted import everything_stored
from tests.working import work_off


def send(dataset, files: dict[str, bytes]):
    ingest = upload_receive(
        actor=make_user(), dataset=dataset, files=[SimpleUploadedFile(n, d) for n, d in files.items()]
    )
    work_off()
    return ingest


def twins(dataset) -> dict[str, Record]:
    """Take in ``a``, the same signal as ``b`` with another gain, once more as ``c`` at 250 Hz, and two others."""
    ecg = simulate("SNR", 1, fs_hz=500).record
    half = Signal(ecg.signal[:, ::2], 250.0, ecg.leads)
    other = simulate("RBBB", 2, fs_hz=500).record
    send(dataset, {
        **wfdb_pair(ecg, "a"), **wfdb_pair(ecg, "b", gain_per_mv=500.0), **wfdb_pair(half, "c"), **wfdb_pair(other, "d"),
        **wfdb_pair(other, "e", gain_per_mv=200.0),
    })  # fmt: skip
    return {record.key: record for record in Record.objects.filter(dataset=dataset)}


class TestTwins:
    def test_groups_are_listed_and_decided_by_rest(self, team, dataset):
        rows = twins(dataset)
        api = Api(session=team["editor"])
        path = f"datasets/{dataset.pk}/duplicates/"
        groups = api.get(path)["results"]
        assert sorted([r["key"] for r in group["records"]] for group in groups) == [["a", "b", "c"], ["d", "e"]]
        ids = {key: str(row.pk) for key, row in rows.items()}
        for wrong in (
            {}, {"drop": [ids["d"], ids["e"]]}, {"drop": [ids["a"]], "keep": [ids["a"]]}, {"drop": [str(dataset.pk)]}, {"drop": ["x"]},
        ):  # fmt: skip
            assert api.post(path, wrong, status=422 if wrong != {"drop": ["x"]} else 400)["error"]["message"]
        Api(session=team["viewer"]).post(path, {"drop": [ids["b"]]}, status=403)
        assert Record.objects.count() == 5
        answer = api.post(path, {"drop": [ids["b"], ids["c"]], "keep": [ids["d"], ids["e"]]}, status=200)
        assert answer == {"dropped": 2, "kept": 2}
        assert set(Record.objects.values_list("key", flat=True)) == {"a", "d", "e"}
        (group,) = api.get(path)["results"]
        assert all(row["kept"] for row in group["records"])
        event = AuditEvent.objects.get(action="dataset.twins_decided")
        assert event.changes["dropped"] == ["b", "c"] and event.changes["kept"] == 2

    def test_the_page(self, team, dataset, client):
        rows = twins(dataset)
        client.force_login(team["editor"])
        address = reverse("datasets:twins", args=[dataset.pk])
        page = client.get(address).content.decode()
        assert page.count("only this") == 5 and page.count("keep all of them") == 2
        assert client.post(address, {}).status_code == 422
        answer = client.post(address, {f"choice-{rows['a'].pk}": str(rows["b"].pk), f"choice-{rows['d'].pk}": "all"})
        assert answer.status_code == 302
        assert set(Record.objects.values_list("key", flat=True)) == {"b", "d", "e"}
        page = client.get(address).content.decode()
        assert "No duplicates to decide" in page and "1 group is decided" in page
        client.force_login(team["viewer"])
        assert "only this" not in client.get(address).content.decode()

    def test_a_new_copy_opens_a_decided_group_again(self, dataset, client, team):
        rows = twins(dataset)
        removing.twins_decide(
            actor=None, dataset=dataset, keep=[rows["d"].pk, rows["e"].pk], drop=[rows["b"].pk, rows["c"].pk]
        )
        send(dataset, wfdb_pair(simulate("RBBB", 2, fs_hz=500).record, "f", gain_per_mv=333.0))
        client.force_login(team["viewer"])
        page = client.get(reverse("datasets:twins", args=[dataset.pk])).content.decode()
        assert all(f">{key}</a>" in page for key in "def")


def person_pair(key: str, seed: int, subject: str) -> dict[str, bytes]:
    files = wfdb_pair(simulate("SNR", seed, fs_hz=250).record, key)
    files[f"{key}.hea"] += f"#<subject_id>: {subject}\n# Age: 61\n".encode()
    return files


class TestPerson:
    """CASES row 48: all derivatives are gone, the audit trail keeps a pseudonym."""

    def take_in(self, dataset) -> dict[str, Record]:
        files = {**wfdb_pair(simulate("SNR", 3, fs_hz=250).record, "keep1")}
        for number, key in enumerate(("gone1", "gone2")):
            files |= wfdb_pair(simulate("RBBB", 10 + number, fs_hz=250).record, key)
        send(dataset, files)
        table = (
            b"file,patient_id,label\nkeep1,4711,NORM\ngone1,8155512,CRBBB\ngone2,8155512,AFIB\nnobody,8155512,NORM\n"
        )
        labelling.import_start(actor=make_user(), dataset=dataset, file=SimpleUploadedFile("t.csv", table))
        work_off()
        return {record.key: record for record in Record.objects.filter(dataset=dataset)}

    @pytest.mark.parametrize("keeps", [False, True])
    def test_everything_goes(self, own_home, team, dataset, keeps, django_capture_on_commit_callbacks):
        dataset.project.keeps_identifiers = keeps
        dataset.project.save()
        with django_capture_on_commit_callbacks(execute=True):
            rows = self.take_in(dataset)
        preparing.bring_up_to_date(dataset, DEFAULT_RECIPE)
        marker = signals.read_signal(rows["gone1"])[0, :200].astype("<f4").tobytes()
        prepared = np.asarray(DEFAULT_RECIPE.apply(signals.load(rows["gone1"])).signal[0, :200], "<f4").tobytes()
        blobs = set(OriginalFile.objects.filter(record__key__startswith="gone").values_list("sha256", flat=True))
        subject = Subject.objects.get(key=pseudonym(pseudonym_key(dataset.project), "8155512"))
        api = Api(session=team["editor"])
        assert api.get(f"subjects/{subject.pk}/")["record_count"] == 2
        with django_capture_on_commit_callbacks(execute=True):
            told = api.call("delete", f"subjects/{subject.pk}/", status=200)
        assert told == {"subject": subject.key, "records": 2, "training_runs": []}
        assert set(Record.objects.values_list("key", flat=True)) == {"keep1"}
        assert RecordLabel.objects.count() == 1 and Subject.objects.count() == 1
        assert not any(storage.blob_path(sha).exists() for sha in blobs)
        stored = everything_stored()
        for what in (b"gone1", b"gone2", b"8155512", marker, prepared):
            assert [where for where, data in stored.items() if what in data] == [], what
        event = AuditEvent.objects.get(action="subject.deleted")
        assert event.changes == told
        items = set(IngestItem.objects.values_list("name", flat=True))
        assert {"keep1.hea", "keep1.dat"} < items and len(items) == IngestItem.objects.count()
        assert all(name.startswith("(deleted ") for name in items - {"keep1.hea", "keep1.dat"})
        left = storage.read_blob(LabelImport.objects.get().sha256)
        assert b"keep1" in left

    def test_others_stay_as_they_are(self, dataset):
        rows = self.take_in(dataset)
        before = signals.read_signal(rows["keep1"])
        removing.subject_delete(actor=None, subject=Subject.objects.get(pk=rows["gone1"].subject_id))
        kept = Record.objects.get()
        assert np.array_equal(signals.read_signal(kept), before) and kept.originals.count() == 2
        row = LabelImport.objects.get()
        assert labelling.read(row)["taken"] == 1


def test_an_evaluation_keeps_no_answer_of_a_deleted_record(team, dataset):
    from tests.modelhub.test_predicting import make_version
    from training.models import Evaluation

    staying, leaving = (make_record(dataset, key) for key in ("staying", "leaving"))
    samples = {
        "records": [str(staying.pk), str(leaving.pk)], "truth": [[1.0], [0.0]], "probabilities": [[0.75], [0.25]]
    }  # fmt: skip
    evaluation = Evaluation.objects.create(
        project=dataset.project, version=make_version(dataset.project), dataset=dataset,
        curves={"curves": {"roc": [1]}, "samples": samples},
    )  # fmt: skip
    removing.record_delete(actor=team["editor"], record=leaving)
    evaluation.refresh_from_db()
    kept = {"records": [str(staying.pk)], "truth": [[1.0]], "probabilities": [[0.75]]}
    assert evaluation.curves == {"curves": {"roc": [1]}, "samples": kept}
    removing.record_delete(actor=team["editor"], record=staying)
    evaluation.refresh_from_db()
    assert evaluation.curves["samples"] is None


def test_training_runs_that_used_the_records_are_named(team, dataset):
    from training.models import Split, SplitGroup, SplitMember, TrainingRun

    rows = TestPerson().take_in(dataset)
    split = Split.objects.create(digest="0" * 64)
    group = SplitGroup.objects.create(split=split, key="x", part="train")
    SplitMember.objects.create(split=split, group=group, record=rows["gone2"])
    run = TrainingRun.objects.create(
        project=dataset.project, dataset=dataset, name="Run", split=split, classes=["A"], task="multilabel",
        job=make_job(dataset.project, kind="train"),
    )  # fmt: skip
    told = removing.subject_delete(actor=None, subject=Subject.objects.get(pk=rows["gone1"].subject_id))
    assert told["training_runs"] == [str(run.pk)]


def test_nothing_but_twins_can_be_decided_about(dataset):
    rows = TestPerson().take_in(dataset)
    assert not twin_groups.groups(dataset).exists()
    with pytest.raises(InvalidInput, match="no signal that another one holds"):
        removing.twins_decide(actor=None, dataset=dataset, drop=[rows["keep1"].pk])


@pytest.mark.django_db(transaction=True)
def test_the_same_file_sent_twice_at_once_is_one_record():
    """CASES row 52: one record, both uploads in the audit trail."""
    from datasets.ingest import run as run_ingest
    from ecgportal.jobs import services
    from ecgportal.jobs.context import JobContext

    dataset = make_dataset(make_project())
    files = wfdb_pair(simulate("SNR", 1, fs_hz=250).record, "a")
    for _ in range(2):
        sent = [SimpleUploadedFile(name, data) for name, data in files.items()]
        upload_receive(actor=make_user(), dataset=dataset, files=sent)
    start = threading.Barrier(2)
    errors: list[BaseException] = []

    def work(job_id) -> None:
        try:
            job = services.claim(job_id, host="tests")
            start.wait()
            run_ingest(JobContext(job))
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=[pk]) for pk in Job.objects.values_list("pk", flat=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert Record.objects.count() == 1 and connection.vendor == "postgresql"
    outcomes = sorted(IngestItem.objects.values_list("outcome", flat=True))
    assert outcomes == ["accepted", "companion", "companion", "duplicate"]
    for action in ("upload.received", "upload.ingested"):
        assert AuditEvent.objects.filter(action=action).count() == 2


@pytest.mark.parametrize("when", ["queued", "reading"])
def test_files_of_an_upload_do_not_outlive_its_dataset(db, monkeypatch, django_capture_on_commit_callbacks, when):
    owner = make_user()
    dataset = make_dataset(make_project({owner: "owner"}))
    files = wfdb_pair(simulate("SNR", 9, fs_hz=250).record, "late")
    sent = [SimpleUploadedFile(name, data) for name, data in files.items()]
    ingest = upload_receive(actor=owner, dataset=dataset, files=sent)
    folder = storage.folder_of("uploads", ingest.pk)
    write = storing.Store.write

    def deleted_first(*args, **kwargs):
        if Dataset.objects.filter(pk=dataset.pk).exists():
            dataset_delete(actor=owner, dataset=dataset)
        return write(*args, **kwargs)

    if when == "queued":
        dataset_delete(actor=owner, dataset=dataset)
    else:
        monkeypatch.setattr(storing.Store, "write", deleted_first)
    with django_capture_on_commit_callbacks(execute=True):
        (job,) = work_off()
    assert job.state == JobState.FAILED and job.error_code != "internal_error", job.error_message
    assert "deleted" in job.error_message and not folder.exists()
    assert not list(storage.folder_of("signals", dataset.pk).glob("*"))


def test_a_folder_that_no_upload_names_goes_after_a_day(db):
    owner = make_user()
    dataset = make_dataset(make_project({owner: "owner"}))
    lost, fresh = storage.area("uploads", uuid.uuid4()), storage.area("uploads", uuid.uuid4())
    for folder in (lost, fresh):
        (folder / "000000").write_bytes(b"a patient's file")
    os.utime(lost, (0, 0))
    upload_receive(actor=owner, dataset=dataset, files=[SimpleUploadedFile("a.txt", b"nothing")])
    work_off()
    assert not lost.exists() and fresh.exists()
