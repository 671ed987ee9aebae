"""What a way of learning without labels adds to a network: some layers that are thrown away afterwards, and a loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ecgportal.errors import InvalidInput
from training.engine.network import head_layers
from training.engine.settings import Augmentation
from training.engine.team import Share


@dataclass(frozen=True)
class Batch:
    """x: float32 ``(records, leads, samples)`` at ``fs_hz``. generator: where all that is random comes from, on the
    device of ``x``. augmentation: amplitudes in the unit of ``x``; None to leave the signals as they are, for judging."""

    x: Tensor
    fs_hz: float
    generator: torch.Generator
    augmentation: Augmentation | None


class Objective(nn.Module):
    """The layers of one way of learning without labels. ``score``: name of the share, in [0, 1], that tells how well it
    does; more is better."""

    score: str

    @abstractmethod
    def views(self, batch: Batch) -> tuple[Tensor, ...]:
        """Draw all that is random for a batch; return what is computed with, each with one row per record."""

    @abstractmethod
    def forward(self, net: nn.Module, views: tuple[Tensor, ...], share: Share) -> tuple[Tensor, Tensor]:
        """Return mean loss, for the gradient, and score of these rows of :meth:`views`, those of ``share`` of the batch."""

    def guessing(self, batches: int, records: int) -> dict[str, float]:
        """Return what an epoch's row says of the score that guessing would have."""
        return {}


@contextmanager
def features_of(net: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what goes into the head in each forward pass, averaged over time where the head does the pooling:
    ``(records, features)``."""
    found: list[Tensor] = []

    def collect(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0] if inputs[0].ndim < 3 else inputs[0].flatten(2).mean(2))

    handle = head_layers(net)[0].register_forward_pre_hook(collect)
    try:
        yield found
    finally:
        handle.remove()
    if len(found) != 1 or found[0].ndim != 2:
        raise _does_not_fit("does not take features of the whole signal")


def map_of(net: nn.Module, x: Tensor) -> Tensor:
    """Return the features over time that a network pools before its head, ``(records, channels, positions)``.

    It is what the head takes, where that has a time axis still, else the input of the last operation before the head that
    takes the time axis away (a mean or maximum over it).
    """
    inputs: list[Tensor] = []

    class BeforeHead(Exception):
        pass

    def collect(_layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        inputs.append(given[0])
        # The head is not trained here, so nothing behind its input needs computing.
        raise BeforeHead

    handle = head_layers(net)[0].register_forward_pre_hook(collect)
    pooling = _Pooling()
    try:
        with pooling:
            net(x)
    except BeforeHead:
        pass
    finally:
        handle.remove()
    found = inputs[0] if inputs and inputs[0].ndim > 2 else pooling.last
    if found is None or len(inputs) != 1:
        raise _does_not_fit("has no features over time before its head")
    return found.flatten(2) if found.ndim == 3 or found.shape[2] == 1 else found.flatten(3).mean(2)


class _Pooling(TorchFunctionMode):
    """Keeps the input of the last operation that took the last axis, of more than one place, away."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        x = args[0] if args else None
        if isinstance(x, Tensor) and isinstance(answer, Tensor) and x.ndim in (3, 4) and x.shape[-1] > 1:
            gone = answer.ndim < x.ndim or answer.shape[-1] == 1
            if gone and answer.numel() * x.shape[-1] == x.numel() and answer.shape[:2] == x.shape[:2]:
                self.last = x
        return answer


def _does_not_fit(why: str) -> InvalidInput:
    return InvalidInput(
        f"The head of this network {why}, so its trunk cannot learn without labels here. Choose another network.",
        code="network_does_not_fit",
    )
