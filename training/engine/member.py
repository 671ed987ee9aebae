"""One network in training: its fast form, running average, optimiser, and its way into a checkpoint and out of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from modelhub.architectures.companion import Accompanied
from modelhub.runtime.pieces import Pieces
from training.engine import optim
from training.engine.augment import augment, mixup
from training.engine.batches import Stepper
from training.engine.data import Part
from training.engine.device import moved
from training.engine.network import (
    Average,
    Form,
    State,
    freeze_for,
    in_target_units,
    out_of_target_units,
    rate_factors,
    train_mode,
)
from training.engine.optim import build_optimiser, load_optimiser, optimiser_tensors, set_rate
from training.engine.predict import outputs_of
from training.engine.schedule import SCHEDULES
from training.engine.seeding import derive
from training.engine.settings import Augmentation, FitSettings
from training.engine.source import Feed, epoch_order, largest_batch
from training.engine.team import Exchange, Team, with_team_layers

if TYPE_CHECKING:
    from training.problems.base import Loss


#: Records of which a network's answers are computed at once at least.
_AT_ONCE, _AT_ONCE_ON_ACCELERATOR = 32, 1024


def networks_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return what is trained apart, each with the prefix of its weights' names: an ensemble's members, or the network. A linear
    companion is none of them."""
    if isinstance(module, Accompanied):
        return [(f"network.{prefix}", network) for prefix, network in networks_of(module.network)]
    members = getattr(module, "members", None)
    if isinstance(members, nn.ModuleList):
        return [(f"members.{number}.", member) for number, member in enumerate(members)]
    return [("", module)]


class Member:
    """A network of a run. Number 0 takes the run's seed; the others take seeds derived from it.

    part: what it learns from and is judged on. targets: float32 ``(records, outputs)`` as the loss takes them. augmentation:
    amplitudes in the signals' unit.
    """

    def __init__(
        self, number: int, prefix: str, module: nn.Module, part: Part, targets: np.ndarray, loss: Loss, settings: FitSettings, feed: Feed,
        shape: tuple[int, int], fs_hz: float, augmentation: Augmentation, team: Team, autocast: bool, note: Callable[[str], None],
    ):  # fmt: skip
        self.number, self.prefix, self.part, self.targets = number, prefix, part, targets
        self.settings, self.feed, self.fs_hz, self.team, self.autocast = settings, feed, fs_hz, team, autocast
        self.augmentation, self.batch_size = augmentation, settings.batch_for(len(part.train))
        self.seed = settings.seed if number == 0 else derive(settings.seed, "member", number)
        self.form = Form(module, feed.device, shape)
        self.exchange = Exchange(None if team.alone else team)
        self.net = self.form.net if team.alone else with_team_layers(self.form.net, self.exchange)
        self.average = Average(self.net, settings.ema_decay) if settings.ema_decay > 0 else None
        self.stepper = Stepper(
            self.net,
            loss,
            autocast=autocast,
            piece=largest_batch(self.batch_size),
            note=note,
            exchange=self.exchange,
        )
        self.judged_at_once = max(_AT_ONCE_ON_ACCELERATOR if feed.device.type == "cuda" else _AT_ONCE, self.batch_size)
        self.note, self.pieces = note, Pieces(self.judged_at_once, note)
        self.optimiser: torch.optim.Optimizer | None = None
        self.active: list[nn.Module] | None = None

    @property
    def judged_net(self) -> nn.Module:
        """The network whose weights are kept: the running average, where there is one."""
        return self.average.net if self.average is not None else self.net

    @property
    def networks(self) -> list[nn.Module]:
        """The network that learns and, where it is another one, the network that is judged."""
        return [self.net] if self.average is None else [self.net, self.average.net]

    def enter(self, stage: str, rate: float) -> None:
        """Freeze what the stage freezes and build its optimiser."""
        self.stepper.recorder.forget()
        self.active = freeze_for(self.net, stage)
        factors = rate_factors(self.net, stage, self.settings.trunk_rate_factor)
        self.optimiser = build_optimiser(self.net, self.settings, rate, factors)

    def orders(self, epoch: int) -> list[np.ndarray]:
        """Return the record numbers of each batch of an epoch."""
        return epoch_order(self.part.train, self.batch_size, self.seed, epoch)

    def begin(self) -> None:
        train_mode(self.net, self.active)

    def set_rate(self, progress: float) -> float:
        assert self.optimiser is not None
        return set_rate(self.optimiser, SCHEDULES[self.settings.schedule](progress, self.settings.warmup))

    def step(self, epoch: int, number: int, rows: np.ndarray, x: Tensor) -> Tensor:
        """Do one step and return the batch's mean loss; a loss or gradient that is not finite makes it NaN."""
        s, optimiser, device = self.settings, self.optimiser, self.feed.device
        assert optimiser is not None
        targets = moved(self.targets[rows], device)
        generator = torch.Generator(device=device).manual_seed(derive(self.seed, "augment", epoch, number))
        x, beside = augment(x, self.augmentation, self.fs_hz, generator), self.feed.beside(rows)
        if s.augmentation.mixup > 0:
            x, targets, beside = mixup(x, targets, s.augmentation.mixup, generator, beside)
        self.team.check_batch(len(x))
        own, whole = self.team.own_rows(len(x)), None if self.team.alone else targets
        value = self.team.sum(self.stepper.gradients(x[own], targets[own], whole, tuple(each[own] for each in beside)))
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        self.team.sum_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, s.clip_norm if s.clip_norm is not None else math.inf)
        if device.type == "cpu" and not (math.isfinite(float(value)) and math.isfinite(float(norm))):
            return value * math.nan
        optim.step(optimiser, self.note)
        if self.average is not None:
            self.average.update()
        return value + norm * 0

    def compile(self) -> str:
        """Have the network compiled for its batches; return why that could not be done, "" when it was."""
        piece = self.stepper.piece
        by_size = {len(part): part for rows in self.orders(1) for part in np.array_split(rows, -(-len(rows) // piece))}
        signals = self.feed.batches(list(by_size.values()))
        return self.stepper.compile(*(
            (x, moved(self.targets[rows], self.feed.device), self.feed.beside(rows))
            for rows, x in zip(by_size.values(), signals, strict=True)
        ))  # fmt: skip

    def outputs(self, rows: np.ndarray, before_batch: Callable[[], None]) -> np.ndarray:
        """Return raw outputs ``(len(rows), outputs)`` of the weights that would be kept, each process doing its share."""
        own = np.arange(len(rows))[self.team.own_rows(len(rows))]
        found = outputs_of(
            self.judged_net, self.feed, batch_size=self.judged_at_once, rows=rows[own], autocast=self.autocast, before_batch=before_batch,
            pieces=self.pieces,
        ) if len(own) else np.zeros((0, self.targets.shape[1]), np.float32)  # fmt: skip
        return self.team.gathered(own, found, len(rows), self.feed.device)

    def kept_state(self) -> State:
        """Return the weights that would be kept, by the whole module's names, on the processor."""
        return {self.prefix + name: tensor for name, tensor in self.form.state_1d(self.judged_net).items()}

    def leave_target_units(self, centre: np.ndarray, spread: np.ndarray) -> None:
        """Have a network that answers in the targets' unit answer as the loss takes them."""
        own = out_of_target_units(self.form.state_1d(), self.form, centre, spread)
        for net in self.networks:
            self.form.load_1d(own, net)

    def in_target_units(self, state: State, centre: np.ndarray, spread: np.ndarray) -> State:
        """Return the member's part of ``state`` with the targets' mean and deviation folded into its head."""
        own = {n.removeprefix(self.prefix): t for n, t in state.items() if n.startswith(self.prefix)}
        return {self.prefix + name: t for name, t in in_target_units(own, self.form, centre, spread).items()}

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all tensors and plain values that a checkpoint needs."""
        assert self.optimiser is not None
        found = {f"net/{k}": v for k, v in self.form.state_1d().items()}
        if self.average is not None:
            found |= {f"ema/{k}": v for k, v in self.form.state_1d(self.average.net).items()}
        opt, plain = optimiser_tensors(self.optimiser)
        found |= {f"opt/{k}": v for k, v in opt.items()}
        state = {
            "optimiser": plain, "piece": self.stepper.piece, "ema_steps": self.average.steps if self.average else 0,
        }  # fmt: skip
        return {f"{self.number}/{name}": tensor for name, tensor in found.items()}, state

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], stage: str, rate: float) -> None:
        """Put back what :meth:`tensors` gave."""
        begin = f"{self.number}/"
        own = {name.removeprefix(begin): tensor for name, tensor in tensors.items() if name.startswith(begin)}
        self.stepper.piece = state["piece"]
        self.form.load_1d({k[4:]: v for k, v in own.items() if k.startswith("net/")})
        if self.average is not None:
            self.form.load_1d({k[4:]: v for k, v in own.items() if k.startswith("ema/")}, self.average.net)
            self.average.steps = state["ema_steps"]
        self.enter(stage, rate)
        assert self.optimiser is not None
        load_optimiser(self.optimiser, {k[4:]: v for k, v in own.items() if k.startswith("opt/")}, state["optimiser"])
