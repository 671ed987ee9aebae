"""Job kinds of datasets."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.urls import reverse

from ecgportal.jobs.context import JobContext
from ecgportal.jobs.models import Job
from ecgportal.jobs.registry import HOST, Again, handler, hourly
from ecgportal.projects.access import Action


def _ingest_again(job: Job) -> Again | None:
    """The form of the upload with its answers; for a collection the page on which it was chosen."""
    from datasets.models import Ingest

    row = Ingest.objects.filter(pk=job.payload["ingest"]).select_related("dataset").first()
    if row is None:
        return None
    if row.source.get("collection"):
        address = reverse("datasets:import", kwargs={"project": job.project_id})
        return Again("Import again", f"{address}?{urlencode({'name': row.dataset.name})}", Action.DATA_EDIT)
    address = reverse("datasets:upload", kwargs={"pk": row.dataset_id})
    return Again("Send files again", f"{address}?again={row.pk}", Action.DATA_EDIT)


def _labels_again(job: Job) -> Again | None:
    from datasets.models import LabelImport

    row = LabelImport.objects.filter(pk=job.payload["label_import"]).first()
    if row is None:
        return None
    return Again("Send another table", reverse("datasets:labels", kwargs={"pk": row.dataset_id}), Action.DATA_EDIT)


def _measure_again(job: Job) -> Again:
    address = reverse("viz:insight", kwargs={"pk": job.payload["dataset"]})
    return Again("Measure again", address, Action.DATA_EDIT)


@handler("ingest", title="Take in files", max_attempts=5, again=_ingest_again)
def ingest(context: JobContext) -> dict[str, Any]:
    from datasets import ingest as ingesting

    return ingesting.run(context)


@handler("ingest_share", title="Help to take in files", queue=HOST, max_attempts=5, again=_ingest_again)
def ingest_share(context: JobContext) -> dict[str, Any]:
    from datasets import ingest as ingesting

    return ingesting.run_share(context)


@handler("labels", title="Read a label table", again=_labels_again)
def labels(context: JobContext) -> dict[str, Any]:
    from datasets import label_jobs

    return label_jobs.run(context)


@handler("features", title="Measure the records of a dataset", again=_measure_again)
def features(context: JobContext) -> dict[str, Any]:
    from datasets import featuring

    return featuring.run(context)


@hourly
def give_up_uploads() -> None:
    """Files that were sent and never read lie there with all that they say of a person; they do not outstay their days."""
    from datasets import uploading

    uploading.sweep()
