"""An evaluation's report as figures. Every number is the report's own; nothing is estimated anew."""

from __future__ import annotations

from typing import Any

from datasets.formats.registry import title_of
from training import regression_figures
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
# Every figure that an evaluation may have, by kind.
EVERY_FIGURE = FIGURES | regression_figures.FIGURES
_ATTRIBUTES = ("sex", "age", "site", "device", "format", "dataset")
# kind -> (curve, first coordinate, second, area, the two figures at the threshold in use)
_CURVES = {
    "roc": ("roc", "fpr", "tpr", "auroc", ("specificity", "sensitivity")),
    "precision_recall": ("pr", "recall", "precision", "auprc", ("sensitivity", "ppv")),
}


def parts_of(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the parts of the records by attribute, in the order in which they are shown and named as people read them."""
    found = report.get("subgroups") or {}
    parts = {name: found[name] for name in _ATTRIBUTES if name in found}
    if "format" in parts:
        parts["format"] = [part | {"name": title_of(part["name"])} for part in parts["format"]]
    return parts


def triple(figure: Any) -> tuple[float | None, float | None, float | None]:
    """Return value, low and high of a figure of a report, each None where unknown."""
    figure = figure or {}
    return figure.get("value"), figure.get("low"), figure.get("high")


def score_of(name: str, figure: Any, support: int | None = None) -> Score:
    return Score(name, *triple(figure), support)


def _classes(row: Evaluation) -> list[str]:
    return [name for name in (row.report or {}).get("classes", []) if name in row.report["per_class"]]


def _curve(row: Evaluation, kind: str, name: str) -> curves.Curve:
    """Return one class's curve as it was kept; without points where a class was missing."""
    which, x, y, area, (first, second) = _CURVES[kind]
    figures = row.report["per_class"][name]
    value, low, high = triple(figures.get(area))
    known, positives = figures.get("n"), figures.get("n_positive")
    kept = (((row.curves or {}).get("curves") or {}).get(name) or {}).get(which)
    if not kept:
        return curves.Curve(name, (), ())
    at = (triple(figures.get(first))[0], triple(figures.get(second))[0])
    point = None
    # One of several classes is decided by all thresholds together: no point of its own curve is the one in use.
    limit = None if row.report["task"] == "multiclass" else figures.get("threshold")
    if limit is not None and at[0] is not None and at[1] is not None:
        point = (1 - at[0] if kind == "roc" else at[0], at[1])
    return curves.Curve(
        name, kept[x], kept[y], [float("inf") if cut is None else cut for cut in kept["threshold"]], value, low, high,
        kept.get("low", ()), kept.get("high", ()), limit, positives / known if known else None, positives,
        known - positives if known is not None else None, point,
    )  # fmt: skip


def _calibration(row: Evaluation, name: str) -> curves.Reliability:
    found = (row.report.get("calibration") or {"per_class": {}})["per_class"].get(name)
    if not found:
        return curves.Reliability(name, (), (), ())

    def column(key: str) -> list[Any]:
        return [point[key] for point in found["curve"]]

    return curves.Reliability(
        name, column("mean_probability"), column("observed"), column("n"), column("low"), column("high"),
        triple(found["ece"])[0], triple(found["brier"])[0],
    )  # fmt: skip


def figure_of(row: Evaluation, kind: str, dark: bool = False) -> Figure:
    """Return one figure of an evaluation; an evaluation that is not finished gives an empty one."""
    if kind in regression_figures.FIGURES:
        return regression_figures.figure_of(row, kind, dark)
    names = _classes(row)
    if kind == "roc":
        return curves.roc([_curve(row, kind, name) for name in names], dark=dark)
    if kind == "precision_recall":
        return curves.precision_recall([_curve(row, kind, name) for name in names], dark=dark)
    if kind == "calibration":
        return curves.calibration([_calibration(row, name) for name in names], dark=dark)
    report = row.report or {}
    if kind == "f1":
        per_class = [
            score_of(name, report["per_class"][name].get("f1"), report["per_class"][name].get("n_positive"))
            for name in names
        ]
        return comparison.f1_per_class(per_class, macro=score_of("mean", report.get("f1_macro")), dark=dark)
    counts = report.get("confusion_matrix") or {"classes": [], "per_class": {}, "matrix": None}
    if counts.get("matrix"):
        return matrices.confusion_matrix(counts["matrix"], counts["classes"], dark=dark)
    per_label = {name: counts["per_class"][name] for name in counts["classes"]}
    return matrices.confusion_per_label(
        {name: (c["tp"], c["fn"], c["fp"], c["tn"]) for name, c in per_label.items()}, dark=dark
    )


def figures_of(row: Evaluation, dark: bool = False) -> dict[str, Figure]:
    """Return the figures that say something, by kind; a regression has its own."""
    is_regression = (row.report or {}).get("task") == "regression"
    kinds = regression_figures.FIGURES if is_regression else FIGURES
    return {kind: made for kind in kinds if (made := figure_of(row, kind, dark)).plotly["data"]}


def parts_figure(row: Evaluation, dark: bool = False) -> Figure | None:
    """Return the headline figure in each part of the records against that of all; None where nothing divides them or no part is
    large enough to be judged."""
    parts = parts_of(row.report or {})
    if not parts:
        return None
    regression = row.report["task"] == "regression"
    name, metric = ("mae", "Mean absolute error") if regression else ("auroc_macro", "AUROC")
    groups = {
        attribute.capitalize(): [score_of(one["name"], one.get(name), one["n"]) for one in rows]
        for attribute, rows in parts.items()
    }
    if not any(one.value is not None for rows in groups.values() for one in rows):
        # The table below says of each part why it was not judged.
        return None
    return comparison.forest(
        groups, reference=score_of("all records", row.report.get(name)), metric=metric, dark=dark, unit="target's unit" if regression else "share",
    )  # fmt: skip
