"""The result figures in one place: what judges a model, and what a training run looks like."""

from __future__ import annotations

from viz.figures.curves import Curve, Reliability, calibration, precision_recall, reliability, roc, scored
from viz.figures.matrices import co_occurrence, confusion_matrix, confusion_per_label
from viz.figures.progress import loss_curves, lr_finder, metric_curves

__all__ = [
    "Curve", "Reliability", "calibration", "co_occurrence", "confusion_matrix", "confusion_per_label", "loss_curves",
    "lr_finder", "metric_curves", "precision_recall", "reliability", "roc", "scored",
]  # fmt: skip
