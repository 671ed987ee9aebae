"""Start predictions and go on with them."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from datasets.models import Dataset, LabelMap, Record
from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput
from ecgportal.jobs.models import JobState
from ecgportal.jobs.services import enqueue
from modelhub import agreement
from modelhub.models import ModelVersion, PredictionRun
from modelhub.services import check_runnable


@transaction.atomic
def prediction_start(
    *,
    actor: Any,
    project: Any,
    version: ModelVersion,
    dataset: Dataset,
    records: list[Record] | None = None,
    label_map: LabelMap | None = None,
) -> PredictionRun:
    """Start predictions of a version for a dataset, or for some of its records.

    label_map: how the records' labels read in the model's classes, to compare with; by default the one that the
    version was trained with, or one that has its classes.
    """
    contract = check_runnable(version)
    if dataset.project_id != project.pk or version.model.project_id != project.pk:
        raise InvalidInput(
            "The model and the dataset must belong to the same project. Publish the model and pull it into the other project."
        )
    if not dataset.records.exists():
        raise InvalidInput(f"{dataset.name} has no records yet. Upload some first.", fields={"dataset": "No records."})
    run = PredictionRun(
        project=project, created_by=actor, version=version, dataset=dataset, thresholds=dict(contract.thresholds),
        record_ids=[record.pk for record in records or []], label_map=label_map or agreement.map_for(version, project),
    )  # fmt: skip
    run.job = enqueue(
        "predict",
        actor=actor,
        project=project,
        payload={"run": str(run.pk)},
        title=f"Predict {dataset.name} with {version}",
    )
    run.save(force_insert=True)
    audit(
        "prediction.started",
        version,
        actor=actor,
        project=project,
        changes={"dataset": dataset.name, "records": len(run.record_ids) or "all"},
    )
    return run


@transaction.atomic
def prediction_resume(*, actor: Any, run: PredictionRun) -> PredictionRun:
    """Go on with failed or cancelled predictions; records that have an answer keep it."""
    run = (
        PredictionRun.objects.select_for_update(of=("self",))
        .select_related("job", "project", "version__model")
        .get(pk=run.pk)
    )
    if run.job.state not in (JobState.FAILED, JobState.CANCELLED):
        raise Conflict(f"The predictions are {run.job.state}; there is nothing to resume.", code="not_resumable")
    check_runnable(run.version)
    run.job = enqueue(
        "predict",
        actor=actor,
        project=run.project,
        payload={"run": str(run.pk)},
        title=f"Resume predictions of {run.version}",
    )
    run.save(update_fields=["job"])
    audit("prediction.resumed", run.version, actor=actor, project=run.project)
    return run
