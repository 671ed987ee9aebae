"""A regression's answers against the truth, and their differences (J. M. Bland, D. G. Altman, Lancet 1986, 327: 307-310)."""

from __future__ import annotations

from typing import Any

import numpy as np

from training.models import Evaluation
from viz.figures import charts
from viz.figures.figure import Figure

FIGURES = {"predicted": "Predicted against true", "difference": "Difference against mean"}
_LIMIT = 1.96


def figure_of(row: Evaluation, kind: str, dark: bool = False) -> Figure:
    """Return one figure of a regression's evaluation, from the answers that were kept per record."""
    truth, answers = _pairs(row)
    return (_predicted if kind == "predicted" else _difference)(row, truth, answers, dark)


def _pairs(row: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Return truths and answers of the records where both are known, in the target's unit."""
    samples = (row.curves or {}).get("samples") or {"truth": [], "probabilities": []}
    truth = np.array([np.nan if own[0] is None else own[0] for own in samples["truth"]], dtype=float)
    answers = np.array([own[0] for own in samples["probabilities"]], dtype=float)
    known = np.isfinite(truth) & np.isfinite(answers)
    return truth[known], answers[known]


def _points(x: np.ndarray, y: np.ndarray, dark: bool) -> dict[str, Any]:
    marker = {"size": 6, "color": charts.rgba(charts.colour(0, False), 0.6) if not dark else charts.colour(0, True)}
    return charts.curve("record", x.tolist(), y.tolist(), 0, dark, mode="markers", marker=marker)


def _predicted(row: Evaluation, truth: np.ndarray, answers: np.ndarray, dark: bool) -> Figure:
    name = row.report["classes"][0]
    title, heads = FIGURES["predicted"], [f"true {name} (target's unit)", f"predicted {name} (target's unit)"]
    if len(truth) < 2:
        return charts.empty(title, *heads, dark, "predicted", heads, "Too few records with a known truth.")
    ends = [float(min(truth.min(), answers.min())), float(max(truth.max(), answers.max()))]
    same = charts.curve("as true", ends, ends, 1, dark)
    layout = charts.layout(title, *heads, dark, uirevision=str(row.pk))
    said = (
        f"{len(truth)} records. The answers spread from {answers.min():.3g} to {answers.max():.3g}, the truth from "
        f"{truth.min():.3g} to {truth.max():.3g}."
    )
    r = float(np.corrcoef(truth, answers)[0, 1]) if truth.std() > 0 and answers.std() > 0 else None
    said += f" Their correlation is {r:.2f}." if r is not None else ""
    return Figure(
        {"data": [_points(truth, answers, dark), same], "layout": layout}, title, said, _table(heads, truth, answers)
    )


def _difference(row: Evaluation, truth: np.ndarray, answers: np.ndarray, dark: bool) -> Figure:
    name = row.report["classes"][0]
    title, heads = (
        FIGURES["difference"],
        [f"mean of both (target's unit), {name}", "predicted less true (target's unit)"],
    )
    if len(truth) < 2:
        return charts.empty(title, *heads, dark, "difference", heads, "Too few records with a known truth.")
    middle, difference = (truth + answers) / 2, answers - truth
    bias, spread = float(difference.mean()), float(difference.std(ddof=1))
    ends = [float(middle.min()), float(middle.max())]
    lines = [
        ("mean difference", bias, 1),
        ("lower limit", bias - _LIMIT * spread, 2),
        ("upper limit", bias + _LIMIT * spread, 2),
    ]
    data = [_points(middle, difference, dark), *(charts.curve(n, ends, [y, y], k, dark) for n, y, k in lines)]
    said = (
        f"On average the answers are {abs(bias):.3g} too {'high' if bias > 0 else 'low'}; 95 % of the differences are expected "
        f"between {lines[1][1]:.3g} and {lines[2][1]:.3g}."
    )
    layout = charts.layout(title, *heads, dark, uirevision=str(row.pk))
    return Figure({"data": data, "layout": layout}, title, said, _table(heads, middle, difference))


def _table(heads: list[str], x: np.ndarray, y: np.ndarray) -> list[list[Any]]:
    return [heads, *([charts.number(a), charts.number(b)] for a, b in zip(x, y, strict=True))]
