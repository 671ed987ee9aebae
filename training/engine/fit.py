"""Training: one function over tensors and callbacks that knows no database, web or user."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ecgportal.errors import InvalidInput
from training.engine.batches import told_of_memory
from training.engine.callbacks import Callback, Callbacks
from training.engine.computed import compute, is_computed
from training.engine.data import check_data, dealt_apart
from training.engine.device import held, resolve_device
from training.engine.member import networks_of
from training.engine.memory import kept_memory
from training.engine.result import FitResult
from training.engine.run import Run
from training.engine.seeding import deterministic, kept_random_state
from training.engine.settings import FitSettings
from training.engine.source import SignalSource
from training.engine.team import Team
from training.problems.base import Problem


def fit(
    module: nn.Module,
    train: SignalSource,
    train_targets: np.ndarray,
    validation: SignalSource | None,
    val_targets: np.ndarray | None,
    problem: Problem,
    settings: FitSettings,
    *,
    fs_hz: float,
    names: Sequence[str] | None = None,
    groups: tuple[Sequence[Hashable], Sequence[Hashable]] | None = None,
    in_units: bool = False,
    unit: str = "mV",
    callbacks: Sequence[Callback] = (),
    checkpoint_dir: Path | None = None,
    resume: bool = True,
    device: str = "auto",
) -> FitResult:
    """Train a copy of ``module`` and return its best weights.

    train, validation: sources of float32 ``(records, leads, samples)`` at ``fs_hz``; no subject on both sides. unit: of them, ``mV``,
    or ``1`` where the recipe took it away: random changes in mV are then scaled by the signals' own spread.
    train_targets, val_targets: ``(records, outputs)`` as the problem encodes them, NaN where unknown.
    names: the outputs' names, for messages. groups: for each training and each validation record what must stay
    together (its patient). in_units: the network answers in the target's unit already, as one that learned a regression does;
    without it a regression's network is taken to answer about 0. checkpoint_dir: where each epoch is stored; with ``resume`` a run
    that died goes on after its last whole epoch, bit for bit on a processor.

    An ``Ensemble`` (modelhub.architectures.ensemble) is trained member by member in step: one epoch of the run is one of
    each member, and the epoch's metrics are those of all members together. With ``groups`` the records of training and
    validation are dealt to as many folds as there are members; each member learns from all folds but its own and is
    judged on it, so that epoch and thresholds are chosen on every record and every record is learned from
    (cross-fitting). Without ``groups`` the members differ by their seeds and share the validation part.

    A linear model of fixed features (modelhub.architectures.linear) is computed from scratch, see :mod:`training.engine.computed`;
    where it is not cross-fitted it chooses on folds of the training part, by ``groups``, and validation judges it.

    Under a launcher of several processes see :mod:`training.engine.team`.

    Raises TrainingFailed with a sentence when training cannot start or go on, and JobCancelled when it was
    stopped before the first epoch was finished. ``module`` itself, the random state and the number of threads
    are left as they were.
    """
    if not (math.isfinite(fs_hz) and fs_hz > 0):
        raise InvalidInput(f"The sampling rate must be a positive number of hertz, not {fs_hz}.")
    place = resolve_device(device)
    alone = is_computed(module, settings)
    members = settings.n_members(len(train) + len(validation or ())) if alone else len(networks_of(module))
    data = check_data(
        train, train_targets, validation, val_targets, problem, names,
        members=members, groups=None if groups is None else [*groups[0], *groups[1]], seed=settings.seed,
    )  # fmt: skip
    if is_computed(module, settings):
        apart = None if data.crossed or groups is None else dealt_apart(data, groups[0], problem, settings.seed)
        own, folder = (callbacks, checkpoint_dir) if Team().leads else ((), None)
        with kept_random_state(), told_of_memory():
            return compute(
                module, data, apart or data, problem, settings, own, fs_hz=float(fs_hz), folder=folder, resume=resume
            )
    told = Callbacks(callbacks)
    waits_for = torch.device("cpu") if Team().comes_second else place
    with held(waits_for, told.wait_for_accelerator), kept_random_state(), told_of_memory():
        run = Run(module, data, problem, settings, float(fs_hz), callbacks, place, in_units=in_units, unit=unit)
        return _trained(run, checkpoint_dir, resume)


def _trained(run: Run, checkpoint_dir: Path | None, resume: bool) -> FitResult:
    threads = run.open(checkpoint_dir, resume)
    with deterministic(threads, run.device), kept_memory():
        try:
            return run.train()
        finally:
            run.callbacks.on_end()
