"""An evaluation's report as figures, also before it is finished."""

from __future__ import annotations

import numpy as np
import pytest

from training.metrics.report import evaluate
from training.models import Evaluation
from training.result_figures import FIGURES, figure_of, parts_figure


def _evaluation(task: str, classes: list[str], thresholds: list[float] | None = None) -> Evaluation:
    rng = np.random.default_rng(3)
    truth = rng.random((60, len(classes))) < 0.4
    if task == "multiclass":
        truth = np.eye(len(classes))[rng.integers(0, len(classes), 60)] > 0
    scores = np.clip(truth * 0.4 + rng.random(truth.shape) * 0.6, 0, 1)
    if task == "multiclass":
        scores = scores / scores.sum(axis=1, keepdims=True)
    report = evaluate(scores, truth.astype(float), classes, task, thresholds=thresholds, n_resamples=200).to_json()
    samples = {"truth": truth.astype(float).tolist(), "probabilities": scores.tolist()}
    return Evaluation(report=report, curves={"curves": report.pop("curves"), "samples": samples})


@pytest.mark.parametrize("kind", FIGURES)
@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_every_figure_tells_every_class(kind, task):
    figure = figure_of(_evaluation(task, ["NORM", "MI", "CD"]), kind)
    assert figure.plotly["data"] and figure.title and figure.summary
    text = str(figure.table)
    assert all(name in text for name in ("NORM", "MI", "CD"))


@pytest.mark.parametrize("kind", FIGURES)
def test_an_unfinished_evaluation_gives_an_empty_figure_with_a_sentence(kind):
    figure = figure_of(Evaluation(report={}, curves={}), kind)
    assert figure.summary


def test_the_area_beside_a_curve_is_the_report_s_own():
    row = _evaluation("multilabel", ["NORM", "MI"])
    value = row.report["per_class"]["MI"]["auroc"]["value"]
    assert f"{value:.3f}" in figure_of(row, "roc").summary


@pytest.mark.parametrize("kind", ["roc", "precision_recall"])
def test_a_curve_marks_the_threshold_in_use_where_it_decides_alone(kind):
    alone, together = (
        figure_of(_evaluation(task, ["NORM", "MI"], [0.4, 0.3]), kind) for task in ("multilabel", "multiclass")
    )
    assert "At threshold 0.4" in alone.summary and "threshold" not in together.summary


def test_parts_that_are_too_small_give_no_empty_figure():
    row = _evaluation("multilabel", ["NORM", "MI"])
    small = {"name": "female", "n": 3, "auroc_macro": None, "reason": "too few records"}
    row.report["subgroups"] = {"sex": [small, small | {"name": "male"}]}
    assert parts_figure(row) is None
    large = small | {"auroc_macro": {"value": 0.8, "low": 0.7, "high": 0.9}}
    row.report["subgroups"] = {"sex": [small, large]}
    assert parts_figure(row).plotly["data"]
