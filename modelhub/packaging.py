"""Bundles of versions: signed with this portal's key, with a generated sample and nothing about any patient."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from django.db import IntegrityError, transaction

from datasets.preprocess.recipe import Recipe
from datasets.simulate import simulate
from ecgportal import secrets, storage
from modelhub import bundle, card, loading, novelty
from modelhub.contract import ModelContract
from modelhub.models import ModelVersion, SigningKey
from modelhub.services import contract_of

# The facts that may travel; everything else of a version stays here.
MANIFEST_FACTS = (
    "name",
    "number",
    "created_at",
    "licence",
    "task",
    "parameters",
    "architecture",
    "parent_sha256",
    "sha256",
    "metrics",
    "records",
    "label_map",
    "reference",
    "prose",
)


def own_key() -> SigningKey:
    """Return this portal's signing key, made at its first use."""
    row = SigningKey.objects.exclude(private_encrypted="").first()
    if row is not None:
        return row
    private = bundle.new_signing_key()
    try:
        with transaction.atomic():
            return SigningKey.objects.create(
                name="this portal",
                public_key=bundle.public_key_of(private).hex(),
                private_encrypted=secrets.encrypt(base64.b64encode(private).decode()),
            )
    except IntegrityError:
        # Another process made it at the same moment.
        return SigningKey.objects.exclude(private_encrypted="").get()


def trusted_keys() -> list[bytes]:
    """Return the public keys whose signatures count: this portal's own and those that an administrator added."""
    own_key()
    return [bytes.fromhex(key) for key in SigningKey.objects.values_list("public_key", flat=True)]


def sample_for(version: ModelVersion, contract: ModelContract) -> tuple[np.ndarray, np.ndarray]:
    """Return two generated ECGs as the model gets them, and its answers."""
    recipe = Recipe.from_json(loading.recipe_of(contract))
    signals = np.stack(
        [
            recipe.apply(simulate(name, seed, fs_hz=500.0).record).signal
            for seed, name in enumerate(("SNR", "AF"), start=7)
        ]
    )
    return signals, loading.predictor(version).predict(signals)


def manifest_of(version: ModelVersion) -> dict[str, Any]:
    """Return the facts that travel with a version."""
    evaluation = version.evaluations.exclude(report={}).order_by("created_at").first()  # type: ignore[attr-defined]
    # What came with an imported version was measured elsewhere, and stays until it is judged here.
    metrics = dict(version.facts.get("metrics") or {})
    if evaluation is not None:
        metrics = {name: evaluation.report.get(name) for name in ("auroc_macro", "f1_macro", "f1_weighted")} | {
            "n": evaluation.report.get("n"),
            "part": evaluation.part,
            "data": evaluation.dataset.name,
            "calibration": _calibration(evaluation.report),
        }
    facts = {
        "name": version.model.name, "number": version.number, "created_at": version.created_at.isoformat(), "licence": version.card.get("licence", ""),
        "task": version.task, "parameters": version.parameters, "architecture": version.architecture, "sha256": version.sha256,
        "parent_sha256": version.parent.sha256 if version.parent else None, "metrics": metrics,
        "records": version.facts.get("records"), "label_map": version.facts.get("label_map"), "reference": version.facts.get("reference"),
        "prose": {name: text for name, text in version.card.items() if text},
    }  # fmt: skip
    return {name: value for name, value in facts.items() if value not in (None, "", {})}


def _calibration(report: dict[str, Any]) -> dict[str, float]:
    """Return the single numbers of a report's calibration."""
    found = report.get("calibration") or {}
    values = {name: value.get("value") if isinstance(value, dict) else value for name, value in found.items()}
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def bundle_of(version: ModelVersion) -> bytes:
    """Return a version's signed bundle. InvalidInput (``identifiers_found``) when a text looks as if it named a patient."""
    contract = contract_of(version)
    # The statistics of its training data travel along, so that the receiver can tell what lies outside them.
    novelty.reference_for(version)
    main = storage.read_blob(version.sha256)
    is_onnx = version.checks.get("format", "onnx") == "onnx"
    weights = storage.read_blob(version.weights_sha256) if version.weights_sha256 else None
    sample_input, sample_output = (None, None) if contract.is_trunk else sample_for(version, contract)
    private = base64.b64decode(secrets.decrypt(own_key().private_encrypted))
    return bundle.write_bundle(
        contract, card=card_markdown(version), onnx=main if is_onnx else None, weights=weights if not is_onnx else None,
        manifest=manifest_of(version), sample_input=sample_input, sample_output=sample_output, signing_key=private,
    )  # fmt: skip


def card_facts(version: ModelVersion) -> dict[str, Any]:
    """Return what the portal itself knows about a version, for its card."""
    hidden = ("reference", "prose")
    return {
        **{name: value for name, value in manifest_of(version).items() if name not in hidden},
        "contract": version.contract,
        "checks": {k: v for k, v in version.checks.items() if k != "card"},
    }


def _card_parts(version: ModelVersion) -> dict[str, Any]:
    """Return the facts and the prose that a version's card is made of."""
    facts = manifest_of(version)
    figures = facts.pop("metrics", {})
    n, part = figures.get("n"), ", ".join(str(figures[k]) for k in ("part", "data") if figures.get(k))
    rows = [
        {"name": card.metric_title(name), "part": part, "n": n, **figure}
        for name, figure in figures.items()
        if isinstance(figure, dict)
    ]
    shown = {name: facts.pop(name, None) for name in ("parameters", "sha256", "label_map", "created_at")}
    lineage = {"parent": facts.get("parent_sha256")} if facts.get("parent_sha256") else {}
    return {
        "facts": {
            "metrics": rows, "records": facts.get("records"), "calibration": figures.get("calibration"), "lineage": lineage,
            "environment": _environment(version), **shown,
        },
        "prose": version.card,
    }  # fmt: skip


def _environment(version: ModelVersion) -> Any:
    """Return what software a version was trained with, where that is known."""
    run = getattr(version, "training_run", None)
    return (run.manifest.get("environment") if run is not None else None) or version.facts.get("environment")


def card_title(version: ModelVersion) -> str:
    return f"{version.model.name}, version {version.number}"


def card_sections(version: ModelVersion) -> list[card.Section]:
    """Return the sections of a version's card: the portal's facts and the prose."""
    return card.card_sections(contract_of(version), **_card_parts(version))


def card_markdown(version: ModelVersion) -> str:
    """Return a version's card as Markdown: the portal's facts and the prose; a blank section says that it is blank."""
    return card.card_markdown(contract_of(version), title=card_title(version), **_card_parts(version))


def card_pdf(version: ModelVersion) -> bytes:
    """Return a version's card as a PDF document."""
    return card.card_pdf(card_title(version), card_sections(version))
