"""An evaluation's report as figures. The numbers are the report's own; only curves are drawn from the kept answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from training.models import Evaluation
from viz.figures import comparison, curves, matrices
from viz.figures.comparison import Score
from viz.figures.figure import Figure

FIGURES = {
    "roc": "ROC curves",
    "precision_recall": "Precision and recall",
    "confusion": "Confusion matrix",
    "calibration": "Calibration",
    "f1": "F1 per class",
}


def _answers(row: Evaluation) -> dict[str, tuple[list[float], list[float]]]:
    """Return ``{class: (truth, probability)}`` of the kept records with a known truth."""
    samples = (row.curves or {}).get("samples") or {}
    truth, scores = samples.get("truth") or [], samples.get("probabilities") or []
    found = {}
    for column, name in enumerate(row.report.get("classes", [])):
        pairs = [(t[column], p[column]) for t, p in zip(truth, scores) if t[column] is not None]
        found[name] = ([t for t, _ in pairs], [p for _, p in pairs])
    return found


def _figure_value(figure: Any) -> tuple[float | None, float | None, float | None]:
    figure = figure or {}
    return figure.get("value"), figure.get("low"), figure.get("high")


def _curves(row: Evaluation, kind: str, metric: str) -> list[curves.Curve]:
    drawn = []
    for name, (truth, scores) in _answers(row).items():
        figures = row.report["per_class"][name]
        area, low, high = _figure_value(figures.get(metric))
        curve = curves.scored(kind, name, [int(t) for t in truth], scores, chosen=figures.get("threshold"))
        drawn.append(replace(curve, area=area, area_low=low, area_high=high))
    return drawn


def figure_of(row: Evaluation, kind: str, dark: bool = False) -> Figure:
    """Return one figure of an evaluation; an evaluation that is not finished gives an empty one."""
    report = row.report or {"classes": [], "per_class": {}}
    if kind == "roc":
        return curves.roc(_curves(row, "roc", "auroc"), dark=dark)
    if kind == "precision_recall":
        return curves.precision_recall(_curves(row, "pr", "auprc"), dark=dark)
    if kind == "calibration":
        pairs = _answers(row).items()
        return curves.calibration(
            [curves.reliability(name, [int(t) for t in truth], scores) for name, (truth, scores) in pairs], dark=dark
        )
    if kind == "f1":
        scores = [
            Score(name, *_figure_value(figures.get("f1")), figures.get("n_positive"))
            for name, figures in report["per_class"].items()
        ]
        return comparison.f1_per_class(scores, macro=Score("mean", *_figure_value(report.get("f1_macro"))), dark=dark)
    counts = report.get("confusion_matrix") or {"classes": [], "per_class": {}, "matrix": None}
    if counts.get("matrix"):
        return matrices.confusion_matrix(counts["matrix"], counts["classes"], dark=dark)
    per_label = {name: (c["tp"], c["fn"], c["fp"], c["tn"]) for name, c in counts["per_class"].items()}
    return matrices.confusion_per_label(per_label, dark=dark)
