"""Several classes may hold at once: one independent yes/no question per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ecgportal.errors import TrainingFailed
from modelhub.contract import TASKS
from training.problems.base import (
    Label,
    LossOptions,
    Problem,
    Targets,
    counted,
    few_positives,
    presence,
    sigmoid,
    unlearnable,
)
from training.problems.registry import problem
from training.problems.thresholds import f1_thresholds

if TYPE_CHECKING:
    from training.problems.base import Loss


@problem
class Multilabel(Problem):
    name = "multilabel"
    title = TASKS["multilabel"]
    meaning = "Each output is the probability that this class is present, independent of the others; they need not sum to one."
    activation = "sigmoid"
    metrics = ("auroc_macro", "auprc_macro", "f1_macro", "f1_weighted", "brier", "ece")
    monitor = "auroc_macro"

    def _encode(self, labels: Sequence[Label], classes: tuple[str, ...]) -> Targets:
        rows = [presence(label, classes) for label in labels]
        values = np.stack(rows) if rows else np.zeros((0, len(classes)), np.float32)
        return Targets(values, classes, unknown_note(values))

    def activate(self, outputs: np.ndarray) -> np.ndarray:
        return sigmoid(outputs)

    def loss(self, train_targets: np.ndarray, options: LossOptions) -> Loss:
        from training.problems.losses import binary_loss

        return binary_loss(train_targets, options)

    def thresholds(self, probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return f1_thresholds(probabilities, targets)

    def _check_trainable(self, targets: np.ndarray, names: tuple[str, ...]) -> tuple[str, ...]:
        both = np.asarray((targets > 0.5).any(axis=0) & (targets <= 0.5).any(axis=0))
        if not both.any():
            raise TrainingFailed(
                f"No class of {', '.join(names)} has both records with it and records without it in the training part, "
                "so there is nothing to tell apart. Add records of another class or choose other classes.",
                code="one_class_only",
            )
        notes = few_positives(targets, names)
        anyone = (targets > 0.5).any(axis=0)
        for state, is_so in (("no", ~both & ~anyone), ("every", ~both & anyone)):
            notes += unlearnable([name for name, so in zip(names, is_so, strict=True) if so], state)
        return tuple(notes)


def unknown_note(values: np.ndarray) -> tuple[str, ...]:
    """Return the sentence that says how many records have no known label, if any."""
    missing = int((~np.isfinite(values)).all(axis=1).sum()) if len(values) else 0
    return (f"{counted(missing, 'record')} without a known label will not be used.",) if missing else ()
