"""The bundles that this portal serves: written once for the same content, then read from the store."""

from __future__ import annotations

import hashlib
import json

from django.db import transaction

from ecgportal import storage
from modelhub import novelty, packaging
from modelhub.models import ModelBundle, ModelVersion

# Changes when the bytes of a bundle of the same version change.
_LAYOUT = 1


def made_of(version: ModelVersion) -> str:
    """Return the digest of all that goes into a version's bundle: weights, contract, card, facts and signing key."""
    parts = [
        _LAYOUT,
        version.sha256,
        version.weights_sha256,
        version.contract,
        packaging.card_markdown(version),
        packaging.manifest_of(version),
        packaging.own_key().public_key,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def bundle_file(version: ModelVersion) -> ModelBundle:
    """Return where a version's bundle lies, written anew when its content changed or the store lost it.

    InvalidInput (``identifiers_found``) when a text of the version looks as if it named a patient.
    """
    row = ModelBundle.objects.filter(version=version).first()
    if row is not None and row.made_of == made_of(version) and storage.has_blob(row.sha256):
        return row
    # What is computed once about the training data belongs to what the bundle is made of.
    novelty.reference_for(version)
    wanted = made_of(version)
    data = packaging.bundle_of(version)
    with transaction.atomic():
        storage.hold_blobs()
        sha256, size = storage.put_bytes(data)
        before = row.sha256 if row is not None else sha256
        values = {"made_of": wanted, "sha256": sha256, "size": size}
        row, _ = ModelBundle.objects.update_or_create(version=version, defaults=values)
    if before != sha256:
        storage.drop_unused([before])
    return row
