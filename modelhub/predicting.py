"""The prediction job: prepare, run in batches, store. Safe to start again: records that have an answer are skipped."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from datasets import signals
from datasets.models import Record
from datasets.preparing import StoreView, bring_up_to_date
from datasets.preprocess.recipe import Recipe
from ecgportal.jobs.context import JobContext
from modelhub import agreement, loading, novelty
from modelhub.architectures.person import person_features
from modelhub.contract import ModelContract
from modelhub.models import Prediction, PredictionRun

# Small enough that a cancel is heard within a few seconds whatever the network.
_BATCH = 64
#: A selection up to this size is prepared by itself; a larger one brings the dataset's prepared set up to date.
_FEW = 512


def decide(values: np.ndarray, contract: ModelContract) -> list[list[str]]:
    """Return the predicted classes per record: the largest for multi-class, those at or above their threshold otherwise."""
    if contract.task == "regression":
        return [[] for _ in values]
    names = contract.classes
    if contract.activation == "softmax":
        return [[names[int(i)]] for i in values.argmax(axis=1)]
    limits = np.array([contract.thresholds.get(name, 0.5) for name in names])
    return [[name for name, hit in zip(names, row) if hit] for row in values >= limits]


def why_not(record: Any, contract: ModelContract) -> str | None:
    """Return why a record cannot be given to the model and what to do, or None. A missing lead or a record far too short
    would make the answer one about zeros."""
    missing = [name for name in contract.leads if name not in record.leads]
    if missing:
        return (
            f"{record.key} has no lead {', '.join(missing)}; the model needs it. Choose a model for the leads "
            f"{', '.join(record.leads)}."
        )
    if record.duration_s < 0.5 * contract.duration_s:
        return (
            f"{record.key} lasts {record.duration_s:.1f} s; the model needs {contract.duration_s:g} s. Choose a model for "
            "shorter records, or a longer recording."
        )
    if record.fs_hz < 0.5 * contract.fs_hz:
        return (
            f"{record.key} was recorded at {record.fs_hz:g} Hz; the model needs {contract.fs_hz:g} Hz, and what was not "
            "recorded cannot be made up. Choose a model for a lower rate."
        )
    return None


def run(context: JobContext) -> dict[str, Any]:
    """Predict for every record of the run that meets the model's contract; the others are listed with the reason."""
    row = PredictionRun.objects.select_related("version__model", "dataset__project", "label_map").get(
        pk=context.payload["run"]
    )
    contract = ModelContract.from_dict(row.version.contract)
    records = Record.objects.filter(dataset=row.dataset).order_by("key", "id")
    if row.record_ids:
        records = records.filter(pk__in=row.record_ids)
    done = set(row.predictions.values_list("record_id", flat=True))
    refused, wanted = [], []
    for record in records.exclude(pk__in=done).iterator():
        reason = why_not(record, contract)
        if reason is None:
            wanted.append(record.pk)
        else:
            refused.append({"record": str(record.pk), "key": record.key, "reason": reason})
    PredictionRun.objects.filter(pk=row.pk).update(refused=refused)
    reference = novelty.reference_for(row.version)
    # Small products of matrices gain nothing from threads that wait for each other in a loop and take the cores.
    with threadpool_limits(1):
        read = _reader(context, row, Recipe.from_json(loading.recipe_of(contract)), wanted)
    predictor = loading.predictor(row.version, features=reference is not None)
    for start in range(0, len(wanted), _BATCH):
        ids = wanted[start : start + _BATCH]
        by_id = Record.objects.in_bulk(ids)
        answers = _answers(predictor, contract, [by_id[pk] for pk in ids], read(start, ids), reference)
        Prediction.objects.bulk_create((Prediction(run=row, **values) for values in answers), ignore_conflicts=True)
        context.progress(
            0.4 + 0.6 * (start + len(ids)) / len(wanted), f"{start + len(ids):,} of {len(wanted):,} records"
        )
    result = {"prediction": str(row.pk), "predicted": len(wanted) + len(done), "refused": len(refused)}
    result["care_basis"] = novelty.basis(reference)
    if predictor.pieces.notes:
        result["notes"] = predictor.pieces.notes
    compared = agreement.of_run(row)
    return result | ({"agreement": compared} if compared else {})


def _reader(
    context: JobContext, row: PredictionRun, recipe: Recipe, wanted: list[uuid.UUID]
) -> Callable[[int, list[uuid.UUID]], np.ndarray]:
    """Return what reads a batch of prepared signals, float32 ``(n, leads, samples)``."""
    if row.record_ids and len(wanted) <= _FEW:

        def prepare(start: int, ids: list[uuid.UUID]) -> np.ndarray:
            found = Record.objects.select_related("subject").in_bulk(ids)
            return np.stack([recipe.apply(signals.load(found[pk])).signal for pk in ids])

        return prepare
    store = bring_up_to_date(row.dataset, recipe, lambda part, note: context.progress(0.4 * part, note))
    view = StoreView(store, wanted)
    return lambda start, ids: view.read(np.arange(start, start + len(ids)))


def _answers(
    predictor: Any, contract: ModelContract, records: list[Record], batch: np.ndarray, reference: dict[str, Any] | None
) -> Iterator[dict[str, Any]]:
    """Yield the fields of one Prediction for each record."""
    person = person_features([r.age for r in records], [r.sex for r in records])[0] if contract.needs else None
    features = None
    if reference is not None and hasattr(predictor, "predict_with_features"):
        values, features = predictor.predict_with_features(batch, person)
    else:
        values = predictor.predict(batch, person)
    said = novelty.notices(records, contract, features, reference)
    for record, answer, names, sentences in zip(records, values, decide(values, contract), said, strict=True):
        yield {
            "record": record, "values": [float(v) for v in answer], "predicted": names,
            "notices": [sentence[:300] for sentence in sentences],
        }  # fmt: skip
