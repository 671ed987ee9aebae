"""The job that measures what every network costs on the machine that trains."""

from __future__ import annotations

from typing import Any

from datasets.preprocess.recipe import DEFAULT_RECIPE
from ecgportal.errors import InvalidInput, TrainingFailed
from ecgportal.jobs.context import JobContext
from modelhub.architectures.catalog import catalog
from modelhub.contract import ModelContract
from modelhub.forms import usable_versions
from modelhub.models import ModelVersion
from training.costs import MEASURED_SAMPLES, speed_key
from training.engine.settings import FitSettings
from training.models import Speed

_CLASSES, _BATCHES = 5, (8, 32)


# So many of the project's foreign networks are measured, too, the newest first.
_MOST_FOREIGN = 10


def run(context: JobContext) -> dict[str, Any]:
    """Probe each network, and each foreign one of the project, for a moment and store its speed and memory."""
    from training.engine.device import held, resolve_device

    def waiting(first: bool) -> None:
        context.progress(
            0.0, "A training has this machine's accelerator; measuring beside it would be wrong, so it waits."
        )

    with held(resolve_device("auto"), waiting):
        return _measure_all(context)


def _measure_all(context: JobContext) -> dict[str, Any]:
    from modelhub import loading
    from modelhub.architectures.registry import build

    spec = DEFAULT_RECIPE.output_spec()
    assert spec.leads is not None and spec.n_samples is not None and spec.fs_hz is not None
    shape = {"n_leads": len(spec.leads), "n_samples": spec.n_samples}
    found: dict[str, float] = {}
    foreign = foreign_versions(context.job.project)
    count = len(catalog()) + len(foreign)
    for number, name in enumerate(catalog()):
        context.progress(number / count, f"Measuring {catalog()[name].title}")
        try:
            module = build(name, fs_hz=spec.fs_hz, n_classes=_CLASSES, seed=0, **shape)
        except InvalidInput:
            # An installed network may refuse the default input; it is offered without a measured time.
            continue
        _measure(name, module, found, **shape)
    for number, version in enumerate(foreign, start=len(catalog())):
        context.progress(number / count, f"Measuring {version}")
        contract = ModelContract.from_dict(version.contract)
        own = {"n_leads": contract.n_leads, "n_samples": contract.n_samples}
        _measure(speed_key("foreign", version), loading.module_of(version), found, **own)
    return {"seconds_per_record": found}


def foreign_versions(project: Any) -> list[ModelVersion]:
    """Return a project's versions of foreign networks that can be trained."""
    rows = usable_versions(project).filter(architecture="").order_by("-created_at")[: 5 * _MOST_FOREIGN]
    by_file = {row.sha256: row for row in rows if not row.checks.get("prediction_only")}
    return list(by_file.values())[:_MOST_FOREIGN]


def _measure(key: str, module: Any, found: dict[str, float], *, n_leads: int, n_samples: int) -> None:
    """Probe a network and store what one record of 1000 samples costs; one that cannot be probed is left out."""
    from training.engine.estimate import estimate

    shape = {"n_leads": n_leads, "n_samples": n_samples}
    try:
        small, large = (
            estimate(module, FitSettings(batch_size=batch), n_train=1000, probe=batch == _BATCHES[0], **shape)
            for batch in _BATCHES
        )
    except TrainingFailed:
        return
    size = n_samples / MEASURED_SAMPLES
    per_record = (large.memory_bytes - small.memory_bytes) // (_BATCHES[1] - _BATCHES[0])
    assert small.epoch_s is not None
    found[key] = small.epoch_s / 1000 / size
    Speed.objects.update_or_create(
        architecture=key,
        defaults={
            "step_s": found[key], "memory_per_record": int(per_record / size), "device": small.device,
            "memory_base": small.memory_bytes - _BATCHES[0] * per_record, "million_macs": round(small.macs / 1e6 / size, 3),
        },
    )  # fmt: skip
