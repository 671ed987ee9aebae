"""A regression is shown by its answers against the truth and their differences, on its page and in its report."""

from __future__ import annotations

import numpy as np
import pytest

from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.training.test_setting_up import FAST
from tests.training.test_setting_up import ward as ward  # a fixture
from training.models import Evaluation
from training.regression_figures import figure_of


def evaluation(truth, answers) -> Evaluation:
    samples = {"truth": [[t] for t in truth], "probabilities": [[a] for a in answers]}
    return Evaluation(report={"classes": ["age"], "task": "regression"}, curves={"samples": samples})


def test_the_difference_has_its_mean_and_limits():
    rng = np.random.default_rng(0)
    truth = rng.uniform(20, 80, 400)
    row = evaluation([*truth, None], [*(truth + rng.normal(3, 5, 400)), 50.0])
    figure = figure_of(row, "difference")
    levels = {line["name"]: line["y"][0] for line in figure.plotly["data"] if line["mode"] == "lines"}
    assert levels["mean difference"] == pytest.approx(3, abs=1)
    assert levels["upper limit"] - levels["lower limit"] == pytest.approx(2 * 1.96 * 5, rel=0.1)
    assert "too high" in figure.summary and len(figure.table) == 401
    assert "correlation is 0.9" in figure_of(row, "predicted").summary
    for kind in ("predicted", "difference"):
        assert not figure_of(evaluation([1.0], [2.0]), kind).plotly["data"]
        assert not figure_of(Evaluation(report=row.report, curves={}), kind).plotly["data"]


def test_the_page_and_the_files_of_a_regression(ward, client):
    client.force_login(ward.user)
    run = ward.train(task="regression", target="age", label_map=None, settings={**FAST, "members": 1})
    page = client.get(f"/evaluations/{run.report.pk}/").content.decode()
    assert "Predicted against true" in page and "Difference against mean" in page and "Mean absolute error" in page
    assert "ROC curves" not in page and "F1 per class" not in page and "By class" not in page
    n = run.report.report["n"]
    for kind in ("predicted", "difference"):
        text = client.get(f"/evaluations/{run.report.pk}/figures/{kind}.csv").content.decode()
        assert len(text.strip().splitlines()) == n + 1
    assert client.get(f"/evaluations/{run.report.pk}/report.pdf").content.startswith(b"%PDF")
    assert "Predicted against true" in client.get(f"/evaluations/{run.report.pk}/report.html").content.decode()
