"""Learning-rate finder (Smith 2017, arXiv 1506.01186): a sweep of rising rates over training batches.

It reads the training part only, and leaves weights, buffers, gradients, modes and random state exactly
as they were. The suggestions are pure functions of rates and losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ecgportal.errors import InvalidInput, TrainingFailed
from training.engine import optim
from training.engine.augment import augment, in_unit, units_per_mv
from training.engine.batches import Stepper, told_of_memory
from training.engine.data import as_targets, unit_of
from training.engine.device import computes_in_half, held, resolve_device
from training.engine.member import networks_of
from training.engine.memory import kept_memory
from training.engine.network import Form, freeze_for, out_of_target_units, rate_factors, train_mode
from training.engine.optim import build_optimiser, set_rate
from training.engine.seeding import derive, deterministic, kept_random_state, seed_everything
from training.engine.settings import Augmentation, FitSettings
from training.engine.source import Feed, SignalSource, epoch_order, largest_batch
from training.engine.team import Exchange
from training.problems.base import LossOptions, Problem

if TYPE_CHECKING:
    from training.problems.base import Loss

LOWEST, HIGHEST = 1e-5, 1.0
STEPS = 60
INERTIA = 0.9
"""Share of the average so far in the smoothed loss."""
_NEIGHBOURS = 3
DIVERGED = 4.0
"""The sweep ends when the smoothed loss is this many times its lowest."""


@dataclass(frozen=True)
class LrFinderResult:
    """The sweep and what follows from it.

    losses: of the batch at each of ``rates``; smoothed: their exponential average. valley, steepest: suggestions, None where the curve gives none.
    suggestion: the valley, else the steepest, else a default; ``rule`` says which. notes: sentences for the user. piece: how
    many records of a batch fit into memory at once.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    valley: float | None
    steepest: float | None
    suggestion: float
    rule: str
    notes: tuple[str, ...] = ()
    piece: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "rates": list(self.rates), "losses": list(self.losses), "smoothed": list(self.smoothed), "valley": self.valley, "steepest": self.steepest,
            "suggestion": self.suggestion, "rule": self.rule, "notes": list(self.notes),
        }  # fmt: skip


def valley(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the rate two thirds down the longest fall of the curve; None when it never falls.

    The longest fall is the longest strictly decreasing subsequence, so single bumps do not end it.
    """
    n = len(losses)
    length, before = [1] * n, [-1] * n
    for i in range(n):
        for j in range(i):
            if losses[j] > losses[i] and length[j] + 1 > length[i]:
                length[i], before[i] = length[j] + 1, j
    if n == 0 or max(length) < 3:
        return None
    path, at = [], int(np.argmax(length))
    while at >= 0:
        path.append(at)
        at = before[at]
    path.reverse()
    return float(rates[path[(len(path) - 1) * 2 // 3]])


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the exponential average of a curve, corrected for its start from zero (as Adam's, arXiv 1412.6980)."""
    average, found = 0.0, []
    for number, value in enumerate(losses, start=1):
        average = INERTIA * average + (1 - INERTIA) * value
        found.append(average / (1 - INERTIA**number))
    return found


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the rate where a smoothed loss falls fastest per decade; None when it never falls.

    The slope at a rate is that of the line through it and its neighbours. The first part of the curve is left out, where
    the average is of few batches and their chance looks like a fall, and the last, where the loss diverges.
    """
    n = len(losses)
    reach = min(_NEIGHBOURS, (n - 1) // 2)
    if reach < 1:
        return None
    x, y = np.log10(np.asarray(rates, float)), np.asarray(losses, float)
    among = range(max(reach, n // 6), min(n - reach, n - n // 12))
    near = [slice(i - reach, i + reach + 1) for i in among]
    slopes = [float(np.polyfit(x[part], y[part], 1)[0]) for part in near]
    at = int(np.argmin(slopes))
    return float(rates[among[at]]) if slopes[at] < 0 else None


def suggest(rates: Sequence[float], losses: Sequence[float], fallback: float = 1e-3) -> LrFinderResult:
    """Return the result with its suggestion for a curve of single batches' losses."""
    smoothed = smooth(losses)
    # What rounding leaves of a level curve is no fall.
    level = not smoothed or max(smoothed) - min(smoothed) <= 1e-9 * max(map(abs, smoothed))
    v, s = (None, None) if level else (valley(rates, smoothed), steepest(rates, smoothed))
    suggestion, rule = (
        (v, "valley") if v is not None else (s, "steepest fall") if s is not None else (fallback, "default")
    )
    return LrFinderResult(tuple(rates), tuple(losses), tuple(smoothed), v, s, float(suggestion or fallback), rule)


def sweep(
    net: nn.Module, feed: Feed, targets: np.ndarray, usable: np.ndarray, loss: Loss, settings: FitSettings, stage: str, *,
    fs_hz: float, augmentation: Augmentation, autocast: bool = False, before_batch: Callable[[], None] | None = None, steps: int = STEPS,
    exchange: Exchange | None = None,
) -> LrFinderResult:  # fmt: skip
    """Raise the rate from 1e-5 to 1 over ``steps`` batches and put everything back.

    targets: float32 ``(records, outputs)`` as the loss takes them; usable: the record numbers to draw from. augmentation:
    amplitudes in the signals' unit. exchange: that of a network which several processes train; each of them computes the whole sweep.
    """
    kept = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
    gradients = [(p, p.requires_grad, p.grad) for p in net.parameters()]
    modes = [(m, m.training) for m in net.modules()]
    rates, losses = [], []
    notes: list[str] = []
    with kept_random_state():
        try:
            seed_everything(derive(settings.seed, "finder"))
            active = freeze_for(net, stage)
            train_mode(net, active)
            optimiser = build_optimiser(net, settings, 1.0, rate_factors(net, stage, settings.trunk_rate_factor))
            stepper = Stepper(
                net,
                loss,
                autocast=autocast,
                piece=largest_batch(settings.batch_for(len(usable))),
                note=notes.append,
                exchange=exchange,
            )
            orders = _orders(usable, settings, steps)
            average, lowest = 0.0, math.inf
            for number, (rows, x) in enumerate(zip(orders, feed.batches(orders), strict=True)):
                if before_batch is not None:
                    before_batch()
                rate = LOWEST * (HIGHEST / LOWEST) ** (number / max(1, steps - 1))
                set_rate(optimiser, rate)
                generator = torch.Generator(device=x.device).manual_seed(derive(settings.seed, "finder", number))
                x = augment(x, augmentation, fs_hz, generator)
                truth = torch.from_numpy(targets[rows]).to(x.device)
                value = float(stepper.gradients(x, truth, beside=feed.beside(rows)))
                if not math.isfinite(value):
                    break
                average = INERTIA * average + (1 - INERTIA) * value
                level = average / (1 - INERTIA ** (number + 1))
                rates.append(rate)
                losses.append(value)
                lowest = min(lowest, level)
                if number >= 10 and level > DIVERGED * lowest:
                    break
                if settings.clip_norm is not None:
                    torch.nn.utils.clip_grad_norm_(
                        [p for g in optimiser.param_groups for p in g["params"]], settings.clip_norm
                    )
                optim.step(optimiser, notes.append)
        finally:
            with torch.no_grad():
                for name, tensor in net.state_dict().items():
                    tensor.copy_(kept[name])
            for p, wanted, gradient in gradients:
                p.requires_grad_(wanted)
                p.grad = gradient
            for module, mode in modes:
                module.training = mode
    if not rates:
        raise TrainingFailed(
            "The loss is not a finite number on the very first batch, so no learning rate can be found. "
            "Look for damaged records in the training part.",
            code="loss_not_finite",
        )
    return replace(suggest(rates, losses), notes=tuple(dict.fromkeys(notes)), piece=stepper.piece)


def find_learning_rate(
    module: nn.Module, train: SignalSource, train_targets: np.ndarray, problem: Problem, settings: FitSettings, *,
    fs_hz: float, names: Sequence[str] | None = None, in_units: bool = False, unit: str = "mV", device: str = "auto",
    before_batch: Callable[[], None] | None = None, waiting: Callable[[bool], None] = lambda first: None, steps: int = STEPS,
) -> LrFinderResult:  # fmt: skip
    """Find a learning rate for a network and training part, as :func:`fit` does when no rate is given.

    ``module`` is not touched. ``train_targets`` as the problem encodes them. in_units, unit, device: as for
    :func:`fit`. waiting: as for ``held``, while another run has the accelerator. Raises TrainingFailed when these cannot be
    learned from.
    """
    if not (math.isfinite(fs_hz) and fs_hz > 0):
        raise InvalidInput(f"The sampling rate must be a positive number of hertz, not {fs_hz}.")
    place = resolve_device(device)
    targets = as_targets(train_targets, len(train), "training")
    problem.check_trainable(targets, [str(k) for k in range(targets.shape[1])] if names is None else names)
    usable = np.flatnonzero(np.isfinite(targets).any(axis=1))
    centre, spread = unit_of(targets[usable], problem)
    targets = ((targets - centre) / spread).astype(np.float32)
    # Of networks that answer together the first, as in a training.
    module = networks_of(module)[0][1]
    with (
        held(place, waiting), kept_random_state(), deterministic(settings.threads, place), kept_memory(), told_of_memory()
    ):  # fmt: skip
        feed = Feed(train, place, module)
        first = next(iter(feed.batches([usable[:1]])))
        form = Form(module, place, (first.shape[1], first.shape[2]))
        if in_units and problem.standardise:
            form.load_1d(out_of_target_units(form.state_1d(), form, centre, spread))
        loss = problem.loss(
            targets[usable], LossOptions(settings.class_weights, settings.focal_gamma, settings.label_smoothing)
        )
        stage = "head" if settings.mode in ("head", "head_then_full") else settings.mode
        return sweep(
            form.net, feed, targets, usable, loss, settings, stage, fs_hz=fs_hz,
            augmentation=in_unit(settings.augmentation, units_per_mv(unit, feed, usable)),
            autocast=computes_in_half(place, settings.mixed_precision), before_batch=before_batch, steps=steps,
        )  # fmt: skip


def _orders(usable: np.ndarray, settings: FitSettings, steps: int) -> list[np.ndarray]:
    orders: list[np.ndarray] = []
    while len(orders) < steps:
        # Negative numbers keep the finder's shuffles apart from those of the epochs.
        orders += epoch_order(usable, settings.batch_for(len(usable)), settings.seed, -1 - len(orders))
    return orders[:steps]
