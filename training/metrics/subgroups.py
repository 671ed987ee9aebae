"""The same model in parts of the records: does it hold for women and men, young and old, every device?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from training.metrics.report import evaluate

# Below this many subjects a part says nothing: it is named and counted, not judged.
SMALLEST = 20
MOST_PARTS = 12
_RESAMPLES = 400
_STARTS = re.compile(r"(?:under )?(\d+)\b")
_OVERALL = ("auroc_macro", "auprc_macro", "f1_macro", "f1_weighted", "brier_macro", "mae", "rmse", "r2")
_PER_CLASS = ("auroc", "f1", "sensitivity", "specificity", "mae")


def subgroups(
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    task: str,
    by: Mapping[str, Sequence[str]],
    *,
    groups: Sequence[str],
    thresholds: Sequence[float] | None = None,
    smallest: int = SMALLEST,
    before_step: Callable[[], None] = lambda: None,
) -> dict[str, list[dict[str, Any]]]:
    """Evaluate the parts of the records that each attribute of ``by`` makes.

    probabilities, targets, classes, task, thresholds, before_step: as for :func:`training.metrics.report.evaluate`.
    by: attribute -> the part of each record (``"female"``; empty where unknown). groups: subject of each record.

    Returns, per attribute, one row a part (bands in their order, others by size): ``name``, ``n``, ``n_subjects``, ``reason`` where it is too
    small to be judged, else the overall figures and ``per_class``, each with its 95 % interval. Attributes with one
    part only are left out.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    owners = np.asarray(groups, dtype=str)
    for attribute, parts in by.items():
        names = np.asarray([part or "unknown" for part in parts], dtype=str)
        sizes = {name: int((names == name).sum()) for name in np.unique(names)}
        if len(sizes) < 2:
            continue
        rows = []
        for name in _ordered(sizes)[:MOST_PARTS]:
            inside = names == name
            people = len(np.unique(owners[inside]))
            row: dict[str, Any] = {"name": str(name), "n": sizes[name], "n_subjects": people}
            if people < smallest:
                row["reason"] = f"Fewer than {smallest} subjects."
            else:
                row |= _figures(
                    probabilities[inside], targets[inside], classes, task, owners[inside], thresholds, before_step
                )
            rows.append(row)
        found[attribute] = rows
    return found


def _ordered(sizes: Mapping[str, int]) -> list[str]:
    """Return bands in their own order ("under 18", "18 to 39"), other parts by size; what is unknown comes last."""
    starts = {name: _STARTS.match(name) for name in sizes if name != "unknown"}
    if all(starts.values()):
        found = {
            name: (-1 if match[0].startswith("under") else int(match[1])) for name, match in starts.items() if match
        }
        return [*sorted(found, key=lambda name: found[name]), *(["unknown"] if "unknown" in sizes else [])]
    return sorted(sizes, key=lambda one: (one == "unknown", -sizes[one], one))


def _figures(
    probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str], task: str, owners: np.ndarray, thresholds: Any,
    before_step: Callable[[], None],
) -> dict[str, Any]:  # fmt: skip
    report = evaluate(
        probabilities,
        targets,
        classes,
        task,
        groups=owners,
        thresholds=thresholds,
        n_resamples=_RESAMPLES,
        before_step=before_step,
    )
    kept = {name: figure.to_json() for name, figure in report.overall.items() if name in _OVERALL}
    per_class = {
        name: {"n_positive": row.get("n_positive")} | {key: row[key].to_json() for key in _PER_CLASS if key in row}
        for name, row in report.per_class.items()
    }
    return kept | {"per_class": per_class}


def apart(rows: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[str, str]]:
    """Return the pairs of parts (better, worse) whose 95 % intervals of an overall figure do not touch.

    Intervals that touch do not prove that the parts are alike; those that do not differ beyond chance.
    """
    judged = [row for row in rows if (row.get(metric) or {}).get("low") is not None]
    return [(a["name"], b["name"]) for a in judged for b in judged if a[metric]["low"] > b[metric]["high"]]
