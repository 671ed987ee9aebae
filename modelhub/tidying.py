"""Which blobs the rows of models name."""

from __future__ import annotations

from ecgportal import storage
from modelhub.models import ModelBundle, ModelVersion


@storage.names_blobs
def named(digests: set[str]) -> set[str]:
    """Return those of the digests that are a version's files or the bundle that was written of it."""
    found = set(ModelVersion.objects.filter(sha256__in=digests).values_list("sha256", flat=True))
    found |= set(ModelVersion.objects.filter(weights_sha256__in=digests).values_list("weights_sha256", flat=True))
    return found | set(ModelBundle.objects.filter(sha256__in=digests).values_list("sha256", flat=True))
