"""The linear model that answers beside the networks of a run, and its way into their weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from modelhub.architectures.companion import Accompanied
from training.engine.data import Data
from training.engine.linear import (
    NETWORKS,
    VIEWS_OF_CLASSES,
    VIEWS_OF_NUMBERS,
    Linear,
    features_of,
    fit_linear,
    for_levels,
)
from training.engine.seeding import one_thread
from training.engine.source import Feed

if TYPE_CHECKING:
    from training.problems.base import Loss

#: More records than these teach a network what the companion knows.
MOST_RECORDS = 4000


class Companion:
    """The linear model beside the networks of a run."""

    def __init__(self, module: Accompanied):
        self.features = copy.deepcopy(module.features).cpu().eval()
        self.n_outputs = module.n_classes
        self.fitted: Linear | None = None

    def fit(
        self, feed: Feed, data: Data, networks: np.ndarray, loss: Loss, *, is_classes: bool, ask: Callable[[], None],
        judge: Callable[[np.ndarray], str],
    ) -> str:  # fmt: skip
        """Fit it beside networks that answered for ``data.judged`` with ``networks``; return what is to be said of that.

        judge: a figure of outputs for the judged records, in words.
        """
        if len(data.truth) > MOST_RECORDS:
            return f"No linear companion was fitted: it is for at most {MOST_RECORDS:,} records."
        with one_thread():
            self.features.set_levels(for_levels(feed, data))
        made = features_of(self.features, feed, data, lambda _: ask())
        self.fitted = fit_linear(made, self.features.views, data, networks, loss, is_classes=is_classes, ask=ask)
        if self.fitted.is_silent:
            self.fitted = None
            return "The linear companion added nothing to the networks and was left out."
        told = ", ".join(f"{name} {weight:.2f}" for name, weight in self.fitted.weights.items())
        return (
            f"A linear companion answers beside the networks ({told}). On validation the networks reach {judge(networks)}, the "
            f"companion {judge(self.fitted.alone)}, both together {judge(self.fitted.outputs)}; the epochs' figures are those of the networks alone."
        )

    def state(self, centre: np.ndarray, spread: np.ndarray) -> dict[str, Tensor]:
        """Return its tensors by the whole module's names, answering in the targets' own unit."""
        found = {f"features.{name}": tensor.clone() for name, tensor in self.features.state_dict().items()}
        if self.fitted is None:
            zeros = torch.zeros(self.n_outputs, self.features.n_features)
            return found | {"linear.weight": zeros, "linear.bias": zeros[:, 0].clone(), "share": torch.ones(())}
        share = torch.tensor(self.fitted.share, dtype=torch.float32)
        return found | self.fitted.tensors(centre, spread) | {"share": share}


def answers_beside(networks: np.ndarray, linear: np.ndarray, *, is_classes: bool) -> np.ndarray:
    """Return what networks and a linear model say together by the trust in each that a companion starts from, float32.

    networks, linear: raw outputs ``(records, outputs)`` of each alone, in the target's unit: of numbers both shares sum to 1.
    """
    return (NETWORKS * networks + (VIEWS_OF_CLASSES if is_classes else VIEWS_OF_NUMBERS) * linear).astype(np.float32)


def companion_of(module: nn.Module) -> Companion | None:
    """Return the companion of a module that has a place for one."""
    return Companion(module) if isinstance(module, Accompanied) else None
