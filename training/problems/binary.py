"""One class against the rest, or against one other class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ecgportal.errors import TrainingFailed
from modelhub.contract import TASKS
from training.problems.base import Label, LossOptions, Problem, Targets, few_positives, presence, sigmoid
from training.problems.multilabel import unknown_note
from training.problems.registry import problem
from training.problems.thresholds import f1_thresholds

if TYPE_CHECKING:
    from training.problems.base import Loss


@problem
class Binary(Problem):
    """The first class is the positive one. With a second class, records of neither or of both are unknown."""

    name = "binary"
    title = TASKS["binary"]
    meaning = "The one output is the probability that the first class is present."
    activation = "sigmoid"
    metrics = ("auroc_macro", "auprc_macro", "f1_macro", "brier", "ece")
    monitor = "auroc_macro"
    max_classes = 2

    def output_names(self, classes: Sequence[str]) -> tuple[str, ...]:
        return (classes[0],)

    def _encode(self, labels: Sequence[Label], classes: tuple[str, ...]) -> Targets:
        rows = [presence(label, classes) for label in labels]
        both = np.stack(rows) if rows else np.zeros((0, len(classes)), np.float32)
        values = both[:, :1].copy()
        notes: tuple[str, ...] = ()
        if len(classes) == 2:
            neither = np.isfinite(both).all(axis=1) & (both[:, 0] == both[:, 1])
            values[neither | ~np.isfinite(both).all(axis=1)] = np.nan
            if neither.any():
                notes = (
                    f"{int(neither.sum())} records have neither or both of {' and '.join(classes)}; they will not be used.",
                )
        return Targets(values, self.output_names(classes), notes or unknown_note(values))

    def activate(self, outputs: np.ndarray) -> np.ndarray:
        return sigmoid(outputs)

    def loss(self, train_targets: np.ndarray, options: LossOptions) -> Loss:
        from training.problems.losses import binary_loss

        return binary_loss(train_targets, options)

    def thresholds(self, probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return f1_thresholds(probabilities, targets)

    def _check_trainable(self, targets: np.ndarray, names: tuple[str, ...]) -> tuple[str, ...]:
        known = targets[np.isfinite(targets)]
        if not (known > 0.5).any() or not (known <= 0.5).any():
            side = "has" if (known > 0.5).any() else "lacks"
            raise TrainingFailed(
                f"Every labelled training record {side} class '{names[0]}', so there is nothing to tell apart. "
                "Add records of the other kind or choose another class.",
                code="one_class_only",
            )
        return tuple(few_positives(targets, names))
