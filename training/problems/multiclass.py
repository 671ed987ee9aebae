"""Exactly one of several classes holds."""

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
    softmax,
    unlearnable,
)
from training.problems.registry import problem
from training.problems.thresholds import f1_thresholds_of_one

if TYPE_CHECKING:
    from training.problems.base import Loss


@problem
class Multiclass(Problem):
    """Targets are one-hot rows. A record with none or several of the classes is unknown as a whole."""

    name = "multiclass"
    title = TASKS["multiclass"]
    meaning = (
        "The outputs are the probabilities of the classes and sum to one; the predicted class is the one that exceeds its "
        "threshold the most."
    )
    activation = "softmax"
    metrics = ("auroc_macro", "f1_macro", "f1_weighted", "auprc_macro", "brier", "ece")
    monitor = "auroc_macro"
    min_classes = 2

    def _encode(self, labels: Sequence[Label], classes: tuple[str, ...]) -> Targets:
        rows = [presence(label, classes) for label in labels]
        values = np.stack(rows) if rows else np.zeros((0, len(classes)), np.float32)
        given = np.isfinite(values).any(axis=1)
        single = np.nansum(values, axis=1) == 1
        values = np.where(single[:, None], np.nan_to_num(values), np.nan).astype(np.float32)
        notes = []
        if (~given).any():
            notes.append(f"{counted(int((~given).sum()), 'record')} without a known label will not be used.")
        if (given & ~single).any():
            notes.append(
                f"{counted(int((given & ~single).sum()), 'record')} with none or several of the classes will not be used; "
                "a multi-label task can use them."
            )
        return Targets(values, classes, tuple(notes))

    def activate(self, outputs: np.ndarray) -> np.ndarray:
        return softmax(outputs)

    def loss(self, train_targets: np.ndarray, options: LossOptions) -> Loss:
        from training.problems.losses import cross_entropy_loss

        return cross_entropy_loss(train_targets, options)

    def thresholds(self, probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return f1_thresholds_of_one(probabilities, targets)

    def _check_trainable(self, targets: np.ndarray, names: tuple[str, ...]) -> tuple[str, ...]:
        present = np.asarray((targets > 0.5).any(axis=0))
        if present.sum() < 2:
            only = names[int(present.argmax())]
            raise TrainingFailed(
                f"All labelled training records are of class '{only}', so there is nothing to tell apart. "
                "Add records of another class or choose other classes.",
                code="one_class_only",
            )
        absent = [name for name, there in zip(names, present, strict=True) if not there]
        return (*few_positives(targets, names), *unlearnable(absent))
