"""Checkpoints that a host with a bucket need not keep."""

from __future__ import annotations

from django.db.models import Q

from ecgportal import storage, tending
from ecgportal.jobs.models import OPEN
from modelhub.models import Transfer
from training.models import Study, TrainingRun


@tending.tidier
def tidy_checkpoints() -> None:
    """Remove the checkpoints of runs that were deleted or have given their model, and of studies that have ended."""
    found = storage.areas("checkpoints")
    needed = set(TrainingRun.objects.filter(pk__in=found, produced_version=None).values_list("pk", flat=True))
    needed |= set(TrainingRun.objects.filter(pk__in=found, job__state__in=OPEN).values_list("pk", flat=True))
    unfinished = Q(result={}) | Q(job__state__in=OPEN) | Q(run__produced_version=None)
    needed |= set(Study.objects.filter(unfinished, pk__in=found).values_list("pk", flat=True))
    needed |= set(Transfer.objects.filter(pk__in=found).values_list("pk", flat=True))
    for pk in set(found) - needed:
        storage.remove_area("checkpoints", pk, here_only=True)
