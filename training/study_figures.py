"""A learning curve as a figure."""

from __future__ import annotations

import math
from typing import Any

from training.models import Study, TrialState
from viz.figures import charts
from viz.figures.figure import Figure

_TITLES = {"auroc_macro": "AUROC, mean over classes", "mae": "mean absolute error"}


def learning_curve(study: Study) -> Figure | None:
    """Draw the trainings on growing parts with their intervals, and the fitted law up to twice the records; None before
    the first training is scored."""
    trials = [t for t in study.trials.all() if t.state == TrialState.DONE and t.score is not None]  # type: ignore[attr-defined]
    if not trials:
        return None
    trials.sort(key=lambda trial: (trial.choices["records"], trial.number))
    metric = study.result.get("metric", "auroc_macro")
    title, unit = "Learning curve", _TITLES.get(metric, metric)
    heads = ["training records (count)", unit, "low", "high"]
    data: list[dict[str, Any]] = []
    rows = study.result.get("curve") or []
    if rows:
        at, value, low, high = (list(column) for column in zip(*rows, strict=True))
        data += [charts.band(at, low, high, 0, False, "95 %"), charts.curve("fitted power law", at, value, 0, False)]
    x = [trial.choices["records"] for trial in trials]
    data.append(charts.curve("trained", x, [t.score for t in trials], 1, False, mode="markers", marker={"size": 8, "color": charts.colour(1, False)}))  # fmt: skip
    ends = [(t.low, t.high) for t in trials]
    for size, (low_end, high_end) in zip(x, ends, strict=True):
        if low_end is not None and high_end is not None:
            data.append(charts.curve("interval", [size, size], [low_end, high_end], 1, False, showlegend=False))
    layout = charts.layout(title, heads[0], unit, False, uirevision=str(study.pk))
    return Figure({"data": data, "layout": layout}, title, summary(study), [heads, *_table(trials)])


def _table(trials: list[Any]) -> list[list[Any]]:
    return [[trial.choices["records"], trial.score, trial.low, trial.high] for trial in trials]


def summary(study: Study) -> str:
    """Return what twice the records would bring, in words."""
    result = study.result
    if not result:
        return "The trainings are not done yet."
    if not result.get("twice"):
        return str(result.get("reason", ""))
    unit = _TITLES.get(result["metric"], result["metric"])
    now, twice, records = result["now"], result["twice"], result["records"]
    gain = twice["value"] - now["value"]
    words = "more" if gain >= 0 else "less"
    certain = twice["low"] > now["high"] or twice["high"] < now["low"]
    doubt = "" if certain else " The intervals overlap, so this may be chance."
    digits = 3 if math.fabs(now["value"]) < 10 else 1
    return (
        f"With twice the training records ({2 * records} instead of {records}) the {unit} is expected to be {twice['value']:.{digits}f} "
        f"(95 % {twice['low']:.{digits}f} to {twice['high']:.{digits}f}), {abs(gain):.{digits}f} {words} than the {now['value']:.{digits}f} "
        f"of the fitted curve now.{doubt} The interval supposes that the law goes on beyond the data."
    )
