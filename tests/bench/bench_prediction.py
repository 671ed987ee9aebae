"""Speed of predictions from stored record to stored answer: ``python -m tests.bench prediction``.

Records of 12 leads and 10 s at 500 Hz lie in the portal's store; a prediction job reads, prepares, answers with a network
of the size of XceptionTime's, and writes the answers. Counted is the processor time of the job's process, the database's
not included: once with everything to do, and once with the signals prepared by an earlier job.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from tests.bench.bench_ingest import database

RECORDS = 256
GOAL = 120.0

Row = dict[str, Any]


def run() -> list[Row]:
    """Return rows ``{name, value, unit, goal, ok}``."""
    with database():
        return _measure()


def _measure() -> list[Row]:
    from datasets.simulate import simulate
    from ecgportal import storage
    from ecgportal.jobs import runner, services
    from modelhub.architectures.registry import build
    from modelhub.contract import ModelContract
    from modelhub.models import Model, ModelVersion, Origin, Prediction
    from modelhub.onnx.export import export_onnx
    from modelhub.services import version_add
    from modelhub.services_predictions import prediction_start
    from tests import factories

    project = factories.make_project()
    dataset = factories.make_dataset(project)
    base = simulate("SNR", 1, fs_hz=500).record
    rng = np.random.default_rng(2)
    for number in range(RECORDS):
        noise = rng.normal(0, 0.01, base.signal.shape).astype(np.float32)
        factories.make_record(dataset, f"r{number:04d}", signal=base.signal + noise, fs_hz=500.0, leads=base.leads)
    contract = ModelContract(
        leads=base.leads,
        fs_hz=100,
        n_samples=1000,
        classes=tuple("abcde"),
        task="multiclass",
        architecture="xception_time",
    )
    module = build("xception_time", n_leads=12, n_samples=1000, fs_hz=100, n_classes=5, seed=1)
    version: ModelVersion = version_add(
        actor=None, model=Model.objects.create(project=project, name="Net"), onnx=export_onnx(module, contract), contract=contract,
        origin=Origin.TRAINED, parameters=None, checks={"format": "onnx"},
    )  # fmt: skip
    rows, seconds = [], []
    for _ in ("warm-up of the libraries", "all to do", "prepared"):
        if not seconds or len(seconds) == 1:
            storage.remove_area("prepared", dataset.pk)
        started = prediction_start(actor=None, project=project, version=version, dataset=dataset)
        job = services.claim(started.job_id, host="bench")
        assert job is not None
        used = time.process_time()
        runner.run(job.pk, job.attempt)
        seconds.append(time.process_time() - used)
        assert Prediction.objects.filter(run=started).count() == RECORDS
    for name, used, goal in (
        ("stored record to stored prediction", seconds[1], GOAL),
        ("the same, signals prepared before", seconds[2], None),
    ):
        value = RECORDS / used
        rows.append({
            "name": f"xception_time: {name}", "value": round(value, 1), "unit": "records per CPU second", "goal": goal,
            "ok": None if goal is None else value >= goal,
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
