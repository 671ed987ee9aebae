"""Uploads that are not what they should be: each bad file gets a sentence, the rest is taken, nothing is half-stored."""

from __future__ import annotations

import io
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from django.conf import settings
from django.db import connection

from datasets.copying import copy_rows
from datasets.ecg import LEADS_12
from datasets.models import Dataset, IngestItem, LabelImport, OriginalFile, Record, RecordLabel, Subject
from datasets.presenting import Window, signal_csv
from datasets.simulate import simulate
from ecgportal.jobs import runner, services
from tests.api_client import Api
from tests.datasets.formats.test_fhir_observation import as_xml, observation
from tests.datasets.labels.test_kinds_of_tables import workbook
from tests.ecgfiles import wfdb_pair, zip_of
from tests.working import work_off


class Desk:
    """A dataset to which a test sends files."""

    def __init__(self, api: Api, name: str = "Bad uploads"):
        self.api = api
        project = api.post("projects/", {"name": name})["id"]
        self.dataset = api.post("datasets/", {"project": project, "name": "Incoming"})["id"]

    def begin(self, *files: tuple[str, bytes], **options: str) -> dict[str, str]:
        return self.api.post(f"datasets/{self.dataset}/uploads/", options, status=202, files={"files": list(files)})

    def send(self, *files: tuple[str, bytes], **options: str) -> dict[str, dict[str, str]]:
        """Upload, do the work, check that nothing is half-stored, and return the outcome per file name."""
        answer = self.begin(*files, **options)
        work_off()
        assert self.api.get(f"jobs/{answer['job']}/")["state"] == "succeeded"
        self.assert_whole(answer["ingest"])
        return self.items(answer["ingest"])

    def items(self, ingest: str) -> dict[str, dict[str, str]]:
        rows = self.api.rows(f"ingests/{ingest}/items/", page_size=500)
        assert len({row["name"] for row in rows}) == len(rows)
        for row in rows:
            if row["outcome"] == "refused":
                assert row["code"] and row["message"].endswith((".", ").")) and row["record"] is None
        return {row["name"]: row for row in rows}

    def table(self, name: str, data: bytes, **fields: str) -> dict:
        answer = self.api.post(f"datasets/{self.dataset}/labels/", fields, status=202, files={"file": [(name, data)]})
        work_off()
        return self.api.get(f"jobs/{answer['job']}/")

    def assert_whole(self, ingest: str = "") -> None:
        """Rows, packs and blobs of all datasets fit each other, and no uploaded byte waits any more."""
        blobs = {path.name for path in Path(settings.MEDIA_ROOT).rglob("*") if path.is_file()}
        known = set(OriginalFile.objects.values_list("sha256", flat=True)) | set(
            LabelImport.objects.values_list("sha256", flat=True)
        )
        assert blobs == known
        folder = settings.PORTAL_HOME / "signals" / self.dataset
        packs = {path.name for path in folder.iterdir()} if folder.exists() else set()
        assert packs == {
            f"{pack}.f32" for pack in Record.objects.filter(dataset=self.dataset).values_list("pack", flat=True)
        }
        size = sum(4 * len(row.leads) * row.n_samples for row in Record.objects.filter(dataset=self.dataset))
        assert sum((folder / name).stat().st_size for name in packs) == size
        assert not Subject.objects.filter(records=None).exists()
        if ingest:
            # Nothing of an upload lies about but the files that wait for an answer.
            folder = settings.PORTAL_HOME / "uploads" / ingest
            left = [path for path in folder.rglob("*") if path.is_file()]
            assert len(left) == self.api.get(f"ingests/{ingest}/")["waiting"]

    def keys(self) -> list[str]:
        return [row["key"] for row in self.api.rows("records/", dataset=self.dataset)]


def pair(name: str, seed: int = 1, condition: str = "SNR") -> dict[str, bytes]:
    return wfdb_pair(simulate(condition, seed, fs_hz=250.0, duration_s=4.0).record, name)


GOOD = pair("good")


@pytest.fixture
def desk(owner: Api, own_home) -> Desk:
    return Desk(owner)


def test_files_that_are_no_ecg(desk: Desk):
    odd = {
        "letter.pdf": b"%PDF-1.7 a letter", "photo.png": b"\x89PNG\r\n\x1a\n" + bytes(50), "empty.dat": b"", "program.exe": b"MZ" + bytes(200),
        "table.csv": b"name,dose\nA,1\nB,2\n", "page.xml": b"<?xml version='1.0'?><html/>", "fake.dcm": bytes(128) + b"DICM" + b"\xff" * 40,
        "evil.xml": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><AnnotatedECG>&b;</AnnotatedECG>',
    }  # fmt: skip
    found = desk.send(*odd.items(), *GOOD.items())
    for name in odd:
        assert found[name]["outcome"] == "refused" and name in found[name]["message"], found[name]
        assert "root:" not in found[name]["message"]
    assert (found["good.hea"]["outcome"], found["good.dat"]["outcome"]) == ("accepted", "companion")
    assert desk.keys() == ["good"]


def test_files_that_are_two_things_at_once(desk: Desk, tmp_path):
    """What a file is called and what else it could be opened as count for nothing, and what is no ECG in it is not stored."""
    document = b"%PDF-1.7\n1 0 obj <</Author (a stranger)>> endobj\ntrailer\n%%EOF\n"
    picture = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(60)
    packed, xml, array, tar = zip_of(pair("hidden", 7)), as_xml(observation()).encode(), io.BytesIO(), io.BytesIO()
    np.save(array, simulate("SNR", 8, fs_hz=500.0, duration_s=4.0).record.signal)
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, data in {"%PDF-1.7": document, **pair("tarred", 9)}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    zipped = zip_of(pair("zipped", 6))
    for polyglot in (picture + packed, document + packed, xml + packed, array.getvalue() + packed):
        assert zipfile.ZipFile(io.BytesIO(polyglot)).namelist() == ["hidden.hea", "hidden.dat"]
    found = desk.send(
        ("picture.xml", picture + packed), ("document.zip", document + packed), ("document.xml", document + xml), ("late.xml", b" \n" + document + xml),
        ("tail.xml", xml + packed), ("comment.xml", xml.replace(b"<component", b"<!-- " + document + b" --><component", 1)),
        ("array.npy", array.getvalue() + packed), ("zip.xml", zipped), ("tar.pdf", tar.getvalue()), *GOOD.items(),
        fs_hz="500", unit="mV", lead_order=",".join(LEADS_12),
    )  # fmt: skip
    refused = {name: row["code"] for name, row in found.items() if row["outcome"] == "refused"}
    # The words by which a PDF is known stand first in the tar, as the name of its first file.
    assert refused == {
        "picture.xml": "not_an_ecg", "document.zip": "not_an_ecg", "document.xml": "not_an_ecg", "late.xml": "not_an_ecg",
        "tail.xml": "bad_xml", next(name for name in found if name.endswith("%PDF-1.7")): "not_an_ecg",
    }, found  # fmt: skip
    assert {row["key"]: row["format"] for row in desk.api.rows("records/", dataset=desk.dataset)} == {
        "array": "numpy", "comment": "fhir_observation", "good": "wfdb", "tarred": "wfdb", "zipped": "wfdb",
    }  # fmt: skip
    for path in tmp_path.rglob("*"):
        stored = path.read_bytes() if path.is_file() else b""
        assert not [word for word in (b"%PDF", b"\x89PNG", b"PK\x03\x04", b"stranger", b"hidden") if word in stored], (
            path
        )


def test_headers_and_signal_files_that_do_not_fit(desk: Desk):
    cut = pair("cut", 2)
    cut["cut.dat"] = cut["cut.dat"][:-4801]
    alone, orphan, broken = pair("alone", 3), pair("orphan", 4), pair("broken", 5)
    broken["broken.hea"] = b"broken twelve leads\n"
    files = {
        **cut, "alone.hea": alone["alone.hea"], "orphan.dat": orphan["orphan.dat"], **broken, **GOOD,
    }  # fmt: skip
    found = desk.send(("mixed.zip", zip_of(files)))
    assert {name for name, row in found.items() if row["outcome"] == "refused"} == {
        "cut.hea", "cut.dat", "alone.hea", "orphan.dat", "broken.hea", "broken.dat",
    }  # fmt: skip
    assert "cut.dat" in found["cut.hea"]["message"] and "alone.dat" in found["alone.hea"]["message"]
    assert found["orphan.dat"]["code"] == "header_missing" and "orphan.hea" in found["orphan.dat"]["message"]
    assert found["broken.dat"]["code"] == "header_refused"
    assert desk.keys() == ["good"]
    # What was missing is sent later.
    assert desk.send(*alone.items())["alone.hea"]["outcome"] == "accepted"


def test_archives_that_mean_harm(desk: Desk, tmp_path):
    bomb = zip_of({"zeros.dat": bytes(80 << 20)})
    assert len(bomb) < 200_000
    climbing = zip_of({"../../escaped.hea": GOOD["good.hea"], "/absolute.dat": b"x", **pair("inside", 2)})
    linked = io.BytesIO()
    with tarfile.open(fileobj=linked, mode="w:gz") as archive:
        link = tarfile.TarInfo("link.dat")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, data in pair("tarred", 3).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    nested = zip_of({"deep.zip": zip_of(GOOD)})
    found = desk.send(
        ("bomb.zip", bomb), ("climb.zip", climbing), ("linked.tar.gz", linked.getvalue()), ("broken.zip", climbing[:200]),
        ("nested.zip", nested), *GOOD.items(),
    )  # fmt: skip
    assert found["bomb.zip"]["code"] == "archive_bomb" and "bomb.zip" in found["bomb.zip"]["message"]
    assert found["broken.zip"]["outcome"] == "refused" and "broken.zip" in found["broken.zip"]["message"]
    refused = {name: row["message"] for name, row in found.items() if row["outcome"] == "refused"}
    for part in ("escaped.hea", "absolute.dat", "link.dat", "deep.zip"):
        name = next(name for name in refused if part in name)
        assert part in refused[name]
    assert desk.keys() == ["good", "inside", "tarred"]
    assert not list(tmp_path.parent.glob("escaped*")) and not list(tmp_path.rglob("escaped*"))


def test_the_same_files_again(desk: Desk):
    first = desk.send(*GOOD.items())
    again = desk.send(("renamed.zip", zip_of(GOOD)))
    assert again["good.hea"]["outcome"] == "duplicate" and again["good.hea"]["record"] == first["good.hea"]["record"]
    assert "good" in again["good.hea"]["message"] and again["good.dat"]["outcome"] == "companion"
    other = desk.send(*pair("good", seed=9).items())["good.hea"]
    assert (other["outcome"], other["code"]) == ("refused", "key_taken") and "good" in other["message"]
    twice = desk.send(*GOOD.items(), *GOOD.items())
    assert {row["outcome"] for row in twice.values()} <= {"duplicate", "companion", "refused"}
    assert desk.keys() == ["good"]
    # In another dataset it is another record, and its deletion leaves the bytes of the first.
    elsewhere = Desk(desk.api, "Elsewhere")
    assert elsewhere.send(*GOOD.items())["good.hea"]["outcome"] == "accepted"
    desk.api.delete(f"datasets/{elsewhere.dataset}/")
    desk.assert_whole()


def test_files_that_do_not_say_enough(desk: Desk):
    values = b"\n".join(b",".join(b"%d" % ((i * 7 + lead) % 90) for lead in range(12)) for i in range(1000))
    plain = ("plain.csv", b"I,II,III,aVR,aVL,aVF,V1,V2,V3,V4,V5,V6\n" + values)
    row = desk.send(plain)["plain.csv"]
    assert (row["outcome"], row["code"]) == ("refused", "needs_answer") and "plain.csv" in row["message"]
    assert desk.send(plain, fs_hz="500", unit="uV")["plain.csv"]["outcome"] == "accepted"
    record = desk.api.rows("records/", dataset=desk.dataset)[0]
    assert (record["fs_hz"], record["duration_s"]) == (500.0, 2.0)


ODD_NAMES = [
    "Fälle/Müller – Kopie (2).csv", "心電図.csv", "with space .csv", "quote'\".csv", "<img src=x>.csv", "=cmd|' /C'!A0.csv", "semi;colon,comma.csv",
    ".hidden.csv", "CON.csv", "a" * 180 + ".csv", "tab\there.csv", "ecg\u202efdp.csv", "100%25.csv", "e\u0301.csv",
]  # fmt: skip


def test_odd_file_names(desk: Desk):
    files = {}
    for number, name in enumerate(ODD_NAMES):
        ecg = simulate("SNR", 50 + number, fs_hz=250.0, duration_s=2.0).record
        files[name] = signal_csv(Window(ecg.signal, ecg.fs_hz, ecg.leads, 0.0, "original")).encode()
    found = desk.send(("odd.zip", zip_of(files)))
    taken = {name: row for name, row in found.items() if row["outcome"] == "accepted"}
    assert len(found) == len(ODD_NAMES) and len(taken) >= len(ODD_NAMES) - 2, {
        n: r["message"] for n, r in found.items() if n not in taken
    }
    keys = desk.keys()
    assert len(keys) == len(taken)
    assert not any(ch in key for key in keys for ch in "\u202e\t\x00") and not any(
        key.startswith(("/", "..")) for key in keys
    )
    record = desk.api.rows("records/", dataset=desk.dataset, search="müller")
    assert len(record) == 1
    desk.api.get(f"records/{record[0]['id']}/signal/", format="csv")
    assert "filename" in desk.api.last.headers["Content-Disposition"]
    single = ("../../etc/Köhler\u202e.csv", files[ODD_NAMES[0]].replace(b"0.000000", b"0.000001", 1))
    name = next(iter(desk.send(single)))
    assert ".." not in name and "\u202e" not in name and "Köhler" in name
    for record in desk.api.rows("records/", dataset=desk.dataset):
        desk.api.delete(f"records/{record['id']}/")
    assert OriginalFile.objects.count() == 0


def test_label_tables_that_do_not_fit(desk: Desk):
    desk.send(*GOOD.items(), *pair("other", 2).items())
    unknown_columns = desk.table("notes.csv", b"colour,shape\nred,round\n")
    assert unknown_columns["state"] == "failed" and "notes.csv" in unknown_columns["error"]["message"], unknown_columns[
        "error"
    ]
    no_labels = desk.table("notes.csv", b"record,shape\ngood,round\n")
    assert (
        no_labels["state"] == "failed"
        and "notes.csv" in no_labels["error"]["message"]
        and "shape" in no_labels["error"]["message"]
    )
    assert RecordLabel.objects.count() == 0
    told = desk.table(
        "notes.csv",
        b"colour,shape\ngood,AFIB\n",
        mapping='{"record": "colour", "labels": [{"column": "shape", "kind": "codes", "system": "scp"}]}',
    )
    assert (told["result"]["rows"], told["result"]["taken"]) == (1, 1)
    missing_column = desk.table("notes.csv", b"record,label\ngood,NORM\n", mapping='{"record": "nowhere"}')
    assert missing_column["state"] == "failed" and "nowhere" in missing_column["error"]["message"]
    book = workbook(Legend=[["code", "words"], ["NORM", "normal"]], Labels=[["record", "scp_codes"], ["good", "NORM"]])
    wrong = desk.table("book.xlsx", book, sheet="nowhere")
    assert wrong["state"] == "failed" and "Legend, Labels" in wrong["error"]["message"]
    assert desk.table("book.xlsx", book, sheet="Labels")["result"]["taken"] == 1
    partly = desk.table("partly.csv", b"record,scp_codes\ngood,NORM\nghost,NORM\nother,XYZZY\n")["result"]
    assert (partly["rows"], partly["taken"], partly["unmatched"], partly["unknown_codes"]) == (3, 2, 1, ["XYZZY"])
    assert [(row["row"], row["outcome"]) for row in partly["rows_with_reason"] if row["outcome"] == "unmatched"] == [
        (2, "unmatched")
    ]
    assert "ghost" in next(row["reason"] for row in partly["rows_with_reason"] if row["outcome"] == "unmatched")
    for name, data in (
        ("picture.csv", b"\x89PNG\r\n" + bytes(300)),
        ("empty.csv", b""),
        ("broken.xlsx", b"PK\x03\x04" + bytes(30)),
        ("bad.json", b"{"),
    ):
        job = desk.table(name, data)
        assert job["state"] == "failed" and job["error"]["code"] not in ("", "internal_error"), (name, job["error"])
        assert name in job["error"]["message"]
    assert desk.table("more.csv", b"record,scp_codes,shape\ngood,NORM,round\n")["result"]["ignored_columns"] == [
        "shape"
    ]
    assert set(RecordLabel.objects.values_list("record__key", "code")) == {("good", "NORM"), ("other", "XYZZY")}


def test_a_failure_in_the_middle_leaves_nothing(desk: Desk, monkeypatch):
    answer = desk.begin(*GOOD.items(), *pair("other", 2).items())

    def full(rows):
        if rows and isinstance(rows[0], OriginalFile):
            raise OSError(28, "No space left on device")
        copy_rows(rows)

    with monkeypatch.context() as patch:
        patch.setattr("datasets.storing.copy_rows", full)
        work_off()
    job = desk.api.get(f"jobs/{answer['job']}/")
    assert (job["state"], job["error"]["code"]) == ("failed", "internal_error")
    assert (Record.objects.count(), IngestItem.objects.count()) == (0, 0)
    desk.assert_whole()
    assert desk.send(*GOOD.items())["good.hea"]["outcome"] == "accepted"


@pytest.mark.django_db(transaction=True)
def test_two_uploads_of_the_same_file_at_once(owner: Api, own_home):
    desk = Desk(owner)
    many = {**GOOD, **pair("second", 2), **pair("third", 3)}
    answers = [desk.begin(("same.zip", zip_of(many))) for _ in range(3)]
    ready = threading.Barrier(len(answers))

    def do(job_id: str) -> None:
        try:
            job = services.claim(job_id, host="tests")
            ready.wait(20)
            runner.run(job.pk, job.attempt)
        finally:
            connection.close()

    workers = [threading.Thread(target=do, args=(answer["job"],)) for answer in answers]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    outcomes = [[row["outcome"] for row in desk.items(answer["ingest"]).values()] for answer in answers]
    assert sum(found.count("accepted") for found in outcomes) == 3
    assert (
        sum(found.count("duplicate") for found in outcomes) == 6
        and sum(found.count("companion") for found in outcomes) == 9
    )
    assert desk.keys() == ["good", "second", "third"]
    desk.assert_whole()
    assert Dataset.objects.get(pk=desk.dataset).records.count() == 3
