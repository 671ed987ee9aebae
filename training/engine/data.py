"""Checks a run's data, deals it out to the members of an ensemble and brings targets into the form that the loss takes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from datasets.splits import SplitItem, split
from ecgportal.errors import TrainingFailed
from training.engine.source import Joined, SignalSource
from training.problems.base import Problem

#: Folds of the training part that a computed model chooses its penalties on: of so many records at most, and of more, for the time.
_FEW, _FOLDS_OF_FEW, _FOLDS_OF_MANY = 750, 5, 3


@dataclass(frozen=True, eq=False)
class Part:
    """What one member learns from and is judged on: numbers of records with a known target, and of all it is judged on."""

    train: np.ndarray
    validation: np.ndarray


@dataclass(frozen=True, eq=False)
class Data:
    """The records of training and, after them, of validation, as one source.

    targets: float32 ``(records, outputs)``, standardised where the problem asks for it; truth: the same in the target's
    own unit. n_train: how many records are those of training. parts: one per member. judged: numbers of the records that
    validation is computed on, empty without validation. crossed: members were dealt different validation records.
    centre, spread: what was taken off and divided by. notes: sentences about risks.
    """

    source: SignalSource
    targets: np.ndarray
    truth: np.ndarray
    n_train: int
    parts: tuple[Part, ...]
    judged: np.ndarray
    crossed: bool
    names: tuple[str, ...]
    centre: np.ndarray
    spread: np.ndarray
    notes: tuple[str, ...]

    @property
    def usable(self) -> np.ndarray:
        """Numbers of all records that some member learns from."""
        return np.unique(np.concatenate([part.train for part in self.parts]))

    @property
    def judged_truth(self) -> np.ndarray | None:
        """The targets of the records of validation, in their own unit; None without validation."""
        return self.truth[self.judged] if len(self.judged) else None

    @property
    def judged_parts(self) -> list[np.ndarray]:
        """Which of the judged records are judged together: places in ``judged``."""
        return [part.validation - self.judged[0] for part in (self.parts if self.crossed else self.parts[:1])]

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
    *,
    members: int = 1,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Data:
    """Return the checked data; TrainingFailed says what cannot be trained on.

    members, groups: with several members and the group of every record (training, then validation), the records of both
    are dealt anew: each member learns from all but one of ``members`` folds and is judged on that one.
    """
    raw = as_targets(train_targets, len(train), "training")
    labels = tuple(names) if names is not None else tuple(str(i) for i in range(raw.shape[1]))
    notes = problem.check_trainable(raw, labels)
    known = np.flatnonzero(np.isfinite(raw).any(axis=1))
    if len(known) < 2:
        raise TrainingFailed(
            "Only one training record has a known label; training needs at least two.", code="too_few_records"
        )
    source, truth = train, raw
    if validation is not None and len(validation) and val_targets is not None:
        checked = as_targets(val_targets, len(validation), "validation")
        if checked.shape[1] != raw.shape[1]:
            raise TrainingFailed(
                "The training and validation targets have different numbers of outputs.", code="targets_shape"
            )
        source, truth = Joined((train, validation)), np.concatenate([raw, checked])
    judged = np.arange(len(train), len(truth))
    parts = tuple(Part(known, judged) for _ in range(members))
    crossed = False
    if members > 1 and groups is not None and len(judged):
        dealt = cross_parts(truth, groups, problem, labels, members, seed)
        if dealt is not None:
            parts, judged, crossed = dealt, np.arange(len(truth)), True
    centre, spread = unit_of(truth[np.unique(np.concatenate([part.train for part in parts]))], problem)
    scaled = ((truth - centre) / spread).astype(np.float32)
    return Data(source, scaled, truth, len(train), parts, judged, crossed, labels, centre, spread, notes)


def unit_of(learned: np.ndarray, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Return what is taken off targets and what they are divided by for the loss, ``(outputs,)`` each, from those of the
    records that are learned from."""
    if not problem.standardise:
        return np.zeros(learned.shape[1]), np.ones(learned.shape[1])
    wide = learned.astype(np.float64)
    return np.nanmean(wide, axis=0), np.maximum(np.nanstd(wide, axis=0), 1e-12)


def cross_parts(
    truth: np.ndarray, groups: Sequence[Hashable], problem: Problem, names: tuple[str, ...], members: int, seed: int
) -> tuple[Part, ...] | None:
    """Deal records to ``members`` folds by group with classes spread evenly; member k is judged on fold k.

    None when there are too few groups, or nothing could be learned from what some member is given.
    """
    if len(groups) != len(truth):
        raise TrainingFailed(f"There are {len(groups)} groups for {len(truth)} records.", code="targets_shape")
    if len(set(groups)) < 2 * members:
        return None
    parts = _dealt(truth, groups, problem, members, seed)
    try:
        for part in parts:
            problem.check_trainable(truth[part.train], names)
    except TrainingFailed:
        return None
    return parts if all(len(part.validation) for part in parts) else None


def dealt_apart(data: Data, groups: Sequence[Hashable], problem: Problem, seed: int) -> Data | None:
    """Return the data with its training records alone dealt to folds, by the group of each; None where there are too few groups.

    What is computed chooses on these, and the validation records are left to judge it by.
    """
    folds = folds_of(groups)
    if not folds:
        return None
    parts = _dealt(data.truth[: data.n_train], groups, problem, folds, seed)
    return replace(data, parts=parts, judged=np.arange(data.n_train), crossed=True)


def folds_of(groups: Sequence[Hashable]) -> int:
    """Return to how many folds training records of such groups are dealt for a computed model; 0 where they are too few."""
    wanted = _FOLDS_OF_FEW if len(groups) <= _FEW else _FOLDS_OF_MANY
    folds = min(wanted, len(set(groups)) // 2)
    return folds if folds > 1 else 0


def _dealt(truth: np.ndarray, groups: Sequence[Hashable], problem: Problem, folds: int, seed: int) -> tuple[Part, ...]:
    numbers: dict[Hashable, str] = {}
    border = (
        np.nanquantile(truth, (0.25, 0.5, 0.75), axis=0) if problem.standardise else np.full((1, truth.shape[1]), 0.5)
    )
    items = [
        SplitItem(
            key=f"{row:09d}",
            group=numbers.setdefault(group, str(len(numbers))),
            labels=frozenset(
                f"{column} {level}" for level, column in zip(*np.nonzero(truth[row] > border), strict=True)
            ),
        )
        for row, group in enumerate(groups)
    ]
    dealt = split(items, k_folds=folds, seed=seed).parts
    fold = np.array([int(dealt[item.key].removeprefix("fold-")) - 1 for item in items])
    known = np.isfinite(truth).any(axis=1)
    return tuple(Part(np.flatnonzero((fold != k) & known), np.flatnonzero(fold == k)) for k in range(folds))


def as_targets(values: np.ndarray | None, n: int, part: str) -> np.ndarray:
    """Return targets as float32 ``(records, outputs)``; TrainingFailed when they do not match the records."""
    array = np.asarray(values, np.float32)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or len(array) != n:
        raise TrainingFailed(f"There are {len(array)} {part} targets for {n} {part} records.", code="targets_shape")
    return array
