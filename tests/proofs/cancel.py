"""How long a cancel takes in every part of a job: ``python -m tests.proofs.cancel [part of a name ...]``.

Each row is a real job process, cancelled by the service that page and REST call when it has come to the place, and the
seconds until the row is closed and the process has ended; 5 s are allowed. Beside them stands what the job kept.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from tests.bench.bench_ingest import database  # noqa: E402

RECORDS = 200
LIMIT_S = 5.0
_GRADIENTS = "training.engine.batches:Stepper.gradients"
#: name: how the job is begun, and where it is cancelled. The network is the default one, an ensemble of three.
PLACES: dict[str, tuple[str, str]] = {
    "reading labels": ("train", "training.running:records_of:1"),
    "preparing signals": ("train", "datasets.preprocess.recipe:Recipe.apply:20"),
    "finding the rate": ("find", f"{_GRADIENTS}:3"),
    "first epoch": ("train", f"{_GRADIENTS}:2"),
    "second epoch": ("train", "training.engine.member:Member.begin:5"),
    "validation": ("train", "training.engine.member:outputs_of:4"),
    "export": ("short", "modelhub.loading:export:1"),
    "check of the exported file": ("short", "modelhub.onnx.export:check_parity:1"),
    "asking the model": ("short", "training.evaluating:probabilities:1"),
    "intervals": ("short", "training.metrics.report:bootstrap_weights:1"),
    "search": ("search", "training.engine.member:Member.begin:4"),
    "learning curve": ("curve", "training.engine.member:Member.begin:2"),
    "learning without labels": ("pretrain", "training.live:Report.on_epoch_end:2"),
    "predictions": ("predict", "modelhub.answering:Answerer.answers:2"),
    "evaluation": ("evaluate", "training.metrics.report:bootstrap_weights:1"),
}


class Ground:
    """A dataset, and a model trained on it."""

    def __init__(self) -> None:
        from datasets.simulate import simulate
        from tests import factories
        from tests.training.phases import finish
        from training.models import TrainingRun

        self.user = factories.make_user()
        self.project = factories.make_project({self.user: "owner"})
        self.dataset = factories.make_dataset(self.project)
        signals = [simulate(name, 1, fs_hz=500).record.signal for name in ("SNR", "LVH")]
        for number in range(RECORDS):
            factories.make_record(
                self.dataset, subject=f"p{number}", labels=("NORM",) if number % 2 else ("IMI",), signal=signals[number % 2], fs_hz=500.0
            )  # fmt: skip
        self.label_map = factories.make_label_map(self.project)
        self._finish, self._runs = finish, TrainingRun.objects
        self.run: Any = None

    def train(self, **asked: Any) -> Any:
        from training.services import run_start

        return run_start(actor=self.user, project=self.project, dataset=self.dataset, label_map=self.label_map, **asked)

    @property
    def trained(self) -> Any:
        """A finished run of a small network."""
        if self.run is None:
            run = self.train(architecture="xresnet1d18", settings={"epochs": 1, "members": 1})
            self._finish(run.job)
            self.run = self._runs.get(pk=run.pk)
        return self.run

    def begin(self, how: str) -> Any:
        """Return the queued job."""
        from modelhub.services_predictions import prediction_start
        from training.services import evaluation_start, learning_curve_start

        if how == "search":
            return self.train(architecture=None, search={"minutes": 5}).job
        if how == "curve":
            return learning_curve_start(actor=self.user, run=self.trained).job
        if how == "pretrain":
            return self.train(task="pretraining", architecture="xresnet1d18", settings={"epochs": 9}).job
        if how == "predict":
            version = self.trained.produced_version
            return prediction_start(actor=self.user, project=self.project, version=version, dataset=self.dataset).job
        if how == "evaluate":
            version, map_ = self.trained.produced_version, self.label_map
            other = self._other()
            return evaluation_start(actor=self.user, version=version, dataset=other, label_map=map_).job
        settings = {"train": {}, "find": {"learning_rate": None}, "short": {"epochs": 1}}[how]
        return self.train(settings=settings).job

    def _other(self) -> Any:
        from tests import factories

        other = factories.make_dataset(self.project)
        for number in range(RECORDS):
            factories.make_record(other, subject=f"o{number}", labels=("NORM",) if number % 2 else ("IMI",))
        return other


def measure(ground: Ground, how: str, at: str) -> tuple[float, str]:
    """Return the seconds from the cancel to the end, and what was kept."""
    from ecgportal.jobs import services
    from ecgportal.jobs.models import Job
    from tests.training.phases import Watched

    job = ground.begin(how)
    watched = Watched(job, at)
    while not watched.is_there:
        if watched.process.poll() is not None:
            raise RuntimeError(f"The job never came to {at}: {Job.objects.get(pk=job.pk).error_message}")
        time.sleep(0.01)
    begun = time.perf_counter()
    services.cancel(actor=ground.user, job=Job.objects.get(pk=job.pk))
    while Job.objects.get(pk=job.pk).is_open:
        time.sleep(0.02)
    seconds = time.perf_counter() - begun
    watched.wait()
    job = Job.objects.get(pk=job.pk)
    kept = ", ".join(name for name in ("version", "evaluation", "evaluation_job") if job.result.get(name)) or "nothing"
    return seconds, f"{job.state}, kept: {kept}"


def main(wanted: list[str]) -> int:
    """Print a row per place; 1 when a cancel took longer than it may."""
    late = 0
    with database():
        ground = Ground()
        for name, (how, at) in PLACES.items():
            if wanted and not any(part in name for part in wanted):
                continue
            seconds, ended = measure(ground, how, at)
            late += seconds > LIMIT_S
            print(f"{name:28}{seconds:6.1f} s  {'LATE' if seconds > LIMIT_S else 'ok':5} {ended}", flush=True)
    return int(late > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
