"""A linear model of fixed features is computed in one pass over the records, and has no epochs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import nn

from ecgportal.errors import JobCancelled, TrainingFailed
from modelhub.architectures.linear import LinearOfFeatures
from training.engine.batches import first_forward
from training.engine.callbacks import Callback, Callbacks, Progress
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
    module: LinearOfFeatures, data: Data, problem: Problem, settings: FitSettings, callbacks: Sequence[Callback]
) -> FitResult:
    """Compute the weights as ``training.engine.fit.fit`` would train them; the whole is one epoch.

    Where the data is dealt to folds, penalties, weights of views and thresholds are chosen on records that the fold's model has
    not learned from, and the model is the mean over the folds. TrainingFailed: ``no_validation``, ``too_many_records``.
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
            return _Pass(module, data, problem, settings, told).result()
        finally:
            told.on_end()


class _Pass:
    """One computation."""

    def __init__(self, module: LinearOfFeatures, data: Data, problem: Problem, settings: FitSettings, told: Callbacks):
        self.data, self.problem, self.settings, self.told = data, problem, settings, told
        self.monitor_name, sentence = choose_monitor(settings, problem, data.judged_truth, data.names)
        self.notes = [*data.notes, *([sentence] if sentence else [])]
        self.feed = Feed(data.source, torch.device("cpu"))
        first_forward(module, next(iter(self.feed.batches([data.usable[:2]]))), len(data.names))
        self.module = copy.deepcopy(module).cpu().eval()
        self.begun = time.monotonic()

    def result(self) -> FitResult:
        """Compute the features of all records, fit the weights, and tell of it as of one epoch."""
        data, problem, s = self.data, self.problem, self.settings
        self.told.on_start({
            "epochs": 1, "batches": len(data.truth), "device": "cpu", "learning_rate": None, "resumed_epoch": 0, "monitor": self.monitor_name,
            "notes": list(self.notes), "two_dimensional": False, "members": 1, "cross_fitted": data.crossed, "processes": 1,
            "threads": torch.get_num_threads(), "lr_finder": None, "history": [],
        })  # fmt: skip
        loss = problem.loss(data.targets[data.usable], LossOptions(s.class_weights, s.focal_gamma, s.label_smoothing))
        self.module.prepare(for_levels(self.feed, data))
        features = features_of(self.module.features, self.feed, data, self._tell)
        self.feed.check_not_empty(data.usable)
        found = fit_linear(
            features, self.module.features.views, data, None, loss, is_classes=not problem.standardise, ask=self._ask
        )  # fmt: skip
        row = self._row(found, features, loss)
        self.told.on_epoch_end(dict(row))
        return self._finished(found, row)

    def _finished(self, found: Linear, row: dict[str, Any]) -> FitResult:
        data, problem, truth = self.data, self.problem, self.data.judged_truth
        assert truth is not None
        told = ", ".join(f"{name} {weight:.2f}" for name, weight in found.weights.items() if name != "networks")
        facts = [f"The model was computed, without epochs, from these views of the ECG and their weights: {told}."]
        if found.is_silent:
            facts = []
            self.notes.append(
                "None of the fixed features tells anything about the answer on records that were not learned from: the model answers "
                "every ECG alike. Choose a network, or look at the labels."
            )
        numbers = np.arange(len(data.truth))
        for rows, part in ((numbers[: data.n_train], "training"), (numbers[data.n_train :], "validation")):
            self.notes += self.feed.gaps(rows, f"{part} ")
        outputs = data.in_unit(found.outputs)
        state = self.module.state_dict() | self._layer(found)
        return FitResult(
            best_state=state, history=[row], best_epoch=1, epochs=1, stopped_reason="finished", learning_rate=0.0,
            thresholds=problem.thresholds(problem.activate(outputs), truth), monitor=self.monitor_name,
            weights_hash=weights_hash(state), validation_outputs=outputs, notes=tuple(dict.fromkeys(self.notes)), facts=tuple(facts), cross_fitted=data.crossed,
        )  # fmt: skip

    def _row(self, found: Linear, features: np.ndarray, loss: Callable[..., torch.Tensor]) -> dict[str, Any]:
        """Return the one row of the history."""
        data, truth = self.data, self.data.judged_truth
        assert truth is not None
        learned = data.usable
        answers = features[learned].astype(np.float64) @ found.weight.T + found.bias
        seconds = time.monotonic() - self.begun
        row = {
            "epoch": 1, "stage": "computed", "learning_rate": 0.0, "seconds": seconds, "records_per_s": len(data.truth) / max(seconds, 1e-9),
            "train_loss": _loss(loss, answers, data.targets[learned]), "val_loss": _loss(loss, found.outputs, data.targets[data.judged]),
            **metrics_over_parts(self.problem, data.in_unit(found.outputs), truth, data.names, data.judged_parts),
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


def _loss(loss: Callable[..., torch.Tensor], outputs: np.ndarray, targets: np.ndarray) -> float | None:
    known = np.isfinite(targets).any(axis=1)
    if not known.any():
        return None
    return float(loss(torch.from_numpy(outputs[known].astype(np.float32)), torch.from_numpy(targets[known])))
