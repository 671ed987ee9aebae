"""Learning from signals without labels: contrastive predictive coding over windows (van den Oord et al. 2018, arXiv 1807.03748).

A record is cut into windows. The network's trunk turns each into features; a small recurrent layer reads the windows so
far and predicts the features of the next ones, which must be told from those of other records' windows at the same
place (InfoNCE). Windows of the same record are no counter-examples, because a heart repeats itself (compare CLOCS,
Kiyasseh et al. 2021, arXiv 2005.13249). What is learned is a trunk to fine-tune; predicting layers are thrown away.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecgportal.errors import InvalidInput, JobCancelled, TrainingFailed
from training.engine.augment import augment
from training.engine.batches import not_finite
from training.engine.callbacks import Callback, Callbacks, Progress
from training.engine.checkpoint import CheckpointStore
from training.engine.device import resolve_device
from training.engine.memory import kept_memory
from training.engine.network import Form, State, head_layers, weights_hash
from training.engine.optim import build_optimiser, load_optimiser, optimiser_tensors, set_rate
from training.engine.schedule import SCHEDULES
from training.engine.seeding import derive, deterministic, kept_random_state, seed_everything
from training.engine.settings import FitSettings
from training.engine.source import Feed, SignalSource, epoch_order

TEMPERATURE = 0.1
HIDDEN = 64
FEWEST_RECORDS = 8
_PARTS = ("net/", "opt/", "predictor/")


@dataclass(frozen=True, eq=False)
class PretrainResult:
    """The outcome of learning without labels.

    state: all weights and buffers under the names and shapes of the network handed in; the head is as it was.
    history: one row per epoch: ``epoch, train_loss, accuracy, chance, learning_rate, seconds``; accuracy is how often the
        right window was the likeliest, chance what guessing gives.
    stopped_reason: ``finished``, ``cancelled`` or ``interrupted``. notes: sentences for the user.
    """

    state: State
    history: list[dict[str, Any]]
    stopped_reason: str
    weights_hash: str
    resumed_epoch: int = 0
    notes: tuple[str, ...] = field(default=())


def pretrain(
    module: nn.Module,
    source: SignalSource,
    settings: FitSettings,
    *,
    fs_hz: float,
    window_s: float = 2.0,
    ahead: int = 2,
    callbacks: Sequence[Callback] = (),
    checkpoint_dir: Path | None = None,
    resume: bool = True,
    device: str = "auto",
) -> PretrainResult:
    """Train a copy of ``module``'s trunk on signals alone and return its weights.

    module: a network that takes signals of any length (``dynamic_length``) and whose head takes features of the whole signal.
    source: float32 ``(records, leads, samples)`` in mV at ``fs_hz``, labelled or not; leave out the records that a later
    evaluation will hold back. window_s: length of a window in s; a record must hold at least ``ahead + 1``. ahead: how
    many windows are predicted. Of the settings, epochs, batch size, rate (3e-3 where none is given), optimiser, schedule,
    augmentation, seed and threads are used. checkpoint_dir, resume: as for :func:`training.engine.fit.fit`.

    Raises InvalidInput or TrainingFailed with a sentence when that cannot be done, JobCancelled when stopped before the
    first epoch was finished. ``module`` and the random state are left as they were.
    """
    if not (math.isfinite(fs_hz) and fs_hz > 0 and math.isfinite(window_s) and window_s > 0 and ahead >= 1):
        raise InvalidInput("Sampling rate, window and steps ahead must be positive numbers.")
    if not getattr(module, "dynamic_length", True):
        raise InvalidInput(
            "This network takes one length only, so it cannot learn from windows. Choose another network."
        )
    if len(source) < FEWEST_RECORDS:
        raise TrainingFailed(
            f"There are {len(source)} records; learning without labels needs at least {FEWEST_RECORDS} to tell apart.",
            code="too_few_records",
        )
    with kept_random_state(), deterministic(settings.threads), kept_memory():
        run = _Pretraining(
            module, source, settings, fs_hz, window_s, ahead, Callbacks(callbacks), resolve_device(device)
        )
        try:
            return run.train(checkpoint_dir, resume)
        finally:
            run.callbacks.on_end()


class _Predictor(nn.Module):
    """Reads features of windows in their order and predicts those of the next ones."""

    def __init__(self, n_features: int, ahead: int) -> None:
        super().__init__()
        self.embed = nn.Linear(n_features, HIDDEN)
        self.context = nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.steps = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in range(ahead))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return InfoNCE loss and share of right answers for features ``(records, windows, n_features)``."""
        z = self.embed(features)
        seen, _ = self.context(z)
        truth = torch.arange(len(z), device=z.device)
        losses, right = [], []
        for ahead, step in enumerate(self.steps, start=1):
            for at in range(z.shape[1] - ahead):
                guess = F.normalize(step(seen[:, at]), dim=1)
                scores = guess @ F.normalize(z[:, at + ahead], dim=1).T / TEMPERATURE
                losses.append(F.cross_entropy(scores, truth))
                right.append((scores.argmax(1) == truth).float().mean())
        return torch.stack(losses).mean(), torch.stack(right).mean()


class _Pretraining:
    """The state of one call of :func:`pretrain`."""

    def __init__(
        self, module: nn.Module, source: SignalSource, settings: FitSettings, fs_hz: float, window_s: float, ahead: int, callbacks: Callbacks,
        device: torch.device,
    ):  # fmt: skip
        self.settings, self.fs_hz, self.callbacks, self.device = settings, fs_hz, callbacks, device
        self.feed, self.rows = Feed(source, device), np.arange(len(source))
        self.rate = settings.learning_rate or 3e-3
        module = copy.deepcopy(module).cpu()
        x = next(iter(self.feed.batches([self.rows[:2]])))
        self.window = round(window_s * fs_hz)
        self.count = x.shape[2] // self.window
        if self.count < ahead + 1:
            raise InvalidInput(
                f"Records of {x.shape[2] / fs_hz:g} s hold {self.count} windows of {window_s:g} s; predicting {ahead} ahead "
                f"needs at least {ahead + 1}. Choose shorter windows.",
                code="window_too_long",
            )
        facts = [json.dumps(settings.to_dict() | {"threads": None}, sort_keys=True), weights_hash(module.state_dict())]
        facts += [repr((fs_hz, self.window, ahead, len(source)))]
        self.fingerprint = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        self.form = Form(module, device, (x.shape[1], self.window))
        self.net = self.form.net
        with torch.no_grad(), _pooled(self.net) as pooled:
            self.net.eval()(x[:, :, : self.window])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(settings.seed, "predictor") % 2**63)
            self.predictor = _Predictor(pooled[0].shape[1], ahead).to(device)
        for layer in head_layers(self.net):
            layer.requires_grad_(False)
        self.both = nn.ModuleDict({"net": self.net, "predictor": self.predictor})
        self.optimiser = build_optimiser(self.both, settings, self.rate, {})
        self.history: list[dict[str, Any]] = []
        self.kept: State = {}
        self.resumed_epoch = 0
        self.begun = time.monotonic()

    def train(self, folder: Path | None, resume: bool) -> PretrainResult:
        store = CheckpointStore(folder) if folder is not None else None
        self._restore(store, resume)
        s, reason = self.settings, "finished"
        self.callbacks.on_start({
            "epochs": s.epochs, "batches": len(epoch_order(self.rows, s.batch_size, s.seed, 1)), "device": str(self.device),
            "learning_rate": self.rate, "resumed_epoch": self.resumed_epoch, "notes": [],
        })  # fmt: skip
        for epoch in range(len(self.history) + 1, s.epochs + 1):
            answer = self._epoch(epoch)
            if answer:
                reason = answer
                break
            self._save(store)
            self.callbacks.on_epoch_end(dict(self.history[-1]))
        if not self.history:
            raise JobCancelled("Learning was stopped before its first epoch was finished.", code=reason)
        gaps = self.feed.records_with_gaps(self.rows)
        notes = (f"{gaps} records hold missing samples, which were read as 0 mV.",) if gaps else ()
        return PretrainResult(self.kept, self.history, reason, weights_hash(self.kept), self.resumed_epoch, notes)

    def _epoch(self, epoch: int) -> str:
        """Do one epoch and return why to stop, empty to go on."""
        s, begun = self.settings, time.monotonic()
        seed_everything(derive(s.seed, "epoch", epoch))
        orders = epoch_order(self.rows, s.batch_size, s.seed, epoch)
        self.both.train()
        for layer in head_layers(self.net):
            layer.eval()
        total = right = 0.0
        for number, (rows, x) in enumerate(zip(orders, self.feed.batches(orders), strict=True)):
            answer = self.callbacks.should_stop()
            if answer:
                return answer if isinstance(answer, str) else "cancelled"
            progress = (epoch - 1 + number / len(orders)) / s.epochs
            rate = set_rate(self.optimiser, SCHEDULES[s.schedule](progress, s.warmup))
            loss, accuracy = self._step(x, epoch, number)
            if not math.isfinite(loss):
                raise not_finite(epoch, number, self.rate, 0)
            total, right = total + loss * len(rows), right + accuracy * len(rows)
            now, share = time.monotonic(), (epoch - 1 + (number + 1) / len(orders)) / s.epochs
            spent = now - self.begun
            done = share - self.resumed_epoch / s.epochs
            self.callbacks.on_batch(Progress(
                epoch, s.epochs, number + 1, len(orders), loss, rate, spent, spent / done * (1 - share), share,
            ))  # fmt: skip
        self.kept = self.form.state_1d()
        self.history.append({
            "epoch": epoch, "train_loss": total / len(self.rows), "accuracy": right / len(self.rows),
            "chance": len(orders) / len(self.rows), "learning_rate": rate, "seconds": time.monotonic() - begun,
        })  # fmt: skip
        return ""

    def _step(self, x: Tensor, epoch: int, number: int) -> tuple[float, float]:
        generator = torch.Generator(device=self.device).manual_seed(
            derive(self.settings.seed, "augment", epoch, number)
        )
        n, start = len(x), int(torch.randint(0, x.shape[2] - self.count * self.window + 1, (1,)))
        windows = x[:, :, start : start + self.count * self.window].unflatten(2, (self.count, self.window))
        # Each window is changed by itself, so that what noise and scale have in common does not give the record away.
        flat = augment(
            windows.transpose(1, 2).flatten(0, 1).contiguous(), self.settings.augmentation, self.fs_hz, generator
        )
        for p in self.both.parameters():
            p.grad = None
        with _pooled(self.net) as pooled:
            self.net(flat)
        loss, accuracy = self.predictor(pooled[0].float().unflatten(0, (n, self.count)))
        loss.backward()
        if self.settings.clip_norm is not None:
            own = [p for group in self.optimiser.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(own, self.settings.clip_norm)
        self.optimiser.step()
        return float(loss.detach()), float(accuracy)

    def _save(self, store: CheckpointStore | None) -> None:
        if store is None:
            return
        opt, plain = optimiser_tensors(self.optimiser)
        tensors = {f"net/{k}": v for k, v in self.form.state_1d().items()} | {f"opt/{k}": v for k, v in opt.items()}
        tensors |= {f"predictor/{k}": v for k, v in self.predictor.state_dict().items()}
        state = {
            "epoch": len(self.history),
            "fingerprint": self.fingerprint,
            "history": self.history,
            "optimiser": plain,
        }
        store.save(len(self.history), state, tensors, None)

    def _restore(self, store: CheckpointStore | None, resume: bool) -> None:
        if store is None:
            return
        if not resume:
            store.clear()
            return
        found = store.load()
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
        self.predictor.load_state_dict(own["predictor/"])
        load_optimiser(self.optimiser, own["opt/"], state["optimiser"])
        self.history, self.resumed_epoch, self.kept = state["history"], state["epoch"], own["net/"]


@contextmanager
def _pooled(net: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what goes into the head, averaged over time where the head does the pooling: ``(records, features)``."""
    found: list[Tensor] = []

    def collect(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0] if inputs[0].ndim < 3 else inputs[0].flatten(2).mean(2))

    handle = head_layers(net)[0].register_forward_pre_hook(collect)
    try:
        yield found
    finally:
        handle.remove()
    if len(found) != 1 or found[0].ndim != 2:
        raise InvalidInput(
            "The head of this network does not take features of the whole signal, so its trunk cannot learn without labels "
            "here. Choose another network.",
            code="network_does_not_fit",
        )
