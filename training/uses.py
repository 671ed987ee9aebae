"""Which runs used records, for those who delete the records."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from datasets.uses import register
from training.models import TrainingRun


@register
def runs(records: Sequence[uuid.UUID]) -> list[str]:
    found = TrainingRun.objects.filter(split__members__record__in=list(records)).values_list("pk", flat=True).distinct()
    return [str(pk) for pk in found]
