"""A run that one host began goes on at another that has nothing but the database and the bucket."""

from __future__ import annotations

import pytest

from ecgportal import storage, tending
from ecgportal.errors import StorageFailed
from ecgportal.jobs.models import JobState
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.hosts import hosts as hosts  # a fixture
from tests.hosts import s3_server as s3_server  # a fixture
from tests.training.test_setting_up import FAST, Ward
from tests.working import work_off, work_off_one
from training import keeping
from training.live import Report
from training.models import TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_run_goes_on_at_another_host_and_outlives_a_bucket_that_is_silent(hosts, few_threads, monkeypatch):
    ward = Ward()
    run = ward.start(settings={**FAST, "epochs": 4, "members": 1, "learning_rate": 0.003})
    bring = keeping.Kept._bring

    def silent_once(self, store):
        if self._run.epochs.count() == 1:
            raise StorageFailed("The bucket does not answer.")
        bring(self, store)

    with monkeypatch.context() as patch:
        patch.setattr(keeping.Kept, "_bring", silent_once)
        patch.setattr(Report, "should_stop", lambda self: "interrupted" if self.run.epochs.count() == 3 else False)
        assert work_off_one(run.job_id).state == JobState.QUEUED
    area = f"checkpoints/{run.pk}/"
    kept = hosts.keys(area)
    assert {key.rpartition("/")[2].split("-")[0] for key in kept} == {"state.json", "state", "best"} and len(kept) == 3
    run.refresh_from_db()
    assert any("every epoch tries again" in warning for warning in run.warnings)
    hosts.on("b")
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(Report, "on_start", lambda self, info: seen.append(info["resumed_epoch"]))
        work_off()
    run = TrainingRun.objects.select_related("job", "produced_version").get(pk=run.pk)
    assert run.job.state == JobState.SUCCEEDED, run.job.error_message
    assert seen == [3] and run.epochs.count() == 4 and run.resumed == 1
    assert hosts.keys(area) == set()
    assert storage.read_blob(run.produced_version.sha256)
    hosts.on("a")
    assert (hosts.home("a") / "checkpoints" / str(run.pk) / "state.json").exists()
    tending.look_again()
    assert not (hosts.home("a") / "checkpoints" / str(run.pk)).exists()
    assert storage.read_blob(run.produced_version.weights_sha256)
