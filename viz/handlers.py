"""Job kinds of the views."""

from __future__ import annotations

from typing import Any

from ecgportal.jobs.context import JobContext
from ecgportal.jobs.registry import handler


@handler("map", title="Map a dataset")
def make_map(context: JobContext) -> dict[str, Any]:
    from viz import mapping

    return mapping.run(context)
