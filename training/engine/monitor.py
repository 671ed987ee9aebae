"""Which epoch is the best, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from training.engine.data import unit_of
from training.engine.settings import FitSettings, monitored_metric
from training.metrics.base import better, find_metric, make_sample, score
from training.problems.base import LossOptions, Problem


class Monitor:
    """Follows one validation metric, smoothed over the last epochs.

    On a validation part of some dozen records a single epoch's value is mostly chance. The mean of a few neighbouring
    epochs is steadier, and of epochs that are about equally good the latest is taken: its rate is the lowest and its
    averaged weights the smoothest, and on records of other patients later epochs were never worse. An epoch is about as
    good when it loses less than the settings' ``tolerance`` of the best value, which is meant for 100 records and falls
    with the root of ``n_records``, as the metric's standard error does. All state can be rebuilt from the history.
    """

    def __init__(self, settings: FitSettings, name: str, n_records: int):
        self.settings, self.name = settings, name
        # Of the stage that the history has come to.
        self.first_epoch, self.stage_epochs = 0, settings.epochs
        self.tolerance = settings.tolerance * math.sqrt(100 / max(1, n_records))
        self.sign = sign_of(name)
        self.best: float | None = None
        self.best_epoch = 0

    def add(self, history: list[dict[str, Any]]) -> None:
        """Judge the last row of the history and write ``score`` and ``is_best`` into it."""
        row = history[-1]
        if self.name == "train_loss":
            # Without validation no epoch is known to be better than the last.
            row["score"], row["is_best"], self.best_epoch = None, True, row["epoch"]
            return
        value = self._smoothed(history, self._key)
        row["score"], row["is_best"] = value, False
        if value is None:
            return
        own = self.sign * value
        row["is_best"] = self.best is None or own >= self.best - self.tolerance * abs(self.best)
        self.best = own if self.best is None else max(self.best, own)
        if row["is_best"]:
            self.best_epoch = row["epoch"]

    def exhausted(self, epoch: int) -> bool:
        """Return whether patience has run out after this epoch; the rising part of the schedule does not count."""
        patience = self.settings.patience
        if patience is None or self.best is None:
            return False
        rising = self.first_epoch + int(np.ceil(self.settings.warmup * self.stage_epochs))
        return epoch - max(self.best_epoch, rising) >= patience

    @property
    def _key(self) -> str:
        return "val_loss" if self.name == "loss" else self.name

    def _smoothed(self, history: list[dict[str, Any]], key: str) -> float | None:
        values = [row.get(key) for row in history[-self.settings.smoothing :] if row["stage"] == history[-1]["stage"]]
        known = [v for v in values if v is not None]
        return float(np.mean(known)) if known else None


def sign_of(monitor: str) -> float:
    """Return what a value is multiplied with so that the higher is the better."""
    return -1.0 if monitor in ("loss", "train_loss") or better(monitor) == "lower" else 1.0


def goodness_of(
    monitor: str, outputs: np.ndarray, truth: np.ndarray, learned: np.ndarray, problem: Problem, settings: FitSettings,
    names: tuple[str, ...],
) -> float | None:  # fmt: skip
    """Return the metric that chooses epochs of raw outputs ``(records, outputs)``, the higher the better; None where undefined.

    truth: of the records, and learned: of those of the training part, from which the loss has its weights and unit; all in the
    target's unit.
    """
    if monitor == "loss":
        learned = learned[np.isfinite(learned).any(axis=1)]
        known = np.isfinite(truth).any(axis=1)
        centre, spread = unit_of(learned, problem)

        def scaled(values: np.ndarray) -> np.ndarray:
            return ((values - centre) / spread).astype(np.float32)

        options = LossOptions(settings.class_weights, settings.focal_gamma, settings.label_smoothing)
        loss = problem.loss(scaled(learned), options)
        value: float | None = float(
            loss(torch.from_numpy(scaled(outputs[known])), torch.from_numpy(scaled(truth[known])))
        )
    else:
        value = validation_metrics(problem, outputs, truth, names).get(monitor)
    return None if value is None or not math.isfinite(value) else sign_of(monitor) * value


def validation_metrics(
    problem: Problem, outputs: np.ndarray, targets: np.ndarray, names: tuple[str, ...]
) -> dict[str, float | None]:
    """Return the task's default metrics on validation; None where undefined. Decisions at 0.5."""
    rows = np.isfinite(targets).any(axis=1)
    if not rows.any():
        return {}
    sample = make_sample(problem.activate(outputs[rows]), targets[rows], names, problem.name)
    answer: dict[str, float | None] = {}
    for name in problem.metrics:
        value = score(name, sample)
        answer[name] = value if np.isfinite(value) else None
    return answer


def metrics_over_parts(
    problem: Problem, outputs: np.ndarray, targets: np.ndarray, names: tuple[str, ...], parts: Sequence[np.ndarray]
) -> dict[str, float | None]:
    """Return the task's default metrics as means over parts of the records, each weighted by its size.

    Outputs of different members are not on one scale; ranking them together would judge their calibration. A part where
    a metric is not defined does not count for it.
    """
    found = [(len(rows), validation_metrics(problem, outputs[rows], targets[rows], names)) for rows in parts]
    answer: dict[str, float | None] = {}
    for name in problem.metrics:
        known = [(n, metrics[name]) for n, metrics in found if metrics.get(name) is not None]
        answer[name] = float(np.average([v for _, v in known], weights=[n for n, _ in known])) if known else None
    return answer


def headline(problem: Problem, metrics: Mapping[str, float | None]) -> str:
    """Return the task's most important metric in words."""
    name = problem.metrics[0]
    title, value = find_metric(name).title, metrics.get(name)
    return f"{title} {value:.3f}" if value is not None else f"{title} not defined"


def choose_monitor(
    settings: FitSettings, problem: Problem, val_targets: np.ndarray | None, names: tuple[str, ...]
) -> tuple[str, str | None]:
    """Return the metric to follow and a sentence when it is not the one asked for."""
    if val_targets is None or not np.isfinite(val_targets).any():
        return (
            "train_loss",
            "There is no validation part with known labels: the weights of the last epoch are kept and nothing stops early.",
        )
    wanted = monitored_metric(settings, problem)
    if wanted == "loss":
        return "loss", None
    trial = np.random.default_rng(0).normal(size=val_targets.shape)
    if validation_metrics(problem, trial, val_targets, names).get(wanted) is None:
        return (
            "loss",
            f"The metric {wanted} is not defined on this validation part (a class may be missing); the validation loss chooses the epoch.",
        )
    return wanted, None
