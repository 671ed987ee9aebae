"""Uploads in pieces: resumed after broken connections, bounded in memory, discarded; and answers for what files leave open."""

from __future__ import annotations

import io
import tracemalloc
from datetime import timedelta

import numpy as np
import pytest
from django.core.management import call_command
from django.urls import reverse
from django.utils import timezone

from datasets import asking, signals, uploading
from datasets import ingest as ingesting
from datasets.models import ArrivingFile, Ingest, IngestItem, Record
from ecgportal import storage
from ecgportal.audit.models import AuditEvent
from ecgportal.errors import Conflict, InvalidInput, TooLarge
from ecgportal.jobs.models import JobState
from tests.api_client import ROOT, Api
from tests.ecgfiles import make_cohort, zip_of
from tests.factories import make_user
from tests.working import work_off


class Broken(io.BytesIO):
    """A connection that breaks after some bytes."""

    def __init__(self, data: bytes, after: int):
        super().__init__(data[:after])

    def read(self, size: int | None = -1) -> bytes:
        if data := super().read(min(size or 0, 1000)):
            return data
        raise OSError("the connection was closed")


def patch(api: Api, file_id: str, offset: int, data: bytes, status: int = 200):
    answer = api.client.generic(
        "PATCH", f"{ROOT}upload-files/{file_id}/", data, content_type="application/octet-stream",
        headers={"Upload-Offset": str(offset)},
    )  # fmt: skip
    assert answer.status_code == status, answer.content
    return answer.json()


def silent(duration: int = 3000, factor: float = 1.0) -> bytes:
    """A table of two leads without rate and unit, of one beat a second at 500 Hz and ``factor`` high."""
    beat = np.zeros(500)
    beat[200:210] = np.hanning(10)
    rows = factor * np.tile(beat, duration // 500)
    return b"I,II\n" + "\n".join(f"{v:.4f},{0.8 * v:.4f}" for v in rows).encode() + b"\n"


class TestPieces:
    def test_the_whole_way_by_rest(self, api, dataset):
        cohort = make_cohort(2)
        data = zip_of(cohort.files)
        ingest = api.post("ingests/", {"dataset": str(dataset.pk)})
        assert ingest["state"] == "open" and ingest["job"] is None
        path = f"ingests/{ingest['id']}/"
        (row,) = api.post(f"{path}files/", {"files": [{"name": "a.zip", "size": len(data)}]}, status=200)
        assert row["received"] == 0
        half = len(data) // 2
        assert patch(api, row["id"], 0, data[:half])["received"] == half
        told = api.post(f"{path}finish/", status=409)["error"]
        assert told["code"] == "upload_incomplete" and "a.zip" in told["message"]
        told = patch(api, row["id"], 0, data, status=409)["error"]
        assert told["code"] == "wrong_offset" and told["fields"] == {"received": str(half)}
        # Named again after a reload: what has arrived is told.
        (again,) = api.post(f"{path}files/", {"files": [{"name": "a.zip", "size": len(data)}]}, status=200)
        assert again == {**row, "received": half}
        patch(api, row["id"], half, data[half:])
        # Small files go whole, with their folders, many in one request.
        small = {"files": [("x.txt", b"one"), ("x.txt", b"two")]}
        rows = api.call("post", f"{path}files/", {"names": ["p/x.txt", "q/x.txt"]}, files=small)
        assert [(r["name"], r["received"]) for r in rows] == [("p/x.txt", 3), ("q/x.txt", 3)]
        assert api.get(f"{path}files/")["count"] == 3
        answer = api.post(f"{path}finish/", status=202)
        assert answer["ingest"] == ingest["id"]
        assert api.post(f"{path}finish/", status=409)["error"]["code"] == "upload_closed"
        work_off()
        assert api.get(f"jobs/{answer['job']}/")["state"] == "succeeded"
        outcomes = {row["name"]: row["outcome"] for row in api.get(f"{path}items/")["results"]}
        assert outcomes["p/x.txt"] == outcomes["q/x.txt"] == "refused"
        assert Record.objects.filter(dataset=dataset).count() == 2
        assert not ArrivingFile.objects.exists() and not list(storage.area("uploads", ingest["id"]).iterdir())

    def test_what_arrived_before_a_break_is_kept(self, dataset):
        ingest = uploading.upload_open(actor=make_user(), dataset=dataset)
        data = bytes(range(256)) * 40
        (row,) = uploading.files_declare(ingest=ingest, files=[("a.bin", len(data))])
        with pytest.raises(OSError, match="closed"):
            uploading.file_receive(file=row, offset=0, stream=Broken(data, 3000))
        row = ArrivingFile.objects.get()
        assert row.received == 3000
        uploading.file_receive(file=row, offset=3000, stream=io.BytesIO(data[3000:]))
        ingest = uploading.upload_finish(actor=None, ingest=ingest)
        assert (storage.area("uploads", ingest.pk) / ingest.files[0]["path"]).read_bytes() == data

    def test_two_at_once_do_not_count_twice(self, dataset):
        ingest = uploading.upload_open(actor=make_user(), dataset=dataset)
        (row,) = uploading.files_declare(ingest=ingest, files=[("a.bin", 10)])
        stale = ArrivingFile.objects.get(pk=row.pk)
        uploading.file_receive(file=row, offset=0, stream=io.BytesIO(b"0123456"))
        with pytest.raises(Conflict) as told:
            uploading.file_receive(file=stale, offset=0, stream=io.BytesIO(b"0123"))
        assert told.value.fields == {"received": "7"}
        assert ArrivingFile.objects.get().received == 7

    def test_more_than_was_declared_is_refused(self, dataset, monkeypatch):
        ingest = uploading.upload_open(actor=make_user(), dataset=dataset)
        (row,) = uploading.files_declare(ingest=ingest, files=[("a.bin", 10)])
        with pytest.raises(TooLarge):
            uploading.file_receive(file=row, offset=0, stream=io.BytesIO(b"x" * 11))
        assert ArrivingFile.objects.get().received == 0
        monkeypatch.setattr(uploading, "MAX_UPLOAD_BYTES", 100)
        with pytest.raises(TooLarge):
            uploading.files_declare(ingest=ingest, files=[("b.bin", 95)])
        assert ArrivingFile.objects.count() == 1

    def test_names_are_cleaned_and_another_size_begins_anew(self, dataset):
        ingest = uploading.upload_open(actor=make_user(), dataset=dataset)
        (row,) = uploading.files_declare(ingest=ingest, files=[("../../etc/a.bin", 4)])
        assert row.name == "etc/a.bin"
        uploading.file_receive(file=row, offset=0, stream=io.BytesIO(b"1234"))
        (row,) = uploading.files_declare(ingest=ingest, files=[("etc/a.bin", 6)])
        assert (row.size, row.received) == (6, 0)
        for wrong in ([], [("a", 1), ("./a", 2)], [("a", -1)]):
            with pytest.raises(InvalidInput):
                uploading.files_declare(ingest=ingest, files=wrong)

    def test_two_whole_files_of_one_name_in_one_request_are_refused(self, api, dataset):
        ingest = api.post("ingests/", {"dataset": str(dataset.pk)})
        small = {"files": [("x.txt", b"one"), ("x.txt", b"two")]}
        error = api.call("post", f"ingests/{ingest['id']}/files/", {}, files=small, status=422)["error"]
        assert "names" in error["fields"] and not ArrivingFile.objects.exists()

    def test_memory_does_not_grow_with_the_file(self, dataset):
        class Endless(io.RawIOBase):
            left = 60_000_000

            def read(self, size: int = -1) -> bytes:
                part = min(size, self.left)
                self.left -= part
                return b"\0" * part

        ingest = uploading.upload_open(actor=make_user(), dataset=dataset)
        (row,) = uploading.files_declare(ingest=ingest, files=[("a.bin", 60_000_000)])
        tracemalloc.start()
        try:
            uploading.file_receive(file=row, offset=0, stream=Endless())
            assert tracemalloc.get_traced_memory()[1] < 8_000_000
        finally:
            tracemalloc.stop()

    def test_an_open_upload_is_discarded_or_given_up_with_time(self, api, dataset):
        for age_days in (0, 20):
            ingest = uploading.upload_open(actor=make_user(), dataset=dataset)
            uploading.files_receive(ingest=ingest, files=[("a", _Whole(b"x"))])
            Ingest.objects.filter(pk=ingest.pk).update(created_at=timezone.now() - timedelta(days=age_days))
            call_command("supervise_jobs", "--once")
            assert Ingest.objects.count() == 1
        (given_up,) = AuditEvent.objects.filter(action="upload.given_up")
        assert given_up.changes == {"upload": str(ingest.pk), "files": 1, "bytes": 1, "kept_days": 14}
        assert (given_up.project_id, given_up.object_id) == (dataset.project_id, str(dataset.pk))
        assert given_up.actor_id is None and given_up.channel == "worker"
        assert not list(storage.area("uploads", ingest.pk).iterdir())
        ingest = Ingest.objects.get()
        api.call("delete", f"ingests/{ingest.pk}/", status=204)
        assert not Ingest.objects.exists() and not list(storage.area("uploads", ingest.pk).iterdir())
        assert set(AuditEvent.objects.filter(action__startswith="upload").values_list("action", flat=True)) == {
            "upload.opened", "upload.discarded", "upload.given_up",
        }  # fmt: skip


class _Whole:
    def __init__(self, data: bytes):
        self.data, self.size = data, len(data)

    def chunks(self):
        yield self.data


class TestAnswers:
    def send(self, dataset, files: dict[str, bytes]) -> Ingest:
        ingest = uploading.upload_open(actor=make_user(), dataset=dataset)
        uploading.files_receive(ingest=ingest, files=[(name, _Whole(data)) for name, data in files.items()])
        uploading.upload_finish(actor=None, ingest=ingest)
        work_off()
        ingest.refresh_from_db()
        return ingest

    def test_files_are_kept_asked_about_and_read_with_the_answers(self, api, dataset):
        ingest = self.send(dataset, {"a.csv": silent(), "b/c.csv": silent(3500), "notes.txt": b"nothing"})
        items = {item.name: item for item in ingest.items.all()}
        assert set(items["a.csv"].asks) == {"fs_hz", "unit"}
        assert items["a.csv"].asks["unit"].startswith("Guess: mV.") and items["notes.txt"].asks == {}
        assert [entry["name"] for entry in ingest.waiting] == ["a.csv", "b/c.csv"]
        assert len([p for p in storage.area("uploads", ingest.pk).rglob("*") if p.is_file()]) == 2
        path = f"ingests/{ingest.pk}/"
        assert api.get(path)["waiting"] == 2
        assert api.post(f"{path}answers/", {}, status=422)["error"]["fields"]
        # One answer is not enough: the files wait on, and what was answered is remembered.
        api.post(f"{path}answers/", {"fs_hz": 500}, status=202)
        assert api.post(f"{path}answers/", {"unit": "mV"}, status=409)["error"]["code"] == "upload_busy"
        work_off()
        asks = {row["name"]: set(row["asks"]) for row in api.get(f"{path}items/", outcome="refused")["results"]}
        assert asks == {"a.csv": {"unit"}, "b/c.csv": {"unit"}, "notes.txt": set()}
        api.post(f"{path}answers/", {"unit": "mV"}, status=202)
        (job,) = work_off()
        assert job.state == JobState.SUCCEEDED, job.error_message
        ingest.refresh_from_db()
        assert ingest.options == {"fs_hz": 500.0, "unit": "mV"} and ingest.waiting == []
        assert sorted(Record.objects.filter(dataset=dataset).values_list("key", "fs_hz")) == [
            ("a", 500.0),
            ("c", 500.0),
        ]
        assert not list(storage.area("uploads", ingest.pk).iterdir())
        outcomes = dict(IngestItem.objects.filter(ingest=ingest).values_list("name", "outcome"))
        assert outcomes == {"a.csv": "accepted", "b/c.csv": "accepted", "notes.txt": "refused"}
        assert api.post(f"{path}answers/", {"unit": "mV"}, status=409)["error"]["code"] == "nothing_waits"

    def test_an_answer_against_physiology_is_flagged(self, dataset, api):
        ingest = self.send(dataset, {"a.csv": silent()})
        # In volt the beats would be 1000 mV high.
        api.post(f"ingests/{ingest.pk}/answers/", {"unit": "V", "fs_hz": 500}, status=202)
        work_off()
        (item,) = ingest.items.all()
        assert item.code == "implausible_amplitude" and "the unit may be wrong" in item.message
        record = Record.objects.get()
        assert "implausible_amplitude" in record.quality["flags"]
        assert np.nanmax(signals.read_signal(record)) > 500

    def test_kept_files_are_given_up_with_time(self, dataset):
        ingest = self.send(dataset, {"a.csv": silent()})
        uploading.sweep()
        assert Ingest.objects.exclude(waiting=[]).exists()
        ingest.job.finished_at = timezone.now() - timedelta(days=20)
        ingest.job.save()
        uploading.sweep()
        assert not Ingest.objects.exclude(waiting=[]).exists()
        (given_up,) = AuditEvent.objects.filter(action="upload.given_up")
        assert given_up.changes == {"upload": str(ingest.pk), "files": 1, "bytes": len(silent()), "kept_days": 14}
        assert given_up.project_id == dataset.project_id
        uploading.sweep()
        assert AuditEvent.objects.filter(action="upload.given_up").count() == 1
        assert not list(storage.area("uploads", ingest.pk).iterdir())
        with pytest.raises(Conflict, match="14 days"):
            uploading.upload_answer(actor=None, ingest=ingest, options={"unit": "mV"})

    def test_contradicting_guesses_are_two_groups_and_each_gets_its_own_answer(self, api, dataset):
        ingest = self.send(dataset, {"a.csv": silent(), "b.csv": silent(3500), "micro.csv": silent(factor=1000)})
        mv, uv = asking.groups(ingest)
        assert (mv.count, mv.first, mv.guesses["unit"]) == (2, "a.csv", "mV")
        assert (uv.count, uv.first, uv.guesses["unit"]) == (1, "micro.csv", "uV")
        assert asking.names_in(ingest, mv) == ["a.csv", "b.csv"]
        client, address = api.client, reverse("datasets:ingest", args=[ingest.pk])
        page = client.get(address)
        assert [each["form"].initial["unit"] for each in page.context["asked"]] == ["mV", "uV"]
        assert (
            page.context["waiting"] == 3 and {o["value"]: o["count"] for o in page.context["outcomes"]}["refused"] == 0
        )
        client.post(address, {"group": mv.key, "fs_hz": "500", "unit": "mV"})
        work_off()
        ingest.refresh_from_db()
        assert [entry["shown"] for entry in ingest.waiting] == ["micro.csv"]
        # The same form once more finds nothing to answer, and changes nothing.
        assert (
            "answered for meanwhile"
            in client.post(address, {"group": mv.key, "fs_hz": "250"}, follow=True).content.decode()
        )
        # A rate that was answered for the others is no answer for this file.
        api.post(f"ingests/{ingest.pk}/answers/", {"unit": "uV", "files": ["micro.csv"]}, status=202)
        work_off()
        (left,) = ingest.items.filter(outcome="refused")
        assert set(left.asks) == {"fs_hz"}
        assert (
            api.post(f"ingests/{ingest.pk}/answers/", {"unit": "uV", "files": ["a.csv"]}, status=409)["error"]["code"]
            == "nothing_waits"
        )
        client.post(address, {"group": asking.groups(ingest)[0].key, "fs_hz": "500"})
        work_off()
        ingest.refresh_from_db()
        assert ingest.waiting == [] and not list(storage.area("uploads", ingest.pk).iterdir())
        peaks = {record.key: float(np.nanmax(signals.read_signal(record))) for record in Record.objects.all()}
        assert set(peaks) == {"a", "b", "micro"} and peaks["micro"] == pytest.approx(peaks["a"], rel=0.01)

    def test_a_failed_reading_keeps_the_files_of_the_other_group(self, dataset, monkeypatch):
        ingest = self.send(dataset, {"a.csv": silent(), "micro.csv": silent(factor=1000)})
        monkeypatch.setattr(ingesting.Plan, "begin", _broken)
        uploading.upload_answer(actor=None, ingest=ingest, options={"unit": "mV", "fs_hz": 500}, names=["a.csv"])
        (job,) = work_off()
        assert job.state == JobState.FAILED
        ingest.refresh_from_db()
        assert [entry["shown"] for entry in ingest.waiting] == ["micro.csv"]
        assert len([p for p in storage.area("uploads", ingest.pk).rglob("*") if p.is_file()]) == 1


def _broken(*args, **kwargs):
    raise RuntimeError("broken")
