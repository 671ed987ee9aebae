"""Matrices: confusion (counts and row shares, per class for multi-label) and label co-occurrence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecgportal.errors import InvalidInput
from viz.figures import charts, panels
from viz.figures.figure import Figure, figure
from viz.figures.palette import theme


@figure("confusion_matrix")
def confusion_matrix(
    counts: Sequence[Sequence[int]], labels: Sequence[str], *, dark: bool = False, title: str = "Confusion matrix"
) -> Figure:
    """Rows are the true class, columns the predicted one; each cell says its count and its share of the row."""
    heads = [
        "true class",
        *[f"predicted {name} (count)" for name in labels],
        *[f"predicted {name} (share of row)" for name in labels],
    ]
    x_title, y_title = "predicted class", "true class"
    matrix = np.asarray(counts, dtype=float).reshape(-1, len(labels)) if len(labels) else np.zeros((0, 0))
    if matrix.shape != (len(labels), len(labels)):
        raise InvalidInput(
            f"A confusion matrix of {len(labels)} classes needs {len(labels)} rows and columns, not {matrix.shape}."
        )
    if matrix.sum() == 0:
        return charts.empty(title, x_title, y_title, dark, "confusion", heads, "No records were counted.")
    totals = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, totals, out=np.full_like(matrix, np.nan), where=totals > 0)
    text = [[_cell_text(n, p) for n, p in zip(*rows, strict=True)] for rows in zip(matrix, share, strict=True)]
    shown = [charts.plain(name, 40) for name in labels]
    data = [
        _heatmap(
            shown, shown, share, text, "share of the row", dark, "true %{y}, predicted %{x}: %{text}<extra></extra>"
        )
    ]
    table: list[list[Any]] = [heads]
    table += [[name, *matrix[k].astype(int).tolist(), *charts.numbers(share[k])] for k, name in enumerate(labels)]
    right, total = int(np.trace(matrix)), int(matrix.sum())
    told = [f"{right:,} of {total:,} records are on the diagonal."]
    if len(labels) > panels.MOST_TOGETHER:
        told.append(panels.ranked(len(labels), ("Share found", list(zip(labels, np.diag(share), strict=True)))))
    else:
        told += [
            f"{name}: {int(matrix[k, k])} of {int(totals[k, 0])} found ({share[k, k]:.1%})."
            for k, name in enumerate(labels)
            if totals[k, 0]
        ]
    wrong = matrix - np.diag(np.diag(matrix))
    if wrong.max() > 0:
        r, c = divmod(int(wrong.argmax()), len(labels))
        told.append(f"Most frequent confusion: {labels[r]} taken for {labels[c]} ({int(wrong[r, c])} records).")
    frame = _matrix_layout(title, x_title, y_title, dark, "confusion", len(labels))
    return Figure({"data": data, "layout": frame}, title, " ".join(told), table)


@figure("confusion_per_label")
def confusion_per_label(
    counts: Mapping[str, Sequence[int]], *, dark: bool = False, title: str = "Confusion per label"
) -> Figure:
    """For multi-label problems: per label true positives, false negatives, false positives, true negatives.

    counts: ``{label: (tp, fn, fp, tn)}``.
    """
    heads = ["label", "true positive (count)", "false negative (count)", "false positive (count)", "true negative (count)",
             "sensitivity (share)", "specificity (share)", "PPV (share)", "NPV (share)"]  # fmt: skip
    x_title, y_title = "truth and prediction", "label"
    if not counts:
        return charts.empty(title, x_title, y_title, dark, "confusion-labels", heads, "No labels were counted.")
    columns = ["found (TP)", "missed (FN)", "false alarm (FP)", "rightly left (TN)"]
    share: list[list[float]] = []
    text: list[list[str]] = []
    table: list[list[Any]] = [heads]
    told: list[str] = []
    for name, (tp, fn, fp, tn) in counts.items():
        row = [_share(tp, tp + fn), _share(fn, tp + fn), _share(fp, fp + tn), _share(tn, fp + tn)]
        share.append(row)
        text.append([_cell_text(n, p) for n, p in zip((tp, fn, fp, tn), row, strict=True)])
        rates = [row[0], row[3], _share(tp, tp + fp), _share(tn, tn + fn)]
        table.append([name, tp, fn, fp, tn, *charts.numbers(rates)])
        told.append(
            f"{name}: sensitivity {_percent(rates[0])}, specificity {_percent(rates[1])}, PPV {_percent(rates[2])}."
        )
    if len(counts) > panels.MOST_TOGETHER:
        sensitivities, predictive = ([(row[0], row[k]) for row in table[1:]] for k in (5, 7))
        told = [panels.ranked(len(counts), ("Sensitivity", sensitivities), ("PPV", predictive))]
    shown = [charts.plain(name, 40) for name in counts]
    data = [
        _heatmap(
            columns, shown, np.array(share), text, "share within truth", dark, "%{y}, %{x}: %{text}<extra></extra>"
        )
    ]
    frame = _matrix_layout(title, x_title, y_title, dark, "confusion-labels", len(counts))
    return Figure({"data": data, "layout": frame}, title, " ".join(told), table)


@figure("co_occurrence")
def co_occurrence(
    counts: Sequence[Sequence[int]],
    labels: Sequence[str],
    *,
    dark: bool = False,
    title: str = "Labels that occur together",
) -> Figure:
    """Cell (row, column): records with both labels; the colour is their share of the row's label."""
    heads = ["label", *[f"with {name} (records)" for name in labels]]
    matrix = np.asarray(counts, dtype=float).reshape(-1, len(labels)) if len(labels) else np.zeros((0, 0))
    if matrix.size == 0 or matrix.sum() == 0:
        return charts.empty(title, "and label", "label", dark, "co-occurrence", heads, "No labelled records.")
    own = np.diag(matrix)[:, None]
    share = np.divide(matrix, own, out=np.full_like(matrix, np.nan), where=own > 0)
    shown = [charts.plain(name, 40) for name in labels]
    text = [[f"{int(n):,}" for n in row] for row in matrix]
    hover = "of the records with %{y}, share with %{x}: %{z:.1%} (%{text} records)<extra></extra>"
    data = [_heatmap(shown, shown, share, text, "share of the row's label", dark, hover)]
    pairs = sorted(
        ((int(matrix[a, b]), labels[a], labels[b]) for a in range(len(labels)) for b in range(a)),
        key=lambda one: -one[0],
    )
    told = [f"{a} and {b}: {n:,} records." for n, a, b in pairs[:5] if n]
    table: list[list[Any]] = [heads] + [[name, *matrix[k].astype(int).tolist()] for k, name in enumerate(labels)]
    frame = _matrix_layout(title, "and label", "label", dark, "co-occurrence", len(labels))
    return Figure({"data": data, "layout": frame}, title, " ".join(told) or "No two labels occur together.", table)


@figure("cross_table")
def cross_table(
    counts: Sequence[Sequence[int]], rows: Sequence[str], columns: Sequence[str], *, what: str = "rows", by: str = "columns",
    dark: bool = False, title: str = "",
) -> Figure:  # fmt: skip
    """Records by two fields; the colour is the share of the column, so that groups of unequal size can be compared.

    counts: ``(rows, columns)``. A record with several values of a field stands in several cells.
    """
    title = title or f"{what} by {by.lower()}"
    heads = [what, *[f"{name} (records)" for name in columns], *[f"{name} (share of column)" for name in columns]]
    matrix = np.asarray(counts, dtype=float).reshape(len(rows), len(columns))
    if matrix.sum() == 0:
        return charts.empty(title, by, what, dark, "cross", heads, "No record has both.")
    totals = matrix.sum(axis=0, keepdims=True)
    share = np.divide(matrix, totals, out=np.full_like(matrix, np.nan), where=totals > 0)
    text = [[f"{int(n):,}" for n in row] for row in matrix]
    hover = "%{y}, %{x}: %{text} records, %{z:.1%} of the column<extra></extra>"
    names = [charts.plain(name, 40) for name in columns], [charts.plain(name, 40) for name in rows]
    data = [_heatmap(names[0], names[1], share, text, "share of the column", dark, hover)]
    told = []
    for c, name in enumerate(columns[:6]):
        if totals[0, c]:
            r = int(np.nanargmax(share[:, c]))
            told.append(f"{name}: most often {rows[r]} ({share[r, c]:.0%}).")
    table: list[list[Any]] = [heads] + [
        [name, *matrix[k].astype(int).tolist(), *charts.numbers(share[k])] for k, name in enumerate(rows)
    ]
    return Figure(
        {"data": data, "layout": _matrix_layout(title, by, what, dark, "cross", len(rows))},
        title,
        " ".join(told),
        table,
    )


def _heatmap(
    x: list[str], y: list[str], z: np.ndarray, text: list[list[str]], unit: str, dark: bool, hover: str
) -> dict[str, Any]:
    return {
        "type": "heatmap", "x": x, "y": y, "z": [charts.numbers(row) for row in z], "text": text, "texttemplate": "%{text}",
        "zmin": 0, "zmax": 1, "colorscale": [list(stop) for stop in theme(dark).sequential], "hovertemplate": hover,
        "xgap": 1, "ygap": 1, "colorbar": {"title": {"text": unit, "side": "right"}, "thickness": 12, "tickformat": ".0%"},
    }  # fmt: skip


def _matrix_layout(title: str, x_title: str, y_title: str, dark: bool, key: str, rows: int) -> dict[str, Any]:
    category = {"type": "category", "showgrid": False}
    return charts.layout(
        title,
        x_title,
        y_title,
        dark,
        uirevision=key,
        x=category,
        y=category | {"autorange": "reversed"},
        height=max(420, 110 + 34 * rows),
    )


def _cell_text(n: float, share: float) -> str:
    return f"{int(n):,}" if not np.isfinite(share) else f"{int(n):,}<br>{share:.0%}"


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _percent(share: float) -> str:
    return f"{share:.1%}" if np.isfinite(share) else "unknown"
