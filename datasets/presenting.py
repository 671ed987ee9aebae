"""Records, signals and label maps in the forms that pages and the API send."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets import signals
from datasets.labels.tabular import safe_cell
from datasets.measure.measure import measure
from datasets.models import LabelMap, Record
from datasets.preprocess.recipe import DEFAULT_RECIPE
from ecgportal.errors import InvalidInput

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
        return float(text)  # type: ignore[arg-type]
    except ValueError:
        raise InvalidInput(f"{field} is not a number.", fields={field: "Give seconds."}) from None


def signal_window(record: Record, stage: str, leads: str | None, start_s: str | None, end_s: str | None) -> Window:
    """Cut the asked leads and time out of the original or the prepared signal."""
    source = signals.load(record)
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
    if leads:
        wanted = [name.strip() for name in leads.split(",") if name.strip()]
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise InvalidInput(
                f"The record has no lead {', '.join(unknown)}.", fields={"leads": f"It has {', '.join(names)}."}
            )
        samples, names = samples[[names.index(name) for name in wanted]], tuple(wanted)
    start, end = _number(start_s, "start_s") or 0.0, _number(end_s, "end_s")
    first = min(max(round(start * fs_hz), 0), samples.shape[1])
    last = samples.shape[1] if end is None else min(max(round(end * fs_hz), first), samples.shape[1])
    return Window(samples[:, first:last], fs_hz, tuple(names), first / fs_hz, stage)


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
    writer.writerow(["time_s", *(f"{name} (mV)" for name in window.leads)])
    for number, column in enumerate(window.signal.T):
        writer.writerow(
            [f"{window.start_s + number / window.fs_hz:.6f}", *("" if np.isnan(v) else f"{v:.6f}" for v in column)]
        )
    return out.getvalue()


def measurements(record: Record) -> dict[str, Any]:
    """Return the measurements of the original signal with the recorded quality beside them."""
    return {**measure(signals.load(record)).to_json(), "quality": record.quality}


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
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
    except UnicodeDecodeError:
        raise InvalidInput("The label map is not UTF-8 text.", fields={"file": "Save it as CSV in UTF-8."}) from None
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
