"""Saliency of one prediction: which leads and times the model's answer rests on. A small job, because a large model takes
minutes for the hundreds of answers that it needs."""

from __future__ import annotations

from typing import Any

import numpy as np
from django.db import transaction

from datasets import ecg, signals
from datasets.preprocess.align_r_peaks import AlignRPeaks
from datasets.preprocess.base import Stage
from datasets.preprocess.crop import Crop
from datasets.preprocess.median_beat import MedianBeat
from datasets.preprocess.recipe import Recipe
from ecgportal.audit.trail import record as audit
from ecgportal.errors import InvalidInput
from ecgportal.jobs.context import JobContext
from ecgportal.jobs.models import OPEN, Job
from ecgportal.jobs.services import enqueue
from modelhub import loading
from modelhub.answering import persons_of
from modelhub.contract import ModelContract
from modelhub.models import Prediction
from modelhub.runtime.saliency import METHOD, occlusion

# Every class costs a row of numbers for each lead; what is not predicted and improbable is not asked after.
MAX_CLASSES = 8


def start_s(recipe: Recipe, record: ecg.Record) -> float:
    """Return the time in the record, in seconds, at which a prepared signal begins.

    InvalidInput for recipes whose output does not run along the record's time.
    """
    if any(isinstance(entry, (AlignRPeaks, MedianBeat)) for entry in recipe.steps):
        raise InvalidInput(
            "This model sees beats that were shifted or averaged, so no time of the record belongs to a part of its input.",
            code="no_common_time",
        )
    mask = np.isfinite(record.signal)
    stage = Stage(np.where(mask, record.signal, np.float32(np.nan)), float(record.fs_hz), record.leads, mask)
    found = 0.0
    for entry in recipe.steps:
        longest, samples = 0, stage.signal.shape[1]
        if isinstance(entry, Crop) and entry.anchor == "centre":
            longest = round(entry.duration_s * stage.fs_hz)
            found += max(0, (samples - longest) // 2) / stage.fs_hz
        stage = entry.apply(stage)
    return found


@transaction.atomic
def saliency_start(*, actor: Any, prediction: Prediction) -> Job | None:
    """Start the job, or return the one that is at work; None when the saliency is there already."""
    if prediction.saliency:
        return None
    at_work = open_job(prediction)
    if at_work is not None:
        return at_work
    contract = ModelContract.from_dict(prediction.run.version.contract)
    start_s(Recipe.from_json(loading.recipe_of(contract)), signals.load(prediction.record, 1.0))
    project = prediction.run.project
    job = enqueue(
        "saliency", actor=actor, project=project, payload={"prediction": str(prediction.pk), "record": str(prediction.record_id)},
        title=f"Explain {prediction.run.version} on {prediction.record.key}",
    )  # fmt: skip
    audit("prediction.explained", prediction.record, actor=actor, project=project)
    return job


def open_job(prediction: Prediction) -> Job | None:
    """Return the job that computes this prediction's saliency, if one is queued or runs."""
    jobs = Job.objects.filter(kind="saliency", state__in=OPEN, project=prediction.run.project)
    return jobs.filter(payload__prediction=str(prediction.pk)).first()


def run(context: JobContext) -> dict[str, Any]:
    """Compute the saliency of a prediction and store it there. Safe to start again."""
    rows = Prediction.objects.select_related("run__version__model", "record__dataset")
    row = rows.get(pk=context.payload["prediction"])
    contract = ModelContract.from_dict(row.run.version.contract)
    source = signals.load(row.record)
    recipe = Recipe.from_json(loading.recipe_of(contract))
    first_s = start_s(recipe, source)
    prepared = recipe.apply(source)
    predictor = loading.predictor(row.run.version)
    person = persons_of([row.record], contract)
    found = occlusion(
        lambda batch: predictor.predict(batch, person), prepared.signal, mask=prepared.mask, progress=context.progress
    )
    order = sorted(
        range(len(contract.classes)), key=lambda k: (contract.classes[k] not in row.predicted, -found.base[k])
    )
    row.saliency = {
        "method": METHOD, "leads": list(prepared.leads), "t0_s": round(first_s, 6),
        "t1_s": round(first_s + prepared.signal.shape[1] / prepared.fs_hz, 6),
        "classes": [contract.classes[k] for k in order[:MAX_CLASSES]],
        "values": np.round(found.values[order[:MAX_CLASSES]], 5).tolist(),
    }  # fmt: skip
    row.save(update_fields=["saliency"])
    return {"prediction": str(row.pk), "record": str(row.record_id), "run": str(row.run_id)}
