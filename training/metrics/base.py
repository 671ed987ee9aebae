"""The shared form of everything that is measured, and the registry of metrics.

A metric works on a :class:`Sample` and a matrix of record weights ``(resamples, records)``: a row
of ones gives the metric itself, rows of bootstrap counts give its resamples, all in one call.
Undefined values are NaN; :class:`Figure` carries the reason to the reader.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np

import training.metrics
from modelhub.contract import decided

Interval = tuple[float, float]
Values = Callable[["Sample", np.ndarray], np.ndarray]
Exact = Callable[["Sample", int, float], "Interval | None"]

CLASSIFICATION = ("multiclass", "multilabel", "binary")
REGRESSION = ("regression",)


@dataclass(frozen=True, eq=False)
class Sample:
    """Predictions and truth of one evaluation.

    predicted: float64 ``(records, outputs)``: probabilities, or values for regression.
    truth: float64, same shape: 0 or 1 (or values), NaN where unknown.
    decided: bool, same shape: the class was called present (empty for regression).
    groups: int ``(records,)``: subject index, 0-based without gaps.
    task: name of the task type.
    """

    predicted: np.ndarray
    truth: np.ndarray
    decided: np.ndarray
    groups: np.ndarray
    task: str
    names: tuple[str, ...]

    @property
    def known(self) -> np.ndarray:
        return np.isfinite(self.truth)

    @property
    def n_groups(self) -> int:
        return int(self.groups.max()) + 1 if len(self.groups) else 0

    def positives(self, column: int) -> int:
        return int((self.truth[:, column] > 0.5).sum())

    def negatives(self, column: int) -> int:
        return int((self.truth[:, column] <= 0.5).sum())

    def weight_of_one(self) -> np.ndarray:
        return np.ones((1, len(self.truth)))


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % interval. ``value`` is None where undefined; ``reason`` then says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        answer: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high}
        if self.reason is not None:
            answer["reason"] = self.reason
        return answer


@dataclass(frozen=True)
class Metric:
    """One registered metric.

    values: ``(sample, weights) -> (resamples, outputs)`` for a metric per class or target,
        ``(resamples,)`` for an overall one.
    per_output: whether it is of the first kind.
    averages: which of ``macro`` and ``weighted`` (by positives) are formed over the classes.
    needs: what must be there for it to be defined, for the reason: ``positives``, ``negatives``,
        ``calls`` (records called positive), ``clears`` (called negative), ``spread``.
    exact: ``(sample, column, value) -> (low, high)``, an interval by formula.
    interval: ``percentile``; ``basic`` for statistics whose resamples are biased; ``exact`` uses the formula
        always, otherwise only where the resamples do not vary (a perfect score, say).
    """

    name: str
    title: str
    problems: tuple[str, ...]
    direction: Literal["higher", "lower", "none"]
    values: Values
    bounds: tuple[float, float]
    per_output: bool = True
    averages: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    exact: Exact | None = None
    interval: Literal["percentile", "basic", "exact"] = "percentile"
    meaning: str = ""

    def reason(self, sample: Sample, column: int) -> str:
        """Return why the metric is undefined for one class or target."""
        name = sample.names[column]
        truth, decided = sample.truth[:, column], sample.decided[:, column] if sample.decided.size else None
        if not np.isfinite(truth).any():
            return f"No record has a known value for '{name}'."
        if "positives" in self.needs and not (truth > 0.5).any():
            return f"No record has class '{name}'."
        if "negatives" in self.needs and not (truth <= 0.5).any():
            return f"Every record has class '{name}'."
        if decided is not None and "calls" in self.needs and not decided[np.isfinite(truth)].any():
            return f"No record was called '{name}'."
        if decided is not None and "clears" in self.needs and decided[np.isfinite(truth)].all():
            return f"Every record was called '{name}'."
        if "spread" in self.needs:
            return f"The true values of '{name}' do not differ."
        return f"'{self.title}' is not defined for these records."


_METRICS: dict[str, Metric] = {}
_NOT_METRICS = {"base", "curves", "intervals", "paired", "report", "subgroups", "thresholds"}


def metric(
    name: str, title: str, *, problems: tuple[str, ...], direction: Literal["higher", "lower", "none"],
    bounds: tuple[float, float], **options: Any,
) -> Callable[[Values], Values]:  # fmt: skip
    """Decorator: register the function as metric ``name``; see :class:`Metric` for the options."""

    def register(values: Values) -> Values:
        if name in _METRICS:
            raise ValueError(f"two metrics are named {name!r}")
        _METRICS[name] = Metric(
            name, title, problems, direction, values, bounds, meaning=(values.__doc__ or ""), **options
        )
        return values

    return register


@cache
def metrics() -> dict[str, Metric]:
    """Return every registered metric by name."""
    for module in sorted(m.name for m in pkgutil.iter_modules(training.metrics.__path__)):
        if module not in _NOT_METRICS:
            importlib.import_module(f"training.metrics.{module}")
    return dict(_METRICS)


def metrics_for(task: str) -> list[Metric]:
    """Return the metrics of a task in their order of registration."""
    return [m for m in metrics().values() if task in m.problems]


def average(values: np.ndarray, how: str, sample: Sample, weights: np.ndarray) -> np.ndarray:
    """Average ``(resamples, outputs)`` over the outputs that are defined: ``macro`` or ``weighted`` by positives."""
    defined = np.isfinite(values)
    if how == "weighted":
        share = weights @ (sample.truth > 0.5)
        share = np.where(defined, share, 0.0)
    else:
        share = defined.astype(np.float64)
    total = share.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, (np.where(defined, values, 0.0) * share).sum(axis=1) / total, np.nan)


def score(name: str, sample: Sample) -> float:
    """Return one number by name: a registered metric, or ``<metric>_macro`` / ``<metric>_weighted``; NaN if undefined."""
    ones = sample.weight_of_one()
    found = metrics().get(name)
    if found is not None:
        values = found.values(sample, ones)
        return float(values[0]) if not found.per_output else float(average(values, "macro", sample, ones)[0])
    stem, _, how = name.rpartition("_")
    return float(average(metrics()[stem].values(sample, ones), how, sample, ones)[0])


def find_metric(name: str) -> Metric:
    """Return the metric of a name, which may ask for its mean over the classes."""
    return metrics().get(name) or metrics()[name.rpartition("_")[0]]


def better(name: str) -> Literal["higher", "lower"]:
    """Return which direction is better for a metric's name; a loss is better lower."""
    if name == "loss":
        return "lower"
    return "lower" if find_metric(name).direction == "lower" else "higher"


def make_sample(
    predicted: np.ndarray,
    truth: np.ndarray,
    names: Sequence[str],
    task: str,
    *,
    groups: Sequence[Any] | np.ndarray | None = None,
    thresholds: np.ndarray | None = None,
) -> Sample:
    """Build a sample. thresholds: per class, see :func:`modelhub.contract.decided`."""
    predicted = np.asarray(predicted, np.float64)
    truth = np.asarray(truth, np.float64)
    hits = np.zeros((0, 0), bool)
    if task != "regression":
        hits = decided(predicted, thresholds, one_of_several=task == "multiclass")
    index = (
        np.arange(len(truth)) if groups is None else np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    )
    return Sample(predicted, truth, hits, index.reshape(-1), task, tuple(names))


@dataclass(frozen=True)
class Confusion:
    """Weighted 2 x 2 counts per class, each ``(resamples, classes)``."""

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray = field(repr=False)


def confusion(sample: Sample, weights: np.ndarray) -> Confusion:
    """Count, per class, the four outcomes over the records whose truth is known."""
    true, false = sample.truth > 0.5, sample.truth <= 0.5
    called = sample.decided
    return Confusion(
        tp=weights @ (true & called).astype(np.float64),
        fp=weights @ (false & called).astype(np.float64),
        fn=weights @ (true & ~called).astype(np.float64),
        tn=weights @ (false & ~called).astype(np.float64),
    )


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return ``a / b``, NaN where ``b`` is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(b > 0, a / np.where(b > 0, b, 1), np.nan)
