"""The prediction job: prepare, run in batches, store. Safe to start again: records that have an answer are skipped."""

from __future__ import annotations

from typing import Any

import numpy as np

from datasets.models import Record
from datasets.preparing import StoreView, bring_up_to_date
from datasets.preprocess.recipe import Recipe
from ecgportal.jobs.context import JobContext
from modelhub import loading
from modelhub.contract import ModelContract
from modelhub.models import Prediction, PredictionRun

_BATCH = 256


def decide(values: np.ndarray, contract: ModelContract) -> list[list[str]]:
    """Return the predicted classes per record: the largest for multi-class, those at or above their threshold otherwise."""
    if contract.task == "regression":
        return [[] for _ in values]
    names = contract.classes
    if contract.activation == "softmax":
        return [[names[int(i)]] for i in values.argmax(axis=1)]
    limits = np.array([contract.thresholds.get(name, 0.5) for name in names])
    return [[name for name, hit in zip(names, row) if hit] for row in values >= limits]


def why_not(record: Record, contract: ModelContract) -> str | None:
    """Return why a record cannot be given to the model, or None. A missing lead or a record far too short would make the
    answer one about zeros."""
    missing = [name for name in contract.leads if name not in record.leads]
    if missing:
        return f"{record.key} has no lead {', '.join(missing)}; the model needs it."
    if record.duration_s < 0.5 * contract.duration_s:
        return f"{record.key} lasts {record.duration_s:.1f} s; the model needs {contract.duration_s:g} s."
    return None


def run(context: JobContext) -> dict[str, Any]:
    """Predict for every record of the run that meets the model's contract; the others are listed with the reason."""
    row = PredictionRun.objects.select_related("version__model", "dataset__project").get(pk=context.payload["run"])
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
    store = bring_up_to_date(
        row.dataset,
        Recipe.from_json(loading.recipe_of(contract)),
        lambda part, note: context.progress(0.4 * part, note),
    )
    predictor = loading.predictor(row.version)
    view = StoreView(store, wanted)
    for start in range(0, len(wanted), _BATCH):
        ids = wanted[start : start + _BATCH]
        values = predictor.predict(view.read(np.arange(start, start + len(ids))))
        Prediction.objects.bulk_create(
            (
                Prediction(run=row, record_id=pk, values=[float(v) for v in answer], predicted=names)
                for pk, answer, names in zip(ids, values, decide(values, contract))
            ),
            ignore_conflicts=True,
        )
        context.progress(0.4 + 0.6 * (start + len(ids)) / len(wanted), f"{start + len(ids)} of {len(wanted)} records")
    return {"prediction": str(row.pk), "predicted": len(wanted) + len(done), "refused": len(refused)}
