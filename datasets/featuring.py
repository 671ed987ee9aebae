"""Measure the records of a dataset once and keep the numbers, for distributions, outliers, order and maps."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from datasets import signals
from datasets.measure.features import FEATURES, VERSION, features
from datasets.models import Dataset, Record, RecordFeatures
from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, PortalError, StorageFailed
from ecgportal.jobs.context import JobContext
from ecgportal.jobs.models import OPEN, Job
from ecgportal.jobs.services import enqueue

KIND = "features"
_BATCH = 64
# Rate and intervals of long recordings are those of their first minute.
_LONGEST_S = 60.0
# Processor time of reading and measuring ten seconds of twelve leads.
_RECORD_S = 0.02
_GIVES_WAY = 10


def unmeasured(dataset: Dataset) -> QuerySet[Record]:
    """Return the records without features, or with those of an older version."""
    return Record.objects.filter(dataset=dataset).filter(Q(features__isnull=True) | Q(features__version__lt=VERSION))


def open_job(dataset: Dataset) -> Job | None:
    """Return the job that measures the dataset now, if there is one."""
    return Job.objects.filter(
        project=dataset.project_id, kind=KIND, state__in=OPEN, payload__dataset=str(dataset.pk)
    ).first()


def expected_s(records: int) -> float:
    """Return about how long measuring takes, in s."""
    return _RECORD_S * records


def follow_upload(*, actor: Any, dataset: Dataset) -> Job | None:
    """Measure what an upload brought, behind all other work; None where that is done already or would take too long.

    Above ``settings.MEASURE_UP_TO`` unmeasured records a person decides when the machine is to be kept busy with it.
    """
    if not 0 < unmeasured(dataset).count() <= settings.MEASURE_UP_TO:
        return None
    try:
        return measuring_start(actor=actor, dataset=dataset, in_background=True)
    except Conflict:
        # Started meanwhile; that job takes all that it finds.
        return None


@transaction.atomic
def measuring_start(*, actor: Any, dataset: Dataset, in_background: bool = False) -> Job:
    """Start the job that measures what is not measured yet. Conflict while one is open or when there is nothing to do.

    in_background: its process gives way to others.
    """
    Dataset.objects.select_for_update().get(pk=dataset.pk)
    if open_job(dataset) is not None:
        raise Conflict("The records of this dataset are being measured already.", code="measuring")
    if not unmeasured(dataset).exists():
        raise Conflict("Every record of this dataset is measured.", code="nothing_to_measure")
    job = enqueue(
        KIND,
        actor=actor,
        project=dataset.project,
        payload={"dataset": str(dataset.pk), "in_background": in_background},
        title=f"Measure {dataset.name}",
    )
    audit("dataset.measured", dataset, actor=actor, project=dataset.project)
    return job


def run(context: JobContext) -> dict[str, Any]:
    """The job: measure in batches, each kept when it is done; a record that cannot be read is kept with the reason."""
    dataset = Dataset.objects.get(pk=context.payload["dataset"])
    if context.payload.get("in_background"):
        os.nice(_GIVES_WAY)
    total = unmeasured(dataset).count()
    done = without = 0
    while batch := list(unmeasured(dataset).select_related("subject").order_by("pk")[:_BATCH]):
        rows = [_row(record) for record in batch]
        RecordFeatures.objects.bulk_create(
            rows,
            update_conflicts=True,
            unique_fields=["record"],
            update_fields=["version", *FEATURES, "shape", "reason"],
        )
        done += len(rows)
        without += sum(bool(row.reason) for row in rows)
        context.progress(done / max(total, done), f"{done} of {max(total, done)} records")
    return {"dataset": str(dataset.pk), "measured": done, "without_beats": without}


def _row(record: Record) -> RecordFeatures:
    try:
        found = features(signals.load(record, _LONGEST_S), _noise_mv(record))
    except StorageFailed:
        # That the signal could not be fetched now says nothing about the record.
        raise
    except PortalError as error:
        return RecordFeatures(record=record, version=VERSION, reason=error.message[:300])
    shape = b"" if found.shape is None else found.shape.astype("<f2").tobytes()
    return RecordFeatures(record=record, version=VERSION, shape=shape, reason=found.reason[:300], **found.values)


def _noise_mv(record: Record) -> float | None:
    """Return the median noise of the leads, as the quality report of the upload has it."""
    known = [
        lead["noise_mv"] for lead in record.quality.get("leads", []) if isinstance(lead, dict) and "noise_mv" in lead
    ]
    return round(float(np.median(known)), 4) if known else None
