"""Which runs used records, and what evaluations keep of them, for those who delete the records."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from datasets.uses import on_delete, register
from training.models import Evaluation, TrainingRun


@register
def runs(records: Sequence[uuid.UUID]) -> list[str]:
    found = TrainingRun.objects.filter(split__members__record__in=list(records)).values_list("pk", flat=True).distinct()
    return [str(pk) for pk in found]


@on_delete
def forget_answers(dataset: Any, records: Sequence[uuid.UUID]) -> None:
    """Take records out of the answers that evaluations keep one by one; figures over all records stay."""
    gone = {str(pk) for pk in records}
    rows = Evaluation.objects.filter(project=dataset.project_id, curves__samples__records__has_any_keys=sorted(gone))
    for row in rows.select_for_update().only("curves"):
        samples = row.curves["samples"]
        left = [place for place, pk in enumerate(samples["records"]) if pk not in gone]
        kept = {name: [values[place] for place in left] for name, values in samples.items()} if left else None
        Evaluation.objects.filter(pk=row.pk).update(curves={**row.curves, "samples": kept})
