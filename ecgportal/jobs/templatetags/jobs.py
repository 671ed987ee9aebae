"""What pages say about a job beyond its row."""

from __future__ import annotations

from collections.abc import Mapping

from django import template

from ecgportal.jobs.models import Job
from ecgportal.jobs.registry import Again, way_back

register = template.Library()


@register.simple_tag
def try_again(job: Job, can: Mapping[str, bool] | str) -> Again | None:
    """Return where a job that did not do its work is started anew; None for a reader who may not. can: as of ``ProjectView``."""
    found = way_back(job)
    return found if found is not None and can and can[found.needs.name] else None
