"""The health of the parts: each is ok or a sentence that says what fails and what to do."""

from __future__ import annotations

import importlib.metadata

import pytest

from ecgportal.jobs import health


@pytest.fixture
def installed(monkeypatch):
    real = importlib.metadata.version

    def version(text: str | None) -> None:
        def answer(name):
            if name != "torch":
                return real(name)
            if text is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return text

        monkeypatch.setattr(health.importlib.metadata, "version", answer)

    return version


@pytest.mark.parametrize("version", ["2.10.0", "2.10.0+cpu", "2.11.0.dev20260101", "2.10rc1", "3.0", "10.0.1+cu130"])
def test_a_torch_that_loads_weights_safely_is_ok(installed, version):
    installed(version)
    assert health.torch() == "ok"


@pytest.mark.parametrize("version", ["2.9.1", "2.9.1+cu128", "2.1.0a0+git123", "1.13.1"])
def test_an_older_torch_fails_the_health_check_and_is_named(db, client, installed, version):
    installed(version)
    sentence = health.report()["torch"]
    assert version in sentence and "2.10" in sentence and sentence.endswith("Install the requirements again.")
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert sentence in str(answer.json())


def test_a_web_host_without_torch_is_ok(installed):
    installed(None)
    assert health.torch() == "ok"


def test_workers_that_do_not_show_themselves_are_missed(db):
    from datetime import timedelta

    from django.utils import timezone

    from ecgportal.jobs.models import WorkerBeat
    from ecgportal.jobs.services import worker_beat

    assert health.workers().startswith("No worker has shown itself")
    worker_beat("a")
    assert health.workers() == "ok" and health.hosts() == ["a"]
    WorkerBeat.objects.update(at=timezone.now() - timedelta(seconds=health.BEAT_LIMIT_S + 1))
    assert health.workers() != "ok" and health.hosts() == []
