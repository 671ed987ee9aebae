"""Job kinds of the views."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from ecgportal.jobs.context import JobContext
from ecgportal.jobs.models import Job
from ecgportal.jobs.registry import Again, handler
from ecgportal.projects.access import Action


def _map_again(job: Job) -> Again | None:
    from viz.models import DatasetMap

    row = DatasetMap.objects.filter(pk=job.payload["map"]).first()
    if row is None:
        return None
    return Again("Make another map", reverse("viz:maps", kwargs={"pk": row.dataset_id}), Action.DATA_EDIT)


@handler("map", title="Map a dataset", again=_map_again)
def make_map(context: JobContext) -> dict[str, Any]:
    from viz import mapping

    return mapping.run(context)
