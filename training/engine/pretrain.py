"""Learning from signals without labels: what is learned is a trunk to fine-tune.

How it is learned is an :class:`~training.engine.unlabelled.base.Objective`, whose own layers are thrown away: contrastive
predictive coding (``unlabelled.contrastive``) or masked reconstruction (``unlabelled.masked``).
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ecgportal.errors import InvalidInput, JobCancelled, TrainingFailed
from modelhub.runtime.pieces import free_cached_memory, is_out_of_memory
from training.engine import optim
from training.engine.augment import in_unit, units_per_mv
from training.engine.batches import (
    NOT_FINITE,
    NotFinite,
    Stopped,
    Undo,
    first_forward,
    interruptible,
    not_finite,
    told_of_memory,
)
from training.engine.callbacks import Callback, Callbacks, Progress
from training.engine.checkpoint import CheckpointStore
from training.engine.device import held, resolve_device
from training.engine.memory import kept_memory
from training.engine.network import Form, State, head_layers, weights_hash
from training.engine.optim import build_optimiser, load_optimiser, optimiser_tensors, set_rate
from training.engine.schedule import SCHEDULES
from training.engine.seeding import derive, deterministic, kept_random_state, one_thread, seed_everything
from training.engine.settings import FitSettings
from training.engine.source import Feed, Joined, SignalSource, epoch_order
from training.engine.stopping import StopRequests
from training.engine.team import Exchange, Share, Team, with_team_layers
from training.engine.unlabelled.base import Batch
from training.engine.unlabelled.objectives import objective_for
from training.engine.unlabelled.settings import FEWEST_TOGETHER, Contrastive, Method, to_json

FEWEST_RECORDS = 8
CONTRASTIVE = Contrastive()
_PARTS = ("net/", "opt/", "predictor/")


@dataclass(frozen=True, eq=False)
class PretrainResult:
    """The outcome of learning without labels.

    state: all weights and buffers under the names and shapes of the network handed in; the head is as it was.
    history: one row per epoch: ``epoch, train_loss, learning_rate, seconds``, ``val_loss`` where records were held back,
        and of contrastive learning ``accuracy`` (how often the right window was the likeliest) and ``chance`` (what
        guessing gives), of masked ``explained`` (the share of hidden signal that is told; predicting the mean gives 0).
    stopped_reason: ``finished``, ``cancelled``, ``interrupted`` or ``loss_not_finite``. notes: sentences for the user. processes: how many learned
        together. device: what they computed on. units_per_mv: how much of the signals' unit stood for 1 mV in random changes.
    """

    state: State
    history: list[dict[str, Any]]
    stopped_reason: str
    weights_hash: str
    resumed_epoch: int = 0
    notes: tuple[str, ...] = field(default=())
    processes: int = 1
    device: str = "cpu"
    units_per_mv: float = 1.0


def pretrain(
    module: nn.Module,
    source: SignalSource,
    settings: FitSettings,
    *,
    fs_hz: float,
    how: Method = CONTRASTIVE,
    held_back: SignalSource | None = None,
    unit: str = "mV",
    callbacks: Sequence[Callback] = (),
    checkpoint_dir: Path | None = None,
    resume: bool = True,
    device: str = "auto",
) -> PretrainResult:
    """Train a copy of ``module``'s trunk on signals alone and return its weights.

    module: of contrastive learning a network that takes signals of any length (``dynamic_length``), of masked one that
    pools features over time before its head; its weights are where learning starts.
    source: float32 ``(records, leads, samples)`` at ``fs_hz``, labelled or not; leave out the records that a later
    evaluation will hold back. unit: of them, as for :func:`training.engine.fit.fit`. held_back: records to tell the loss on after each epoch; nothing is learned from or chosen by
    them. Of the settings, epochs, batch size, rate (3e-3 where none is given), optimiser, schedule,
    augmentation, seed and threads are used. checkpoint_dir, resume: as for :func:`training.engine.fit.fit`. Under a launcher of
    several processes see :mod:`training.engine.team`.

    Raises InvalidInput or TrainingFailed with a sentence when that cannot be done, JobCancelled when stopped before the
    first epoch was finished. ``module`` and the random state are left as they were.
    """
    if not (math.isfinite(fs_hz) and fs_hz > 0):
        raise InvalidInput(f"The sampling rate must be a positive number of hertz, not {fs_hz}.")
    if isinstance(how, Contrastive) and not getattr(module, "dynamic_length", True):
        raise InvalidInput(
            "This network takes one length only, so it cannot learn from windows. Choose another network, or masked "
            "reconstruction."
        )
    if isinstance(how, Contrastive) and (size := settings.batch_for(len(source))) < FEWEST_TOGETHER:
        raise InvalidInput(
            f"In a batch of {size} there are no other records to tell a window from. Choose a batch size of at "
            f"least {FEWEST_TOGETHER}, or masked reconstruction.",
            fields={"batch_size": f"At least {FEWEST_TOGETHER}."},
        )
    if len(source) < FEWEST_RECORDS:
        raise TrainingFailed(
            f"There are {len(source)} records; learning without labels needs at least {FEWEST_RECORDS}.",
            code="too_few_records",
        )
    told, place = Callbacks(callbacks), resolve_device(device)
    waits_for = torch.device("cpu") if Team().comes_second else place
    with (
        held(waits_for, told.wait_for_accelerator), kept_random_state(), deterministic(settings.threads, place), kept_memory(), told_of_memory()
    ):  # fmt: skip
        with one_thread():
            run = _Pretraining(module, source, held_back, settings, fs_hz, how, told, place, unit)
        try:
            return run.train(checkpoint_dir, resume)
        finally:
            run.callbacks.on_end()


class _Pretraining:
    """The state of one call of :func:`pretrain`."""

    def __init__(
        self, module: nn.Module, source: SignalSource, held_back: SignalSource | None, settings: FitSettings, fs_hz: float, how: Method,
        callbacks: Callbacks, device: torch.device, unit: str,
    ):  # fmt: skip
        self.settings, self.fs_hz, self.device, self.team = settings, fs_hz, device, Team()
        self.callbacks = callbacks if self.team.leads else Callbacks(())
        self.stops = StopRequests(self.callbacks, self.team, device)
        self.exchange = Exchange(None if self.team.alone else self.team)
        self.rows, self.others = np.arange(len(source)), np.arange(len(source), len(source) + len(held_back or ()))
        self.feed = Feed(source if held_back is None else Joined((source, held_back)), device)
        self.units_per_mv = units_per_mv(unit, self.feed, self.rows)
        self.augmentation = in_unit(settings.augmentation, self.units_per_mv)
        self.rate, self.batch_size = settings.learning_rate or 3e-3, settings.batch_for(len(source))
        self.piece = self.batch_size
        module = copy.deepcopy(module).cpu()
        x = next(iter(self.feed.batches([self.rows[:2]])))
        first_forward(module, x.cpu())
        facts = [json.dumps(settings.to_dict() | {"threads": None}, sort_keys=True), weights_hash(module.state_dict())]
        facts += [repr((fs_hz, len(source), len(self.others))), json.dumps(to_json(how), sort_keys=True)]
        self.fingerprint = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        shape = (x.shape[1], round(how.window_s * fs_hz) if isinstance(how, Contrastive) else x.shape[2])
        self.form = Form(module, device, (shape[0], min(shape[1], x.shape[2])))
        self.net = self.form.net if self.team.alone else with_team_layers(self.form.net, self.exchange)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(settings.seed, "predictor") % 2**63)
            self.objective = objective_for(how, self.net, x, fs_hz).to(device)
        for layer in head_layers(self.net):
            layer.requires_grad_(False)
        self.both = nn.ModuleDict({"net": self.net, "predictor": self.objective})
        self.optimiser = build_optimiser(self.both, settings, self.rate, {})
        self.undo = Undo(self.both)
        self.history: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.kept: State = {}
        self.resumed_epoch = 0
        self.begun = time.monotonic()

    def train(self, folder: Path | None, resume: bool) -> PretrainResult:
        """Learn epoch by epoch, on from a checkpoint in ``folder`` where there is one; a stop ends that with what was learned."""
        store = CheckpointStore(folder) if folder is not None else None
        self._restore(store, resume)
        s, reason = self.settings, "finished"
        self.callbacks.on_start({
            "epochs": s.epochs, "batches": len(epoch_order(self.rows, self.batch_size, s.seed, 1)), "device": str(self.device),
            "learning_rate": self.rate, "resumed_epoch": self.resumed_epoch, "notes": [], "processes": self.team.size,
            "history": list(self.history),
        })  # fmt: skip
        try:
            with ExitStack() as hooks:
                # Processes of a team ask together, between batches.
                asks = self.device.type == "cpu" and self.team.alone
                hooks.enter_context(interruptible(self.net, self.stops.check_now_and_then, on=asks))
                for epoch in range(len(self.history) + 1, s.epochs + 1):
                    self._epoch(epoch)
                    self._save(store)
                    self.callbacks.on_epoch_end(dict(self.history[-1]))
        except Stopped as stop:
            reason = stop.reason
        except NotFinite as error:
            # The last step of an epoch may have spoilt the weights.
            if not all(torch.isfinite(tensor).all() for tensor in self.kept.values()) or not self.history:
                raise
            reason = NOT_FINITE
            self._note(f"{error.message} The trunk is that of epoch {len(self.history)}, the last whole one.")
        if not self.history:
            raise JobCancelled("Learning was stopped before its first epoch was finished.", code=reason)
        self.notes += self.feed.gaps(self.rows)
        return PretrainResult(
            self.kept,
            self.history,
            reason,
            weights_hash(self.kept),
            self.resumed_epoch,
            tuple(self.notes),
            self.team.size,
            str(self.device),
            self.units_per_mv,
        )

    def _epoch(self, epoch: int) -> None:
        s, begun = self.settings, time.monotonic()
        seed_everything(derive(s.seed, "epoch", epoch))
        orders = epoch_order(self.rows, self.batch_size, s.seed, epoch)
        self.both.train()
        for layer in head_layers(self.net):
            layer.eval()
        total = right = 0.0
        for number, (rows, x) in enumerate(zip(orders, self.feed.batches(orders), strict=True)):
            self.stops.check()
            progress = (epoch - 1 + number / len(orders)) / s.epochs
            rate = set_rate(self.optimiser, SCHEDULES[s.schedule](progress, s.warmup))
            loss, score = self._batch(x, epoch, number)
            total, right = total + loss * len(rows), right + score * len(rows)
            now, share = time.monotonic(), (epoch - 1 + (number + 1) / len(orders)) / s.epochs
            spent = now - self.begun
            done = share - self.resumed_epoch / s.epochs
            self.callbacks.on_batch(Progress(
                epoch, s.epochs, number + 1, len(orders), loss, rate, spent, spent / done * (1 - share), share,
            ))  # fmt: skip
        self.feed.check_not_empty(self.rows)
        row = {
            "epoch": epoch, "train_loss": total / len(self.rows), self.objective.score: max(0.0, right / len(self.rows)),
            **self.objective.guessing(len(orders), len(self.rows)), "learning_rate": rate,
        }  # fmt: skip
        if len(self.others):
            row["val_loss"] = self._judge()
        self.kept = self.form.state_1d()
        self.history.append(row | {"seconds": time.monotonic() - begun})

    def _batch(self, x: Tensor, epoch: int, number: int) -> tuple[float, float]:
        """Learn from a batch and return its mean loss and score; in several steps where memory has run out."""
        self.team.check_batch(len(x))
        begin, part, loss, score = 0, 0, 0.0, 0.0
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        while begin < len(x):
            rest = x[begin:]
            own = rest.tensor_split(-(-len(rest) // self.piece))[0]
            seed = derive(self.settings.seed, "augment", epoch, number, *((part,) if part else ()))
            done = self._gradients(own, seed)
            if done is None:
                self._halve(len(own))
                continue
            self.team.sum_gradients(parameters)
            if self.settings.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)
            optim.step(self.optimiser, self._note)
            loss, score = loss + len(own) * done[0] / len(x), score + len(own) * done[1] / len(x)
            begin, part = begin + len(own), part + 1
        if not math.isfinite(loss):
            raise not_finite(epoch, number, self.rate)
        return loss, score

    def _gradients(self, x: Tensor, seed: int) -> tuple[float, float] | None:
        """Leave this process's part of the gradients in the parameters and return loss and score of all records; None, with
        nothing changed, when the memory of some process ran out."""
        self.undo.keep()
        self.exchange.begin(len(x))
        done = self._tried(x, seed, Share(len(x), self.team.own_rows(len(x)), self.exchange))
        if done is None and not self.team.alone:
            # The others are in the middle of exchanges that need this process.
            self._clear()
            self.exchange.catch_up()
            self._attempt(x[:1], seed, Share(len(x), slice(0, 1), self.exchange))
        if not self.team.any_of(done is None, self.device):
            assert done is not None
            loss, score = self.team.sum(done).tolist()
            return loss, score
        self.undo.restore()
        return None

    def _tried(self, x: Tensor, seed: int, share: Share) -> Tensor | None:
        """Return what :meth:`_attempt` does, None when memory ran out."""
        try:
            return self._attempt(x, seed, share)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _attempt(self, x: Tensor, seed: int, share: Share) -> Tensor:
        """Compute with this process's share of a batch; return its part of the batch's mean loss and score."""
        for p in self.both.parameters():
            p.grad = None
        generator = torch.Generator(device=self.device).manual_seed(seed)
        views = self.objective.views(Batch(x, self.fs_hz, generator, self.augmentation))
        own = tuple(view[share.rows] for view in views)
        loss, score = self.objective(self.net, own, share)
        part = len(own[0]) / share.n
        (loss * part).backward()
        return torch.stack([loss.detach(), score]) * part

    def _clear(self) -> None:
        for p in self.both.parameters():
            p.grad = None
        free_cached_memory()

    def _halve(self, size: int) -> None:
        if size < 4 * self.team.size:
            raise TrainingFailed(
                "Even a few records at once do not fit into memory. Choose a smaller network or shorter signals, or learn when less is "
                "running.",
                code="out_of_memory",
            )
        self._clear()
        self.piece = -(-size // 2)
        self._note(f"Memory ran out; the network now learns from batches of {self.piece} records.")

    def _note(self, sentence: str) -> None:
        self.notes.append(sentence)
        self.callbacks.on_note(sentence)

    def _judge(self) -> float:
        """Return the mean loss on the records that are held back, each epoch with the same of them hidden."""
        self.both.eval()
        while True:
            size = min(self.batch_size, self.piece)
            total = self._judged(size)
            if not self.team.any_of(total is None, self.device):
                return float(self.team.sum(torch.tensor([total], device=self.device))) / len(self.others)
            # What is hidden, and among which records one is told from, goes by the batch: begin anew.
            self._halve(max(min(size, len(self.others)), 1))

    def _judged(self, size: int) -> float | None:
        """Return the sum of the losses of the batches that are this process's; None when memory ran out."""
        orders = [np.asarray(part) for part in np.array_split(self.others, -(-len(self.others) // size))]
        # Whole batches are dealt out, so that nothing is exchanged within one.
        own = range(self.team.rank, len(orders), self.team.size)
        total, fits = 0.0, True
        batches = iter(self.feed.batches([orders[number] for number in own]))
        with torch.no_grad():
            for first in range(0, len(orders), self.team.size):
                self.stops.check()
                number = first + self.team.rank
                if number not in own or not fits:
                    continue
                try:
                    x = next(batches)
                    generator = torch.Generator(device=self.device).manual_seed(
                        derive(self.settings.seed, "judge", number)
                    )
                    views = self.objective.views(Batch(x, self.fs_hz, generator, None))
                    loss, _ = self.objective(self.net, views, Share(len(x), slice(0, len(x)), Exchange()))
                    total += float(loss) * len(x)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    fits = False
        return total if fits else None

    def _save(self, store: CheckpointStore | None) -> None:
        if store is None or not self.team.leads:
            return
        opt, plain = optimiser_tensors(self.optimiser)
        tensors = {f"net/{k}": v for k, v in self.form.state_1d().items()} | {f"opt/{k}": v for k, v in opt.items()}
        tensors |= {f"predictor/{k}": v for k, v in self.objective.state_dict().items()}
        state = {
            "epoch": len(self.history),
            "fingerprint": self.fingerprint,
            "history": self.history,
            "optimiser": plain,
            "piece": self.piece,
            "notes": self.notes,
        }
        store.save(len(self.history), state, tensors, None)

    def _restore(self, store: CheckpointStore | None, resume: bool) -> None:
        if store is None:
            return
        if not resume and self.team.leads:
            store.clear()
        self.team.wait()
        found = store.load()
        self.team.check_checkpoint(found[0]["epoch"] if found is not None else 0, self.device)
        if found is None:
            return
        state, tensors, _ = found
        if state["fingerprint"] != self.fingerprint:
            raise TrainingFailed(
                "The checkpoint belongs to a run with other settings, data or weights. Start a new run.",
                code="checkpoint_mismatch",
            )
        own = {begin: {k.removeprefix(begin): v for k, v in tensors.items() if k.startswith(begin)} for begin in _PARTS}
        self.form.load_1d(own["net/"])
        self.objective.load_state_dict(own["predictor/"])
        load_optimiser(self.optimiser, own["opt/"], state["optimiser"])
        self.piece, self.notes = state["piece"], list(state["notes"])
        self.history, self.resumed_epoch, self.kept = state["history"], state["epoch"], own["net/"]
