"""Training: one function over tensors and callbacks that knows no database, web or user."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ecgportal.errors import InvalidInput, JobCancelled, TrainingFailed
from training.engine.augment import augment, mixup
from training.engine.batches import Stepper, Stopped, first_forward, interruptible, not_finite
from training.engine.callbacks import Callback, Callbacks, Progress
from training.engine.checkpoint import CheckpointStore, fingerprint
from training.engine.data import Data, check_data
from training.engine.device import resolve_device
from training.engine.lr_finder import sweep
from training.engine.monitor import Monitor, choose_monitor, validation_metrics
from training.engine.network import (
    Average,
    Form,
    check_target_units,
    freeze_for,
    in_target_units,
    rate_factors,
    train_mode,
    weights_hash,
)
from training.engine.optim import build_optimiser, load_optimiser, optimiser_tensors, set_rate
from training.engine.predict import outputs_of
from training.engine.result import FitResult
from training.engine.schedule import SCHEDULES
from training.engine.seeding import derive, deterministic, kept_random_state, seed_everything
from training.engine.settings import FitSettings
from training.engine.source import Feed, SignalSource, epoch_order
from training.engine.stages import plan
from training.problems.base import LossOptions, Problem


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
    callbacks: Sequence[Callback] = (),
    checkpoint_dir: Path | None = None,
    resume: bool = True,
    device: str = "auto",
) -> FitResult:
    """Train a copy of ``module`` and return its best weights.

    train, validation: sources of float32 ``(records, leads, samples)`` in mV at ``fs_hz``; no subject on both sides.
    train_targets, val_targets: ``(records, outputs)`` as the problem encodes them, NaN where unknown.
    names: the outputs' names, for messages. checkpoint_dir: where each epoch is stored; with ``resume`` a run
    that died goes on after its last whole epoch, bit for bit on a processor.

    Raises TrainingFailed with a sentence when training cannot start or go on, and JobCancelled when it was
    stopped before the first epoch was finished. ``module`` itself, the random state and the number of threads
    are left as they were.
    """
    if not (math.isfinite(fs_hz) and fs_hz > 0):
        raise InvalidInput(f"The sampling rate must be a positive number of hertz, not {fs_hz}.")
    place = resolve_device(device)
    data = check_data(train, train_targets, validation, val_targets, problem, names)
    with kept_random_state():
        run = _Run(module, data, problem, settings, float(fs_hz), callbacks, place)
        threads = run.open(checkpoint_dir, resume)
        with deterministic(threads):
            try:
                return run.train()
            finally:
                run.callbacks.on_end()


class _Run:
    """The state of one call of :func:`fit`."""

    def __init__(
        self, module: nn.Module, data: Data, problem: Problem, settings: FitSettings, fs_hz: float, callbacks: Sequence[Callback], device: torch.device,
    ):  # fmt: skip
        self.data, self.problem, self.settings, self.fs_hz, self.device = data, problem, settings, fs_hz, device
        self.callbacks = Callbacks(callbacks)
        self.notes: list[str] = list(data.notes)
        self.announced = False
        self.monitor_name, sentence = choose_monitor(settings, problem, data.val_targets, data.names)
        self.notes += [sentence] if sentence else []
        self.monitor = Monitor(settings, self.monitor_name)
        self.train_feed = Feed(data.train, device)
        self.val_feed = Feed(data.validation, device) if data.validation is not None else None
        self.plan = plan(settings)
        self._build(module)
        self.store: CheckpointStore | None = None
        self.history: list[dict[str, Any]] = []
        self.rate = settings.learning_rate or 0.0
        self.finder: dict[str, Any] | None = None
        self.best_state: dict[str, torch.Tensor] | None = None
        self.best_outputs = np.zeros((0, len(data.names)), np.float32)
        self.optimiser: torch.optim.Optimizer | None = None
        self.started = self.last_asked = time.monotonic()
        self.resumed_epoch = 0

    def _build(self, module: nn.Module) -> None:
        s, data = self.settings, self.data
        first = next(iter(self.train_feed.batches([data.usable[:2]])))
        module = copy.deepcopy(module).cpu()
        first_forward(module, first.cpu(), len(data.names))
        self.fingerprint = fingerprint(s, data, self.problem.name, self.fs_hz, module)
        self.form = Form(module, self.device, (first.shape[1], first.shape[2]))
        if self.problem.standardise:
            check_target_units(module, self.form, first.cpu(), data.centre, data.spread)
        self.net = self.form.net
        self.average = Average(self.net, s.ema_decay) if s.ema_decay > 0 else None
        options = LossOptions(s.class_weights, s.focal_gamma, s.label_smoothing)
        self.loss = self.problem.loss(data.train_targets[data.usable], options)
        self.autocast = s.mixed_precision and self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        self.stepper = Stepper(self.net, self.loss, autocast=self.autocast, piece=s.batch_size, note=self._note)

    # Checkpoints

    def open(self, folder: Path | None, resume: bool) -> int | None:
        """Look for a checkpoint; return the number of threads to use."""
        self.threads = self.settings.threads
        self._found = None
        if folder is None:
            return self.threads
        self.store = CheckpointStore(folder)
        if not resume:
            self.store.clear()
            return self.threads
        try:
            self._found = self.store.load()
        except TrainingFailed as error:
            self._note(f"{error.message} It was set aside and the run started over.")
            self.store.clear()
            return self.threads
        if self._found is not None:
            if self._found[0]["fingerprint"] != self.fingerprint:
                raise TrainingFailed(
                    "The checkpoint belongs to a run with other settings, data or weights. Start a new run, or resume "
                    "this one with what it was started with.",
                    code="checkpoint_mismatch",
                )
            self.threads = self.threads or self._found[0]["threads"]
        return self.threads

    def _restore(self) -> None:
        if self._found is None:
            return
        state, tensors, best = self._found
        self._found = None
        self.rate, self.finder, self.history = state["learning_rate"], state["lr_finder"], state["history"]
        self.notes = list(dict.fromkeys([*state["notes"], *self.notes]))
        self.stepper.piece = state["piece"]
        self.resumed_epoch = len(self.history)
        self.form.load_1d({k[4:]: v for k, v in tensors.items() if k.startswith("net/")})
        if self.average is not None:
            self.form.load_1d({k[4:]: v for k, v in tensors.items() if k.startswith("ema/")}, self.average.net)
            self.average.steps = state["ema_steps"]
        self.best_state = best or None
        self.best_outputs = tensors["best_outputs"].numpy()
        self._enter(self.resumed_epoch)
        assert self.optimiser is not None
        load_optimiser(
            self.optimiser, {k[4:]: v for k, v in tensors.items() if k.startswith("opt/")}, state["optimiser"]
        )
        for past in range(1, len(self.history) + 1):
            self._judge(self.history[:past])

    def _save(self) -> None:
        if self.store is None:
            return
        assert self.optimiser is not None
        tensors = {f"net/{k}": v for k, v in self.form.state_1d().items()}
        if self.average is not None:
            tensors |= {f"ema/{k}": v for k, v in self.form.state_1d(self.average.net).items()}
        opt, plain = optimiser_tensors(self.optimiser)
        tensors |= {f"opt/{k}": v for k, v in opt.items()} | {"best_outputs": torch.from_numpy(self.best_outputs)}
        state = {
            "epoch": len(self.history), "fingerprint": self.fingerprint, "history": self.history, "notes": self.notes,
            "learning_rate": self.rate, "lr_finder": self.finder, "optimiser": plain, "piece": self.stepper.piece,
            "ema_steps": self.average.steps if self.average else 0, "threads": torch.get_num_threads(),
            "best_epoch": self.monitor.best_epoch, "settings": self.settings.to_dict(),
        }  # fmt: skip
        self.store.save(len(self.history), state, tensors, self.best_state if self.history[-1]["is_best"] else None)

    # Training

    def _enter(self, epoch: int) -> None:
        """Freeze what the epoch's stage freezes and build its optimiser."""
        kind = self.plan.name(epoch)
        self.active = freeze_for(self.net, kind)
        factors = rate_factors(self.net, kind, self.settings.trunk_rate_factor)
        self.optimiser = build_optimiser(self.net, self.settings, self.rate, factors)

    def _judge(self, history: list[dict[str, Any]]) -> None:
        """Compare the last epoch; patience starts anew with each stage, the best of all stages stays the best."""
        self.monitor.first_epoch = self.plan.start(history[-1]["epoch"])
        self.monitor.add(history)

    def train(self) -> FitResult:
        self._restore()
        reason = "finished"
        try:
            self._announce()
            self._find_rate()
            if self.history and self._exhausted(len(self.history)):
                return self._finish("early_stopping")
            with interruptible(self.net, self._check_stop_now_and_then, on=self.device.type == "cpu"):
                for epoch in range(len(self.history) + 1, self.settings.epochs + 1):
                    if self.plan.begins(epoch):
                        self._enter(epoch)
                    self._epoch(epoch)
                    if self._exhausted(epoch):
                        reason = "early_stopping"
                        break
        except Stopped as stop:
            reason = stop.reason
        return self._finish(reason)

    def _exhausted(self, epoch: int) -> bool:
        return self.plan.is_last(epoch) and self.monitor.exhausted(epoch)

    def _find_rate(self) -> None:
        if self.rate > 0:
            return
        found = sweep(
            self.net, self.train_feed, self.data.train_targets, self.data.usable, self.loss, self.settings, self.plan.name(1),
            fs_hz=self.fs_hz, autocast=self.autocast, before_batch=self._check_stop,
        )  # fmt: skip
        self.finder, self.rate = found.to_json(), found.suggestion
        self._note(f"The learning rate {self.rate:.2g} was found on the training part ({found.rule}).")

    def _announce(self) -> None:
        count = -(-len(self.data.usable) // self.settings.batch_size)
        self.callbacks.on_start({
            "epochs": self.settings.epochs, "batches": count, "device": str(self.device), "learning_rate": self.rate or None,
            "resumed_epoch": self.resumed_epoch, "monitor": self.monitor_name, "notes": list(self.notes),
            "two_dimensional": self.form.is_2d, "threads": torch.get_num_threads(), "lr_finder": self.finder,
            "history": list(self.history),
        })  # fmt: skip
        self.started, self.announced = time.monotonic(), True

    def _epoch(self, epoch: int) -> None:
        begun = time.monotonic()
        s = self.settings
        seed_everything(derive(s.seed, "epoch", epoch))
        orders = epoch_order(self.data.usable, s.batch_size, s.seed, epoch)
        total = torch.zeros((), device=self.device)
        rate = 0.0
        train_mode(self.net, self.active)
        for number, (rows, x) in enumerate(zip(orders, self.train_feed.batches(orders), strict=True)):
            self._check_stop()
            progress = self.plan.progress(epoch, number / len(orders))
            assert self.optimiser is not None
            rate = set_rate(self.optimiser, SCHEDULES[s.schedule](progress, s.warmup))
            value = self._batch(epoch, number, rows, x)
            total += value.detach() * len(rows)
            loss = float(value) if self.device.type == "cpu" else math.nan
            if self.device.type == "cpu" and not math.isfinite(loss):
                self._fail_not_finite(epoch, number)
            self._report(epoch, number + 1, len(orders), loss, rate, begun)
        mean = float(total) / len(self.data.usable)
        if not math.isfinite(mean):
            self._fail_not_finite(epoch, len(orders) - 1)
        row: dict[str, Any] = {
            "epoch": epoch,
            "stage": self.plan.name(epoch),
            "train_loss": mean,
            "learning_rate": rate,
        }
        row |= self._validate(epoch)
        row["seconds"] = time.monotonic() - begun
        row["records_per_s"] = len(self.data.usable) / max(row["seconds"], 1e-9)
        self._keep(row)

    def _batch(self, epoch: int, number: int, rows: np.ndarray, x: torch.Tensor) -> torch.Tensor:
        """Do one step and return the batch's mean loss; a gradient that is not finite makes it NaN."""
        s, optimiser = self.settings, self.optimiser
        assert optimiser is not None
        targets = torch.from_numpy(self.data.train_targets[rows]).to(self.device)
        generator = torch.Generator(device=self.device).manual_seed(derive(s.seed, "augment", epoch, number))
        x = augment(x, s.augmentation, self.fs_hz, generator)
        if s.augmentation.mixup > 0:
            x, targets = mixup(x, targets, s.augmentation.mixup, generator)
        value = self.stepper.gradients(x, targets)
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, s.clip_norm if s.clip_norm is not None else math.inf)
        if self.device.type == "cpu" and not (math.isfinite(float(value)) and math.isfinite(float(norm))):
            return value * math.nan
        optimiser.step()
        if self.average is not None:
            self.average.update(self.net)
        return value + norm * 0

    def _validate(self, epoch: int) -> dict[str, Any]:
        if self.val_feed is None or self.data.val_targets is None:
            self._outputs = np.zeros((0, len(self.data.names)), np.float32)
            return {"val_loss": None}
        net = self.average.net if self.average is not None else self.net
        outputs = outputs_of(
            net,
            self.val_feed,
            batch_size=max(32, self.settings.batch_size),
            autocast=self.autocast,
            before_batch=self._check_stop,
        )
        if not np.isfinite(outputs).all():
            self._fail_not_finite(epoch, None)
        scaled = self.data.scaled(self.data.val_targets)
        rows = np.isfinite(scaled).any(axis=1)
        loss = float(self.loss(torch.from_numpy(outputs[rows]), torch.from_numpy(scaled[rows]))) if rows.any() else None
        self._outputs = self.data.in_unit(outputs)
        metrics = (
            validation_metrics(self.problem, self._outputs, self.data.val_targets, self.data.names)
            if rows.any()
            else {}
        )
        return {"val_loss": loss, **metrics}

    def _keep(self, row: dict[str, Any]) -> None:
        """Add an epoch to the history, take its weights if they are the best, store the checkpoint, tell."""
        self.history.append(row)
        self._judge(self.history)
        if row["is_best"]:
            self.best_state = self.form.state_1d(self.average.net if self.average is not None else self.net)
            self.best_outputs = self._outputs
        self._save()
        self.callbacks.on_epoch_end(dict(row))

    def _finish(self, reason: str) -> FitResult:
        if self.best_state is None:
            if reason in ("cancelled", "interrupted"):
                raise JobCancelled(
                    "Training was stopped before its first epoch was finished, so there is no model to keep.",
                    code=reason,
                )
            raise TrainingFailed(
                "No epoch gave a validation value that can be compared, so no model could be chosen.",
                code="no_best_model",
            )
        for feed, part in ((self.train_feed, "training"), (self.val_feed, "validation")):
            if feed is not None and feed.records_with_gaps:
                self._note(f"{feed.records_with_gaps} {part} records hold missing samples, which were read as 0 mV.")
        thresholds = None
        if self.data.val_targets is not None and len(self.best_outputs):
            thresholds = self.problem.thresholds(self.problem.activate(self.best_outputs), self.data.val_targets)
        state = self.best_state
        if self.problem.standardise:
            state = in_target_units(state, self.form, self.data.centre, self.data.spread)
        return FitResult(
            best_state=state, history=self.history, best_epoch=self.monitor.best_epoch, epochs=len(self.history),
            thresholds=thresholds, stopped_reason=reason, learning_rate=self.rate, monitor=self.monitor_name,
            weights_hash=weights_hash(state), validation_outputs=self.best_outputs, lr_finder=self.finder,
            resumed_epoch=self.resumed_epoch, notes=tuple(dict.fromkeys(self.notes)),
        )  # fmt: skip

    # Small things

    def _check_stop(self) -> None:
        self.last_asked = time.monotonic()
        answer = self.callbacks.should_stop()
        if answer:
            raise Stopped(answer if isinstance(answer, str) else "cancelled")

    def _check_stop_now_and_then(self) -> None:
        if time.monotonic() - self.last_asked > 1.0:
            self._check_stop()

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)
            if self.announced:
                self.callbacks.on_note(sentence)

    def _fail_not_finite(self, epoch: int, batch: int | None) -> None:
        raise not_finite(epoch, batch, self.rate, self.monitor.best_epoch if self.store and self.best_state else 0)

    def _report(self, epoch: int, batch: int, batches: int, loss: float, rate: float, begun: float) -> None:
        now = time.monotonic()
        share = batch / batches
        this = (now - begun) / share
        recent = [row["seconds"] for row in self.history[-5:]]
        typical = float(np.median(recent)) if recent else this
        left = max(0.0, typical * (1 - share)) + typical * (self.settings.epochs - epoch)
        self.callbacks.on_batch(Progress(
            epoch, self.settings.epochs, batch, batches, loss, rate, now - self.started,
            left if epoch > 1 or batch >= 2 else None, (epoch - 1 + share) / self.settings.epochs,
        ))  # fmt: skip
