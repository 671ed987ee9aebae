"""The starter model: a small network that comes with the portal, so that a fresh machine has something to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.db import transaction

from ecgportal.audit.trail import record as audit
from ecgportal.projects.models import Project
from modelhub import catalogue
from modelhub.bundle import read_bundle
from modelhub.card import PROSE
from modelhub.models import CatalogueDecision, CatalogueEntry, CatalogueState, ModelVersion, Origin
from modelhub.packaging import MANIFEST_FACTS
from modelhub.services import model_get_or_create, version_add

#: Written by ``manage.py make_starter_model``.
FILE = Path(__file__).resolve().parent / "data" / "starter.ecgmodel.zip"
PROJECT_SLUG = "portal-starter-models"


@transaction.atomic
def install(actor: Any) -> CatalogueEntry | None:
    """Put the starter model into the catalogue, approved and visible to all; None when it is there already.

    It lies in a project of the portal's own that has no members, so that nobody's list of projects grows by it.
    """
    bundle = read_bundle(FILE, check_model=False)
    project, _ = Project.objects.get_or_create(
        slug=PROJECT_SLUG,
        defaults={"name": "Starter models", "description": "Models that come with the portal. It has no members."},
    )
    main = bundle.onnx or bundle.weights
    assert main is not None
    prose = {name: str(text) for name, text in bundle.manifest.get("prose", {}).items() if name in PROSE}
    facts = {name: bundle.manifest[name] for name in MANIFEST_FACTS if name in bundle.manifest and name != "prose"}
    model = model_get_or_create(actor=actor, project=project, name=str(bundle.manifest["name"]))
    if ModelVersion.objects.filter(model=model, facts__bundle=bundle.digest).exists():
        return None
    version = version_add(
        actor=actor, model=model, onnx=main, contract=bundle.contract, origin=Origin.IMPORTED,
        parameters=bundle.manifest.get("parameters"), facts=facts | {"bundle": bundle.digest}, card=prose,
        checks={"format": "onnx" if bundle.onnx else "safetensors", "starter": True},
    )  # fmt: skip
    reason = "It comes with the portal: trained by its own command on simulated ECGs, to try things on."
    entry = catalogue.propose(actor=actor, version=version, reason=reason)
    return _approve(entry, actor, reason)


def _approve(entry: CatalogueEntry, actor: Any, reason: str) -> CatalogueEntry:
    entry.state, entry.visible_to_all = CatalogueState.APPROVED, True
    entry.save(update_fields=["state", "visible_to_all"])
    audit("catalogue.approved", entry, actor=actor, project=entry.version.model.project, changes={"reason": reason})
    CatalogueDecision.objects.create(
        entry=entry, from_state=CatalogueState.IN_REVIEW, to_state=CatalogueState.APPROVED, reason=reason,
        decided_by=actor, decided_by_name="the portal's set-up",
    )  # fmt: skip
    return entry
