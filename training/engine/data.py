"""Checks the two parts of a run's data and brings the targets into the form that the loss takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ecgportal.errors import TrainingFailed
from training.engine.source import SignalSource
from training.problems.base import Problem


@dataclass(frozen=True, eq=False)
class Data:
    """Sources and targets of training and validation.

    train_targets: float32 ``(records, outputs)``, standardised where the problem asks for it; val_targets: in the
    target's own unit, None without validation. usable: numbers of the training records with a known target.
    centre, spread: what was taken off and divided by. notes: sentences about risks.
    """

    train: SignalSource
    train_targets: np.ndarray
    validation: SignalSource | None
    val_targets: np.ndarray | None
    usable: np.ndarray
    names: tuple[str, ...]
    centre: np.ndarray
    spread: np.ndarray
    notes: tuple[str, ...]

    def scaled(self, targets: np.ndarray) -> np.ndarray:
        """Bring targets to the scale of the loss."""
        return ((targets - self.centre) / self.spread).astype(np.float32)

    def in_unit(self, outputs: np.ndarray) -> np.ndarray:
        """Bring raw outputs to the target's own unit."""
        return (outputs * self.spread + self.centre).astype(np.float32)


def check_data(
    train: SignalSource,
    train_targets: np.ndarray,
    validation: SignalSource | None,
    val_targets: np.ndarray | None,
    problem: Problem,
    names: Sequence[str] | None,
) -> Data:
    """Return the checked data; TrainingFailed says what cannot be trained on."""
    raw = as_targets(train_targets, len(train), "training")
    labels = tuple(names) if names is not None else tuple(str(i) for i in range(raw.shape[1]))
    notes = problem.check_trainable(raw, labels)
    usable = np.flatnonzero(np.isfinite(raw).any(axis=1))
    if len(usable) < 2:
        raise TrainingFailed(
            "Only one training record has a known label; training needs at least two.", code="too_few_records"
        )
    centre, spread = np.zeros(raw.shape[1]), np.ones(raw.shape[1])
    if problem.standardise:
        wide = raw.astype(np.float64)
        centre, spread = np.nanmean(wide, axis=0), np.maximum(np.nanstd(wide, axis=0), 1e-12)
    checked = None
    if validation is not None and len(validation) and val_targets is not None:
        checked = as_targets(val_targets, len(validation), "validation")
        if checked.shape[1] != raw.shape[1]:
            raise TrainingFailed(
                "The training and validation targets have different numbers of outputs.", code="targets_shape"
            )
    scaled = ((raw - centre) / spread).astype(np.float32)
    has_validation = validation if checked is not None else None
    return Data(train, scaled, has_validation, checked, usable, labels, centre, spread, notes)


def as_targets(values: np.ndarray | None, n: int, part: str) -> np.ndarray:
    """Return targets as float32 ``(records, outputs)``; TrainingFailed when they do not match the records."""
    array = np.asarray(values, np.float32)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or len(array) != n:
        raise TrainingFailed(f"There are {len(array)} {part} targets for {n} {part} records.", code="targets_shape")
    return array
