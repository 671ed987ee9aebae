"""Import collections from allowed folders and from a server, with labels, folds, sites, age and sex."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from django.urls import reverse

from datasets import importing
from datasets.collections import download
from datasets.management.commands.import_collection import address_of
from datasets.models import Dataset, Ingest, LabelImport, Outcome, Record, RecordLabel
from ecgportal import storage
from ecgportal.errors import InvalidInput
from ecgportal.jobs.models import JobState
from tests.api_client import Api
from tests.factories import make_dataset, make_project, make_team, make_user
from tests.shared import needs_shared, shared_path
from tests.working import work_off


def part(name: str, into: Path, count: int, spread: bool = False) -> Path:
    """Copy some records of a shared part, with its tables, into a folder of the collection's layout: the first ones or,
    ``spread``, ones from everywhere in it."""
    source = shared_path("ecg", "labelled", name)
    files = sorted(path for path in source.rglob("*") if path.is_file() and "records100" not in path.parts)
    stems = sorted({path.stem for path in files if path.suffix in (".hea", ".mat", ".h5")})
    taken = set(stems[:: len(stems) // count] if spread else stems[:count])
    for path in files:
        if path.suffix == ".csv" or path.stem in taken:
            target = into / name / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return into / name


@pytest.fixture
def root(tmp_path: Path, settings) -> Path:
    folder = tmp_path / "collections"
    folder.mkdir()
    settings.IMPORT_ROOTS = [folder]
    return folder


def take(dataset, name: str, folder: str | None) -> Ingest:
    ingest = importing.import_start(actor=make_user(), dataset=dataset, collection=name, folder=folder)
    (job,) = work_off()
    assert job.state == JobState.SUCCEEDED, job.error_message
    ingest.refresh_from_db()
    return ingest


@needs_shared
class TestFolders:
    def test_ptbxl_with_folds_sites_labels_age_and_sex(self, db, root):
        part("ptbxl", root, 4)
        dataset = make_dataset(make_project())
        ingest = take(dataset, "ptbxl", "collections/ptbxl")
        records = {r.key: r for r in Record.objects.filter(dataset=dataset).select_related("subject")}
        with (root / "ptbxl" / "ptbxl_database.csv").open(newline="") as stream:
            rows = {Path(row["filename_hr"]).name: row for row in csv.DictReader(stream)}
        assert len(records) == 4 and set(records) <= set(rows)
        for key, record in records.items():
            row = rows[key]
            assert (record.fold, record.site, record.age) == (
                int(row["strat_fold"]),
                str(int(float(row["site"]))),
                float(row["age"]),
            )
            assert record.sex == ("F" if row["sex"] == "1" else "M") and record.fs_hz == 500
            assert record.subject.key.startswith("P-")
        first = RecordLabel.objects.filter(record=records["00001_hr"]).order_by("code")
        assert [(x.system, x.code, x.likelihood) for x in first] == [
            ("scp", "LVOLT", 0.0),
            ("scp", "NORM", 1.0),
            ("scp", "SR", 0.0),
        ]
        (told,) = ingest.job.result["tables"]
        assert told["table"] == "ptbxl_database.csv" and told["taken"] == 4
        # The report of the physicians, devices and dates are not stored, not even in the kept table.
        kept = storage.read_blob(LabelImport.objects.get(dataset=dataset).sha256)
        assert b"sinusrhythmus" not in kept and b"1984" not in kept and b"15709" not in kept

    def test_a_second_run_adds_only_what_is_new(self, db, root):
        part("ptbxl", root, 2)
        dataset = make_dataset(make_project())
        take(dataset, "ptbxl", "collections/ptbxl")
        packs = set(storage.area("signals", dataset.pk).iterdir())
        part("ptbxl", root, 3)
        ingest = take(dataset, "ptbxl", "collections/ptbxl")
        outcomes = [item.outcome for item in ingest.items.all() if item.outcome != Outcome.COMPANION]
        assert sorted(outcomes) == ["accepted", "duplicate", "duplicate"]
        assert Record.objects.filter(dataset=dataset, fold__isnull=False).count() == 3
        assert len(set(storage.area("signals", dataset.pk).iterdir()) - packs) == 1

    def test_originals_are_copies_that_nobody_else_writes_to(self, db, root):
        folder = part("sph", root, 1)
        dataset = make_dataset(make_project(keeps_identifiers=True))
        take(dataset, "sph", "collections/sph")
        original = Record.objects.get(dataset=dataset).originals.get()
        source = next(folder.glob("*.h5"))
        assert storage.read_blob(original.sha256) == source.read_bytes()
        assert not os.path.samefile(storage.blob_path(original.sha256), source)

    @pytest.mark.parametrize(
        ("name", "count", "system", "with_person"),
        [
            ("ludb", 3, "name", True), ("cpsc2018", 3, "name", True), ("cinc2021", 3, "snomed", False),
            ("code15", 2, None, False), ("sph", 3, "aha", True),
        ],
    )  # fmt: skip
    def test_every_other_part(self, db, root, name, count, system, with_person):
        part(name, root, count, spread=name == "cinc2021")
        dataset = make_dataset(make_project())
        ingest = take(dataset, name, f"collections/{name}")
        records = Record.objects.filter(dataset=dataset)
        refused = list(ingest.items.filter(outcome=Outcome.REFUSED).values_list("name", "message"))
        assert records.count() >= count, refused
        assert all(record.site for record in records)
        if with_person:
            assert all(record.age is not None and record.sex for record in records)
        if system:
            labelled = RecordLabel.objects.filter(record__in=records, system=system).values_list("record", flat=True)
            assert len(set(labelled)) == records.count()


@needs_shared
class TestWays:
    """The same import from a page, by REST and from the shell."""

    def test_one_call_of_rest(self, db, root):
        part("sph", root, 2)
        project = make_project()
        team = make_team(project)
        api = Api(session=team["editor"])
        rows = {row["name"]: row for row in api.get("collections/", project=project.pk)["results"]}
        assert rows["sph"]["folders"] == ["collections/sph"] and not rows["sph"]["downloadable"]
        assert rows["ptbxl"]["folders"] == [] and rows["ptbxl"]["downloadable"]
        assert not any(row["folders"] for row in api.get("collections/")["results"])
        Api(session=team["viewer"]).get("collections/", project=project.pk, status=403)
        answer = api.post(
            "imports/", {"project": str(project.pk), "collection": "sph", "folder": "collections/sph"}, status=202
        )
        work_off()
        assert api.get(f"jobs/{answer['job']}/")["result"]["tables"][0]["taken"] == 2
        found = api.get("records/", dataset=answer["dataset"])["results"]
        assert {row["site"] for row in found} == {"SPH"} and all(row["labels"] for row in found)
        again = api.post(
            "imports/", {"dataset": answer["dataset"], "collection": "sph", "folder": "collections/sph"}, status=202
        )
        assert again["dataset"] == answer["dataset"]

    def test_what_is_wrong_is_said_and_leaves_no_dataset(self, db, root):
        project = make_project()
        api = Api(session=make_team(project)["editor"])
        own = {"project": str(project.pk)}
        for body in (
            {"collection": "sph"}, {"collection": "sph", "folder": "x", "download": True}, {"collection": "nothing", "download": True},
            {"collection": "sph", "download": True}, {"collection": "sph", "folder": "/etc"}, {"collection": "sph", "folder": "../.."},
        ):  # fmt: skip
            assert api.post("imports/", {**own, **body}, status=422)["error"]["fields"]
        api.post("imports/", {"collection": "ptbxl", "download": True}, status=422)
        assert not Dataset.objects.exists() and not Ingest.objects.exists()

    def test_one_choice_on_the_page(self, db, root, client):
        part("sph", root, 2)
        project = make_project()
        client.force_login(make_team(project)["editor"])
        address = reverse("datasets:import", args=[project.pk])
        page = client.get(address).content.decode()
        assert 'value="sph@collections/sph"' in page and 'value="ptbxl@"' in page
        answer = client.post(address, {"choice": "sph@collections/sph", "name": ""})
        ingest = Ingest.objects.get()
        assert answer.url == reverse("datasets:ingest", args=[ingest.pk]) and ingest.dataset.name == "SPH"
        work_off()
        told = client.get(answer.url).content.decode()
        assert "metadata.csv" in told and "Rhythm and conduction" in told
        assert client.post(address, {"choice": "sph@collections"}).status_code == 422
        assert client.post(address, {}).status_code == 422

    def test_one_command(self, db, root, tmp_path):
        assert address_of("collections/sph") == "collections/sph"
        assert address_of(str(root / "sph")) == "collections/sph" and address_of(str(root)) == "collections"
        with pytest.raises(InvalidInput, match="PORTAL_IMPORT_ROOTS"):
            address_of(str(tmp_path))


class TestPlaces:
    def test_only_allowed_folders_are_looked_into(self, root, tmp_path):
        (tmp_path / "outside").mkdir()
        (root / "link").symlink_to(tmp_path / "outside")
        (root / "a" / "b").mkdir(parents=True)
        assert importing.path_of("collections/a/b/") == (root / "a" / "b").resolve()
        assert importing.path_of("collections") == root.resolve()
        for wrong in (
            "",
            "/",
            "..",
            "collections/..",
            "collections/a/../../outside",
            "/etc",
            str(root),
            "collections/link",
            "other",
            "collections/none",
            "collections/\x00",
        ):
            with pytest.raises(InvalidInput):
                importing.path_of(wrong)

    def test_nothing_is_allowed_by_itself(self, settings):
        settings.IMPORT_ROOTS = []
        assert importing.places() == []
        with pytest.raises(InvalidInput, match="from which"):
            importing.path_of("collections")

    def test_collections_are_found_three_folders_deep_and_links_are_not_followed(self, root, tmp_path):
        for place in ("x/ptb-xl", "x/y/z/deep"):
            (root / place / "records500").mkdir(parents=True)
            (root / place / "ptbxl_database.csv").touch()
        (tmp_path / "elsewhere" / "records500").mkdir(parents=True)
        (tmp_path / "elsewhere" / "ptbxl_database.csv").touch()
        (root / "link").symlink_to(tmp_path / "elsewhere")
        assert [(p.collection.name, p.folder) for p in importing.places()] == [("ptbxl", "collections/x/ptb-xl")]

    def test_a_folder_of_another_layout_is_refused(self, db, root):
        (root / "a").mkdir()
        dataset = make_dataset(make_project())
        with pytest.raises(InvalidInput, match="layout"):
            importing.import_start(actor=make_user(), dataset=dataset, collection="ptbxl", folder="collections/a")
        with pytest.raises(InvalidInput, match="cannot be downloaded"):
            importing.import_start(actor=make_user(), dataset=dataset, collection="sph")
        with pytest.raises(InvalidInput, match="no collection"):
            importing.import_start(actor=make_user(), dataset=dataset, collection="nothing")
        assert not Ingest.objects.exists()


class Server:
    """A server of files as PhysioNet has it. ``ranges``: the Range headers that came. ``cut``: names whose answer breaks off once."""

    def __init__(self, folder: Path):
        self.folder, self.ranges, self.asked = folder, [], []
        self.cut: set[str] = set()
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                server.asked.append(name)
                path = Path(self.translate_path(self.path))
                if not path.is_file():
                    self.send_error(404)
                    return
                data, start = path.read_bytes(), 0
                if told := self.headers.get("Range"):
                    server.ranges.append((name, told))
                    start = int(told.removeprefix("bytes=").rstrip("-"))
                    if start >= len(data):
                        self.send_error(416)
                        return
                    self.send_response(206)
                else:
                    self.send_response(200)
                self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                part = data[start:]
                if name in server.cut:
                    server.cut.discard(name)
                    part = part[: len(part) // 2]
                    self.close_connection = True
                self.wfile.write(part)

            def log_message(self, *_: object) -> None:
                return None

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/"

    def publish(self, *, wrong: str = "") -> None:
        """Write the list of checksums, with a wrong one for a file."""
        lines = []
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            name = path.relative_to(self.folder).as_posix()
            lines.append(f"{'0' * 64 if name == wrong else hashlib.sha256(path.read_bytes()).hexdigest()} {name}")
        lines += ["0" * 64 + " ../../outside.dat", "0" * 64 + " /etc/passwd", "nonsense"]
        (self.folder / "SHA256SUMS.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "www"
    folder.mkdir()
    found = Server(folder)
    yield found
    found.http.shutdown()
    found.http.server_close()


class TestDownload:
    def fetch(self, server: Server, into: Path, address: str = "") -> int:
        with httpx.Client() as client:
            return download.fetch(
                client, server.url + address, into, lambda name: name.endswith(".dat"), lambda *_: None, pause_s=0.0
            )

    def test_what_broke_off_goes_on_and_what_is_there_is_left_alone(self, server, tmp_path):
        for name in ("a/one.dat", "a/two.dat", "readme.txt"):
            path = server.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(os.urandom(300_000))
        server.publish()
        server.cut = {"one.dat"}
        into = tmp_path / "into"
        assert self.fetch(server, into) == 2
        assert [name for name, _ in server.ranges] == ["one.dat"]
        assert {p.relative_to(into).as_posix() for p in into.rglob("*") if p.is_file()} == {
            "a/one.dat",
            "a/two.dat",
            "SHA256SUMS.txt",
        }
        assert (into / "a/one.dat").read_bytes() == (server.folder / "a/one.dat").read_bytes()
        # A file that another run left half there.
        (into / "a/two.dat").rename(into / "a/two.dat.part")
        with (into / "a/two.dat.part").open("r+b") as stream:
            stream.truncate(1000)
        server.ranges.clear()
        assert self.fetch(server, into) == 1
        assert server.ranges == [("two.dat", "bytes=1000-")]
        assert self.fetch(server, into) == 0

    def test_a_wrong_checksum_is_told_and_nothing_is_left(self, server, tmp_path):
        (server.folder / "one.dat").write_bytes(b"x" * 1000)
        server.publish(wrong="one.dat")
        with pytest.raises(download.DownloadFailed, match=r"one\.dat does not have the published checksum"):
            self.fetch(server, tmp_path / "into")
        assert not list((tmp_path / "into").glob("one*"))

    def test_a_file_that_is_not_there_is_named(self, server, tmp_path):
        (server.folder / "one.dat").write_bytes(b"x")
        server.publish()
        (server.folder / "one.dat").unlink()
        with pytest.raises(download.DownloadFailed, match=r"one\.dat could not be downloaded: the server answered 404"):
            self.fetch(server, tmp_path / "into")
        with pytest.raises(download.DownloadFailed, match="answered 404"):
            self.fetch(server, tmp_path / "other", "nothing/")

    @needs_shared
    def test_a_collection_is_downloaded_and_imported(self, db, server, settings):
        part("ludb", server.folder, 2)
        (server.folder / "ludb").rename(server.folder / "1.0.1")
        (server.folder / "ludb").mkdir()
        (server.folder / "1.0.1").rename(server.folder / "ludb" / "1.0.1")
        inner = Server.publish
        home, server.folder = server.folder, server.folder / "ludb" / "1.0.1"
        inner(server)
        server.folder = home
        settings.PHYSIONET_URL = server.url
        dataset = make_dataset(make_project())
        try:
            ingest = take(dataset, "ludb", None)
            assert ingest.source == {"collection": "ludb", "download": True}
            assert Record.objects.filter(dataset=dataset).count() == 2
        finally:
            shutil.rmtree(storage.downloads("ludb"))
