"""Masked reconstruction: hidden spans of time and hidden leads are told from what is left.

The idea is that of masked autoencoders (He et al. 2022, arXiv 2111.06377), brought to spans and leads of an ECG by Na et
al. 2024 (arXiv 2402.09450). Those read visible patches with a transformer; here hidden samples are zeros, so that a
network of any kind can learn, and a small decoder reads the features over time that the network pools before its head.
What is to be told is the signal without the disturbances that augmentation added.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from training.engine.augment import augment
from training.engine.team import Share
from training.engine.unlabelled.base import Batch, Objective, map_of
from training.engine.unlabelled.settings import Masked

HIDDEN = 64
#: Added to the variance of a record's hidden samples, in mV²: a flat record then has a loss that is no division by zero.
FLOOR = 1e-4


class Reconstruction(Objective):
    """Turns features over time into the hidden samples. x: some records, to learn shapes from.

    The loss is the mean square of the error over the hidden samples as a share of what predicting each lead's mean would
    leave, averaged over records: 1 is as good as the mean, 0 perfect. Records of low voltage count as much as others.
    """

    score = "explained"

    def __init__(self, how: Masked, net: nn.Module, x: Tensor, fs_hz: float) -> None:
        super().__init__()
        how.check_fits(x.shape[2] / fs_hz)
        self.how = how
        with torch.no_grad():
            features = map_of(net.eval(), x)
        self.leads, self.places = x.shape[1], math.ceil(x.shape[2] / features.shape[2])
        self.decoder = nn.Sequential(
            nn.Conv1d(features.shape[1], HIDDEN, 1), nn.GELU(), nn.Conv1d(HIDDEN, self.leads * self.places, 1)
        )

    def views(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the signals that are seen, those to be told, and which samples are hidden."""
        truth = seen = batch.x
        if batch.augmentation is not None:
            moved = replace(batch.augmentation, noise_mv=0.0, wander_mv=0.0, hum_mv=0.0, lead_dropout=0.0)
            disturbed = replace(batch.augmentation, shift_s=0.0, scale=0.0, lead_dropout=0.0)
            truth = augment(truth, moved, batch.fs_hz, batch.generator)
            seen = augment(truth, disturbed, batch.fs_hz, batch.generator)
        hidden = hide(truth, self.how, batch.fs_hz, batch.generator)
        return seen.masked_fill(hidden, 0.0), truth, hidden

    def forward(self, net: nn.Module, views: tuple[Tensor, ...], share: Share) -> tuple[Tensor, Tensor]:
        seen, truth, hidden = views
        left = self.left(self.told(net, seen), truth, hidden)
        return left, 1.0 - left.detach()

    def told(self, net: nn.Module, seen: Tensor) -> Tensor:
        """Return all samples ``(records, leads, samples)`` as they are told from those that are seen."""
        parts = self.decoder(map_of(net, seen).float()).unflatten(1, (self.leads, self.places))
        return parts.transpose(2, 3).flatten(2)[:, :, : seen.shape[2]]

    def left(self, told: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
        """Return the share of the hidden samples' variance that is left unexplained, mean over records."""
        wide = hidden.to(truth.dtype)
        error = ((told - truth).square() * wide).sum((1, 2))
        spread = ((truth - truth.mean(2, keepdim=True)).square() * wide).sum((1, 2))
        return (error / (spread + FLOOR * wide.sum((1, 2)))).mean()


def hide(x: Tensor, how: Masked, fs_hz: float, generator: torch.Generator) -> Tensor:
    """Return which samples to hide, bool of the shape of ``x``: spans of all leads, and some leads as a whole.

    The share of spans is that of the settings, one at least; the spans' grid begins anywhere. At least half of the leads
    are seen outside the spans.
    """
    n, leads, samples = x.shape
    span = min(samples, max(1, round(how.span_s * fs_hz)))
    count = samples // span + 2
    score = torch.rand((n, count), device=x.device, generator=generator)
    spans = score.argsort(1).argsort(1) < max(1, round(how.hidden * count))
    begin = torch.randint(0, span, (n, 1), device=x.device, generator=generator)
    place = (torch.arange(samples, device=x.device)[None] + begin) // span
    in_time = spans.gather(1, place)[:, None, :]
    chance = torch.rand((n, leads), device=x.device, generator=generator)
    rank = chance.argsort(1).argsort(1)
    whole = (chance < how.hidden_leads) & (rank < leads // 2)
    return in_time | whole[:, :, None]
