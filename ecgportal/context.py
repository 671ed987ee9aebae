"""What every template knows."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from ecgportal import version
from ecgportal.projects import access
from ecgportal.projects.models import Project


def portal(request: HttpRequest) -> dict[str, Any]:
    """Return the version and the user's projects, for the switcher (read only when a template uses them)."""
    user = getattr(request, "user", None)
    return {
        "portal_version": version.VERSION,
        "my_projects": access.visible(Project.objects.filter(archived_at=None), user).only("id", "name")[:100],
    }
