"""Which records a model was trained on: what can be told from its losses."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from training.metrics.membership import WARN_ABOVE, membership, record_losses


def test_losses_are_those_of_the_task():
    p, y = np.array([[0.9, 0.2], [0.5, 0.5], [0.1, 0.1]]), np.array([[1.0, 0.0], [np.nan, 1.0], [np.nan, np.nan]])
    losses = record_losses(p, y, "multilabel")
    assert losses[:2] == pytest.approx([-(np.log(0.9) + np.log(0.8)) / 2, -np.log(0.5)])
    assert np.isnan(losses[2])
    assert record_losses(p[:1], y[:1], "multiclass") == pytest.approx([-np.log(0.9) / 2])
    assert record_losses(np.array([[70.0]]), np.array([[60.0]]), "regression") == pytest.approx([100.0])
    assert np.isfinite(record_losses(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]), "multilabel")).all()


def test_it_is_the_area_under_the_curve_of_the_attack():
    rng = np.random.default_rng(0)
    inside, outside = rng.exponential(0.7, 80).round(2), rng.exponential(1.0, 60).round(2)
    found = membership(inside, outside)
    expected = roc_auc_score(np.r_[np.ones(80), np.zeros(60)], -np.r_[inside, outside])
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    wider = membership(inside, outside, subjects=(20, 15))
    assert wider.high - wider.low > found.high - found.low


def test_a_model_that_learns_by_heart_is_told_and_one_that_has_learned_nothing_is_not():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(400, 5)), rng.integers(0, 2, 400)
    by_heart = KNeighborsClassifier(1).fit(x[:200], y[:200]).predict_proba(x)[:, 1:]
    losses = record_losses(by_heart, y[:, None].astype(float), "multilabel")
    assert membership(losses[:200], losses[200:]).value > WARN_ABOVE + 0.1
    nothing = record_losses(np.full((400, 1), 0.5), y[:, None].astype(float), "multilabel")
    assert membership(nothing[:200], nothing[200:]).value == 0.5


def test_without_records_there_is_a_reason():
    found = membership(np.array([]), np.array([1.0]))
    assert found.value is None and found.reason
