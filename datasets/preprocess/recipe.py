"""A recipe: the ordered, versioned, hashable steps from a record to a network's input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.ecg import LEADS_12, Record
from datasets.preprocess.base import OutputSpec, Stage, Step, coerce_fields, step_from_json
from datasets.preprocess.crop import Crop
from datasets.preprocess.expand import Expand
from datasets.preprocess.fill import Fill
from datasets.preprocess.normalise import Normalise
from datasets.preprocess.remove_baseline import RemoveBaseline
from datasets.preprocess.resample import Resample
from datasets.preprocess.select_leads import SelectLeads
from ecgportal.errors import InvalidInput

RECIPE_VERSION = 1
MAX_STEPS = 32


@dataclass(frozen=True, eq=False)
class Prepared:
    """A prepared record.

    signal: float32 ``(leads, samples)``, always finite. mask: bool of the same shape, True for recorded samples;
    False samples were missing (and now hold the fill value) or were added by a step. notes: what a user should know.
    """

    signal: np.ndarray
    fs_hz: float
    leads: tuple[str, ...]
    mask: np.ndarray
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """Steps in order. The last step is always ``fill``: it is added where it is not stated.

    ``version`` is that of the recipe language; the meaning of a version's steps never changes, so a digest stands for
    one function from records to arrays.
    """

    steps: tuple[Step, ...]
    version: int = RECIPE_VERSION

    def __post_init__(self) -> None:
        entries = tuple(self.steps)
        if self.version != RECIPE_VERSION:
            raise InvalidInput(
                f"This recipe has version {self.version}; this portal knows version {RECIPE_VERSION}. "
                "Update the portal to use it.",
                code="invalid_recipe",
            )
        for entry in entries:
            if not isinstance(entry, Step):
                raise InvalidInput(f"{entry!r} is not a preparation step.", code="invalid_recipe")
            coerce_fields(entry)
        if not entries or not isinstance(entries[-1], Fill):
            entries = (*entries, Fill())
        if len(entries) > MAX_STEPS:
            raise InvalidInput(f"A recipe may have {MAX_STEPS} steps, not {len(entries)}.", code="invalid_recipe")
        object.__setattr__(self, "steps", entries)

    def to_json(self) -> str:
        """Return the canonical JSON: sorted keys, no blanks."""
        data = {"version": self.version, "steps": [entry.to_json() for entry in self.steps]}
        return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes | Mapping[str, Any]) -> Recipe:
        """Read a recipe from JSON text or its parsed form; InvalidInput (``invalid_recipe``) says what is wrong."""
        try:
            data = text if isinstance(text, Mapping) else json.loads(text)
        except ValueError as error:
            raise InvalidInput(f"The recipe is not valid JSON: {error}.", code="invalid_recipe") from None
        if not isinstance(data, Mapping) or not isinstance(data.get("steps"), list) or set(data) - {"version", "steps"}:
            raise InvalidInput(
                "A recipe is a JSON object with the keys version (a number) and steps (a list).", code="invalid_recipe"
            )
        return cls(tuple(step_from_json(entry) for entry in data["steps"]), data.get("version", RECIPE_VERSION))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def output_spec(self) -> OutputSpec:
        """Return what comes out for any record: leads, rate, samples, unit, normalisation."""
        spec = OutputSpec()
        for entry in self.steps:
            spec = entry.spec(spec)
        return spec

    def apply(self, record: Record) -> Prepared:
        """Prepare one record. Samples that are not finite count as missing."""
        mask = np.isfinite(record.signal)
        signal = record.signal if mask.all() else np.where(mask, record.signal, np.float32(np.nan))
        stage = Stage(signal, float(record.fs_hz), record.leads, mask)
        for entry in self.steps:
            stage = entry.apply(stage)
        signal = np.ascontiguousarray(stage.signal, dtype=np.float32)
        if signal is record.signal:
            signal = signal.copy()
        return Prepared(signal, stage.fs_hz, stage.leads, np.ascontiguousarray(stage.mask), stage.notes)


def plain_recipe(
    *,
    leads: tuple[str, ...] = LEADS_12,
    fs_hz: float = 100.0,
    duration_s: float = 10.0,
    baseline: str = "",
    padding: str = "zero",
    normalisation: str = "none",
) -> Recipe:
    """Return the recipe of the usual choices: leads, rate, middle part or padding to one length, and what is optional.

    baseline: how ``remove_baseline`` works, empty to keep the baseline. padding: how ``expand`` lengthens a short
    record. normalisation: the kind of ``normalise``; ``none`` keeps millivolt. InvalidInput says what cannot be.
    """
    steps: list[Step] = [SelectLeads(leads), Resample(fs_hz)]
    if baseline:
        steps.append(RemoveBaseline(baseline))
    steps += [Crop(duration_s, "centre"), Expand(duration_s, padding)]
    if normalisation != "none":
        steps.append(Normalise(normalisation))
    return Recipe((*steps, Fill(0.0)))


DEFAULT_RECIPE = plain_recipe()
