"""The parts of a job as places in the code, for proofs that something happens to its process just there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection

from ecgportal.jobs import services
from ecgportal.jobs.models import Job

GRADIENTS = "training.engine.batches:Stepper.gradients"


@dataclass(frozen=True)
class Phase:
    """``at``: module:function:N, entered for the N-th time. asked: settings of the run that differ from the usual."""

    name: str
    at: str
    asked: dict[str, Any] = field(default_factory=dict)

    @property
    def is_engine(self) -> bool:
        """True for a part in which weights are made."""
        return "learning_rate" in self.asked or ".engine." in self.at


#: Of a training of three epochs of three batches on two datasets.
TRAINING = (
    Phase("reading labels", "training.running:records_of:1"),
    Phase("preparing signals", "datasets.preprocess.recipe:Recipe.apply:15"),
    Phase("storing prepared signals", "datasets.prepared:PreparedStore.append:2"),
    Phase("finding the rate", f"{GRADIENTS}:3", {"learning_rate": None}),
    Phase("first epoch", f"{GRADIENTS}:2"),
    Phase("second epoch", f"{GRADIENTS}:5"),
    Phase("validation", "training.engine.member:outputs_of:2"),
    Phase("writing a checkpoint", "training.engine.checkpoint:write_atomic:5"),
    Phase("ensemble", f"{GRADIENTS}:9", {"members": 2}),
    Phase("export", "modelhub.loading:export:1"),
    Phase("check of the exported file", "modelhub.onnx.export:check_parity:1"),
    Phase("model stored", "training.running:evaluate_held_back:1"),
    Phase("asking the model", "training.evaluating:probabilities:1"),
    Phase("intervals", "training.metrics.report:bootstrap_weights:1"),
    Phase("storing the evaluation", "training.evaluating:_store_report:1"),
    Phase("closing the job", "ecgportal.jobs.context:JobContext.close:1"),
    Phase("clearing up", "training.running:storage.remove_area:1"),
)


class Watched:
    """A job's process, as a worker starts it, that tells when it has come to a place. kill: it ends itself there."""

    def __init__(self, job: Job, at: str = "", *, kill: bool = False):
        claimed = services.claim(job.pk, host="tests")
        assert claimed is not None
        self.job, self.attempt = job, claimed.attempt
        self._folder = tempfile.TemporaryDirectory()
        self.told = Path(self._folder.name) / "there"
        own = connection.settings_dict
        environment = {
            **os.environ, "DATABASE_URL": f"postgresql://{own['USER']}@/{own['NAME']}?host={own['HOST']}",
            "PORTAL_HOME": str(settings.PORTAL_HOME), "DJANGO_SETTINGS_MODULE": "tests.settings", "OMP_NUM_THREADS": "1",
            **({"PROBE_AT": at, "PROBE_FILE": str(self.told)} if at else {}), **({"PROBE_KILL": "1"} if kill else {}),
        }  # fmt: skip
        command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "run_job", str(job.pk)]
        self.process = subprocess.Popen(
            [*command, "--attempt", str(self.attempt)], start_new_session=True, env=environment
        )

    @property
    def is_there(self) -> bool:
        return self.told.exists()

    def wait(self, seconds: float = 300.0) -> int:
        """Wait for the process's end; returns its status."""
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()
            self._folder.cleanup()


def finish(job: Job) -> Job:
    """Do a queued job to its end in a process of its own."""
    Watched(job).wait()
    return Job.objects.get(pk=job.pk)


def kill_at(job: Job, at: str) -> None:
    """Do a queued job until its process is at a place, where SIGKILL ends it, and give the job back as its worker does."""
    watched = Watched(job, at, kill=True)
    status = watched.wait()
    assert status == -9, f"the job never came to {at}: {Job.objects.get(pk=job.pk).error_message}"
    services.give_back(job.pk, watched.attempt, died=True)
