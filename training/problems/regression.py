"""Numbers instead of classes: age, an interval, an ejection fraction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ecgportal.errors import InvalidInput, TrainingFailed
from modelhub.contract import TASKS
from training.problems.base import Label, LossOptions, Problem, Targets
from training.problems.multilabel import unknown_note
from training.problems.registry import problem

if TYPE_CHECKING:
    from training.problems.base import Loss


@problem
class Regression(Problem):
    """``classes`` are the names of the numeric targets; outputs are in the targets' own units."""

    name = "regression"
    title = TASKS["regression"]
    meaning = "Each output is the estimated value of its target, in the target's own unit."
    activation = "identity"
    metrics = ("mae", "rmse", "r2")
    monitor = "rmse"
    standardise = True

    def _encode(self, labels: Sequence[Label], classes: tuple[str, ...]) -> Targets:
        values = np.full((len(labels), len(classes)), np.nan, np.float32)
        for row, label in enumerate(labels):
            values[row] = _numbers(label, classes)
        values[~np.isfinite(values)] = np.nan
        return Targets(values, classes, unknown_note(values))

    def activate(self, outputs: np.ndarray) -> np.ndarray:
        return np.asarray(outputs, np.float64)

    def loss(self, train_targets: np.ndarray, options: LossOptions) -> Loss:
        from training.problems.losses import smooth_l1_loss

        return smooth_l1_loss()

    def _check_trainable(self, targets: np.ndarray, names: tuple[str, ...]) -> tuple[str, ...]:
        for column, name in zip(targets.T, names, strict=True):
            known = column[np.isfinite(column)]
            if len(known) < 2 or np.ptp(known) == 0:
                raise TrainingFailed(
                    f"The target '{name}' has fewer than two different known values in the training part, "
                    "so there is nothing to estimate.",
                    code="one_value_only",
                )
        return ()


def _numbers(label: Label, names: tuple[str, ...]) -> np.ndarray:
    """Return one record's target values, float64 ``(targets,)``, NaN where unknown."""
    given: list[object]
    if label is None:
        given = [None] * len(names)
    elif isinstance(label, Mapping):
        given = [label.get(name) for name in names]
    elif isinstance(label, (int, float, np.number)):
        given = [label]
    else:
        given = list(label)
    if len(given) != len(names):
        raise InvalidInput(
            f"A record has {len(given)} target values where {len(names)} are needed ({', '.join(names)})."
        )
    try:
        return np.array([np.nan if value is None else float(value) for value in given])  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InvalidInput(f"A target value is not a number: {given!r}.") from None
