"""The bucket itself against a real S3 server: addresses, whole files, broken lines, and what is said when it fails."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from django.core.management import CommandError, call_command

from datasets.management.commands import setup
from ecgportal import bucket, home, storage
from ecgportal.accounts.models import User
from ecgportal.bucket import Bucket, Stored, parse
from ecgportal.errors import NotFound, StorageFailed
from ecgportal.jobs import health
from ecgportal.supervisor import portal_children
from tests.hosts import NAME, PREFIX
from tests.hosts import hosts as hosts  # a fixture
from tests.hosts import s3_server as s3_server  # a fixture
from tests.modelhub.breaking_line import Line


def test_addresses_of_buckets_are_read_and_others_refused_with_the_reason():
    assert parse("s3://ecg") == parse("s3://ecg/") == Bucket("ecg", "")
    assert parse("s3://ecg.ward-1/a/b_c/") == Bucket("ecg.ward-1", "a/b_c/")
    for wrong in (
        "http://ecg/x",
        "s3:///x",
        "s3://E/x",
        "s3://ecg/../x",
        "s3://ecg/a//b",
        "s3://u:p@ecg/x",
        "s3://ecg/?a=b",
    ):
        with pytest.raises(ValueError, match=r"address of a bucket|prefix"):
            parse(wrong)


def settings_of(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys; from ecgportal import settings\n"
        "if not settings.STORAGE_URL:\n"
        "    import django; django.setup(); from ecgportal import storage\n"
        "    storage.trouble() or storage.read_blob(storage.put_bytes(b'x')[0])\n"
        "print(settings.STORAGE_URL or '-', 'boto3' in sys.modules or 'botocore' in sys.modules)"
    )
    base = {
        name: value for name, value in os.environ.items() if not name.startswith(("PORTAL_", "DATABASE_", "DJANGO_"))
    }
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=home.REPOSITORY, check=False,
        env={**base, "DJANGO_SETTINGS_MODULE": "ecgportal.settings", "PORTAL_HOME": str(tmp_path), "PORTAL_ENV_FILE": os.devnull, **environment},
    )  # fmt: skip


def test_the_settings_take_a_bucket_and_say_what_is_missing(tmp_path):
    # Without one the library is not even loaded.
    assert settings_of(tmp_path).stdout.split() == ["-", "False"]
    where = {"PORTAL_STORAGE_URL": "s3://ecg/x"}
    assert settings_of(tmp_path, **where).stdout.split() == ["s3://ecg/x", "False"]
    assert "cannot be used" in settings_of(tmp_path, PORTAL_STORAGE_URL="/srv/files").stderr
    several = {**where, "DATABASE_URL": "postgresql://u:p@db/ecg"}
    assert "Set PORTAL_SECRET_KEY" in settings_of(tmp_path, **several).stderr
    assert settings_of(tmp_path, **several, PORTAL_SECRET_KEY="x" * 50).returncode == 0


def test_every_host_tends_its_copies_and_none_does_without_a_bucket(monkeypatch):
    for role in ("all", "web", "workers"):
        monkeypatch.delenv("PORTAL_STORAGE_URL", raising=False)
        assert "storage" not in {child.name for child in portal_children(role, "::1", 80)}
        monkeypatch.setenv("PORTAL_STORAGE_URL", "s3://ecg")
        assert "storage" in {child.name for child in portal_children(role, "::1", 80)}


class TestObjects:
    def test_files_come_back_as_they_were_also_in_many_parts(self, hosts, tmp_path, monkeypatch):
        store = storage.shared()
        monkeypatch.setattr(bucket, "_LARGE", 6 << 20)
        monkeypatch.setattr(bucket, "_PIECE", 5 << 20)
        large, back = tmp_path / "large", tmp_path / "back"
        large.write_bytes(os.urandom(12 << 20))
        digest = hashlib.sha256(large.read_bytes()).hexdigest()
        store.put("signals/x.f32", large)
        assert store.head("signals/x.f32") == Stored("signals/x.f32", 12 << 20, digest)
        assert store.fetch("signals/x.f32", back, digest) and back.read_bytes() == large.read_bytes()
        client = bucket._client(os.getpid(), False)
        told = client.head_object(Bucket=NAME, Key=f"{PREFIX}/signals/x.f32")
        assert told["ETag"].endswith('-3"')
        store.put_all([(f"n/{number}", large if number == 3 else back, "") for number in range(4)])
        assert hosts.keys("n/") == {"n/0", "n/1", "n/2", "n/3"} and store.folders("") == {"n", "signals"}
        store.delete_below("n/")
        assert hosts.keys() == {"signals/x.f32"}
        assert store.read("n/0") is None and not store.fetch("n/0", back) and back.exists()

    def test_what_was_changed_in_the_bucket_is_not_taken(self, hosts, tmp_path):
        sha256, _ = storage.put_bytes(b"a table")
        path = storage.blob_path(sha256)
        client = bucket._client(os.getpid(), False)
        client.put_object(Bucket=NAME, Key=f"{PREFIX}/{storage.key_of(path)}", Body=b"another")
        assert storage.read_blob(sha256) == b"a table"
        hosts.on("b")
        with pytest.raises(StorageFailed, match="content has changed") as error:
            storage.read_blob(sha256)
        assert error.value.code == "storage_damaged"
        assert [p for p in hosts.home("b").rglob("*") if p.is_file()] == []
        with pytest.raises(NotFound, match="missing from the bucket"):
            storage.read_blob("0" * 64)

    def test_a_broken_line_is_gone_on_with(self, hosts, s3_server, tmp_path, monkeypatch):
        store, path = storage.shared(), tmp_path / "back"
        data = os.urandom(3 << 20)
        store.put("a", data)
        line, passed = Line(s3_server), Line._passes
        came, cuts = [0], [1 << 20, 2 << 20]

        def passes(self, upwards, count):
            came[0] += 0 if upwards else count
            if cuts and came[0] > cuts[0]:
                cuts.pop(0)
                return False
            return passed(self, upwards, count)

        monkeypatch.setattr(Line, "_passes", passes)
        try:
            hosts.reach(line.url)
            assert store.fetch("a", path) and path.read_bytes() == data
        finally:
            line.close()
        # The second and third try did not begin anew.
        assert cuts == [] and came[0] < 5 << 20


@pytest.mark.django_db
class TestTrouble:
    def test_a_first_start_without_the_bucket_makes_nothing_and_can_be_repeated(self, hosts, monkeypatch):
        monkeypatch.setattr(setup.Command, "_static_files", lambda self: None)
        monkeypatch.setenv("PORTAL_DEMO", "0")
        hosts.cut()
        with pytest.raises(CommandError, match="does not answer"):
            call_command("setup")
        assert not User.objects.exists()
        hosts.mend()
        said = io.StringIO()
        call_command("setup", stdout=said)
        assert User.objects.get().is_administrator and "Password:" in said.getvalue()
        assert {key.split("/")[0] for key in hosts.keys()} == {"blobs"}

    def test_each_cause_has_its_sentence_and_its_code(self, hosts, settings, monkeypatch, tmp_path):
        assert health.blobs() == "ok"
        large = tmp_path / "large"
        large.write_bytes(bytes(9 << 20))

        def said() -> set[str]:
            calls = (
                lambda store: store.put("a", b"x"), lambda store: store.put("a", large), lambda store: store.read("a"),
                lambda store: list(store.list()), lambda store: store.delete(["a"]), lambda store: store.check(),
            )  # fmt: skip
            codes = set()
            for call in calls:
                with pytest.raises(StorageFailed) as error:
                    call(storage.shared())
                assert error.value.status == 503 and "a secret word" not in error.value.message
                codes.add(error.value.code)
            return codes

        hosts.cut()
        assert said() == {"storage_unreachable"} and "does not answer" in health.blobs()
        hosts.mend()
        settings.STORAGE_URL = "s3://nowhere/x"
        assert said() == {"storage_no_bucket"} and "there is no bucket nowhere" in health.blobs()
        settings.STORAGE_URL = f"s3://{NAME}/{PREFIX}"
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        hosts.connect_anew()
        assert said() == {"storage_refused"} and "no credentials" in health.blobs()
        hosts.connect_anew()

    def test_keys_that_the_server_does_not_know_are_refused_with_a_sentence(self, hosts, s3_server, monkeypatch):
        # From now on the server asks who calls.
        httpx.post(f"{s3_server}/moto-api/reset-auth", content=b"0", timeout=30).raise_for_status()
        try:
            for call in (lambda: storage.put_bytes(b"x"), lambda: storage.shared().check()):
                with pytest.raises(StorageFailed, match=r"refuses this portal \((InvalidAccessKeyId|403)\)") as error:
                    call()
                assert error.value.code == "storage_refused"
        finally:
            httpx.post(f"{s3_server}/moto-api/reset-auth", content=b"1000000000", timeout=30)
        assert [path for path in hosts.home("a").rglob("*") if path.is_file()] == []
