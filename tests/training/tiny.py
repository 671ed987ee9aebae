"""A small network and small data that a few epochs can learn."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from training.engine.settings import Augmentation, FitSettings
from training.engine.source import ArraySource

FS_HZ = 100.0
QUIET = Augmentation(noise_mv=0, scale=0, shift_s=0, lead_dropout=0, wander_mv=0)


class TinyNet(nn.Module):
    """Two convolutions with batch normalisation and dropout, mean over time, one linear layer."""

    def __init__(self, n_classes: int = 2, n_leads: int = 3, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.trunk = nn.Sequential(
            nn.Conv1d(n_leads, 8, 7, padding=3, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv1d(8, 8, 5, padding=2, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
        )
        self.head = nn.Linear(8, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(x).mean(-1))


def tiny_data(n: int = 48, n_classes: int = 2, seed: int = 0, samples: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Return signals ``(n, 3, samples)`` and multi-label targets; each class is a sine of its own rate in the leads."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, n_classes)) < 0.4).astype(np.float32)
    signals = rng.normal(scale=0.1, size=(n, 3, samples)).astype(np.float32)
    time = np.arange(samples)
    for c in range(n_classes):
        signals[:, c % 3] += targets[:, c : c + 1] * np.sin(time * (0.3 + 0.5 * c)).astype(np.float32)
    return signals, targets


def tiny_parts(n_classes: int = 2, seed: int = 0) -> tuple[ArraySource, np.ndarray, ArraySource, np.ndarray]:
    signals, targets = tiny_data(64, n_classes, seed)
    return ArraySource(signals[:40]), targets[:40], ArraySource(signals[40:]), targets[40:]


def parts_for(kind: str) -> tuple[ArraySource, np.ndarray, ArraySource, np.ndarray]:
    """Return the parts with targets of a kind of problem; of ``multilabel`` some are not known."""
    train, t, validation, v = tiny_parts()
    if kind == "multiclass":
        t, v = (np.stack([1 - rows[:, 0], rows[:, 0]], 1) for rows in (t, v))
    elif kind == "regression":
        t, v = (50 + 20 * rows[:, :1] for rows in (t, v))
    else:
        t, v = t.copy(), v.copy()
        t[::5, 1] = v[::4, 0] = np.nan
    return train, t, validation, v


def tiny_settings(**changes: object) -> FitSettings:
    return FitSettings(**({"epochs": 5, "batch_size": 16, "threads": 1, "learning_rate": 0.01, "seed": 3} | changes))  # type: ignore[arg-type]
