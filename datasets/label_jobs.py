"""When label tables are read: after the files that were sent before them, and again for those that come later."""

from __future__ import annotations

import logging
import time
from threading import Thread
from typing import TYPE_CHECKING, Any

from datasets import labelling
from datasets.models import Ingest, LabelImport, Outcome
from ecgportal.errors import PortalError, StorageFailed
from ecgportal.jobs import runner
from ecgportal.jobs.models import Job, JobState

if TYPE_CHECKING:
    from ecgportal.jobs.context import JobContext

logger = logging.getLogger(__name__)


def run(context: JobContext) -> dict[str, Any]:
    """The job: wait until the uploads that came before are read, then read the table."""
    row = LabelImport.objects.select_related("dataset__project", "created_by").get(pk=context.payload["label_import"])
    wait_for_uploads(context, row)
    return labelling.read(row, context.progress)


def wait_for_uploads(context: JobContext, row: LabelImport, pause_s: float = 0.5) -> None:
    """Wait until no upload that was sent before the table is still unread. One that no worker has taken is read meanwhile."""
    helping: Thread | None = None
    while True:
        jobs = Job.objects.unfinished().filter(
            ingest__dataset=row.dataset_id, ingest__created_at__lte=row.created_at
        ).order_by("created_at")  # fmt: skip
        first = jobs.first()
        if first is None:
            return
        context.progress(0.0, f"Waiting until earlier files of {row.dataset.name} are read.")
        if first.state == JobState.QUEUED and (helping is None or not helping.is_alive()):
            # This job holds a worker; were it only to wait, waiting jobs could take every worker there is.
            helping = runner.start_beside(first.pk)
        time.sleep(pause_s)


def again(ingest: Ingest) -> None:
    """Let the dataset's label tables label the records of an upload that came after them, the oldest table first."""
    tables_read = LabelImport.objects.filter(dataset=ingest.dataset, result__unmatched__gt=0).order_by("created_at")
    only = set(ingest.items.filter(outcome=Outcome.ACCEPTED).values_list("record", flat=True))
    for row in tables_read.select_related("dataset__project", "created_by") if only else ():
        try:
            labelling.read(row, only=only)
        except StorageFailed:
            raise
        except PortalError as error:
            # The files are stored; a table that cannot be read any more must not undo that.
            logger.warning("label table %s could not be read again: %s", row.pk, error.code)
