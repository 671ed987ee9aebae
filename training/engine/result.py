"""What a run gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FitResult:
    """The outcome of a training run.

    best_state: weights and buffers under the names and shapes of the network that was handed in.
    history: one row per epoch: ``epoch, stage, train_loss, val_loss``, the task's metrics on validation, ``score`` (the
        smoothed value by which epochs are compared), ``is_best, learning_rate, seconds, records_per_s``; a metric that
        is not defined is None.
    best_epoch: 1-based. epochs: how many were run.
    thresholds: per output, chosen on validation; None for tasks without.
    stopped_reason: ``finished``, ``early_stopping``, ``cancelled``, ``interrupted`` or ``loss_not_finite``.
    learning_rate: the peak that was used. monitor: the metric that chose the epoch.
    validation_outputs: raw outputs of the best weights on validation, ``(records, outputs)``, in target units; when
        cross-fitted on the records of training and then of validation, each by the member that has not learned from it.
    members: how many networks were trained (an ensemble's). cross_fitted: whether each had validation records of its own.
    processes: how many processes trained together. device: what they computed on. units_per_mv: how much of the signals' unit
    stood for 1 mV in random changes.
    notes: sentences about what the run met that is a reason for care. facts: sentences about what it did as it is meant to.
    """

    best_state: dict[str, Tensor]
    history: list[dict[str, Any]]
    best_epoch: int
    epochs: int
    thresholds: np.ndarray | None
    stopped_reason: str
    learning_rate: float
    monitor: str
    weights_hash: str
    validation_outputs: np.ndarray
    lr_finder: dict[str, Any] | None = None
    resumed_epoch: int = 0
    notes: tuple[str, ...] = field(default=())
    facts: tuple[str, ...] = field(default=())
    members: int = 1
    processes: int = 1
    device: str = "cpu"
    cross_fitted: bool = False
    units_per_mv: float = 1.0
