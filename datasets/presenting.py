"""Records, signals and label maps in the forms that pages and the API send."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from datasets import ecg, signals
from datasets.labels.tabular import MAX_CELL_CHARS, safe_cell
from datasets.models import LabelMap, Record
from datasets.preprocess.recipe import DEFAULT_RECIPE
from ecgportal.errors import InvalidInput

# The correction that drug trials report (ICH E14); Bazett's overcorrects at fast rates.
QTC_FORMULA = "fridericia"
# A century; multiplied by a rate, more need not fit a number any more.
_MOST_SECONDS = 3.2e9
_RELATIONS = ("exact", "broader", "ambiguous", "unmapped")


def labels(record: Record) -> list[dict[str, Any]]:
    return [
        {"code": x.code, "system": x.system, "likelihood": x.likelihood, "source": x.source}
        for x in record.labels.all()
    ]


@dataclass(frozen=True)
class Window:
    """Part of a signal: float32 mV ``(leads, samples)``, NaN where nothing was recorded."""

    signal: np.ndarray
    fs_hz: float
    leads: tuple[str, ...]
    start_s: float
    stage: str


def _number(text: str | None, field: str) -> float | None:
    if text in (None, ""):
        return None
    try:
        value = float(text)  # type: ignore[arg-type]
    except ValueError:
        value = math.nan
    if not abs(value) < _MOST_SECONDS:
        raise InvalidInput(
            f"The value of {field} is not a number of seconds.", fields={field: "Give seconds, such as 2.5."}
        )
    return value


def signal_window(record: Record, stage: str, leads: str | None, start_s: str | None, end_s: str | None) -> Window:
    """Cut the asked leads and time out of the original or the prepared signal. Of a long original only the part is read."""
    source = signals.mapped(record)
    if stage == "prepared":
        prepared = DEFAULT_RECIPE.apply(source)
        samples, fs_hz, names = (
            np.where(prepared.mask, prepared.signal, np.float32(np.nan)),
            prepared.fs_hz,
            prepared.leads,
        )
    elif stage == "original":
        samples, fs_hz, names = source.signal, source.fs_hz, source.leads
    else:
        raise InvalidInput(f"There is no stage {stage!r}.", fields={"stage": "Choose original or prepared."})
    rows = list(range(len(names)))
    if leads:
        asked = [name.strip() for name in leads.split(",") if name.strip()]
        wanted = [name if name in names else ecg.canonical_lead(name) or name for name in asked]
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise InvalidInput(
                f"The record has no lead {', '.join(unknown)}.", fields={"leads": f"It has {', '.join(names)}."}
            )
        rows, names = [names.index(name) for name in wanted], tuple(wanted)
    start, end = _number(start_s, "start_s") or 0.0, _number(end_s, "end_s")
    if end is not None and end <= start:
        raise InvalidInput("The part ends before it starts.", fields={"end_s": f"Give more than {start:g} s."})
    first = min(max(round(start * fs_hz), 0), samples.shape[1])
    last = samples.shape[1] if end is None else min(max(round(end * fs_hz), first), samples.shape[1])
    return Window(samples[:, first:last][rows], fs_hz, tuple(names), first / fs_hz, stage)


def signal_json(window: Window) -> dict[str, Any]:
    """Return the window as JSON types; missing samples are null."""
    rounded = np.round(window.signal.astype(float), 6)
    rows = [[None if np.isnan(value) else value for value in row] for row in rounded.tolist()]
    return {
        "fs_hz": window.fs_hz, "leads": list(window.leads), "unit": "mV", "stage": window.stage, "start_s": window.start_s,
        "n_samples": int(window.signal.shape[1]), "samples": rows,
    }  # fmt: skip


def signal_csv(window: Window) -> str:
    """Return the window as CSV: ``time_s`` and one column per lead in mV; missing samples are empty."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["time_s", *(safe_cell(f"{name} (mV)") for name in window.leads)])
    for number, column in enumerate(window.signal.T):
        writer.writerow(
            [f"{window.start_s + number / window.fs_hz:.6f}", *("" if np.isnan(v) else f"{v:.6f}" for v in column)]
        )
    return out.getvalue()


def measurements(record: Record, formula: str | None = None) -> dict[str, Any]:
    """Return the measurements of the original signal, flat, with the recorded quality beside them.

    rr_ms: the mean RR interval. qtc_ms: by ``formula`` (``QTC_FORMULA`` by default). axis_deg: the frontal QRS axis.
    All RR statistics, formulas and axes stand in ``rr_statistics_ms``, ``qtc_by_formula_ms`` and ``axes_deg``. What is
    null has a sentence under its name in ``reasons``. Of a recording of more than ten minutes the first minute is measured.
    """
    from datasets.measure.stretch import measure_at

    found = measure_at(signals.mapped(record)).to_json()
    statistics, by_formula, axes = found["rr_ms"], found["qtc_ms"], found["axis_deg"]
    formula = formula or QTC_FORMULA
    if formula not in by_formula:
        raise InvalidInput(
            f"There is no QTc formula {formula!r}.", fields={"qtc_formula": f"Choose one of {', '.join(by_formula)}."}
        )
    reasons = {name.replace("axis_deg.", "axes_deg."): why for name, why in found["reasons"].items()}
    if "axes_deg.qrs" in reasons:
        reasons["axis_deg"] = reasons["axes_deg.qrs"]
    return {
        **found, "rr_ms": statistics["mean"] if statistics else None, "rr_statistics_ms": statistics,
        "qtc_ms": by_formula[formula], "qtc_formula": formula, "qtc_by_formula_ms": by_formula,
        "axis_deg": axes["qrs"], "axes_deg": axes, "reasons": reasons, "quality": record.quality,
    }  # fmt: skip


def json_field(value: Any, field: str) -> dict[str, Any]:
    """Return an optional JSON object that came as text or as an object."""
    if value in (None, ""):
        return {}
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise InvalidInput(f"{field} is not a JSON object.", fields={field: "Send a JSON object."})
    return parsed


def map_entries(entries: Any) -> dict[str, dict[str, Any]]:
    """Return a label map's entries in the stored form; accepts ``{code: class}`` and ``{code: {"class", "relation"}}``."""
    if not isinstance(entries, dict):
        raise InvalidInput("The entries must be an object of code to class.", fields={"entries": "Send {code: class}."})
    found: dict[str, dict[str, Any]] = {}
    for code, value in entries.items():
        entry = value if isinstance(value, dict) else {"class": value}
        relation = entry.get("relation") or ("exact" if entry.get("class") else "unmapped")
        if relation not in _RELATIONS:
            raise InvalidInput(
                f"{code}: there is no relation {relation!r}.",
                fields={"entries": f"Choose one of {', '.join(_RELATIONS)}."},
            )
        found[str(code)[:120]] = {"class": entry.get("class"), "relation": relation}
    return found


def map_csv(label_map: LabelMap) -> str:
    """Return a label map as CSV with the columns ``code, class, relation``."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["code", "class", "relation"])
    for code, entry in sorted(label_map.entries.items()):
        cells = (code, entry.get("class") or "", entry.get("relation", "exact"))
        writer.writerow([safe_cell(cell) for cell in cells])
    return out.getvalue()


def _plain(cell: str | None) -> str:
    """Undo what ``safe_cell`` did to a cell."""
    text = (cell or "").strip()
    return text[1:] if text.startswith("'") and safe_cell(text[1:]) == text else text


def read_map_csv(data: bytes) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Read what ``map_csv`` writes; returns the classes in order of appearance and the entries."""
    if len(data) > 5_000_000:
        raise InvalidInput("The label map is larger than 5 MB.", fields={"file": "Too large."})
    try:
        table = [row for row in csv.reader(io.StringIO(data.decode("utf-8-sig"))) if row]
        # The csv module has a limit of its own, which any other code of the process may have raised.
        if any(len(cell) > MAX_CELL_CHARS for row in table for cell in row):
            raise csv.Error("a cell is too long")
    except (UnicodeDecodeError, csv.Error):
        sentence = "The label map is not CSV in UTF-8, or a cell of it is too long."
        raise InvalidInput(sentence, fields={"file": "Save it as CSV in UTF-8."}) from None
    rows = [dict(zip_longest(table[0], row[: len(table[0])])) for row in table[1:]]
    if not rows or not {"code", "class"} <= set(rows[0]):
        raise InvalidInput(
            "The label map needs the columns code and class.", fields={"file": "Columns: code, class, relation."}
        )
    entries = map_entries(
        {
            _plain(row["code"]): {"class": _plain(row["class"]) or None, "relation": row.get("relation") or None}
            for row in rows
        }
    )
    classes = list(dict.fromkeys(entry["class"] for entry in entries.values() if entry["class"]))
    return classes, entries
