"""The commands of the shell do what the pages and the interface do, as the same user and with the same permissions."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import psycopg
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection

from datasets import signals
from datasets.demo import sync_label_maps
from datasets.models import Dataset, OriginalFile, Record
from ecgportal import backup, storage
from ecgportal.accounts.models import User
from ecgportal.audit.models import AuditEvent
from ecgportal.jobs.models import Job
from ecgportal.jobs.services import enqueue
from ecgportal.projects.models import Role
from modelhub.models import ModelVersion
from modelhub.services_exchanges import exchange_save
from tests import factories
from tests.ecgfiles import make_cohort
from tests.hosts import hosts as hosts  # a fixture
from tests.hosts import s3_server as s3_server  # a fixture
from tests.modelhub.dav_server import dav_server as dav_server  # a fixture
from tests.working import work_off
from training.models import Evaluation


def ask(*arguments: object) -> dict:
    """Run a command with ``--json`` and return what it printed."""
    out = io.StringIO()
    call_command(*map(str, arguments), "--json", stdout=out, stderr=io.StringIO())
    return json.loads(out.getvalue())


def refused(*arguments: object) -> str:
    """Run a command that must end with an error; return its sentence."""
    with pytest.raises(CommandError) as caught:
        call_command(*map(str, arguments), stdout=io.StringIO(), stderr=io.StringIO())
    return str(caught.value)


@pytest.fixture
def in_this_process(monkeypatch):
    """Do foreground jobs here, where the test's transaction is seen."""

    def start(job: Job) -> threading.Thread:
        work_off()
        done = threading.Thread(target=lambda: None)
        done.start()
        return done

    monkeypatch.setattr("ecgportal.commands.start", start)


@pytest.fixture
def team(db):
    team = {role: factories.make_user(role) for role in ("owner", "editor", "viewer")}
    factories.make_project({team[role]: role for role in Role.values}, name="Ward study", description="x")
    return team


@pytest.fixture
def folder(tmp_path) -> Path:
    cohort = make_cohort(16, fs_hz=100.0, duration_s=5.0)
    for name, data in cohort.files.items():
        path = tmp_path / "ecgs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "ecgs" / "notes.txt").write_text("no ECG")
    (tmp_path / "ecgs" / ".hidden").write_text("left out")
    (tmp_path / "labels.csv").write_bytes(cohort.table())
    return tmp_path


def test_the_main_job_in_the_shell(team, folder, in_this_process, dav_server):
    sync_label_maps()
    editor, owner = ("--as-user", "editor"), ("--as-user", "owner")
    found = ask("import_folder", folder / "ecgs", "--project", "Ward study", "--dataset", "Ward", *editor)
    assert (found["accepted"], found["companion"], found["refused"]) == (16, 16, 1)
    assert [row["name"] for row in found["refused_files"]] == ["notes.txt"]
    again = ask("import_folder", folder / "ecgs", "--project", "Ward study", "--dataset", "ward", *editor)
    assert (again["duplicate"], again["dataset"]) == (16, found["dataset"])
    labels = ask("import_labels", folder / "labels.csv", "--dataset", "Ward", *editor)
    assert (labels["rows"], labels["taken"]) == (16, 16)

    measured = [ask("measure", "--dataset", "Ward", *editor)["measured"] for _ in range(2)]
    assert measured == [16, 0]

    fast = [part for pair in ("epochs=1", "batch_size=8", "threads=1") for part in ("--set", pair)]
    choice = [
        "--project",
        "Ward study",
        "--dataset",
        "Ward",
        "--label-map",
        "PTB-XL superclass",
        "--classes",
        "NORM,CD",
        "--name",
        "Net",
    ]
    made = ask("train", *choice, "--architecture", "xresnet1d18", *fast, *editor)
    version = ModelVersion.objects.get(pk=made["version"])
    assert str(version) == "Net v1" and made["best_epoch"] == 1 and made["test"]["n"] > 0
    judged = ask("evaluate", "--model-version", "Net v1", "--dataset", "Ward", *editor)
    assert judged["n"] == made["test"]["n"] and Evaluation.objects.count() == 2

    table = folder / "predictions.csv"
    answer = ask("predict", "--model-version", "Net v1", "--dataset", "Ward", "--output", table, *editor)
    assert answer["predicted"] == 16 and len(list(csv.DictReader(table.open()))) == 16
    file = folder / "net.onnx"
    written = ask("export_model", "Net v1", file, "--as-user", "viewer")
    assert written["bytes"] == file.stat().st_size == version.size
    assert onnxruntime.InferenceSession(str(file)).get_inputs()[0].shape[1] == 12

    exchange_save(
        actor=team["owner"], name="Server", url=dav_server.url, username=dav_server.user, password=dav_server.password
    )
    listed = ask("exchange_sync", "Server", "list", "--project", "Ward study", *owner)
    assert [row["state"] for row in listed["models"]] == ["local_only"]
    ask("exchange_sync", "Server", "push", "--model-version", "Net v1", *owner)
    other = factories.make_project({team["owner"]: Role.OWNER}, name="Second")
    synced = ask("exchange_sync", "Server", "sync", "--project", "Second", *owner)
    assert [row["direction"] for row in synced["transfers"]] == ["pull"]
    pulled = ModelVersion.objects.get(model__project=other)
    assert (pulled.state, pulled.sha256) == ("quarantined", version.sha256)
    channels = set(
        AuditEvent.objects.filter(action__in=["dataset.created", "run.started", "prediction.downloaded"]).values_list(
            "channel", "actor_name"
        )
    )
    assert channels == {("shell", "editor")}


def test_a_person_sees_sentences(team, folder, in_this_process, capsys):
    out, err = io.StringIO(), io.StringIO()
    call_command(
        "import_folder", str(folder / "ecgs"), "--project", "Ward study", "--dataset", "Ward", "--as-user", "editor", stdout=out, stderr=err
    )  # fmt: skip
    assert "accepted: 16" in out.getvalue() and "refused: notes.txt: notes.txt is not an ECG" in err.getvalue()
    assert "100 %" in err.getvalue() or "[" in err.getvalue()


def test_who_may_not_on_a_page_may_not_here(team, folder, in_this_process):
    dataset = ("--project", "Ward study", "--dataset", "Ward")
    assert "role editor" in refused("import_folder", folder / "ecgs", *dataset, "--as-user", "viewer")
    factories.make_user("stranger")
    assert "sees no project" in refused("import_folder", folder / "ecgs", *dataset, "--as-user", "stranger")
    assert "no active user" in refused("import_folder", folder / "ecgs", *dataset, "--as-user", "nobody")
    assert "nothing at" in refused("import_folder", folder / "missing", *dataset, "--as-user", "editor")
    assert "sees no dataset" in refused(
        "import_labels", folder / "labels.csv", "--dataset", "Ward", "--as-user", "editor"
    )
    assert "names no version" in refused(
        "predict", "--model-version", "Net", "--dataset", "Ward", "--as-user", "editor"
    )
    assert "no exchange" in refused("exchange_sync", "Nowhere", "list", "--as-user", "owner")
    assert Dataset.objects.count() == 0
    assert AuditEvent.objects.filter(action="access.refused", channel="shell", actor_name="viewer").exists()


def test_errors_for_programs_are_those_of_the_interface(team, folder, in_this_process):
    out = io.StringIO()
    with pytest.raises(SystemExit) as caught:
        call_command(
            "import_folder", str(folder / "ecgs"), "--project", "Ward study", "--dataset", "W", "--as-user", "viewer", "--json", stdout=out
        )  # fmt: skip
    assert caught.value.code == 1 and json.loads(out.getvalue())["error"]["code"] == "role_needed"


def test_a_failed_job_fails_the_command(team, folder, in_this_process):
    ask("import_folder", folder / "ecgs", "--project", "Ward study", "--dataset", "Ward", "--as-user", "editor")
    (folder / "odd.csv").write_text("colour,shape\nred,round\n")
    assert "odd.csv" in refused("import_labels", folder / "odd.csv", "--dataset", "Ward", "--as-user", "editor")


def test_users_are_created(team, monkeypatch):
    monkeypatch.setenv("PORTAL_NEW_PASSWORD", "a long password 1")
    made = ask("create_user", "ada", "--email", "ada@example.org", "--administrator")
    assert made["password"] == "" and User.objects.get(username="ada").check_password("a long password 1")
    assert ask("create_user", "bob", "--generate", "--as-user", "ada")["password"]
    assert "administrator" in refused("create_user", "eve", "--as-user", "viewer")
    monkeypatch.setenv("PORTAL_NEW_PASSWORD", "short")
    assert "too short" in refused("create_user", "eve")
    assert not User.objects.filter(username="eve").exists()


def _environment(database: str, home: Path | None = None) -> dict[str, str]:
    own = connection.settings_dict
    values = {
        **os.environ, "DATABASE_URL": f"postgresql://{own['USER']}@/{database}?host={own['HOST']}", "DJANGO_SETTINGS_MODULE": "tests.settings",
    }  # fmt: skip
    return values | ({"PORTAL_TEST_HOME": str(home), "PYTEST_XDIST_WORKER": "main"} if home else {})


def _shell(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def other_database():
    own = connection.settings_dict
    where = {
        "host": own["HOST"],
        "port": own["PORT"] or None,
        "user": own["USER"],
        "password": own["PASSWORD"] or None,
        "dbname": "postgres",
    }
    name = f"{own['NAME']}_restored"
    with psycopg.connect(**where, autocommit=True) as server:
        server.execute(f'DROP DATABASE IF EXISTS "{name}"')
        server.execute(f'CREATE DATABASE "{name}"')
        yield name
        server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.mark.django_db(transaction=True)
def test_a_portal_is_backed_up_and_restored(own_home, tmp_path, folder, other_database, monkeypatch):
    owner = factories.make_user("owner")
    factories.make_project({owner: Role.OWNER}, name="Ward study")
    exchange_save(actor=owner, name="Server", url="https://example.org/", password="a secret word")
    # A whole command as an operator types it, whose job is done by a process that names the job.
    here = _environment(connection.settings_dict["NAME"], own_home.parent)
    arguments = ["--project", "Ward study", "--dataset", "Ward", "--as-user", "owner", "--json"]
    taken = _shell(here, "import_folder", folder / "ecgs" / "study", *arguments)
    assert taken.returncode == 0 and json.loads(taken.stdout)["accepted"] == 16, taken.stderr

    target = tmp_path / "portal.tar"
    manifest = ask("backup", target)
    assert target.stat().st_mode & 0o777 == 0o600 and manifest["files"] >= 16
    assert "there already" in refused("backup", target)
    with tarfile.open(target) as archive:
        assert "secret word" not in str(archive.getnames()) and {
            "database.dump",
            "manifest.json",
            "files/secret_key",
        } <= set(archive.getnames())
    assert "already" in refused("restore", target) and Record.objects.count() == 16

    there = _environment(other_database, tmp_path / "new")
    done = _shell(there, "restore", target, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["audit_trail"] == "whole"
    home = tmp_path / "new" / "main"
    assert (home / "secret_key").read_text() == (settings.PORTAL_HOME / "secret_key").read_text()
    packs = {path.name: path.read_bytes() for path in (settings.PORTAL_HOME / "signals").rglob("*.f32")}
    restored = {path.name: path.read_bytes() for path in (home / "signals").rglob("*.f32")}
    assert set(Record.objects.values_list("pack", flat=True)) and packs.items() >= restored.items() and restored
    checked = _shell(there, "verify_audit", "--json")
    assert checked.returncode == 0 and json.loads(checked.stdout)["rows"] == AuditEvent.objects.count() + 1
    with _connected(other_database) as server:
        assert server.execute("SELECT count(*) FROM datasets_record").fetchone() == (16,)
        server.execute("ALTER TABLE audit_auditevent DISABLE TRIGGER USER")
        server.execute("UPDATE audit_auditevent SET actor_name = 'somebody' WHERE sequence = 2")
    broken = _shell(there, "verify_audit")
    assert broken.returncode == 1 and "Row 2 was changed" in broken.stderr


@pytest.mark.django_db(transaction=True)
def test_a_portal_moves_into_a_bucket_and_its_backup_into_another(tmp_path, hosts, other_database, settings):
    """Three commands as an operator types them; the second host has nothing but the bucket."""
    url, settings.STORAGE_URL = settings.STORAGE_URL, ""
    record = factories.make_record(factories.make_dataset(factories.make_project()))
    sha256, _ = storage.put_bytes(b"an original")
    OriginalFile.objects.create(record=record, name="a.csv", sha256=sha256, size=11)
    signal = signals.read_signal(record)
    assert "PORTAL_STORAGE_URL is not set" in refused("storage_to_bucket")
    settings.STORAGE_URL = url
    damaged = storage.blob_path("0" * 64)
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"not what its name says")
    told = ask("storage_to_bucket")
    assert (told["sent"], told["there_already"], told["damaged"]) == (2, 0, ["0" * 64])
    damaged.unlink()
    assert ask("storage_to_bucket") == {"bucket": url, "sent": 0, "there_already": 2, "damaged": []}

    hosts.on("b")
    target = tmp_path / "portal.tar"
    assert ask("backup", target)["files"] == 2
    own = {"PORTAL_HOME": str(tmp_path / "new"), "PORTAL_SECRET_KEY": "s" * 50, "PORTAL_STORAGE_URL": url}
    in_bucket = {**_environment(other_database), **own, "DJANGO_SETTINGS_MODULE": "ecgportal.settings"}
    full = _shell(in_bucket, "restore", target)
    assert full.returncode == 1 and "holds files already" in full.stderr
    done = _shell({**in_bucket, "PORTAL_STORAGE_URL": f"{url}/again"}, "restore", target, "--json")
    assert done.returncode == 0, done.stderr
    assert {key.removeprefix("again/") for key in hosts.keys("again/")} == hosts.keys("blobs/") | hosts.keys("signals/")
    settings.STORAGE_URL = f"{url}/again"
    hosts.on("c")
    assert storage.read_blob(sha256) == b"an original" and np.array_equal(signals.read_signal(record), signal)


@pytest.mark.django_db(transaction=True)
def test_the_copies_of_a_host_are_tended_by_a_command(hosts, settings):
    sha256, _ = storage.put_bytes(b"named by no row")
    call_command("tend_storage", "--once")
    assert not storage.blob_path(sha256).exists()
    settings.STORAGE_URL, said = "", io.StringIO()
    call_command("tend_storage", stderr=said)
    assert "not set" in said.getvalue()


def _connected(database: str) -> psycopg.Connection:
    own = connection.settings_dict
    return psycopg.connect(
        host=own["HOST"], port=own["PORT"] or None, user=own["USER"], dbname=database, autocommit=True
    )


@pytest.mark.django_db(transaction=True)
def test_a_damaged_backup_changes_nothing(tmp_path, settings, monkeypatch):
    settings.PORTAL_HOME = tmp_path / "home"
    settings.PORTAL_HOME.mkdir()
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"no tar at all")
    assert "not a backup" in refused("restore", broken)
    with tarfile.open(broken, "w") as archive:
        entry = tarfile.TarInfo("files/blobs/../../escaped")
        archive.addfile(entry, io.BytesIO())
    assert "which no backup does" in refused("restore", broken)
    assert not (tmp_path / "escaped").exists() and list(settings.PORTAL_HOME.iterdir()) == []
    assert "no file" in refused("restore", tmp_path / "missing.tar")


def test_ctrl_c_asks_the_job_to_stop(team, monkeypatch):
    """The command cancels the job and waits for its end."""
    from ecgportal import commands

    job = enqueue("ingest", actor=team["editor"], project=None, payload={})
    waits = iter([KeyboardInterrupt, None, None])

    def sleep(seconds: float) -> None:
        if (error := next(waits)) is not None:
            raise error

    monkeypatch.setattr(commands, "start", lambda job: threading.Thread(target=lambda: None))
    monkeypatch.setattr(commands.time, "sleep", sleep)
    command = commands.PortalCommand(stdout=io.StringIO(), stderr=io.StringIO())
    command.user, command.as_json = team["editor"], False
    monkeypatch.setattr(threading.Thread, "join", lambda self, timeout=None: None)
    with pytest.raises(commands.PortalError, match="cancelled"):
        command.follow(job)
    job.refresh_from_db()
    assert job.state == "cancelled"


def test_the_backup_knows_every_folder_of_the_storage():
    left_out = {"prepared", "run", "writing"}
    assert set(backup.FOLDERS) | left_out == storage._AREAS | {"blobs"}
