"""A training run as figures: loss, validation metrics, the learning-rate finder."""

from __future__ import annotations

from typing import Any

from training import selectors
from training.models import TrainingRun
from viz.figures.figure import Figure
from viz.figures.progress import loss_curves, lr_finder, metric_curves

FIGURES = {"loss": "Loss", "metrics": "Validation metrics", "rate": "Learning-rate finder"}
# What an axis of shares shows, the higher the better.
_SCORES = {
    "auroc_macro": "AUROC, mean over classes", "auprc_macro": "AUPRC, mean over classes", "f1_macro": "F1, mean over classes",
    "f1_weighted": "F1, weighted", "accuracy": "accuracy", "chance": "by guessing", "explained": "share of variance",
    "r2": "R²",
}  # fmt: skip


def figure_of(run: TrainingRun, kind: str, dark: bool = False, rows: list[dict[str, Any]] | None = None) -> Figure:
    """Return one figure of a run. rows: its epochs, where they are at hand."""
    if kind == "rate":
        found = run.lr_finder or {}
        return lr_finder(
            found.get("rates", []), found.get("losses", []), chosen=run.learning_rate, smoothed=found.get("smoothed", []), dark=dark,
            suggested={title: found[name] for name, title in (("valley", "valley"), ("steepest", "steepest fall")) if found.get(name)},
        )  # fmt: skip
    rows = selectors.epoch_rows(run) if rows is None else rows
    more: dict[str, Any] = {"best_epoch": run.best_epoch, "run": str(run.pk), "dark": dark}
    if kind == "loss":
        others = "held back" if run.is_pretraining else "validation"
        return loss_curves(_series(rows, {"train_loss": "training", "val_loss": others}), **more)
    told = "Hidden signal told" if run.pretraining.get("method") == "masked" else "Windows told apart"
    return metric_curves(_series(rows, _SCORES), title=told if run.is_pretraining else FIGURES["metrics"], **more)


def _series(rows: list[dict[str, Any]], names: dict[str, str]) -> dict[str, list[tuple[float, float | None]]]:
    return {
        title: [(row["epoch"], row.get(name)) for row in rows]
        for name, title in names.items()
        if any(row.get(name) is not None for row in rows)
    }
