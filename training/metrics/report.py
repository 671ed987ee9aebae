"""One evaluation: every metric of the task with its interval, per class and over all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ecgportal.errors import InvalidInput
from training.metrics.base import Figure, Metric, Sample, average, make_sample, metrics_for
from training.metrics.calibration import reliability
from training.metrics.curves import BAND_RESAMPLES, curve_points
from training.metrics.intervals import bootstrap_weights, figure, interval_from_resamples

DEFAULT_RESAMPLES = 1000
# Beyond this many records a resample costs more and is worth less: the interval is narrow anyway.
_CELL_BUDGET = 40_000_000


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation found.

    n, n_subjects: records and subjects with a known truth.
    overall: name -> figure (``f1_macro``, ``auroc_macro``, ... or ``mae``, ...).
    per_class: class (or target) -> ``n``, ``n_positive``, ``threshold`` and figures by name.
    curves: class -> ROC and precision-recall points, None where undefined.
    """

    task: str
    classes: tuple[str, ...]
    n: int
    n_subjects: int
    overall: dict[str, Figure]
    per_class: dict[str, dict[str, Any]]
    confusion_matrix: dict[str, Any] | None
    calibration: dict[str, Any] | None
    curves: dict[str, Any]
    method: dict[str, Any]
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON: figures as ``{"value", "low", "high"}``, with ``reason`` where something is null."""
        return {
            "task": self.task, "classes": list(self.classes), "n": self.n, "n_subjects": self.n_subjects,
            **{name: fig.to_json() for name, fig in self.overall.items()},
            "per_class": {
                name: {k: v.to_json() if isinstance(v, Figure) else v for k, v in row.items()}
                for name, row in self.per_class.items()
            },
            "confusion_matrix": self.confusion_matrix,
            "calibration": _plain(self.calibration),
            "curves": self.curves, "method": self.method, "notes": list(self.notes),
        }  # fmt: skip


def evaluate(
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    task: str,
    *,
    groups: Sequence[Any] | np.ndarray | None = None,
    thresholds: Sequence[float] | np.ndarray | None = None,
    seed: int = 0,
    n_resamples: int = DEFAULT_RESAMPLES,
    before_step: Callable[[], None] = lambda: None,
) -> EvaluationReport:
    """Evaluate predictions against the truth.

    probabilities: ``(records, outputs)``; for regression the estimated values.
    targets: same shape, 0/1 (or values), NaN where unknown; for multi-class also ``(records,)`` class
        indices with -1 for unknown.
    classes: the outputs' names in order. task: name of the task type.
    groups: subject of each record; records without one count as subjects of their own.
    thresholds: per class, see :func:`modelhub.contract.decided`; none for regression.
    before_step: called between the figures, at least once in a few seconds; what it raises ends the evaluation.

    Intervals are 95 %: cluster bootstrap over subjects, Wilson's for proportions, closed forms where
    resamples cannot vary. InvalidInput for shapes that do not fit, values that are not finite, or when
    no truth is known.
    """
    sample, limits = _checked(probabilities, targets, tuple(classes), task, groups, thresholds)
    n_resamples = (
        int(max(200, min(n_resamples, _CELL_BUDGET // max(1, sample.truth.size)))) if n_resamples > 200 else n_resamples
    )
    chosen = metrics_for(task)
    ones = sample.weight_of_one()
    point = {m.name: m.values(sample, ones) for m in chosen}
    averages = [(m, how) for m in chosen for how in m.averages]
    names = [m.name for m in chosen] + [f"{m.name}_{how}" for m, how in averages]
    draws: dict[str, list[np.ndarray]] = {name: [] for name in names}
    enough = sample.n_groups >= 2
    first: np.ndarray | None = None
    for weights in bootstrap_weights(sample.groups, n_resamples if enough else 0, seed):
        first = weights[:BAND_RESAMPLES] if first is None else first
        for m in chosen:
            before_step()
            values = m.values(sample, weights)
            draws[m.name].append(values)
            for how in m.averages:
                draws[f"{m.name}_{how}"].append(average(values, how, sample, weights))
    drawn = {name: np.concatenate(parts) if parts else None for name, parts in draws.items()}

    figures = {
        m.name: [_class_figure(m, sample, c, point[m.name][0, c], drawn[m.name]) for c in range(len(sample.names))]
        for m in chosen
        if m.per_output
    }
    overall: dict[str, Figure] = {}
    for m, how in averages:
        value = average(point[m.name], how, sample, ones)[0]
        overall[f"{m.name}_{how}"] = _average_figure(m, value, figures[m.name], drawn[f"{m.name}_{how}"])
    if task == "regression":
        overall = {name.removesuffix("_macro"): fig for name, fig in overall.items()}
    per_class = {
        name: _class_row(sample, c, limits, {m: f[c] for m, f in figures.items()})
        for c, name in enumerate(sample.names)
    }
    classified = task != "regression"
    before_step()
    return EvaluationReport(
        task=task, classes=sample.names, n=len(sample.truth), n_subjects=sample.n_groups,
        overall=_with_contract_keys(overall, classified), per_class=per_class,
        confusion_matrix=confusion_counts(sample) if classified else None,
        calibration=_calibration(sample, overall, figures) if classified else None,
        curves=_curves(sample, limits, first) if classified else {},
        method={
            "interval": "95 %: bootstrap over subjects; Wilson for sensitivity, specificity and predictive values",
            "resamples": n_resamples if enough else 0, "seed": seed,
            "subjects_given": groups is not None,
            "decision": _decision(task, limits),
        },
        notes=_notes(sample, groups, targets),
    )  # fmt: skip


def _decision(task: str, limits: np.ndarray | None) -> str | None:
    """Say how what is predicted follows from the probabilities."""
    if task == "regression":
        return None
    if task != "multiclass":
        return "probability >= threshold"
    return "largest probability" if limits is None else "largest probability less its threshold"


def _checked(
    probabilities: np.ndarray, targets: np.ndarray, classes: tuple[str, ...], task: str, groups: Any, thresholds: Any
) -> tuple[Sample, np.ndarray | None]:
    """Check the shapes and values, drop records without any known truth, build the sample."""
    predicted = np.asarray(probabilities, np.float64)
    truth = np.asarray(targets, np.float64)
    if predicted.ndim == 1:
        predicted = predicted[:, None]
    if truth.ndim == 1 and task == "multiclass":
        index = truth.astype(int)
        truth = np.where((index >= 0)[:, None], (index[:, None] == np.arange(len(classes))).astype(np.float64), np.nan)
    elif truth.ndim == 1:
        truth = truth[:, None]
    if predicted.shape != truth.shape or predicted.shape[1] != len(classes):
        raise InvalidInput(
            f"Predictions of shape {predicted.shape} and truths of shape {truth.shape} do not fit each other "
            f"and {len(classes)} classes."
        )
    if not np.isfinite(predicted).all():
        raise InvalidInput("Some predictions are not finite numbers; the model cannot be evaluated on these records.")
    if task != "regression" and ((predicted < 0) | (predicted > 1)).any():
        raise InvalidInput("Probabilities must lie between 0 and 1; raw outputs need their activation first.")
    if groups is not None and len(groups) != len(truth):
        raise InvalidInput(f"{len(groups)} subjects were given for {len(truth)} records.")
    rows = np.asarray(np.isfinite(truth).any(axis=1))
    if not rows.any():
        raise InvalidInput("No record has a known truth, so there is nothing to evaluate. Check the label map.")
    limits = None
    if thresholds is not None and task != "regression":
        limits = np.asarray(thresholds, np.float64)
        if limits.shape != (len(classes),) or not np.isfinite(limits).all():
            raise InvalidInput(f"There must be one finite threshold per class; {limits.tolist()} was given.")
    subject = None if groups is None else _subjects(groups, rows)
    return make_sample(predicted[rows], truth[rows], classes, task, groups=subject, thresholds=limits), limits


def _subjects(groups: Any, rows: np.ndarray) -> np.ndarray:
    """Return a key per kept record; a record of an unknown subject is a subject of its own."""
    keys = [
        f"r{i}" if g is None or g == "" or (isinstance(g, float) and np.isnan(g)) else f"s{g}"
        for i, g in enumerate(groups)
    ]
    return np.array(keys, dtype=str)[rows]


def _class_figure(m: Metric, sample: Sample, column: int, value: float, drawn: np.ndarray | None) -> Figure:
    if not np.isfinite(value):
        return figure(value, None, why_undefined=m.reason(sample, column))
    if sample.n_groups < 2:
        return figure(value, None, "All records are of one subject, so no interval can be given.")
    if m.interval == "exact" and m.exact is not None:
        return figure(value, m.exact(sample, column, value))
    assert drawn is not None
    interval, why = interval_from_resamples(value, drawn[:, column], m.interval, m.bounds)
    if interval is None and m.exact is not None:
        interval = m.exact(sample, column, value)
    return figure(value, interval, why)


def _average_figure(m: Metric, value: float, parts: list[Figure], drawn: np.ndarray | None) -> Figure:
    defined = [f for f in parts if f.value is not None]
    if not defined:
        return figure(
            float("nan"),
            None,
            why_undefined="Not defined for any class: " + " ".join(sorted({f.reason or "" for f in parts})),
        )
    if drawn is None:
        return figure(value, None, "All records are of one subject, so no interval can be given.")
    interval, why = interval_from_resamples(value, drawn, m.interval, m.bounds)
    if interval is None and all(f.low is not None and f.high is not None for f in defined):
        # Resamples that cannot vary (perfect scores): the mean of the classes' own bounds, on the safe side.
        low = sum(f.low or 0.0 for f in defined) / len(defined)
        high = sum(f.high or 0.0 for f in defined) / len(defined)
        interval = (min(low, value), max(high, value))
    return figure(value, interval, why)


def _class_row(sample: Sample, column: int, limits: np.ndarray | None, figures: dict[str, Figure]) -> dict[str, Any]:
    row: dict[str, Any] = {"n": int(sample.known[:, column].sum())}
    if sample.task != "regression":
        row["n_positive"] = sample.positives(column)
        usual = None if sample.task == "multiclass" else 0.5
        row["threshold"] = usual if limits is None else float(limits[column])
    return row | figures


def _curves(sample: Sample, limits: np.ndarray | None, weights: np.ndarray | None) -> dict[str, Any]:
    """Return the curves of each class, None where undefined. One of several classes is not decided by its own probability alone, so
    that no point of its curve is the one in use."""
    used: list[float | None] = [None] * len(sample.names)
    if sample.task != "multiclass":
        used = [0.5] * len(sample.names) if limits is None else [float(limit) for limit in limits]
    return {name: curve_points(sample, c, weights=weights, threshold=used[c]) for c, name in enumerate(sample.names)}


def confusion_counts(sample: Sample) -> dict[str, Any]:
    """Return counts: a matrix ``[true][predicted]`` for multi-class, four counts per class otherwise."""
    per_class = {}
    for column, name in enumerate(sample.names):
        known = sample.known[:, column]
        t, d = sample.truth[known, column] > 0.5, sample.decided[known, column]
        per_class[name] = {
            "tp": int((t & d).sum()), "fp": int((~t & d).sum()), "fn": int((t & ~d).sum()), "tn": int((~t & ~d).sum())
        }  # fmt: skip
    answer: dict[str, Any] = {"classes": list(sample.names), "per_class": per_class, "matrix": None}
    if sample.task == "multiclass":
        full = sample.known.all(axis=1)
        true, called = sample.truth[full].argmax(axis=1), sample.decided[full].argmax(axis=1)
        n = len(sample.names)
        answer["matrix"] = np.bincount(true * n + called, minlength=n * n).reshape(n, n).tolist()
        answer["rows"], answer["columns"] = "true class", "predicted class"
    return answer


def _calibration(sample: Sample, overall: dict[str, Figure], figures: dict[str, list[Figure]]) -> dict[str, Any]:
    return {
        "brier": overall["brier_macro"], "ece": overall["ece_macro"], "bins": 10,
        "per_class": {
            name: {"brier": figures["brier"][c], "ece": figures["ece"][c], "curve": reliability(sample, c)}
            for c, name in enumerate(sample.names)
        },
    }  # fmt: skip


def _with_contract_keys(overall: dict[str, Figure], classified: bool) -> dict[str, Figure]:
    """Put the four headline figures first; a regression has none of them and says so."""
    keys = ("f1_weighted", "f1_macro", "auroc_macro", "auprc_macro")
    why = Figure(None, None, None, "Not defined for a regression.")
    return {key: overall[key] if classified else why for key in keys} | overall


def _notes(sample: Sample, groups: Any, targets: np.ndarray) -> tuple[str, ...]:
    notes = []
    if groups is None:
        notes.append(
            "No subjects were given: every record counts as a subject of its own, so intervals may be too narrow."
        )
    left_out = len(targets) - len(sample.truth)
    if left_out:
        notes.append(f"{left_out:,} of {len(targets):,} records have no known truth and were left out.")
    for column, name in enumerate(sample.names):
        if sample.task != "regression" and sample.positives(column) == 0:
            notes.append(f"No record has class '{name}'; averages over classes leave out what is undefined for it.")
    return tuple(notes)


def _plain(value: Any) -> Any:
    if isinstance(value, Figure):
        return value.to_json()
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value
