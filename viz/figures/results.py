"""The result figures in one place: what judges a model, and what a training run looks like."""

from __future__ import annotations

from viz.figures.cohort import count_bars, embedding_map, histogram
from viz.figures.comparison import Run, Score, f1_per_class, forest, runs_comparison
from viz.figures.curves import Curve, Reliability, calibration, precision_recall, roc
from viz.figures.figure import Figure, registered
from viz.figures.matrices import co_occurrence, confusion_matrix, confusion_per_label
from viz.figures.progress import loss_curves, lr_finder, metric_curves
from viz.figures.render import figure_svg

__all__ = [
    "Curve", "Figure", "Reliability", "Run", "Score", "calibration", "co_occurrence", "confusion_matrix", "confusion_per_label",
    "count_bars", "embedding_map", "f1_per_class", "figure_svg", "forest", "histogram", "loss_curves", "lr_finder", "metric_curves",
    "precision_recall", "registered", "roc", "runs_comparison",
]  # fmt: skip
