"""The result figures in one place: what judges a model, and what a training run looks like."""

from __future__ import annotations

from viz.figures.cohort import binned_bars, count_bars, effect_sizes, embedding_map, group_ranges, histogram
from viz.figures.comparison import Run, Score, f1_per_class, forest, runs_comparison
from viz.figures.curves import Curve, Reliability, calibration, precision_recall, roc
from viz.figures.figure import Figure, registered
from viz.figures.matrices import co_occurrence, confusion_matrix, confusion_per_label, cross_table
from viz.figures.progress import loss_curves, lr_finder, metric_curves
from viz.figures.render import figure_svg

__all__ = [
    "Curve",
    "Figure",
    "Reliability",
    "Run",
    "Score",
    "binned_bars",
    "calibration",
    "co_occurrence",
    "confusion_matrix",
    "confusion_per_label",
    "count_bars",
    "cross_table",
    "effect_sizes",
    "embedding_map",
    "f1_per_class",
    "figure_svg",
    "forest",
    "group_ranges",
    "histogram",
    "loss_curves",
    "lr_finder",
    "metric_curves",
    "precision_recall",
    "registered",
    "roc",
    "runs_comparison",
]  # fmt: skip
