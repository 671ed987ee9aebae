"""What every template knows."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from ecgportal import version


def portal(request: HttpRequest) -> dict[str, Any]:
    return {"portal_version": version.VERSION}
