"""A linear model of fixed features is computed in one pass over the records, and has no epochs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import nn

from ecgportal.errors import JobCancelled, TrainingFailed
from modelhub.architectures.linear import LinearOfFeatures
from training.engine.batches import first_forward
from training.engine.callbacks import Callback, Callbacks, Progress
from training.engine.checkpoint import CheckpointStore, fingerprint
from training.engine.data import Data
from training.engine.linear import Linear, features_of, fit_linear, for_levels
from training.engine.monitor import Monitor, choose_monitor, metrics_over_parts
from training.engine.network import weights_hash
from training.engine.result import FitResult
from training.engine.seeding import deterministic
from training.engine.settings import FitSettings, too_many_to_compute
from training.engine.source import Feed
from training.problems.base import LossOptions, Problem

#: Of the time the features take so much; the rest is the fit.
_FEATURES = 0.8


def is_computed(module: nn.Module, settings: FitSettings) -> TypeGuard[LinearOfFeatures]:
    """Tell whether a model is computed and not trained: from scratch, where it is linear in what is learned."""
    return isinstance(module, LinearOfFeatures) and settings.mode == "scratch"


def compute(
    module: LinearOfFeatures, data: Data, learned: Data, problem: Problem, settings: FitSettings, callbacks: Sequence[Callback], *, fs_hz: float,
    folder: Path | None = None, resume: bool = True,
) -> FitResult:  # fmt: skip
    """Compute the weights as ``training.engine.fit.fit`` would train them; the whole is one epoch.

    learned: the same data as it is learned from. Where it is dealt to folds, penalties and weights of views are chosen on records
    that the fold's model has not learned from, and the model is the mean over the folds: on folds of all records, whose answers
    are then judged (``learned`` is ``data``), or of the training part alone, and the validation part is judged. folder: where
    what was computed is stored; with ``resume`` it is taken from there. TrainingFailed: ``no_validation``, ``too_many_records``.
    """
    if data.judged_truth is None:
        raise TrainingFailed(
            "A linear model of fixed features chooses how far it trusts each feature on a validation part, and there is none with "
            "known labels.", code="no_validation",
        )  # fmt: skip
    if sentence := too_many_to_compute(len(data.truth)):
        raise TrainingFailed(sentence, code="too_many_records")
    told = Callbacks(callbacks)
    with deterministic(1, torch.device("cpu")):
        try:
            one = _Pass(module, data, learned, problem, settings, told, fs_hz)
            return one.result(CheckpointStore(folder) if folder is not None else None, resume)
        finally:
            told.on_end()


class _Pass:
    """One computation."""

    def __init__(
        self, module: LinearOfFeatures, data: Data, learned: Data, problem: Problem, settings: FitSettings, told: Callbacks, fs_hz: float
    ):  # fmt: skip
        self.data, self.learned, self.problem, self.settings, self.told = data, learned, problem, settings, told
        self.monitor_name, sentence = choose_monitor(settings, problem, data.judged_truth, data.names)
        self.notes = [*data.notes, *([sentence] if sentence else [])]
        self.facts: list[str] = []
        self.feed = Feed(data.source, torch.device("cpu"))
        first_forward(module, next(iter(self.feed.batches([data.usable[:2]]))), len(data.names))
        self.fingerprint = fingerprint(settings, learned, problem.name, fs_hz, module)
        self.module = copy.deepcopy(module).cpu().eval()
        self.begun = time.monotonic()

    def result(self, store: CheckpointStore | None, resume: bool) -> FitResult:
        """Return what was computed before and stored, or compute it, and tell of it as of one epoch."""
        found = _stored(store, self.fingerprint) if store is not None and resume else None
        self.told.on_start({
            "epochs": 1, "batches": len(self.data.truth), "device": "cpu", "learning_rate": None, "resumed_epoch": int(found is not None),
            "monitor": self.monitor_name, "notes": list(self.notes), "two_dimensional": False, "members": 1, "cross_fitted": self.data.crossed,
            "processes": 1, "threads": torch.get_num_threads(), "lr_finder": None, "history": [] if found is None else [found[0]["row"]],
        })  # fmt: skip
        if found is not None:
            kept, weights, outputs = found
            self.notes, self.facts = kept["notes"], kept["facts"]
            return self._finished(kept["row"], weights, outputs)
        row, weights, outputs = self._computed()
        if store is not None:
            content = {
                "epoch": 1, "fingerprint": self.fingerprint, "row": row, "notes": self.notes, "facts": self.facts,
                "settings": self.settings.to_dict(),
            }  # fmt: skip
            store.save(1, content, {"outputs": torch.from_numpy(outputs)}, weights)
        self.told.on_epoch_end(dict(row))
        return self._finished(row, weights, outputs)

    def _computed(self) -> tuple[dict[str, Any], dict[str, torch.Tensor], np.ndarray]:
        """Compute the features of all records and fit the weights; return the one row of the history, the weights and the
        answers for the judged records, in the target's unit."""
        data, problem, s = self.data, self.problem, self.settings
        loss = problem.loss(data.targets[data.usable], LossOptions(s.class_weights, s.focal_gamma, s.label_smoothing))
        self.module.prepare(for_levels(self.feed, data))
        features = features_of(self.module.features, self.feed, data, self._tell)
        self.feed.check_not_empty(data.usable)
        found = fit_linear(
            features, self.module.features.views, self.learned, None, loss, is_classes=not problem.standardise, ask=self._ask
        )  # fmt: skip
        outputs = found.outputs
        if self.learned is not data:
            outputs = (features[data.judged].astype(np.float64) @ found.weight.T + found.bias).astype(np.float32)
        self._say(found)
        row = self._row(found, features, outputs, loss)
        return row, self.module.state_dict() | self._layer(found), data.in_unit(outputs)

    def _say(self, found: Linear) -> None:
        told = ", ".join(f"{name} {weight:.2f}" for name, weight in found.weights.items() if name != "networks")
        if found.is_silent:
            self.notes.append(
                "None of the fixed features tells anything about the answer on records that were not learned from: the model answers "
                "every ECG alike. Choose a network, or look at the labels."
            )
        else:
            self.facts.append(
                f"The model was computed, without epochs, from these views of the ECG and their weights: {told}."
            )
        if self.learned is not self.data:
            self.facts.append(
                f"Penalties and weights were chosen on {len(self.learned.parts)} folds of the training part; of the validation part "
                "nothing but thresholds was."
            )
        numbers = np.arange(len(self.data.truth))
        for rows, part in ((numbers[: self.data.n_train], "training"), (numbers[self.data.n_train :], "validation")):
            self.notes += self.feed.gaps(rows, f"{part} ")

    def _finished(self, row: dict[str, Any], weights: dict[str, torch.Tensor], outputs: np.ndarray) -> FitResult:
        truth = self.data.judged_truth
        assert truth is not None
        return FitResult(
            best_state=weights, history=[row], best_epoch=1, epochs=1, stopped_reason="finished", learning_rate=0.0,
            thresholds=self.problem.thresholds(self.problem.activate(outputs), truth), monitor=self.monitor_name,
            weights_hash=weights_hash(weights), validation_outputs=outputs, notes=tuple(dict.fromkeys(self.notes)), facts=tuple(self.facts), cross_fitted=self.data.crossed,
        )  # fmt: skip

    def _row(
        self, found: Linear, features: np.ndarray, outputs: np.ndarray, loss: Callable[..., torch.Tensor]
    ) -> dict[str, Any]:
        data, truth = self.data, self.data.judged_truth
        assert truth is not None
        learned = self.learned.usable
        answers = features[learned].astype(np.float64) @ found.weight.T + found.bias
        seconds = time.monotonic() - self.begun
        row = {
            "epoch": 1, "stage": "computed", "learning_rate": 0.0, "seconds": seconds, "records_per_s": len(data.truth) / max(seconds, 1e-9),
            "train_loss": _loss(loss, answers, data.targets[learned]), "val_loss": _loss(loss, outputs, data.targets[data.judged]),
            **metrics_over_parts(self.problem, data.in_unit(outputs), truth, data.names, data.judged_parts),
        }  # fmt: skip
        Monitor(self.settings, self.monitor_name, len(data.judged)).add([row])
        return row

    def _layer(self, found: Linear) -> dict[str, torch.Tensor]:
        """Return the layer's tensors, over standardised features."""
        own = found.tensors(self.data.centre, self.data.spread)
        weight, bias = own["linear.weight"].double(), own["linear.bias"].double()
        middle, spread = self.module.middle.double(), self.module.spread.double()
        return {"linear.weight": (weight * spread).float(), "linear.bias": (bias + weight @ middle).float()}

    def _ask(self) -> None:
        answer = self.told.should_stop()
        if answer:
            raise JobCancelled(
                "The model was stopped before it was computed, so there is none to keep.",
                code=answer if isinstance(answer, str) else "cancelled",
            )

    def _tell(self, done: int) -> None:
        self._ask()
        count, elapsed = len(self.data.truth), time.monotonic() - self.begun
        share = _FEATURES * max(done, 1) / count
        left = elapsed * (1 - share) / share if done else None
        self.told.on_batch(Progress(1, 1, max(done, 1), count, float("nan"), 0.0, elapsed, left, share))


def _stored(store: CheckpointStore, wanted: str) -> tuple[dict[str, Any], dict[str, torch.Tensor], np.ndarray] | None:
    """Return what was stored of this computation; None where there is nothing, or nothing whole: it is computed in seconds."""
    try:
        found = store.load()
    except TrainingFailed:
        found = None
    if found is None or found[0]["fingerprint"] != wanted or not found[2]:
        return None
    state, tensors, weights = found
    return state, weights, tensors["outputs"].numpy()


def _loss(loss: Callable[..., torch.Tensor], outputs: np.ndarray, targets: np.ndarray) -> float | None:
    known = np.isfinite(targets).any(axis=1)
    if not known.any():
        return None
    return float(loss(torch.from_numpy(outputs[known].astype(np.float32)), torch.from_numpy(targets[known])))
