"""One training, epoch by epoch: its members, its checkpoints, its best weights."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ecgportal.errors import JobCancelled, TrainingFailed
from training.engine.augment import in_unit, units_per_mv
from training.engine.batches import (
    NOT_FINITE,
    NotFinite,
    Stopped,
    first_forward,
    interruptible,
    not_finite,
    while_asking,
)
from training.engine.callbacks import Callback, Callbacks, Progress
from training.engine.checkpoint import CheckpointStore, fingerprint
from training.engine.companion import companion_of
from training.engine.data import Data
from training.engine.device import computes_in_half
from training.engine.lr_finder import sweep
from training.engine.member import Member, networks_of
from training.engine.monitor import Monitor, choose_monitor, headline, metrics_over_parts
from training.engine.network import check_target_units, weights_hash
from training.engine.result import FitResult
from training.engine.seeding import derive, one_thread, seed_everything
from training.engine.settings import FitSettings
from training.engine.source import Feed
from training.engine.stages import plan
from training.engine.stopping import StopRequests
from training.engine.team import Team
from training.problems.base import LossOptions, Problem

#: The compiler is called where the rest of a training takes longer than this: it makes the rest take three fifths of its time.
#: On an H200 it took 42 s for the two sizes of an epoch's batches, and half a second for each further network of a run.
COMPILED_FROM_S = 180.0
#: So often the loss of a batch is read back from an accelerator.
TELL_EVERY_S = 1.0


class Run:
    """The state of one call of :func:`training.engine.fit.fit`."""

    def __init__(
        self, module: nn.Module, data: Data, problem: Problem, settings: FitSettings, fs_hz: float, callbacks: Sequence[Callback], device: torch.device,
        *, in_units: bool = False, unit: str = "mV",
    ):  # fmt: skip
        self.data, self.problem, self.settings, self.fs_hz, self.device = data, problem, settings, fs_hz, device
        self.team = Team()
        self.callbacks = Callbacks(callbacks if self.team.leads else ())
        self.stops = StopRequests(self.callbacks, self.team, device)
        self.notes: list[str] = list(data.notes)
        self.facts: list[str] = []
        self.announced = False
        self.monitor_name, sentence = choose_monitor(settings, problem, data.judged_truth, data.names)
        self.notes += [sentence] if sentence else []
        self.monitor = Monitor(settings, self.monitor_name, len(data.judged))
        self.feed = Feed(data.source, device, module)
        self.units_per_mv = units_per_mv(unit, self.feed, data.usable)
        self.augmentation = in_unit(settings.augmentation, self.units_per_mv)
        self.plan = plan(settings)
        with one_thread():
            self._build(module, in_units)
        self.store: CheckpointStore | None = None
        self.history: list[dict[str, Any]] = []
        self.rate = settings.learning_rate or 0.0
        self.finder: dict[str, Any] | None = None
        self.best_state: dict[str, torch.Tensor] | None = None
        self.best_outputs = np.zeros((0, len(data.names)), np.float32)
        self.started = time.monotonic()
        self.last_told = -math.inf
        self.resumed_epoch = 0

    def _build(self, module: nn.Module, in_units: bool) -> None:
        s, data = self.settings, self.data
        x = next(iter(self.feed.batches([data.usable[:2]])))
        first, shape = x.cpu(), (x.shape[1], x.shape[2])
        module = copy.deepcopy(module).cpu()
        self.companion = companion_of(module)
        first_forward(module, first, len(data.names))
        self.fingerprint = fingerprint(s, data, self.problem.name, self.fs_hz, module, self.feed.persons)
        self.loss = self.problem.loss(
            data.targets[data.usable], LossOptions(s.class_weights, s.focal_gamma, s.label_smoothing)
        )
        self.autocast = computes_in_half(self.device, s.mixed_precision)
        self.members = [
            Member(
                number, prefix, own, data.parts[number], data.targets, self.loss, s, self.feed, shape, self.fs_hz, self.augmentation, self.team,
                self.autocast, self._note,
            )
            for number, (prefix, own) in enumerate(networks_of(module))
        ]  # fmt: skip
        recorders = [member.stepper.recorder for member in self.members]
        for recorder in recorders:
            recorder.family = recorders
        if self.problem.standardise:
            for member, (_, own) in zip(self.members, networks_of(module), strict=True):
                check_target_units(own, member.form, first, data.centre, data.spread)
                if in_units:
                    member.leave_target_units(data.centre, data.spread)

    # Checkpoints

    def open(self, folder: Path | None, resume: bool) -> int | None:
        """Look for a checkpoint; return the number of threads to use."""
        self.threads = self.settings.threads
        self._found: tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]] | None = None
        if folder is None:
            return self.threads
        self.store = CheckpointStore(folder)
        if self.team.leads:
            self._look(resume)
        self.team.wait()
        if not self.team.leads:
            self._look(True)
        epoch = self._found[0]["epoch"] if self._found is not None else 0
        self.team.check_checkpoint(epoch, self.device)
        if self._found is not None:
            if self._found[0]["fingerprint"] != self.fingerprint:
                raise TrainingFailed(
                    "The checkpoint belongs to a run with other settings, data or weights. Start a new run, or resume "
                    "this one with what it was started with.",
                    code="checkpoint_mismatch",
                )
            self.threads = self.threads or self._found[0]["threads"]
        return self.threads

    def _look(self, resume: bool) -> None:
        """Read the stored checkpoint; one that is not wanted or damaged is removed."""
        assert self.store is not None
        if not resume:
            self.store.clear()
            return
        try:
            self._found = self.store.load()
        except TrainingFailed as error:
            self._note(f"{error.message} It was set aside and the run started over.")
            self.store.clear()

    def _restore(self) -> None:
        if self._found is None:
            return
        state, tensors, best = self._found
        self._found = None
        self.rate, self.finder, self.history = state["learning_rate"], state["lr_finder"], state["history"]
        self.notes = list(dict.fromkeys([*state["notes"], *self.notes]))
        self.facts = list(state.get("facts", ()))
        self.resumed_epoch = len(self.history)
        for member, own in zip(self.members, state["members"], strict=True):
            member.load(tensors, own, self.plan.name(self.resumed_epoch), self.rate)
        self.best_state = best or None
        self.best_outputs = tensors["best_outputs"].numpy()
        for past in range(1, len(self.history) + 1):
            self._judge(self.history[:past])

    def _save(self) -> None:
        if self.store is None or not self.team.leads:
            return
        tensors: dict[str, torch.Tensor] = {"best_outputs": torch.from_numpy(self.best_outputs)}
        states = []
        for member in self.members:
            own, state = member.tensors()
            tensors |= own
            states.append(state)
        content = {
            "epoch": len(self.history), "fingerprint": self.fingerprint, "history": self.history, "notes": self.notes,
            "facts": self.facts, "learning_rate": self.rate, "lr_finder": self.finder, "members": states, "threads": torch.get_num_threads(),
            "best_epoch": self.monitor.best_epoch, "settings": self.settings.to_dict(),
        }  # fmt: skip
        self.store.save(len(self.history), content, tensors, self.best_state if self.history[-1]["is_best"] else None)

    # Training

    def _judge(self, history: list[dict[str, Any]]) -> None:
        """Compare the last epoch; patience starts anew with each stage, the best of all stages stays the best."""
        epoch = history[-1]["epoch"]
        self.monitor.first_epoch, self.monitor.stage_epochs = self.plan.start(epoch), self.plan.length(epoch)
        self.monitor.add(history)

    def train(self) -> FitResult:
        """Train epoch by epoch and fit the companion; a stop ends that early, with the best so far."""
        self._restore()
        try:
            self._announce()
            # Processes of a team ask together, between batches.
            asks = self.device.type == "cpu" and self.team.alone
            with ExitStack() as hooks:
                for net in (net for member in self.members for net in member.networks):
                    hooks.enter_context(interruptible(net, self.stops.check_now_and_then, on=asks))
                self._find_rate()
                reason = self._epochs()
                self._accompany()
        except Stopped as stop:
            reason = stop.reason
        return self._finish(reason)

    def _epochs(self) -> str:
        """Train epoch by epoch; return why that ended."""
        if self.history and self._exhausted(len(self.history)):
            return "early_stopping"
        for epoch in range(len(self.history) + 1, self.settings.epochs + 1):
            if self.plan.begins(epoch):
                for member in self.members:
                    member.enter(self.plan.name(epoch), self.rate)
            try:
                self._epoch(epoch)
            except NotFinite as error:
                if self.best_state is None:
                    raise
                self._note(
                    f"{error.message} The model is the best of the epochs before, that of epoch {self.monitor.best_epoch}."
                )
                return NOT_FINITE
            # The second epoch of the last stage tells how long the others will take, which the first does not.
            if self.plan.is_last(epoch) and epoch == max(self.resumed_epoch, self.plan.start(epoch)) + 2:
                self._compile(epoch)
            if self._exhausted(epoch):
                return "early_stopping"
        return "finished"

    def _accompany(self) -> None:
        """Fit the linear companion, where there is one, beside the best networks; the processes of a team do it each."""
        data = self.data
        if self.companion is None or data.judged_truth is None or self.best_state is None:
            return
        networks = ((self.best_outputs - data.centre) / data.spread).astype(np.float32)
        told = self.companion.fit(
            self.feed, data, networks, self.loss, is_classes=not self.problem.standardise, ask=self.stops.check,
            judge=lambda outputs: headline(self.problem, self._metrics(data.in_unit(outputs))),
        )  # fmt: skip
        self.facts.append(told)
        if self.companion.fitted is not None:
            self.best_outputs = data.in_unit(self.companion.fitted.outputs)

    def _exhausted(self, epoch: int) -> bool:
        return self.plan.is_last(epoch) and self.monitor.exhausted(epoch)

    def _find_rate(self) -> None:
        if self.rate > 0:
            return
        first = self.members[0]
        found = sweep(
            first.net, self.feed, self.data.targets, first.part.train, self.loss, self.settings, self.plan.name(1),
            fs_hz=self.fs_hz, augmentation=self.augmentation, autocast=self.autocast, before_batch=self.stops.check, exchange=first.exchange,
        )  # fmt: skip
        # Hosts that round differently may each find another.
        self.finder, self.rate = found.to_json(), float(self.team.text_by_first(repr(found.suggestion), self.device))
        for sentence in found.notes:
            self._note(sentence)
        for member in self.members:
            member.stepper.piece = min(member.stepper.piece, found.piece or member.stepper.piece)
        self.facts.append(f"The learning rate {self.rate:.2g} was found on the training part ({found.rule}).")

    def _announce(self) -> None:
        count = sum(len(member.orders(1)) for member in self.members)
        self.callbacks.on_start({
            "epochs": self.settings.epochs, "batches": count, "device": str(self.device), "learning_rate": self.rate or None,
            "resumed_epoch": self.resumed_epoch, "monitor": self.monitor_name, "notes": list(self.notes),
            "two_dimensional": self.members[0].form.is_2d, "members": len(self.members), "cross_fitted": self.data.crossed,
            "processes": self.team.size, "threads": torch.get_num_threads(), "lr_finder": self.finder,
            "history": list(self.history),
        })  # fmt: skip
        self.started, self.announced = time.monotonic(), True

    def _epoch(self, epoch: int) -> None:
        begun = time.monotonic()
        orders = [member.orders(epoch) for member in self.members]
        batches, done, seen = sum(len(own) for own in orders), 0, 0
        total = torch.zeros((), device=self.device)
        rate = 0.0
        for member, own in zip(self.members, orders, strict=True):
            seed_everything(derive(member.seed, "epoch", epoch))
            member.begin()
            for number, (rows, x) in enumerate(zip(own, self.feed.batches(own), strict=True)):
                self.stops.check()
                rate = member.set_rate(self.plan.progress(epoch, number / len(own)))
                value = member.step(epoch, number, rows, x)
                total += value.detach() * len(rows)
                seen, done = seen + len(rows), done + 1
                loss = self._told(value)
                if loss is not None and not math.isfinite(loss) and self._sees_alike:
                    raise not_finite(epoch, done - 1, self.rate)
                loss = math.nan if loss is None else loss
                self._report(epoch, done, batches, loss, rate, begun)
        self.feed.check_not_empty(self.data.usable)
        mean = float(total) / seen
        if not math.isfinite(mean):
            raise not_finite(epoch, batches - 1, self.rate)
        row: dict[str, Any] = {
            "epoch": epoch,
            "stage": self.plan.name(epoch),
            "train_loss": mean,
            "learning_rate": rate,
        }
        row |= self._validate(epoch)
        row["seconds"] = time.monotonic() - begun
        row["records_per_s"] = seen / max(row["seconds"], 1e-9)
        self._keep(row)

    def _compile(self, epoch: int) -> None:
        """Have the networks compiled where the rest of the training is long enough to win back the time."""
        left = self.history[-1]["seconds"] * (self.settings.epochs - epoch)
        wins = all(getattr(member.net, "worth_compiling", False) for member in self.members)
        if not wins or self.device.type != "cuda" or not self.team.alone or left < COMPILED_FROM_S:
            return
        for member in self.members:
            self.stops.check()
            reason = while_asking(member.compile, self.stops.check_now_and_then)
            if reason:
                self._note(
                    f"PyTorch cannot compile the network on this machine ({reason}); it is trained as it is, which takes up to 1.7 "
                    "times as long."
                )
                return

    def _validate(self, epoch: int) -> dict[str, Any]:
        data, truth = self.data, self.data.judged_truth
        if truth is None:
            self._outputs = np.zeros((0, len(data.names)), np.float32)
            return {"val_loss": None}
        outputs = np.zeros(truth.shape, np.float32)
        for member in self.members:
            rows = member.part.validation
            found = member.outputs(rows, self.stops.check)
            # Every judged record has one member's outputs, or the mean of all members'.
            outputs[rows - data.judged[0]] += found if data.crossed else found / len(self.members)
        if not np.isfinite(outputs).all():
            raise not_finite(epoch, None, self.rate)
        scaled = data.targets[data.judged]
        known = np.isfinite(scaled).any(axis=1)
        loss = (
            float(self.loss(torch.from_numpy(outputs[known]), torch.from_numpy(scaled[known]))) if known.any() else None
        )
        self._outputs = data.in_unit(outputs)
        return {"val_loss": loss, **self._metrics(self._outputs)}

    def _metrics(self, outputs: np.ndarray) -> dict[str, float | None]:
        """Return the task's metrics of outputs, in the targets' unit, for the judged records."""
        assert self.data.judged_truth is not None
        return metrics_over_parts(
            self.problem, outputs, self.data.judged_truth, self.data.names, self.data.judged_parts
        )

    def _keep(self, row: dict[str, Any]) -> None:
        """Add an epoch to the history, take its weights if they are the best, store the checkpoint, tell."""
        self.history.append(row)
        self._judge(self.history)
        if row["is_best"]:
            self.best_state = {name: t for member in self.members for name, t in member.kept_state().items()}
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
        data = self.data
        numbers = np.arange(len(data.truth))
        for rows, part in ((numbers[: data.n_train], "training"), (numbers[data.n_train :], "validation")):
            for sentence in self.feed.gaps(rows, f"{part} "):
                self._note(sentence)
        thresholds = None
        if data.judged_truth is not None and len(self.best_outputs):
            thresholds = self.problem.thresholds(self.problem.activate(self.best_outputs), data.judged_truth)
        state = self.best_state
        if self.problem.standardise:
            state = {n: t for m in self.members for n, t in m.in_target_units(state, data.centre, data.spread).items()}
        if self.companion is not None:
            state = state | self.companion.state(data.centre, data.spread)
        return FitResult(
            best_state=state, history=self.history, best_epoch=self.monitor.best_epoch, epochs=len(self.history),
            thresholds=thresholds, stopped_reason=reason, learning_rate=self.rate, monitor=self.monitor_name,
            weights_hash=weights_hash(state), validation_outputs=self.best_outputs, lr_finder=self.finder,
            resumed_epoch=self.resumed_epoch, notes=tuple(dict.fromkeys(self.notes)),
            facts=tuple(dict.fromkeys(self.facts)), members=len(self.members),
            cross_fitted=data.crossed, processes=self.team.size, device=str(self.device), units_per_mv=self.units_per_mv,
        )  # fmt: skip

    # Small things

    def _told(self, value: torch.Tensor) -> float | None:
        """Return a batch's loss; of an accelerator, which need not wait for it, now and then only."""
        now = time.monotonic()
        if self.device.type != "cpu" and now - self.last_told < TELL_EVERY_S:
            return None
        self.last_told = now
        return float(value)

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)
            if self.announced:
                self.callbacks.on_note(sentence)

    @property
    def _sees_alike(self) -> bool:
        """Whether every process of the team is told the loss of the same batches; else they part at the end of an epoch only."""
        return self.team.alone or self.device.type == "cpu"

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
