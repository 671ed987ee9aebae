"""An evaluation's report as JSON, as a page of its own and as a PDF document."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput
from ecgportal.pdf import Block, Heading, Picture, Table, Text, render
from training.models import Evaluation
from training.result_figures import figures_of, parts_of
from viz.figures.charts import show
from viz.figures.render import figure_svg

OVERALL = {
    "auroc_macro": "AUROC, mean over classes", "auprc_macro": "AUPRC, mean over classes", "f1_macro": "F1, mean over classes",
    "f1_weighted": "F1, weighted by frequency", "mae": "Mean absolute error", "rmse": "Root mean square error", "r2": "R²",
}  # fmt: skip
PER_CLASS = {
    "auroc": "AUROC", "auprc": "AUPRC", "f1": "F1", "sensitivity": "Sensitivity", "specificity": "Specificity",
    "ppv": "Positive predictive value", "npv": "Negative predictive value",
}  # fmt: skip
ATTRIBUTES = {
    "sex": "Sex", "age": "Age in years", "site": "Hospital", "device": "Device", "format": "File format", "dataset": "Dataset",
}  # fmt: skip
# How the records of an evaluation relate to those that the model learned from.
PARTS = {"test": "held back from training", "folds": "each judged by a network that had not seen it"}
FORMATS = ("json", "html", "pdf")


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
    return [
        {"name": name, "title": title, **report[name]}
        for name, title in OVERALL.items()
        if isinstance(report.get(name), dict)
        and (report[name].get("value") is not None or report["task"] != "regression")
    ]


def class_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per class: counts, threshold and figures with intervals."""
    return [{"name": name, **figures} for name, figures in _in_order(report).items()]


def headline(report: dict[str, Any]) -> tuple[str, str]:
    """Return the name and title of the figure by which parts and datasets are held against each other."""
    return ("mae", "Mean absolute error") if report.get("task") == "regression" else ("auroc_macro", "AUROC")


def about(row: Evaluation) -> str:
    """Return one paragraph on what was evaluated, for the head of a document."""
    report = row.report
    held_back = f", {PARTS[row.part]}" if row.part in PARTS else ""
    labels = f" Labels by {row.label_map}." if row.label_map else ""
    left_out = report.get("left_out_training_subjects")
    without = (
        f" {left_out:,} records were left out because the model was trained on their subjects or signals."
        if left_out
        else ""
    )
    return (
        f"{report['n']:,} records of {report['n_subjects']:,} subjects{held_back}.{labels}{without} "
        f"Made {row.created_at:%Y-%m-%d %H:%M} UTC. Research use, not a medical device."
    )


def title_of(row: Evaluation) -> str:
    return f"Evaluation of {row.version} on {row.dataset}"


def as_html(row: Evaluation) -> str:
    """Return the report as one self-contained HTML file without scripts."""
    return render_to_string(
        "training/report_file.html",
        {
            "evaluation": row,
            "about": about(row),
            "report": row.report,
            "overall": overall_rows(row.report),
            "classes": class_rows(row.report),
            "figures": [(made, SafeString(figure_svg(made))) for made in figures_of(row).values()],
            "parts": [(ATTRIBUTES[name], rows) for name, rows in parts_of(row.report).items()],
            "headline": headline(row.report),
        },
    )


def as_pdf(row: Evaluation) -> bytes:
    """Return the report as a PDF document: tables, the figures as pictures, parts of the records, method."""
    report = row.report
    blocks: list[Block] = [Text(about(row)), Heading("Overall")]
    blocks.append(
        Table(["Figure", "Value", "95 % interval"], [_line(one["title"], one) for one in overall_rows(report)])
    )
    blocks += _class_blocks(report)
    made = figures_of(row)
    if made:
        blocks.append(Heading("Figures"))
        blocks += [
            Picture(figure_svg(figure, 720), f"{figure.title}. {figure.summary}"[:1200], 150)
            for figure in made.values()
        ]
    blocks += _part_blocks(report)
    blocks += [Heading("Method"), Text(f"{report['method']['interval']}. {' '.join(report.get('notes', []))}".strip())]
    return render(title_of(row), blocks)


def _line(title: str, figure: dict[str, Any]) -> list[str]:
    low, high = figure.get("low"), figure.get("high")
    interval = f"{show(low)} to {show(high)}" if low is not None and high is not None else figure.get("reason") or ""
    value = figure.get("value")
    return [title, "not defined" if value is None else show(value), interval]


def _class_blocks(report: dict[str, Any]) -> list[Block]:
    blocks: list[Block] = [Heading("By class")]
    for row in class_rows(report):
        rows = [_line(title, row[name]) for name, title in PER_CLASS.items() if isinstance(row.get(name), dict)]
        if report["task"] == "regression":
            rows = [
                _line(OVERALL[name], row[name]) for name in ("mae", "rmse", "r2") if isinstance(row.get(name), dict)
            ]
        counts = f"{row['n']:,} records" + (
            f", {row['n_positive']:,} with the class" if row.get("n_positive") is not None else ""
        )
        cut = f", called at {row['threshold']:.3g} and above" if row.get("threshold") is not None else ""
        blocks += [
            Heading(row["name"], 2),
            Text(f"{counts}{cut}.", quiet=True),
            Table(["Figure", "Value", "95 % interval"], rows),
        ]
    return blocks


def _part_blocks(report: dict[str, Any]) -> list[Block]:
    parts = parts_of(report)
    name, title = headline(report)
    blocks: list[Block] = [Heading("Parts of the records")] if parts else []
    for attribute, rows in parts.items():
        lines = [
            [row["name"], f"{row['n']:,}", f"{row['n_subjects']:,}", *_line("", row.get(name) or row)[1:]]
            for row in rows
        ]
        blocks += [
            Heading(ATTRIBUTES[attribute], 2),
            Table(["Part", "Records", "Subjects", title, "95 % interval"], lines),
        ]
    return blocks


def file_of(row: Evaluation, kind: str, actor: Any) -> HttpResponse:
    """Return the report as a downloaded file (``html`` or ``pdf``) and leave an audit event.

    Raises
    ------
    Conflict: the evaluation has not finished. InvalidInput: another kind.
    """
    check(row, kind)
    text = as_html(row) if kind == "html" else as_pdf(row)
    audit("evaluation.downloaded", row, actor=actor, project=row.project, changes={"format": kind})
    content_type = "text/html; charset=utf-8" if kind == "html" else "application/pdf"
    return HttpResponse(
        text, content_type=content_type, headers={"Content-Disposition": f'attachment; filename="report.{kind}"'}
    )


def check(row: Evaluation, kind: str) -> None:
    """Raise Conflict while there is no report, InvalidInput for an unknown format."""
    if kind not in FORMATS:
        raise InvalidInput(
            f"There is no report format {kind[:20]!r}.", fields={"format": f"Choose one of {', '.join(FORMATS)}."}
        )
    if not row.report:
        raise Conflict("The evaluation has not finished; ask again when its job has succeeded.", code="not_finished")
