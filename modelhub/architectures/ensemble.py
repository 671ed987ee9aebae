"""Several networks of one kind as one: they are trained apart and answer together."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ecgportal.errors import InvalidInput
from modelhub.architectures.base import EcgNetwork
from modelhub.architectures.companion import Accompanied
from modelhub.contract import MOST_NETWORKS


class Ensemble(EcgNetwork):
    """Networks with the same input and outputs whose logits are averaged.

    The mean of the logits is the logarithmic opinion pool of the members' probabilities. It is right for every task
    (sigmoid, softmax and plain numbers alike), keeps "a model answers with logits" true, and makes an ensemble one
    ONNX file like any other network.
    """

    def __init__(self, members: Sequence[EcgNetwork]) -> None:
        if not 1 <= len(members) <= MOST_NETWORKS:
            raise InvalidInput(
                f"An ensemble has between 1 and {MOST_NETWORKS} members, not {len(members)}.", code="bad_config"
            )
        first = members[0]
        super().__init__(n_leads=first.n_leads, n_samples=first.n_samples, n_classes=first.n_classes)
        self.members = nn.ModuleList(members)
        self.n_person_features = first.n_person_features
        self.has_2d_form = all(member.has_2d_form for member in members)
        self.dynamic_length = all(member.dynamic_length for member in members)

    @classmethod
    def of(cls, module: EcgNetwork, n_members: int) -> Ensemble:
        """Return ``n_members`` copies of one network: the start of an ensemble that is fine-tuned from it."""
        return cls([copy.deepcopy(module) for _ in range(n_members)])

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        return torch.stack([member(x, *others) for member in self.members]).mean(0)

    def head_modules(self) -> list[nn.Module]:
        return [layer for member in self._own() for layer in member.head_modules()]

    def class_layers(self) -> list[nn.Module]:
        return [layer for member in self._own() for layer in member.class_layers()]

    def replace_head(self, n_classes: int) -> None:
        for member in self._own():
            member.replace_head(n_classes)
        self.n_classes = n_classes

    def idle_tensors(self) -> frozenset[str]:
        return frozenset(
            f"members.{number}.{name}" for number, member in enumerate(self._own()) for name in member.idle_tensors()
        )

    def _own(self) -> list[EcgNetwork]:
        return [member for member in self.members if isinstance(member, EcgNetwork)]


def as_ensemble(module: nn.Module, n_members: int) -> nn.Module:
    """Return a network as the start of so many: copies of it, where it is one; a companion stays beside all of them."""
    if isinstance(module, Accompanied):
        module.network = as_ensemble(module.network, n_members)  # type: ignore[assignment]
        return module
    if n_members == 1 or isinstance(module, Ensemble):
        return module
    return Ensemble.of(module, n_members)  # type: ignore[arg-type]
