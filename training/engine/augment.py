"""Random changes of training batches, on the batch's own device, from a given generator.

All functions take ``(records, leads, samples)`` and return a new tensor of that shape. Amplitudes are in the signals' unit, mV
or what stands for it (:func:`in_unit`).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from training.engine.device import moved
from training.engine.settings import Augmentation
from training.engine.source import Feed

#: The spread of an ECG of 12 leads, 10 s and 100 Hz in mV: the median of PTB-XL, of CPSC 2018 and of CinC 2021, each 0.20 to 0.21.
USUAL_MV = 0.2
#: Records that the spread is taken from.
_MOST = 256


def units_per_mv(unit: str, feed: Feed, rows: np.ndarray) -> float:
    """Return how much of the signals' unit stands for 1 mV: 1 of those in mV; of those whose recipe took the unit away so much that
    their spread, of the records ``rows`` that are learned from, is the usual one of ECGs.

    The spread of a record is the root mean square about each lead's mean; of several records it is the median. Flat records
    do not count.
    """
    if unit == "mV":
        return 1.0
    chosen = np.sort(np.random.default_rng(0).permutation(rows)[:_MOST])
    x = next(iter(feed.batches([chosen]))).cpu().numpy().astype(np.float64)
    spread = np.sqrt(x.var(axis=2).mean(axis=1))
    spread = spread[spread > 0]
    # Three digits: processors that round differently agree.
    return float(f"{np.median(spread) / USUAL_MV:.3g}") if len(spread) else 1.0


def in_unit(settings: Augmentation, per_mv: float) -> Augmentation:
    """Return the settings with their amplitudes in the signals' unit, ``per_mv`` of which stand for 1 mV."""
    if per_mv == 1.0:
        return settings
    amplitudes = {name: per_mv * getattr(settings, name) for name in ("noise_mv", "wander_mv", "hum_mv")}
    return replace(settings, **amplitudes)


def augment(x: Tensor, settings: Augmentation, fs_hz: float, generator: torch.Generator) -> Tensor:
    """Apply every change that is switched on, in the order signal, disturbance, fault."""
    if settings.shift_s > 0:
        x = shift(x, settings.shift_s, fs_hz, generator)
    if settings.scale > 0:
        x = scale(x, settings.scale, generator)
    if settings.wander_mv > 0:
        x = wander(x, settings.wander_mv, fs_hz, generator)
    if settings.hum_mv > 0:
        x = hum(x, settings.hum_mv, fs_hz, generator)
    if settings.noise_mv > 0:
        x = noise(x, settings.noise_mv, generator)
    if settings.lead_dropout > 0:
        x = lead_dropout(x, settings.lead_dropout, generator)
    return x


def _uniform(shape: tuple[int, ...], low: float, high: float, like: Tensor, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, device=like.device, dtype=like.dtype, generator=generator)


def shift(x: Tensor, largest_s: float, fs_hz: float, generator: torch.Generator) -> Tensor:
    """Move each record by up to ``largest_s`` either way, never by more than a quarter of it.

    The edge sample is held, so no false step appears.
    """
    n = x.shape[-1]
    most = min(round(largest_s * fs_hz), n // 4)
    by = torch.randint(-most, most + 1, (len(x), 1), device=x.device, generator=generator)
    index = (torch.arange(n, device=x.device)[None] + by).clamp(0, n - 1)
    return x.gather(2, index[:, None, :].expand(-1, x.shape[1], -1))


def scale(x: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    """Multiply each record by one factor in 1 +- spread, so that the leads keep their ratios."""
    return x * _uniform((len(x), 1, 1), 1 - spread, 1 + spread, x, generator)


def wander(x: Tensor, largest_mv: float, fs_hz: float, generator: torch.Generator) -> Tensor:
    """Add a slow sine (0.05 to 0.5 Hz, breathing) with its own amplitude per lead."""
    return x + _sine(x, largest_mv, _uniform((len(x), 1, 1), 0.05, 0.5, x, generator), fs_hz, generator)


def hum(x: Tensor, largest_mv: float, fs_hz: float, generator: torch.Generator) -> Tensor:
    """Add 50 or 60 Hz with its own amplitude per lead; nothing where the rate cannot carry it."""
    if fs_hz < 120:
        return x
    f = 50.0 + 10.0 * (torch.rand((), device=x.device, generator=generator) < 0.5)
    return x + _sine(x, largest_mv, f, fs_hz, generator)


def _sine(x: Tensor, largest_mv: float, f: Tensor, fs_hz: float, generator: torch.Generator) -> Tensor:
    t = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype) / fs_hz
    phase = _uniform((len(x), 1, 1), 0, 2 * math.pi, x, generator)
    amplitude = _uniform((len(x), x.shape[1], 1), 0, largest_mv, x, generator)
    return amplitude * torch.sin(2 * math.pi * f * t + phase)


def noise(x: Tensor, largest_mv: float, generator: torch.Generator) -> Tensor:
    """Add white noise; its deviation is drawn per record up to ``largest_mv``."""
    level = _uniform((len(x), 1, 1), 0, largest_mv, x, generator)
    return x + level * torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)


def lead_dropout(x: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    """Set leads to zero, each with this chance; a record never loses more than half of its leads."""
    score = torch.rand(x.shape[:2], device=x.device, generator=generator)
    lost = score < chance
    rank = score.argsort(dim=1).argsort(dim=1)
    return x * ~(lost & (rank < x.shape[1] // 2))[:, :, None]


def mixup(
    x: Tensor, targets: Tensor, alpha: float, generator: torch.Generator, beside: tuple[Tensor, ...] = ()
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Mix each record, its targets and what goes beside it, ``(records, features)``, with another's (Zhang et al. 2018); an
    unknown target stays unknown."""
    rng = np.random.default_rng(generator.initial_seed())
    share = moved(rng.beta(alpha, alpha, len(x)), x.device)
    share = torch.maximum(share, 1 - share)
    other = torch.randperm(len(x), device=x.device, generator=generator)
    wide = share[:, None, None].to(x.dtype)
    tall = share[:, None].to(targets.dtype)
    mixed = tuple(tall * each + (1 - tall) * each[other] for each in beside)
    return wide * x + (1 - wide) * x[other], tall * targets + (1 - tall) * targets[other], mixed
