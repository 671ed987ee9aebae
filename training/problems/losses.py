"""Losses over torch tensors; unknown targets (NaN) add nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from training.problems.base import LossOptions

if TYPE_CHECKING:
    from training.problems.base import Loss

MAX_WEIGHT = 20.0
"""The heaviest a class may weigh: beyond it a handful of records steers the whole network."""


def positive_weights(targets: np.ndarray, weighting: str) -> np.ndarray:
    """Return the weight of each output's positives, ``(outputs,)``: negatives / positives, or its root."""
    positives = np.nansum(targets > 0.5, axis=0).astype(np.float64)
    negatives = (np.isfinite(targets) & (targets <= 0.5)).sum(axis=0).astype(np.float64)
    ratio = np.where((positives > 0) & (negatives > 0), negatives / np.maximum(positives, 1), 1.0)
    return _softened(ratio, weighting)


def class_weights(targets: np.ndarray, weighting: str) -> np.ndarray:
    """Return the weight of each class, ``(classes,)``: inverse frequency (or its root), mean 1 over records."""
    counts = np.nansum(targets, axis=0).astype(np.float64)
    raw = np.where(counts > 0, counts.sum() / np.maximum(counts, 1) / max(int((counts > 0).sum()), 1), 1.0)
    weights = _softened(raw, weighting)
    mean = (weights * counts).sum() / max(counts.sum(), 1.0)
    return weights / mean if mean > 0 else weights


def _softened(ratio: np.ndarray, weighting: str) -> np.ndarray:
    if weighting == "none":
        return np.ones_like(ratio)
    power = {"sqrt": 0.5, "balanced": 1.0}[weighting]
    return np.clip(ratio**power, 1 / MAX_WEIGHT, MAX_WEIGHT)


class _Weights:
    """Weights of classes, float32, that lie on each device where they were asked for: to copy them at each step would make
    an accelerator wait."""

    def __init__(self, values: np.ndarray):
        self._copies = {torch.device("cpu"): torch.as_tensor(values, dtype=torch.float32)}

    def on(self, device: torch.device) -> torch.Tensor:
        if device not in self._copies:
            self._copies[device] = self._copies[torch.device("cpu")].to(device)
        return self._copies[device]


def binary_loss(train_targets: np.ndarray, options: LossOptions) -> Loss:
    """Return binary cross entropy with logits, mean over the known targets."""
    weight = _Weights(positive_weights(train_targets, options.class_weights))
    gamma, smoothing = options.focal_gamma, options.label_smoothing

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        outputs = outputs.float()
        known = torch.isfinite(targets)
        truth = torch.where(known, targets, torch.zeros_like(targets))
        soft = truth * (1 - smoothing) + 0.5 * smoothing
        each = F.binary_cross_entropy_with_logits(outputs, soft, pos_weight=weight.on(outputs.device), reduction="none")
        if gamma:
            p = torch.sigmoid(outputs)
            each = each * (p * (1 - truth) + (1 - p) * truth).pow(gamma)
        return (each * known).sum() / known.sum().clamp(min=1)

    return loss


def cross_entropy_loss(train_targets: np.ndarray, options: LossOptions) -> Loss:
    """Return soft-max cross entropy over (possibly mixed) one-hot rows, mean over the known records."""
    weight = _Weights(class_weights(train_targets, options.class_weights))
    gamma, smoothing = options.focal_gamma, options.label_smoothing

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        outputs = outputs.float()
        known = torch.isfinite(targets).all(dim=1)
        truth = torch.where(known[:, None], targets, torch.zeros_like(targets))
        soft = truth * (1 - smoothing) + smoothing / targets.shape[1]
        log_p = F.log_softmax(outputs, dim=1)
        terms = -soft * log_p * weight.on(outputs.device)
        if gamma:
            terms = terms * (1 - log_p.exp()).pow(gamma)
        return (terms.sum(dim=1) * known).sum() / known.sum().clamp(min=1)

    return loss


def smooth_l1_loss() -> Loss:
    """Return smooth L1 (Huber with delta 1) over standardised targets, mean over the known ones."""

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        outputs = outputs.float()
        known = torch.isfinite(targets)
        truth = torch.where(known, targets, torch.zeros_like(targets))
        each = F.smooth_l1_loss(outputs, truth, reduction="none")
        return (each * known).sum() / known.sum().clamp(min=1)

    return loss
