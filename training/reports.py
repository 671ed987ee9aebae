"""An evaluation's report as JSON and as a page of its own."""

from __future__ import annotations

from typing import Any

from django.template.loader import render_to_string

from training.models import Evaluation


def as_json(row: Evaluation) -> dict[str, Any]:
    """Return the report with what it is about; curves stand under ``curves``."""
    return {
        "id": str(row.pk), "version": str(row.version_id), "dataset": str(row.dataset_id), "part": row.part,
        "run": str(row.run_id) if row.run_id else None, "created_at": row.created_at, **row.report,
        "per_class": _in_order(row.report), "curves": (row.curves or {}).get("curves", {}),
    }  # fmt: skip


def _in_order(report: dict[str, Any]) -> dict[str, Any]:
    """Return the figures per class in the order of the model's outputs, which the database does not keep."""
    per_class = report.get("per_class", {})
    names = [name for name in report.get("classes", []) if name in per_class]
    return {name: per_class[name] for name in [*names, *(name for name in per_class if name not in names)]}


def overall_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the report's overall figures as table rows, headline figures first."""
    titles = {
        "auroc_macro": "AUROC, mean over classes", "auprc_macro": "AUPRC, mean over classes", "f1_macro": "F1, mean over classes",
        "f1_weighted": "F1, weighted by frequency", "mae": "Mean absolute error", "rmse": "Root mean square error", "r2": "R²",
    }  # fmt: skip
    return [
        {"title": title, **report[name]}
        for name, title in titles.items()
        if isinstance(report.get(name), dict)
        and (report[name].get("value") is not None or report["task"] != "regression")
    ]


def class_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per class: counts, threshold and figures with intervals."""
    return [{"name": name, **figures} for name, figures in _in_order(report).items()]


def as_html(row: Evaluation) -> str:
    """Return the report as one self-contained HTML file without scripts."""
    return render_to_string(
        "training/report_file.html",
        {
            "evaluation": row,
            "report": row.report,
            "overall": overall_rows(row.report),
            "classes": class_rows(row.report),
        },
    )
