"""What a run's manifest tells whatever was trained: on which data, divided how, prepared how, by which settings and code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import fmean, median, pstdev
from typing import TYPE_CHECKING, Any

from datasets.fingerprint import same_signal
from datasets.models import LabelMap
from datasets.preprocess.recipe import Recipe
from datasets.recording_time import text_of
from datasets.selectors import spec_of
from ecgportal.version import VERSION
from training.engine.settings import FitSettings
from training.models import TrainingRun
from training.targets import Labelled, data_digest, division_digest

if TYPE_CHECKING:
    from training.engine.pretrain import PretrainResult
    from training.engine.result import FitResult


def manifest_of(
    row: TrainingRun, recipe: Recipe, items: Sequence[Labelled], by_part: Mapping[str, Sequence[Labelled]], settings: FitSettings,
    device: str,
) -> dict[str, Any]:  # fmt: skip
    """Return the part of a manifest that does not depend on how the training went. device: what it computed on."""
    from training.engine.manifest import code_digest, environment

    return {
        "code_version": VERSION, "code_sha256": code_digest(), "data_sha256": data_digest(items), "split_digest": row.split.digest if row.split else None,
        "division_sha256": division_digest(by_part),
        "datasets": [dataset.name for dataset in row.datasets.order_by("name", "pk")], "selection": row.selection,
        "split": row.split_settings | cut_of(row, by_part), "records": {part: len(rows) for part, rows in by_part.items()},
        "subjects": {part: len({item.group for item in rows}) for part, rows in by_part.items()},
        **on_two_sides(by_part), "task": row.task, "outputs": row.classes,
        "label_map": str(row.label_map) if row.label_map else None,
        "label_map_sha256": digest_of_map(row.label_map) if row.label_map else None, "drawn_by": row.drawn_by, "architecture": row.architecture,
        "base": row.base_version.sha256 if row.base_version else None, "recipe_digest": recipe.digest, "recipe": json.loads(recipe.to_json()),
        "settings": settings.to_dict(), "statistics": statistics_of(by_part, row.classes, row.task), "environment": environment(device),
    }  # fmt: skip


def digest_of_map(label_map: LabelMap) -> str:
    """Return the SHA-256 over what a label map makes of codes: its system, classes and entries, not its name."""
    spec = spec_of(label_map)
    told = json.dumps([spec.system, spec.classes, sorted(spec.entries.items())], separators=(",", ":"))
    return hashlib.sha256(told.encode()).hexdigest()


def scale_of(result: FitResult | PretrainResult) -> dict[str, float]:
    """Return how much of the prepared signals stood for 1 mV in random changes; nothing where they are in mV."""
    return {} if result.units_per_mv == 1.0 else {"augmentation_units_per_mv": result.units_per_mv}


def statistics_of(by_part: Mapping[str, Sequence[Labelled]], outputs: Sequence[str], task: str) -> dict[str, Any]:
    """Return what the parts hold, by part: records of each class (of a regression mean and deviation of the target),
    women and men, and the median age in years, None where no age is known."""
    found: dict[str, Any] = {}
    for part, items in by_part.items():
        ages = sorted(item.age for item in items if item.age is not None)
        found[part] = {
            "female": sum(item.sex == "F" for item in items), "male": sum(item.sex == "M" for item in items),
            "age_median": float(median(ages)) if ages else None,
        }  # fmt: skip
        if task == "regression":
            values = [float(item.label) for item in items]
            found[part]["target_mean"] = float(fmean(values)) if values else None
            found[part]["target_deviation"] = float(pstdev(values)) if values else None
        else:
            found[part]["classes"] = {name: sum(name in item.classes for item in items) for name in outputs}
    return found


def cut_of(row: TrainingRun, by_part: Mapping[str, Sequence[Labelled]]) -> dict[str, Any]:
    """Return what is told of a split by time, nothing of other splits: from when on a patient's last record was held back,
    the last time in the development part, and how many records have no time."""
    if row.split_settings.get("method") != "time":
        return {}
    latest: dict[str, datetime] = {}
    for item in by_part["test"]:
        if item.recorded_at is not None:
            latest[item.group] = max(latest.get(item.group, item.recorded_at), item.recorded_at)
    rest = [item.recorded_at for part in ("train", "validation") for item in by_part[part] if item.recorded_at]
    return {
        "held_back_from": text_of(min(latest.values())) if latest else None, "developed_until": text_of(max(rest)) if rest else None,
        "without_time": sum(item.recorded_at is None for items in by_part.values() for item in items),
    }  # fmt: skip


def on_two_sides(by_part: Mapping[str, Sequence[Labelled]]) -> dict[str, int]:
    """Count the subjects and the signals that lie in more than one part, from the records themselves; 0 in a sound split.

    Subjects go by their keys and signals by their fingerprints, not by the groups that the split was dealt by.
    """
    subjects: dict[str, set[str]] = {}
    parts: dict[str, str] = {}
    fingerprints: dict[str, str | None] = {}
    for part, items in by_part.items():
        for item in items:
            subjects.setdefault(item.group, set()).add(part)
            parts[str(item.record)] = part
            fingerprints[str(item.record)] = item.fingerprint or None
    signals: dict[str, set[str]] = {}
    for record, signal in same_signal(fingerprints).items():
        signals.setdefault(signal, set()).add(parts[record])
    return {
        "subjects_on_two_sides": sum(len(found) > 1 for found in subjects.values()),
        "signals_on_two_sides": sum(len(found) > 1 for found in signals.values()),
    }
