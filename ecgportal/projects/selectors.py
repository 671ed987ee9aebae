"""Read projects and memberships."""

from __future__ import annotations

from typing import Any

from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from ecgportal.projects import access
from ecgportal.projects.models import Membership, Project


def mine(user: Any) -> QuerySet[Project]:
    """Return the user's projects with ``my_role`` and ``member_count``."""
    memberships = Membership.objects.filter(project=OuterRef("pk")).order_by()
    role = memberships.filter(user=user).values("role")[:1]
    count = memberships.values("project").annotate(n=Count("pk")).values("n")
    return access.visible(Project.objects.all(), user).annotate(
        my_role=Subquery(role), member_count=Coalesce(Subquery(count), 0)
    )
