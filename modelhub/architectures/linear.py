"""A linear model of fixed features: computed in one pass over the records, and the baseline that a deep network has to beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ecgportal.errors import InvalidInput
from modelhub.architectures.base import EcgNetwork
from modelhub.architectures.fixed_features import CONSTANT, FixedFeatures
from modelhub.architectures.registry import architecture


class LinearOfFeatures(EcgNetwork):
    """A linear layer over the standardised features of :mod:`modelhub.architectures.fixed_features`.

    From scratch it is computed (``training.engine.computed``); learning on from stored weights goes by gradients.
    """

    middle: Tensor
    spread: Tensor

    has_2d_form = False
    dynamic_length = False

    def __init__(self, *, n_leads: int, n_samples: int, fs_hz: float, n_classes: int) -> None:
        super().__init__(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes)
        self.features = FixedFeatures(n_leads=n_leads, n_samples=n_samples, fs_hz=fs_hz)
        self.register_buffer("middle", torch.zeros(self.features.n_features))
        self.register_buffer("spread", torch.ones(self.features.n_features))
        self.linear = nn.Linear(self.features.n_features, n_classes)

    @torch.no_grad()
    def prepare(self, x: Tensor) -> None:
        """Take the kernels' levels, and by which mean and deviation features are standardised, from training signals."""
        self.features.set_levels(x)
        found = self.features(x)
        self.middle.copy_(found.mean(0))
        deviation = found.std(0, correction=0)
        # A feature that is always the same stays as it is, and 0.
        self.spread.copy_(torch.where(deviation < CONSTANT, torch.ones_like(deviation), deviation))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.n_samples:
            raise InvalidInput(f"This model takes {self.n_samples} samples, not {x.shape[-1]}.", code="wrong_length")
        return self.linear((self.features(x) - self.middle) / self.spread)

    def head_modules(self) -> list[nn.Module]:
        return [self.linear]

    def replace_head(self, n_classes: int) -> None:
        self.linear = nn.Linear(self.features.n_features, n_classes, device=self.linear.weight.device)
        self.n_classes = n_classes


@architecture(
    name="linear",
    title="Linear model of fixed features",
    paper="Kernels after Dempster et al., KDD 2021, MiniRocket",
    varies=("n_leads", "n_samples", "fs_hz", "n_classes"),
    parameters=19_215,
    million_macs=90.7,
    dynamic_length=False,
    computed=True,
    advice="Computed in seconds, without epochs. A strong start on some hundred records, and what a deep network has to beat.",
)
def linear(*, n_leads: int, n_samples: int, fs_hz: float, n_classes: int) -> LinearOfFeatures:
    """Build the model with weights that say nothing yet."""
    return LinearOfFeatures(n_leads=n_leads, n_samples=n_samples, fs_hz=fs_hz, n_classes=n_classes)
