"""Try a version on one record: a small job whose result is shown and not kept as a prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
from django.db import transaction

from datasets import signals
from datasets.models import Record
from ecgportal.audit.trail import record as audit
from ecgportal.errors import InvalidInput
from ecgportal.jobs.context import JobContext
from ecgportal.jobs.models import Job
from ecgportal.jobs.services import enqueue
from modelhub import agreement
from modelhub.answering import Answerer, why_not
from modelhub.models import ModelVersion
from modelhub.services import check_runnable


@transaction.atomic
def try_start(*, actor: Any, version: ModelVersion, record: Record) -> Job:
    """Start the job that answers for one record; InvalidInput with a remedy when the record cannot be given to the model.

    The caller has checked that the user may use the version (as a member of its project, or by the catalogue) and may
    predict in the record's project.
    """
    contract = check_runnable(version)
    reason = why_not(record, contract)
    if reason:
        raise InvalidInput(reason, code="contract_not_met", fields={"key": reason})
    project = record.dataset.project
    payload = {"version": str(version.pk), "record": str(record.pk)}
    job = enqueue("try_model", actor=actor, project=project, payload=payload, title=f"Try {version} on {record.key}")
    audit("model_version.tried", version, actor=actor, project=project, changes={"record": str(record.pk)})
    return job


def run(context: JobContext) -> dict[str, Any]:
    """Answer for the record of the payload."""
    version = ModelVersion.objects.select_related("model__project").get(pk=context.payload["version"])
    record = Record.objects.select_related("dataset__project", "subject").get(pk=context.payload["record"])
    answerer = Answerer(version)
    contract = answerer.contract
    context.progress(0.2, "Preparing the record")
    batch = answerer.recipe.apply(signals.load(record)).signal[np.newaxis]
    context.progress(0.6, "Asking the model")
    answer = answerer.answers([record], batch)[0]
    limits = contract.limits(contract.thresholds) or {}
    label_map = agreement.map_for(version, record.dataset.project)
    return {
        "version": str(version.pk), "model": str(version), "record": str(record.pk), "key": record.key, "task": contract.task,
        "answers": [
            {
                "class": name, "value": round(value, 4), "predicted": name in answer.predicted,
                "threshold": limits.get(name),
            }
            for name, value in zip(contract.classes, answer.values, strict=True)
        ],
        "notices": answer.notices,
        "care_basis": answerer.basis,
        "labels": agreement.truth_of(record, version, label_map),
    }  # fmt: skip
