"""What a task type is: how labels become targets and what a network's outputs mean.

Targets have one form for every task, ``float32 (records, outputs)`` with NaN where the truth
is unknown, so that the loop, the losses and the metrics need no cases. Nothing here imports
torch; :meth:`Problem.loss` does so when it is called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ecgportal.errors import InvalidInput, TrainingFailed

if TYPE_CHECKING:
    import torch

    Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# A record's labels: None when nothing is known, the names of the classes that are present, or
# per class True, False or None (unknown); for regression a number or several.
Label = Iterable[str] | Mapping[str, bool | float | None] | float | Sequence[float] | None


@dataclass(frozen=True, eq=False)
class Targets:
    """Encoded targets.

    values: ``float32 (records, outputs)``, NaN where unknown.
    names: what each output stands for, in order.
    notes: sentences about labels that could not be used as they were.
    """

    values: np.ndarray
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def known(self) -> np.ndarray:
        """``bool (records,)``: at least one output's truth is known."""
        return np.isfinite(self.values).any(axis=1)


@dataclass(frozen=True)
class LossOptions:
    """How the loss treats classes.

    class_weights: ``none``, ``balanced`` (inverse frequency) or ``sqrt`` (its root, a milder form).
    focal_gamma: 0 for the plain loss; Lin et al. 2017 (arXiv 1708.02002) use 2.
    label_smoothing: share of the target moved to the other outcomes, [0, 0.5).
    """

    class_weights: str = "none"
    focal_gamma: float = 0.0
    label_smoothing: float = 0.0


class Problem(ABC):
    """A task type. Subclasses are stateless; the registry holds one instance of each."""

    name: str = ""
    title: str = ""
    meaning: str = ""
    """What the outputs mean after :meth:`activate`, as a sentence for a reader."""
    activation: Literal["softmax", "sigmoid", "identity"] = "identity"
    metrics: tuple[str, ...] = ()
    """Names of the default metrics, the most important first."""
    monitor: str = "loss"
    """The metric on validation data by which the best epoch is chosen."""
    min_classes: int = 1
    max_classes: int | None = None
    standardise: bool = False
    """Whether targets are brought to zero mean and unit deviation for the loss."""

    def output_names(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Return the name of each network output for these classes."""
        return tuple(classes)

    def n_outputs(self, classes: Sequence[str]) -> int:
        return len(self.output_names(classes))

    def encode(self, labels: Sequence[Label], classes: Sequence[str]) -> Targets:
        """Encode labels, one entry per record, for ``classes`` in their order."""
        self._check_classes(classes)
        return self._encode(labels, tuple(classes))

    @abstractmethod
    def _encode(self, labels: Sequence[Label], classes: tuple[str, ...]) -> Targets: ...

    @abstractmethod
    def activate(self, outputs: np.ndarray) -> np.ndarray:
        """Turn raw outputs ``(records, outputs)`` into what :attr:`meaning` says; float64."""

    @abstractmethod
    def loss(self, train_targets: np.ndarray, options: LossOptions) -> Loss:
        """Return the loss ``(outputs, targets) -> scalar`` over torch tensors.

        Unknown targets (NaN) add nothing; the mean runs over what is known. Weights come from
        ``train_targets`` alone. Needs torch.
        """

    def thresholds(self, probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray | None:
        """Choose decision thresholds on validation data; None where the task has none."""
        return None

    def check_trainable(self, targets: np.ndarray, names: Sequence[str]) -> tuple[str, ...]:
        """Raise :class:`TrainingFailed` when these training targets cannot be learned from.

        Returns sentences about what is risky but possible.
        """
        if targets.ndim != 2 or targets.shape[1] != len(names):
            raise TrainingFailed(
                f"The targets have shape {targets.shape}, but the task needs (records, {len(names)}).",
                code="targets_shape",
            )
        if not np.isfinite(targets).any():
            raise TrainingFailed(
                "No training record has a known label, so there is nothing to learn from. "
                "Check the label map and the chosen classes.",
                code="labels_unknown",
            )
        return self._check_trainable(targets, tuple(names))

    @abstractmethod
    def _check_trainable(self, targets: np.ndarray, names: tuple[str, ...]) -> tuple[str, ...]: ...

    def _check_classes(self, classes: Sequence[str]) -> None:
        if len(set(classes)) != len(classes):
            raise InvalidInput("A class is named twice; every class may appear once.", fields={"classes": "Repeated."})
        if len(classes) < self.min_classes or (self.max_classes is not None and len(classes) > self.max_classes):
            most = f" and at most {self.max_classes}" if self.max_classes is not None else ""
            raise InvalidInput(
                f"The task '{self.name}' needs at least {self.min_classes}{most} classes; {len(classes)} were given.",
                fields={"classes": "Wrong number of classes."},
            )

    def describe(self) -> dict[str, Any]:
        """Return what a form or a page says about this task."""
        return {
            "name": self.name, "title": self.title, "meaning": self.meaning, "activation": self.activation,
            "metrics": list(self.metrics), "monitor": self.monitor, "min_classes": self.min_classes,
            "max_classes": self.max_classes,
        }  # fmt: skip


def presence(label: Label, classes: tuple[str, ...]) -> np.ndarray:
    """Return one record's row: 1 present, 0 absent, NaN unknown; float32 ``(classes,)``.

    A set or list of names means that the classes not named are absent; a mapping says it per
    class, and a class it does not hold is unknown. Names outside ``classes`` are ignored.
    """
    row = np.full(len(classes), np.nan, np.float32)
    if label is None:
        return row
    if isinstance(label, Mapping):
        for column, name in enumerate(classes):
            value = label.get(name)
            if value is not None:
                row[column] = _zero_or_one(value, name)
        return row
    if isinstance(label, str) or not isinstance(label, Iterable):
        raise InvalidInput("A record's labels are a list of class names, or a mapping of class to true or false.")
    present = {str(name) for name in label}
    return np.array([float(name in present) for name in classes], np.float32)


def _zero_or_one(value: bool | float, name: str) -> float:
    number = float(value)
    if np.isnan(number):
        return float("nan")
    if number not in (0.0, 1.0):
        raise InvalidInput(f"The label of class '{name}' must be true, false or unknown, not {value}.")
    return number


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logistic function without overflow; float64."""
    x = np.asarray(x, np.float64)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0 / (1.0 + e), e / (1.0 + e))


def softmax(x: np.ndarray) -> np.ndarray:
    """Soft-max over the last axis; float64."""
    x = np.asarray(x, np.float64)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def counted(number: int, noun: str) -> str:
    """Return ``1 record`` or ``3 records``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def few_positives(targets: np.ndarray, names: Sequence[str], fewest: int = 5) -> list[str]:
    """Return a sentence that names the classes with less than ``fewest`` positives, and one for those with less than
    ``fewest`` negatives (but not none)."""
    rare: dict[str, int] = {}
    common: dict[str, int] = {}
    for column, name in enumerate(names):
        known = targets[np.isfinite(targets[:, column]), column]
        positives, negatives = int((known > 0.5).sum()), int((known <= 0.5).sum())
        if 0 < positives < fewest:
            rare[name] = positives
        elif 0 < negatives < fewest:
            common[name] = negatives
    notes = []
    if len(rare) == 1:
        [(name, count)] = rare.items()
        notes.append(f"Class '{name}' has only {counted(count, 'record')} in training; its result will be unsure.")
    elif rare:
        notes.append(f"Classes with few records in training: {listed(rare)}; their results will be unsure.")
    if len(common) == 1:
        [(name, count)] = common.items()
        notes.append(f"Only {counted(count, 'training record')} without '{name}'; its result will be unsure.")
    elif common:
        notes.append(f"Few training records are without: {listed(common)}; their results will be unsure.")
    return notes


def listed(counts: Mapping[str, int]) -> str:
    """Return ``a (3), b (7)``."""
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def unlearnable(names: Sequence[str], state: str = "no") -> list[str]:
    """Return the sentence about classes that no (or every) training record has; nothing without such a class."""
    if not names:
        return []
    which, it = (f"class '{names[0]}'", "it") if len(names) == 1 else (f"the classes {', '.join(names)}", "they")
    return [f"In the training part {state} record has {which}; {it} cannot be learned."]
