"""The prediction job: prepare, run in batches, store. Safe to start again: records that have an answer are skipped."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from django.db import IntegrityError, transaction
from threadpoolctl import threadpool_limits

from datasets import signals
from datasets.models import Record
from datasets.preparing import bring_up_to_date
from datasets.preprocess.recipe import Recipe
from ecgportal.errors import NotFound
from ecgportal.jobs.context import JobContext
from modelhub import agreement
from modelhub.answering import Answerer, why_not
from modelhub.models import Prediction, PredictionRun

# Small enough that a cancel is heard within a few seconds whatever the network.
_BATCH = 64
#: A selection up to this size is prepared by itself; a larger one brings the dataset's prepared set up to date.
_FEW = 512
_DELETED = "Records that were deleted before the model had answered: {}."


def run(context: JobContext) -> dict[str, Any]:
    """Predict for every record of the run that meets the model's contract; the others are listed with the reason."""
    row = PredictionRun.objects.select_related("version__model", "dataset__project", "label_map").get(
        pk=context.payload["run"]
    )
    answerer = Answerer(row.version)
    records = Record.objects.filter(dataset=row.dataset).order_by("key", "id")
    if row.record_ids:
        records = records.filter(pk__in=row.record_ids)
    n_answered = row.predictions.count()
    refused, wanted = [], []
    for record in records.exclude(pk__in=row.predictions.values("record")).iterator():
        reason = why_not(record, answerer.contract)
        if reason is None:
            wanted.append(record.pk)
        else:
            refused.append({"record": str(record.pk), "key": record.key, "reason": reason})
    PredictionRun.objects.filter(pk=row.pk).update(refused=refused)
    # Small products of matrices gain nothing from threads that wait for each other in a loop and take the cores.
    with threadpool_limits(1):
        read = _reader(context, row, answerer.recipe, len(wanted))
    n_gone = 0
    for start in range(0, len(wanted), _BATCH):
        ids = wanted[start : start + _BATCH]
        n_stored = _answer(row, answerer, ids, read)
        n_answered += n_stored
        n_gone += len(ids) - n_stored
        done = start + len(ids)
        context.progress(0.4 + 0.6 * done / len(wanted), f"{done:,} of {len(wanted):,} records")
    result = {"prediction": str(row.pk), "predicted": n_answered, "refused": len(refused)}
    result["care_basis"] = answerer.basis
    if notes := answerer.notes + [_DELETED.format(n_gone)] * (n_gone > 0):
        result["notes"] = notes
    compared = agreement.of_run(row)
    return result | ({"agreement": compared} if compared else {})


def _reader(
    context: JobContext, row: PredictionRun, recipe: Recipe, n_wanted: int
) -> Callable[[Sequence[Record]], np.ndarray]:
    """Return what reads the prepared signals of some records, float32 ``(n, leads, samples)``."""
    if row.record_ids and n_wanted <= _FEW:
        return lambda chosen: np.stack([recipe.apply(signals.load(record)).signal for record in chosen])
    store = bring_up_to_date(row.dataset, recipe, lambda part, note: context.progress(0.4 * part, note))
    return lambda chosen: store.read(np.array([store.index[str(record.pk)] for record in chosen]))


def _answer(
    run: PredictionRun, answerer: Answerer, ids: list[uuid.UUID], read: Callable[[Sequence[Record]], np.ndarray]
) -> int:
    """Answer for some records and store it; returns for how many, as records may be deleted while the model answers.
    NotFound when the whole run was deleted."""
    by_id = Record.objects.select_related("subject").in_bulk(ids)
    chosen = [by_id[pk] for pk in ids if pk in by_id]
    answers = answerer.answers(chosen, read(chosen)) if chosen else []
    made = [
        Prediction(
            run=run, record=record, values=answer.values, predicted=answer.predicted,
            notices=[sentence[:300] for sentence in answer.notices],
        )
        for record, answer in zip(chosen, answers, strict=True)
    ]  # fmt: skip
    while True:
        if not PredictionRun.objects.filter(pk=run.pk).exists():
            raise NotFound("The data or the prediction was deleted while the model answered.")
        there = set(Record.objects.filter(pk__in=ids).values_list("pk", flat=True))
        kept = [row for row in made if row.record_id in there]
        try:
            with transaction.atomic():
                Prediction.objects.bulk_create(kept, ignore_conflicts=True)
        except IntegrityError:
            # One was deleted between the look and the commit.
            continue
        return len(kept)
