"""Whether the parts of the portal that do the work are there."""

from __future__ import annotations

import importlib.metadata
import re
from datetime import timedelta

from django.db import DatabaseError, connection
from django.utils import timezone

from ecgportal import storage
from ecgportal.jobs.models import WorkerBeat

BEAT_LIMIT_S = 30.0
MIN_TORCH = (2, 10)


def database() -> str:
    """Return ``ok``, or a sentence that says what fails."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return "The database does not answer."
    return "ok"


def workers() -> str:
    """Return ``ok`` when a process that looks after the jobs showed itself within ``BEAT_LIMIT_S``."""
    limit = timezone.now() - timedelta(seconds=BEAT_LIMIT_S)
    try:
        alive = WorkerBeat.objects.filter(at__gte=limit).exists()
    except DatabaseError:
        return "The database does not answer, so nothing is known about the workers."
    return (
        "ok"
        if alive
        else f"No worker has shown itself for {BEAT_LIMIT_S:.0f} s. Start the workers, or the whole portal again."
    )


def hosts() -> list[str]:
    """Return the names of the hosts whose watch over the jobs has shown itself within ``BEAT_LIMIT_S``."""
    limit = timezone.now() - timedelta(seconds=BEAT_LIMIT_S)
    return list(WorkerBeat.objects.filter(at__gte=limit).order_by("name").values_list("name", flat=True))


def blobs() -> str:
    """Return ``ok``, or a sentence that says why files cannot be stored."""
    return storage.trouble() or "ok"


def torch() -> str:
    """Return ``ok`` unless an installed PyTorch is older than ``MIN_TORCH``; its version is read without loading it."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "ok"
    # A version such as 2.10rc1 or 2.11.0a0+git1234 counts as the release that it leads to.
    found = re.match(r"(\d+)\.(\d+)", version)
    numbers = (int(found[1]), int(found[2])) if found else (0, 0)
    wanted = ".".join(map(str, MIN_TORCH))
    return (
        "ok"
        if numbers >= MIN_TORCH
        else f"PyTorch {version} is installed; the portal needs {wanted} or newer. Install the requirements again."
    )


def report() -> dict[str, str]:
    """Return each part with ``ok`` or a sentence."""
    return {"database": database(), "workers": workers(), "storage": blobs(), "torch": torch()}
