"""Read evaluations side by side: several models, or one model on several datasets."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

from ecgportal.errors import InvalidInput, PortalError
from ecgportal.projects import access
from modelhub.models import ModelVersion
from training import kept, selectors
from training.models import Evaluation
from training.reports import PARTS
from training.result_figures import score_of
from viz.figures.comparison import Run, Score, forest, runs_comparison
from viz.figures.figure import Figure
from viz.figures.progress import loss_curves

MOST_COMPARED = 8
# Shown side by side, in this order, where the report has them.
COMPARED = {
    "auroc_macro": "AUROC, mean", "auprc_macro": "AUPRC, mean", "f1_macro": "F1, mean", "f1_weighted": "F1, weighted",
    "sensitivity_macro": "Sensitivity, mean", "specificity_macro": "Specificity, mean", "brier_macro": "Brier score, mean",
    "ece_macro": "Calibration error, mean", "mae": "Mean absolute error", "rmse": "Root mean square error", "r2": "R²",
}  # fmt: skip
_SHARES = ("auroc_macro", "auprc_macro", "f1_macro", "f1_weighted", "sensitivity_macro", "specificity_macro")
_ERRORS = ("mae", "rmse")


def light(rows: QuerySet[Evaluation]) -> QuerySet[Evaluation]:
    """Return evaluations for a list: with what names them, without the answers of every record."""
    return rows.defer("curves").select_related(
        "version__model", "version__training_run", "dataset", "label_map", "job", "run"
    )


def chosen(project: Any, ids: Sequence[str], user: Any) -> tuple[list[Evaluation], int]:
    """Return the finished evaluations of a project by id, in the order that ``user`` asked for, and how many ids named none."""
    wanted: list[uuid.UUID] = []
    for text in dict.fromkeys(ids):
        try:
            wanted.append(uuid.UUID(text))
        except ValueError:
            continue
    found = Evaluation.objects.filter(project=project, pk__in=wanted[:MOST_COMPARED]).exclude(report={})
    by_id = {row.pk: row for row in light(found)}
    rows = [by_id[pk] for pk in wanted if pk in by_id]
    if len(rows) < len(wanted):
        access.note_hidden(Evaluation, user, pk__in=set(wanted[:MOST_COMPARED]) - set(by_id))
    return rows, len(set(ids)) - len(rows)


def is_held_back(row: Evaluation) -> bool:
    """Tell whether an evaluation is that of a training run, on records that its networks had not seen."""
    return row.part in PARTS


def name_of(row: Evaluation) -> str:
    part = " (held back)" if is_held_back(row) else ""
    return f"{row.version} on {row.dataset}{part}"


def comparison_figure(rows: Sequence[Evaluation]) -> Figure:
    """Return the headline figures of several evaluations, each with its interval."""
    is_regression = all(row.report["task"] == "regression" for row in rows)
    metrics = _ERRORS if is_regression else _SHARES
    runs = [
        Run(
            name_of(row),
            {COMPARED[name]: score_of(COMPARED[name], row.report[name]) for name in metrics if name in row.report},
        )
        for row in rows
    ]
    return runs_comparison(runs, title="Evaluations compared")


def comparison_table(rows: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Return one row a figure: ``title`` and ``cells``, the figure of each evaluation or None."""
    table = []
    for name, title in COMPARED.items():
        cells = [row.report.get(name) for row in rows]
        if any(cell and cell.get("value") is not None for cell in cells):
            table.append({"title": title, "cells": cells})
    return table


def differing_settings(rows: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Return the facts and settings in which the models of the evaluations differ: ``title`` and ``cells``."""
    facts: list[dict[str, Any]] = []
    for row in rows:
        run = getattr(row.version, "training_run", None)
        own = {
            "records judged": row.report["n"], "subjects judged": row.report["n_subjects"], "dataset": str(row.dataset),
            "label map": str(row.label_map or ""), "classes": ", ".join(row.report["classes"]), "task": row.report["task"],
        }  # fmt: skip
        if run is not None:
            own |= {
                "network": run.architecture,
                "mode": run.get_mode_display(),
                "learning rate": run.learning_rate,
                "kept epoch": run.best_epoch,
            }
            own |= {
                name.replace("_", " "): value for name, value in run.settings.items() if not isinstance(value, dict)
            }
        facts.append(own)
    names = list(dict.fromkeys(name for own in facts for name in own))
    found = []
    for name in names:
        cells = [own.get(name) for own in facts]
        if any(cell != cells[0] for cell in cells):
            found.append({"title": name.capitalize(), "cells": ["" if cell is None else cell for cell in cells]})
    return found


def loss_figure(rows: Sequence[Evaluation]) -> Figure | None:
    """Return the validation losses of the runs behind the evaluations in one figure; None with fewer than two runs."""
    series: dict[str, list[tuple[float, float | None]]] = {}
    for row in rows:
        run = getattr(row.version, "training_run", None)
        epochs = selectors.epoch_rows(run) if run is not None else []
        if epochs:
            series[str(row.version)] = [(one["epoch"], one.get("val_loss")) for one in epochs]
    return loss_curves(series, title="Validation loss of the runs") if len(series) > 1 else None


def paired_or_reason(rows: Sequence[Evaluation]) -> dict[str, Any] | None:
    """Return the paired difference of two evaluations, or why there is none; None unless exactly two are compared."""
    if len(rows) != 2:
        return None
    try:
        found = kept.paired(*rows)
    except (InvalidInput, PortalError) as error:
        return {"reason": error.message}
    return {
        "n": found.n,
        "n_subjects": found.n_subjects,
        "rows": found.rows,
        "first": name_of(rows[0]),
        "second": name_of(rows[1]),
    }


@dataclass(frozen=True)
class Validation:
    """One dataset on which a model was judged. ``drop``: how far the headline figure lies below that of the held-back part."""

    row: Evaluation
    figures: dict[str, Any]
    drop: float | None
    prevalence: dict[str, float]

    @property
    def is_reference(self) -> bool:
        return is_held_back(self.row)

    @property
    def shares(self) -> list[tuple[str, float]]:
        """The share of the records with each class, in percent, in the order of the model's classes."""
        return [(name, 100 * self.prevalence[name]) for name in self.row.report["classes"] if name in self.prevalence]


def validation(version: ModelVersion) -> list[Validation]:
    """Return the latest finished evaluation of a version per dataset, the held-back part of its training first."""
    rows = light(Evaluation.objects.filter(version=version).exclude(report={})).order_by("-created_at")
    latest: dict[Any, Evaluation] = {}
    for row in rows[:200]:
        latest.setdefault((row.dataset_id, row.part), row)
    ordered = sorted(latest.values(), key=lambda row: (not is_held_back(row), str(row.dataset)))
    reference = next((row for row in ordered if is_held_back(row)), None)
    return [_validation(row, reference) for row in ordered]


def _validation(row: Evaluation, reference: Evaluation | None) -> Validation:
    report = row.report
    name = "mae" if report["task"] == "regression" else "auroc_macro"
    drop = None
    if reference is not None and reference is not row:
        here, there = report[name]["value"], reference.report[name]["value"]
        if here is not None and there is not None:
            drop = (here - there) if name == "mae" else (there - here)
    figures = {
        key: report.get(key)
        for key in ("auroc_macro", "f1_macro", "sensitivity_macro", "specificity_macro", "ece_macro", "mae")
    }
    prevalence = {
        key: one["n_positive"] / one["n"]
        for key, one in report["per_class"].items()
        if one.get("n_positive") is not None and one["n"]
    }
    return Validation(row, figures, drop, prevalence)


def validation_figure(version: ModelVersion, found: Sequence[Validation]) -> Figure:
    """Return the headline figure on each dataset with its interval, the held-back part as the line."""
    is_regression = found[0].row.report["task"] == "regression"
    name, metric = ("mae", "Mean absolute error") if is_regression else ("auroc_macro", "AUROC")
    scores = [
        score_of(
            str(one.row.dataset) + (" (held back)" if one.is_reference else ""), one.figures[name], one.row.report["n"]
        )
        for one in found
    ]
    reference = next(
        (
            Score("held back", score.value, score.low, score.high)
            for score, one in zip(scores, found, strict=True)
            if one.is_reference
        ),
        None,
    )
    return forest(
        {"": scores},
        reference=reference,
        title=f"{version} on every dataset",
        metric=metric,
        unit="target's unit" if is_regression else "share",
    )
