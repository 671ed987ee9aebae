"""Hosts of one portal in a test: a real S3 server in a process of its own, and a ``PORTAL_HOME`` for each host."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ecgportal import bucket, storage
from tests.proofs.hosts import free_port

NAME, PREFIX = "ecg-files", "ward/one"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Start moto's S3 server once; yields its address."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", url.rpartition(":")[2]]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                httpx.get(f"{url}/moto-api/data.json", timeout=30).raise_for_status()
                break
            except httpx.TransportError:
                assert server.poll() is None and time.monotonic() < deadline, "the S3 server did not start"
                time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


class Hosts:
    """The portal's files lie in a bucket. ``on`` lets this process be another host from then on."""

    _reached = ""

    def __init__(self, url: str, root: Path, settings, monkeypatch):
        self._url, self._root, self._settings, self._monkeypatch = url, root, settings, monkeypatch
        settings.STORAGE_URL = f"s3://{NAME}/{PREFIX}"
        settings.STORAGE_WAIT_S = 0.0
        for name, value in {
            "AWS_ACCESS_KEY_ID": "portal", "AWS_SECRET_ACCESS_KEY": "a secret word", "AWS_REGION": "eu-central-1",
            "AWS_MAX_ATTEMPTS": "1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        httpx.post(f"{url}/moto-api/reset", timeout=30).raise_for_status()
        self.mend()
        client = bucket._client(os.getpid(), False)
        client.create_bucket(Bucket=NAME, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        self.on("a")

    def on(self, name: str) -> None:
        self._settings.PORTAL_HOME = self.home(name)
        self._settings.MEDIA_ROOT = self.home(name) / "blobs"
        self._monkeypatch.setenv("PORTAL_HOST_NAME", name)

    def home(self, name: str) -> Path:
        folder = self._root / name
        folder.mkdir(exist_ok=True)
        return folder

    def reach(self, url: str) -> None:
        self._monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        if Hosts._reached != url:
            self.connect_anew()
            Hosts._reached = url

    @staticmethod
    def connect_anew() -> None:
        """Make the next client by the environment as it is then; making one takes longer than most of what it does."""
        bucket._client.cache_clear()
        Hosts._reached = ""

    def cut(self) -> None:
        """Let nothing answer where the bucket was."""
        self.reach(f"http://127.0.0.1:{free_port()}")

    def mend(self) -> None:
        self.reach(self._url)

    def keys(self, prefix: str = "") -> set[str]:
        return {found.key for found in storage.shared().list(prefix)}

    def everywhere(self) -> dict[str, bytes]:
        """Return all that lies in the bucket and on the hosts, by place."""
        found = {f"bucket {key}": storage.shared().read(key) for key in self.keys()}
        return found | {str(p.relative_to(self._root)): p.read_bytes() for p in self._root.rglob("*") if p.is_file()}

    def where(self, data: bytes) -> list[str]:
        """Return where some bytes lie."""
        return sorted(place for place, content in self.everywhere().items() if data in content)


@pytest.fixture
def hosts(s3_server, tmp_path, settings, monkeypatch) -> Iterator[Hosts]:
    yield Hosts(s3_server, tmp_path, settings, monkeypatch)
