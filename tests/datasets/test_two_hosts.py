"""Two hosts with a folder each over one database and one bucket: what one takes in the other reads, and what one deletes is gone
for both, whoever dies in between and whatever does not answer."""

from __future__ import annotations

import numpy as np
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connections

from datasets import featuring, ingest_plan, labelling, preparing, removing, signals, storing
from datasets import ingest as ingesting
from datasets.models import ArrivingFile, Ingest, LabelImport, OriginalFile, PreparedSet, Record, RecordFeatures
from datasets.preprocess.recipe import DEFAULT_RECIPE
from datasets.services import dataset_delete, upload_receive
from ecgportal import storage, tending
from ecgportal.errors import Conflict, StorageFailed
from ecgportal.jobs import services
from ecgportal.jobs.context import JobContext
from ecgportal.jobs.models import Job, JobState, Removal
from modelhub import services as models
from tests.api_client import ROOT
from tests.datasets.test_ingest import many, upload
from tests.datasets.test_uploading import silent
from tests.ecgfiles import zip_of
from tests.factories import make_dataset, make_project, make_user
from tests.hosts import hosts as hosts  # a fixture
from tests.hosts import s3_server as s3_server  # a fixture
from tests.working import work_off, work_off_one

pytestmark = pytest.mark.django_db(transaction=True)


def succeeded() -> None:
    assert [job.error_message for job in work_off() if job.state != JobState.SUCCEEDED] == []


def take_in(dataset, count: int = 3) -> list[Record]:
    upload(dataset, {name.rpartition("/")[2]: data for name, data in many(count).items()})
    succeeded()
    return list(Record.objects.filter(dataset=dataset).order_by("key"))


def marker_of(record: Record) -> bytes:
    return signals.read_signal(record)[0, :200].astype("<f4").tobytes()


class TestReading:
    def test_what_one_host_receives_another_reads_and_both_show(self, hosts, dataset):
        files = {name.rpartition("/")[2]: data for name, data in many(3).items()}
        ingest = upload(dataset, files)
        assert len(hosts.keys(f"uploads/{ingest.pk}/")) == 6
        hosts.on("b")
        succeeded()
        records = list(Record.objects.filter(dataset=dataset).order_by("key"))
        assert len(records) == 3
        seen = [signals.read_signal(record) for record in records]
        hosts.on("a")
        for record, signal in zip(records, seen, strict=True):
            assert np.array_equal(signals.read_signal(record), signal)
            assert {o.name: storage.read_blob(o.sha256) for o in record.originals.all()} == {
                name: files[name] for name in (f"{record.key}.hea", f"{record.key}.dat")
            }
        # What was sent is not kept twice, anywhere.
        assert hosts.keys("uploads/") == set() and Removal.objects.filter(is_done=False).count() == 0
        tending.look_again()
        assert not any(path.is_file() for path in (hosts.home("a") / "uploads").rglob("*"))

    def test_each_host_prepares_for_itself_and_drops_what_another_deleted(self, hosts, dataset):
        records = take_in(dataset)
        stores = {}
        for name in ("a", "b"):
            hosts.on(name)
            stores[name] = preparing.bring_up_to_date(dataset, DEFAULT_RECIPE)
            assert len(stores[name].index) == 3
        assert np.array_equal(stores["a"].read([0, 1, 2]), stores["b"].read([0, 1, 2]))
        removing.record_delete(actor=None, record=records[0])
        assert PreparedSet.objects.get().record_count == 2
        hosts.on("a")
        assert (
            len(preparing.bring_up_to_date(dataset, DEFAULT_RECIPE).index)
            == 2
            == PreparedSet.objects.get().record_count
        )
        hosts.on("b")
        assert len(preparing.open_store(dataset, DEFAULT_RECIPE).index) == 2

    def test_pieces_may_reach_any_host(self, hosts, api, dataset):
        data = {"a.csv": silent(4000), "b.csv": silent(5000), "empty.txt": b""}
        upload = api.post("ingests/", {"dataset": str(dataset.pk)})["id"]
        files = [{"name": name, "size": len(content)} for name, content in data.items()]
        rows = api.post(f"ingests/{upload}/files/", {"files": files}, status=200)
        for row in rows[:2]:
            content = data[row["name"]]
            cuts = [0, 1000, 1001, 9000, len(content)]
            for number, (start, end) in enumerate(zip(cuts, cuts[1:])):
                hosts.on("ab"[number % 2])
                self.send(api, row["id"], start, content[start:end])
                # Sent twice: the other host says where the file stands, though it has not seen the piece.
                hosts.on("ba"[number % 2])
                answer = self.send(api, row["id"], start, content[start:end], 409)
                assert answer["error"]["fields"]["received"] == str(end)
        small = {"files": [("x.txt", b"one")]}
        api.call("post", f"ingests/{upload}/files/", {"names": ["p/x.txt"]}, files=small)
        api.post(f"ingests/{upload}/finish/", {}, status=202)
        assert not any(path.is_file() for name in "ab" for path in (hosts.home(name) / "uploads").rglob("*"))
        hosts.on("c")
        succeeded()
        ingest = Ingest.objects.get()
        assert sorted(entry["name"] for entry in ingest.waiting) == ["a.csv", "b.csv"]
        assert dict(ingest.items.filter(name__endswith="x.txt").values_list("name", "outcome")) == {
            "p/x.txt": "refused"
        }
        assert len(hosts.keys("uploads/")) == 2
        hosts.on("a")
        api.post(f"ingests/{upload}/answers/", {"fs_hz": 500, "unit": "mV"}, status=202)
        succeeded()
        stored = {record.key: storage.read_blob(record.originals.get().sha256) for record in Record.objects.all()}
        assert stored == {"a": data["a.csv"], "b": data["b.csv"]} and hosts.keys("uploads/") == set()

    @staticmethod
    def send(api, file_id: str, start: int, data: bytes, status: int = 200):
        answer = api.client.generic(
            "PATCH", f"{ROOT}upload-files/{file_id}/", data, content_type="application/octet-stream",
            headers={"Upload-Offset": str(start)},
        )  # fmt: skip
        assert answer.status_code == status, answer.content
        return answer.json()

    def test_another_host_goes_on_with_an_upload_whose_reader_died(self, hosts, dataset, monkeypatch):
        monkeypatch.setattr(ingest_plan, "FILES_PER_PART", 4)
        ingest = upload(dataset, {"a.zip": zip_of(many(12))})
        write, done = storing.Store.write, []

        def dying(self, batch, taken=None):
            done.append(taken)
            if len(done) > 4:
                raise KeyboardInterrupt
            return write(self, batch, taken)

        with monkeypatch.context() as patch:
            patch.setattr(ingesting.Store, "write", dying)
            job = services.claim(ingest.job_id, host="a")
            with pytest.raises(KeyboardInterrupt):
                ingesting.run(JobContext(job))
        before = Record.objects.count()
        assert 0 < before < 12
        services.give_back(job.pk, job.attempt, died=True)
        hosts.on("b")
        succeeded()
        assert ingesting.outcome_counts(ingest) == {"accepted": 12, "companion": 12, "refused": 0, "duplicate": 0}
        assert len({signals.read_signal(record).tobytes() for record in Record.objects.all()}) == 12


class TestDeleting:
    def test_a_deleted_record_is_gone_from_the_bucket_and_from_every_host(self, hosts, dataset, api):
        gone, *others = take_in(dataset)
        marker, blobs = marker_of(gone), [original.sha256 for original in gone.originals.all()]
        prepared = np.asarray(DEFAULT_RECIPE.apply(signals.load(gone)).signal[0, :200])
        for name in ("a", "b"):
            hosts.on(name)
            seen = [signals.read_signal(record) for record in (gone, *others)]
            preparing.bring_up_to_date(dataset, DEFAULT_RECIPE)
            signals.derived_path(gone, "overview-0.npz").write_bytes(b"made of it")
            assert all(storage.read_blob(sha256) for sha256 in blobs)
        assert {place.split(" ")[0].split("/")[0] for place in hosts.where(marker)} == {"a", "b", "bucket"}
        api.call("delete", f"records/{gone.pk}/", status=204)
        assert {place.split("/")[0] for place in hosts.where(marker)} == {"a"}
        hosts.on("a")
        # A row that was read before the deletion finds its signal under the pack's new name.
        assert [np.array_equal(signals.read_signal(row), signal) for row, signal in zip(others, seen[1:])] == [
            True,
            True,
        ]
        tending.look_again()
        assert hosts.where(marker) == hosts.where(b"made of it") == []
        assert not any(sha256 in place for place in hosts.everywhere() for sha256 in blobs)
        for name in ("a", "b"):
            hosts.on(name)
            store = preparing.open_store(dataset, DEFAULT_RECIPE)
            assert len(store.index) == 2 and not any(np.allclose(row[0, :200], prepared) for row in store.read([1, 2]))
            assert all(
                np.array_equal(signals.read_signal(r), s) for r, s in zip(Record.objects.order_by("key"), seen[1:])
            )
        assert len(hosts.keys("signals/")) == 1

    def test_two_deletions_from_one_pack_leave_neither_record(self, hosts, dataset):
        first, second, third = take_in(dataset)
        markers = [marker_of(first), marker_of(second)]
        # Both rows name the pack that the first deletion gives another name.
        for record in (first, second):
            removing.record_delete(actor=None, record=record)
        assert [hosts.where(marker) for marker in markers] == [[], []]
        assert signals.read_signal(Record.objects.get()).any() and len(hosts.keys("signals/")) == 1

    def test_a_host_that_was_off_forgets_when_it_comes_back(self, hosts, dataset):
        gone, *others = take_in(dataset)
        marker = marker_of(gone)
        kept = signals.read_signal(others[0])
        preparing.bring_up_to_date(dataset, DEFAULT_RECIPE)
        other = make_dataset(dataset.project)
        (alone,) = take_in(other, 1)
        hosts.on("b")
        removing.record_delete(actor=None, record=gone)
        dataset_delete(actor=None, dataset=other)
        assert hosts.keys(f"signals/{alone.dataset_id}/") == set()
        Removal.objects.all().delete()
        hosts.on("a")
        assert hosts.where(marker)
        tending.look_at_all()
        assert (
            hosts.where(marker) == [] and not (hosts.home("a") / "signals" / str(other.pk or alone.dataset_id)).exists()
        )
        assert len(preparing.open_store(dataset, DEFAULT_RECIPE).index) == 2
        assert np.array_equal(signals.read_signal(Record.objects.get(pk=others[0].pk)), kept)
        originals = set(OriginalFile.objects.values_list("sha256", flat=True))
        assert {path.name for path in (hosts.home("a") / "blobs").rglob("*") if path.is_file()} <= originals

    def test_a_person_goes_from_the_label_tables_too(self, hosts, dataset, team):
        take_in(dataset)
        table = b"file,patient_id,label\nr0000,4711,NORM\nr0001,8155512,AFIB\n"
        labelling.import_start(actor=team["editor"], dataset=dataset, file=SimpleUploadedFile("t.csv", table))
        succeeded()
        record = Record.objects.get(key="r0001")
        told = removing.subject_delete(actor=None, subject=record.subject)
        assert told["records"] == 1
        assert hosts.where(b"r0001") == hosts.where(told["subject"].encode()) == []
        assert b"r0000" in storage.read_blob(LabelImport.objects.get().sha256)

    def test_who_dies_after_the_commit_leaves_the_rest_to_the_next_look(self, hosts, dataset, monkeypatch):
        gone, *_ = take_in(dataset)
        marker = marker_of(gone)
        with monkeypatch.context() as patch:
            patch.setattr(storage, "_carry_out", lambda names: None)
            removing.record_delete(actor=None, record=gone)
        assert Record.objects.count() == 2 and hosts.where(marker)
        hosts.on("b")
        tending.look_again()
        hosts.on("a")
        tending.look_again()
        assert hosts.where(marker) == []

    def test_who_dies_before_the_commit_leaves_nothing_that_is_seen(self, hosts, dataset, monkeypatch):
        """As SIGKILL would: none of what tidies up after an error runs."""
        gone, *others = take_in(dataset)
        keys = hosts.keys()

        def killed(*args, **kwargs):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(removing, "audit", killed)
            patch.setattr(storage, "drop", lambda path: None)
            with pytest.raises(KeyboardInterrupt):
                removing.record_delete(actor=None, record=gone)
        assert (
            Record.objects.count() == 3 and keys < hosts.keys() and not Removal.objects.filter(is_done=False).exists()
        )
        assert all(signals.read_signal(record).any() for record in Record.objects.all())
        removing.record_delete(actor=None, record=gone)
        assert Record.objects.count() == 2 and all(signals.read_signal(record).any() for record in Record.objects.all())

    def test_a_batch_whose_process_dies_before_its_commit_is_stored_once(self, hosts, dataset, monkeypatch):
        ingest = upload(dataset, {name.rpartition("/")[2]: data for name, data in many(3).items()})

        def killed(*args, **kwargs):
            raise KeyboardInterrupt

        job = services.claim(ingest.job_id, host="a")
        with monkeypatch.context() as patch:
            patch.setattr(storing, "copy_rows", killed)
            patch.setattr(storage, "drop", lambda path: None)
            patch.setattr(storage, "drop_unused", lambda digests: None)
            with pytest.raises(KeyboardInterrupt):
                ingesting.run(JobContext(job))
        assert len(hosts.keys("signals/")) == 1 and len(hosts.keys("blobs/")) == 6
        assert Record.objects.count() == 0 == OriginalFile.objects.count()
        services.give_back(job.pk, job.attempt, died=True)
        hosts.on("b")
        succeeded()
        assert Record.objects.count() == 3 and len(hosts.keys("blobs/")) == 6
        assert all(signals.read_signal(record).any() for record in Record.objects.all())

    def test_a_file_that_is_stored_again_meanwhile_stays(self, hosts, monkeypatch):
        """A release is a question, not an order: a row may name the same bytes again."""
        project = make_project()
        first, second = make_dataset(project), make_dataset(project)
        take_in(first, 1)
        with monkeypatch.context() as patch:
            patch.setattr(storage, "_carry_out", lambda names: None)
            dataset_delete(actor=None, dataset=first)
        take_in(second, 1)
        hosts.on("b")
        tending.look_again()
        assert all(storage.read_blob(sha256) for sha256 in OriginalFile.objects.values_list("sha256", flat=True))
        assert len(hosts.keys("blobs/")) == 2

    def test_a_backup_and_a_deletion_wait_for_each_other(self, hosts, dataset):
        gone, *_ = take_in(dataset)
        other = connections.create_connection("default")
        try:
            with other.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_lock(hashtextextended('backup', 2))")
            with pytest.raises(Conflict, match="backup"):
                removing.record_delete(actor=None, record=gone)
        finally:
            other.close()
        assert Record.objects.count() == 3 and signals.read_signal(gone).any()
        removing.record_delete(actor=None, record=gone)
        assert Record.objects.count() == 2


class TestWithoutAnswer:
    def test_nothing_is_half_stored_and_each_action_says_why(self, hosts, dataset, team, api):
        gone, *others = take_in(dataset)
        hosts.on("b")
        before = hosts.keys()
        opened = api.post("ingests/", {"dataset": str(dataset.pk)})["id"]
        (file,) = api.post(f"ingests/{opened}/files/", {"files": [{"name": "x.csv", "size": 10}]}, status=200)
        counts = Ingest.objects.count(), Job.objects.count(), LabelImport.objects.count()
        hosts.cut()
        sent = SimpleUploadedFile("m.onnx", b"model")
        actions = {
            "upload": lambda: upload_receive(
                actor=team["editor"], dataset=dataset, files=[SimpleUploadedFile("a.csv", b"x")]
            ),
            "table": lambda: labelling.import_start(
                actor=team["editor"], dataset=dataset, file=SimpleUploadedFile("t.csv", b"a,b\n")
            ),
            "model": lambda: models.import_start(actor=team["editor"], project=team["project"], file=sent, name="M"),
            "delete": lambda: removing.record_delete(actor=None, record=gone),
            "read": lambda: signals.read_signal(gone),
            "original": lambda: storage.read_blob(gone.originals.first().sha256),
        }
        for action in actions.values():
            with pytest.raises(StorageFailed, match="does not answer"):
                action()
        answer = api.call("get", f"records/{gone.pk}/signal/", status=503)
        assert answer["error"]["code"] == "storage_unreachable"
        TestReading.send(api, file["id"], 0, b"12345", 503)
        assert ArrivingFile.objects.get().received == 0
        assert counts == (Ingest.objects.count(), Job.objects.count(), LabelImport.objects.count())
        assert not any(path.is_file() for path in hosts.home("b").rglob("*"))
        hosts.mend()
        assert hosts.keys() == before and Record.objects.count() == 3
        assert all(signals.read_signal(record).any() for record in (gone, *others))

    def test_an_upload_waits_until_the_bucket_answers(self, hosts, dataset):
        ingest = upload(dataset, {name.rpartition("/")[2]: data for name, data in many(2).items()})
        hosts.on("b")
        hosts.cut()
        for _ in range(7):
            job = work_off_one(ingest.job_id)
            assert job.state == JobState.QUEUED and "goes on when that is mended" in job.message
        assert Record.objects.count() == 0
        hosts.mend()
        succeeded()
        assert Record.objects.count() == 2 and Job.objects.get(pk=ingest.job_id).state == JobState.SUCCEEDED

    def test_a_label_table_and_the_measuring_wait_too(self, hosts, dataset, team):
        take_in(dataset)
        table = b"file,patient_id,label\nr0000,4711,NORM\nr0001,8155512,AFIB\n"
        row = labelling.import_start(actor=team["editor"], dataset=dataset, file=SimpleUploadedFile("t.csv", table))
        measure = featuring.measuring_start(actor=team["editor"], dataset=dataset)
        hosts.on("b")
        hosts.cut()
        for job_id in (row.job_id, measure.pk):
            job = work_off_one(job_id)
            assert job.state == JobState.QUEUED and "goes on when that is mended" in job.message
        with pytest.raises(StorageFailed):
            labelling.forget_rows(row, ["r0000"], "nobody")
        assert not RecordFeatures.objects.exists()
        hosts.mend()
        succeeded()
        row.refresh_from_db()
        measured = RecordFeatures.objects.exclude(reason__contains="bucket")
        assert (row.result["taken"], measured.count()) == (2, 3)

    def test_a_dataset_is_deleted_and_its_files_when_the_bucket_answers(self, hosts, dataset):
        (record,) = take_in(dataset, 1)
        marker = marker_of(record)
        hosts.cut()
        dataset_delete(actor=make_user(), dataset=dataset)
        assert not Record.objects.exists()
        hosts.mend()
        assert hosts.where(marker)
        hosts.on("b")
        tending.look_again()
        assert hosts.keys() == set() and hosts.where(marker) == []
