"""What predictions tell of records in one piece, for those who delete the records."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from datasets.uses import on_delete
from modelhub.models import PredictionRun


@on_delete
def forget_refused(dataset: Any, records: Sequence[uuid.UUID]) -> None:
    """Take records out of the lists of those that a model could not answer for."""
    gone = {str(pk) for pk in records}
    for run in PredictionRun.objects.filter(dataset=dataset).exclude(refused=[]).only("refused"):
        left = [entry for entry in run.refused if entry.get("record") not in gone]
        if len(left) < len(run.refused):
            PredictionRun.objects.filter(pk=run.pk).update(refused=left)
