"""Why an answer is to be read with care: the record's quality and rate, its distance from the training data, and what
was imputed about the person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from datasets.models import Record
from datasets.preparing import StoreView, open_store
from datasets.preprocess.recipe import Recipe
from modelhub import loading
from modelhub.architectures.person import person_features
from modelhub.contract import ModelContract
from modelhub.models import ModelVersion
from modelhub.runtime.reference import distances, reference_of

#: Below this quality score a record is technically poor.
POOR_QUALITY = 0.5
#: Features of so many training records tell their spread well enough.
MOST_RECORDS = 600


def reference_for(version: ModelVersion) -> dict[str, Any] | None:
    """Return the reference of a version's training data: what came with it, or, once, computed from the records that it
    was trained on here; None where neither is at hand."""
    known = version.facts.get("reference")
    if isinstance(known, dict) and known.get("mean"):
        return known
    found = _computed(version)
    if found is not None:
        version.facts = {**version.facts, "reference": found}
        ModelVersion.objects.filter(pk=version.pk).update(facts=version.facts)
    return found


def basis(reference: dict[str, Any] | None) -> str:
    """Say what records are compared with before their answers are believed; where a version brings no statistics of its
    training data, say that nobody can tell whether a record lies outside them."""
    if reference is None:
        return (
            "Looked at: quality, rate and length. The version brings no statistics of its training data, so it cannot be told "
            "whether a record lies outside them."
        )
    return (
        f"Looked at: quality, rate, length, and the distance from {reference.get('n', 0):,} training records in the model's own "
        "features."
    )


def _computed(version: ModelVersion) -> dict[str, Any] | None:
    run = getattr(version, "training_run", None)
    split = getattr(run, "split", None)
    if split is None or version.checks.get("format", "onnx") != "onnx":
        return None
    contract = ModelContract.from_dict(version.contract)
    recipe = Recipe.from_json(loading.recipe_of(contract))
    trained = split.members.exclude(group__part="test").values("record")
    rows = list(
        Record.objects.filter(pk__in=trained).select_related("dataset").order_by("content_sha256")[:MOST_RECORDS]
    )
    by_dataset: dict[Any, list[Record]] = {}
    for row in rows:
        by_dataset.setdefault(row.dataset_id, []).append(row)
    predictor = loading.predictor(version, features=True)
    parts = []
    for group in by_dataset.values():
        store = open_store(group[0].dataset, recipe)
        held = [row for row in group if str(row.pk) in store.index]
        if held:
            signals = StoreView(store, [row.pk for row in held]).read(np.arange(len(held)))
            person = person_features([row.age for row in held], [row.sex for row in held])[0]
            parts.append(predictor.predict_with_features(signals, person)[1])
    if not parts or any(part is None for part in parts):
        return None
    return reference_of(np.concatenate(parts))


def notices(
    records: Sequence[Any], contract: ModelContract, features: np.ndarray | None, reference: dict[str, Any] | None
) -> list[list[str]]:
    """Return the sentences about each record; empty where there is nothing to say.

    records: what has ``quality_score``, ``fs_hz``, ``duration_s``, ``age`` and ``sex``, such as stored records.
    """
    far = (
        distances(features, reference)
        if features is not None and reference is not None
        else np.full(len(records), np.nan)
    )
    imputed = (
        person_features([r.age for r in records], [r.sex for r in records])[1]
        if contract.needs
        else np.zeros(len(records), bool)
    )
    found = []
    for record, distance, guessed in zip(records, far, imputed, strict=True):
        said = []
        if record.quality_score is not None and record.quality_score < POOR_QUALITY:
            said.append(f"Its technical quality is poor (score {record.quality_score:.2f}).")
        if record.fs_hz < contract.fs_hz * 0.999:
            said.append(
                f"It was recorded at {record.fs_hz:g} Hz and brought to {contract.fs_hz:g} Hz: fine detail is missing."
            )
        if record.duration_s < contract.duration_s * 0.95:
            said.append(f"It lasts {record.duration_s:.1f} s of the {contract.duration_s:g} s that the model looks at.")
        if reference is not None and distance > reference["distance_99"]:
            said.append(
                f"It lies outside the training data: distance {distance:.1f}, where 99 % of the training records lie "
                f"within {reference['distance_99']:.1f}."
            )
        if guessed:
            said.append("Age or sex is not known; the means of the training were taken instead (imputed).")
        found.append(said)
    return found
