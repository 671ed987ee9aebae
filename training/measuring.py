"""The job that measures what every network costs on the machine that trains."""

from __future__ import annotations

from typing import Any

from datasets.preprocess.recipe import DEFAULT_RECIPE
from ecgportal.errors import TrainingFailed
from ecgportal.jobs.context import JobContext
from modelhub.architectures.catalog import catalog
from training.engine.settings import FitSettings
from training.models import Speed

_CLASSES, _BATCHES = 5, (8, 32)


def run(context: JobContext) -> dict[str, Any]:
    """Probe each network for a moment and store its speed and memory."""
    from modelhub.architectures.registry import build
    from training.engine.estimate import estimate

    spec = DEFAULT_RECIPE.output_spec()
    assert spec.leads is not None and spec.n_samples is not None and spec.fs_hz is not None
    shape = {"n_leads": len(spec.leads), "n_samples": spec.n_samples}
    found: dict[str, float] = {}
    names = list(catalog())
    for number, name in enumerate(names):
        context.progress(number / len(names), f"Measuring {catalog()[name].title}")
        module = build(name, fs_hz=spec.fs_hz, n_classes=_CLASSES, seed=0, **shape)
        try:
            small, large = (
                estimate(module, FitSettings(batch_size=batch), n_train=1000, probe=batch == _BATCHES[0], **shape)
                for batch in _BATCHES
            )
        except TrainingFailed:
            # A network that cannot be probed is offered without a measured time.
            continue
        per_record = (large.memory_bytes - small.memory_bytes) // (_BATCHES[1] - _BATCHES[0])
        assert small.epoch_s is not None
        found[name] = small.epoch_s / 1000
        Speed.objects.update_or_create(
            architecture=name,
            defaults={
                "step_s": found[name], "memory_per_record": per_record, "device": small.device,
                "memory_base": small.memory_bytes - _BATCHES[0] * per_record,
            },
        )  # fmt: skip
    return {"seconds_per_record": found}
