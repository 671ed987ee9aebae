"""What the record page, its downloads and its Dash view show: one reading of the address, one set of pictures."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from django.db.models import QuerySet

from datasets import selectors, signals
from datasets.ecg import Record as EcgRecord
from datasets.formats.registry import title_of
from datasets.measure.stretch import WHOLE_S, measure_at
from datasets.models import Record
from datasets.preprocess.recipe import DEFAULT_RECIPE, Recipe
from datasets.recording_time import apart, text_of
from ecgportal.errors import InvalidInput
from ecgportal.projects import access
from modelhub import loading
from modelhub.contract import ModelContract
from modelhub.models import ModelVersion
from viz.figures.overlays import Annotation, Overlays, Saliency
from viz.figures.view import View, from_query, usual_layout

MARKS = {"none": "None", "r": "R peaks", "waves": "P, QRS and T waves"}
ORIGINAL, DEFAULT = "original", "default"
_MOST_NOTES = 500
_MOST_VERSIONS = 20
_MOST_MEASURED = 32
_measured: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True)
class Showing:
    """A view with what is drawn over it.

    marks: a key of ``MARKS``; signal: ``original``, ``default`` (the portal's recipe) or the id of a model version
    whose recipe is applied; saliency: ``none`` or ``<version id> <class>``; blind: labels, predictions and
    measurements are hidden.
    """

    view: View = field(default_factory=View)
    marks: str = "none"
    signal: str = ORIGINAL
    saliency: str = "none"
    blind: bool = False


def read(query: Mapping[str, str], leads: Collection[str]) -> Showing:
    """Read an address's query; InvalidInput names the field that is wrong. Unknown keys are ignored.

    leads: those of the record, which choose the layout where the query names none.
    """
    marks = query.get("marks", "none")
    if marks not in MARKS:
        raise InvalidInput(
            f"There are no marks {marks[:40]!r}.", fields={"marks": f"Choose one of {', '.join(MARKS)}."}
        )
    return Showing(
        from_query(query, View(layout=usual_layout(leads))), marks, query.get("signal", ORIGINAL)[:60], query.get("saliency", "none")[:200],
        query.get("blind") == "1",
    )  # fmt: skip


def versions_of(row: Record) -> list[ModelVersion]:
    """Return the model versions that have predicted the record, the latest first, each once."""
    found: dict[Any, ModelVersion] = {}
    predictions = row.predictions.select_related("run__version__model").order_by("-created_at")
    for each in predictions[: 5 * _MOST_VERSIONS]:
        found.setdefault(each.run.version_id, each.run.version)
    return list(found.values())[:_MOST_VERSIONS]


def recipe_of(row: Record, signal: str) -> tuple[str, Recipe]:
    """Return the name and the recipe of a prepared signal: the portal's default, or the input of a version that predicted the record."""
    if signal == DEFAULT:
        return "the default recipe", DEFAULT_RECIPE
    version = next((one for one in versions_of(row) if str(one.pk) == signal), None)
    if version is None:
        access.note_asked(ModelVersion, signal)
        raise InvalidInput(
            "No model with this id has predicted this record, so there is no prepared signal to show.",
            fields={"signal": "Choose original, default or a model that predicted the record."},
        )
    return f"the input of {version}", Recipe.from_json(loading.recipe_of(ModelContract.from_dict(version.contract)))


def prepared(original: EcgRecord, recipe: Recipe) -> EcgRecord:
    """Return the record as a recipe leaves it; samples that the recipe filled in are NaN. Time starts at its own zero."""
    if original.duration_s > WHOLE_S:
        raise InvalidInput(
            f"The record is longer than {WHOLE_S / 60:g} minutes; its prepared signal is made in jobs, not on a page.",
            fields={"signal": "Choose original."},
        )
    made = recipe.apply(original)
    samples = np.where(made.mask, made.signal, np.float32(np.nan))
    if not samples.shape[1]:
        raise InvalidInput("The recipe leaves no sample of this record.", fields={"signal": "Choose original."})
    computed = tuple(name for name in original.computed if name in made.leads)
    return EcgRecord(samples, made.fs_hz, made.leads, computed, original.meta)


def at_stage(row: Record, original: EcgRecord, signal: str) -> tuple[EcgRecord, str]:
    """Return the signal that is drawn, the original or what a recipe makes of it, and why it is the original after all.

    A view is kept from record to record; what the next record does not have must not hide it.
    """
    if signal == ORIGINAL:
        return original, ""
    try:
        return prepared(original, recipe_of(row, signal)[1]), ""
    except InvalidInput as error:
        return original, f"{error.message} The original is shown."


def serial_of(row: Record) -> QuerySet[Record]:
    """Return the other records of the same subject in the order of their times; those without one come last, by key."""
    if row.subject_id is None:
        return Record.objects.none()
    return Record.objects.filter(subject=row.subject_id).exclude(pk=row.pk).order_by(*selectors.SORTS["recorded_at"])


def measurements(row: Record, original: EcgRecord, view: View) -> Mapping[str, Any]:
    """Return the record's measurements as JSON; of a long one those of the minute that the view begins.

    ``original`` is the record's own signal. The answer is not to be changed: the page, its view and its downloads ask for
    it one after the other, so the latest ones are kept in memory.
    """
    start_s = view.start_s if original.duration_s > WHOLE_S else 0.0
    # A pack's samples never change.
    key = (row.pack, row.offset, start_s)
    with _lock:
        if key in _measured:
            _measured.move_to_end(key)
            return _measured[key]
    found = measure_at(original, start_s).to_json()
    with _lock:
        _measured[key] = found
        while len(_measured) > _MOST_MEASURED:
            _measured.popitem(last=False)
    return found


def notes_of(row: Record, original: EcgRecord, with_file: bool) -> list[Annotation]:
    """Return what people marked, with its author, and if wanted what the file marks."""
    found = [
        Annotation(note.t0_s, note.text, note.t1_s, note.lead, f"({note.author.username if note.author else 'a deleted user'})")
        for note in row.annotations.select_related("author")[:_MOST_NOTES]
    ]  # fmt: skip
    if with_file:
        marked = original.meta.annotations[:_MOST_NOTES]
        found += [Annotation(t0_s=t, text=symbol, lead=lead) for t, symbol, lead, _ in marked]
    return found


def overlays(row: Record, original: EcgRecord, showing: Showing, found: Mapping[str, Any] | None = None) -> Overlays:
    """Return what is drawn over the original signal. found: its measurements, where they are at hand.

    A prepared signal has lost the record's time: nothing is drawn over it.
    """
    notes = notes_of(row, original, showing.marks != "none")
    shading = None if showing.blind else saliency_of(row, showing.saliency)
    if showing.marks == "none":
        return Overlays(annotations=notes, saliency=shading)
    told = found or measurements(row, original, showing.view)
    return Overlays(
        r_peaks_s=told["r_peaks_s"] or (),
        fiducials=(told["fiducials"] or ()) if showing.marks == "waves" else (),
        annotations=notes,
        saliency=shading,
    )


def saliency_of(row: Record, chosen: str) -> Saliency | None:
    """Return what supports the chosen class of the chosen version (``<version id> <class>``), or None.

    What speaks against the class is left out: shading has no sign.
    """
    key, _, name = chosen.partition(" ")
    for each in row.predictions.exclude(saliency={}).select_related("run").order_by("-created_at")[:50]:
        if str(each.run.version_id) == key and name in each.saliency["classes"]:
            kept = each.saliency
            values = np.clip(np.array(kept["values"][kept["classes"].index(name)], dtype=float), 0.0, None)
            return Saliency(tuple(kept["leads"]), values, kept["t0_s"], kept["t1_s"], name, kept["method"])
    return None


def saliency_choices(row: Record) -> list[tuple[str, str]]:
    """Return (value, words) for the classes of every version whose answer on the record was explained."""
    found: dict[str, str] = {}
    for each in row.predictions.exclude(saliency={}).select_related("run__version__model").order_by("-created_at")[:20]:
        for name in each.saliency["classes"]:
            found.setdefault(f"{each.run.version_id} {name}", f"{name}, {each.run.version}")
    return list(found.items())


def signal_choices(row: Record) -> list[tuple[str, str]]:
    """Return (value, words) for every form of the record's signal."""
    fixed = [(ORIGINAL, "Original"), (DEFAULT, "Prepared, default recipe")]
    return fixed + [(str(one.pk), f"As {one} sees it") for one in versions_of(row)]


def header_of(row: Record, showing: Showing, found: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the header of the paper: who, when, how recorded, measured, predicted."""
    flags = row.quality.get("flags", [])
    header: dict[str, Any] = {
        "record": row.key, "subject": row.subject.key if row.subject else None, "recorded_at": recorded_words(row), "age": row.age, "sex": row.sex or None, "format": title_of(row.format),
        "quality": [f"Quality: {', '.join(flags).replace('_', ' ')}"] if flags else [],
    }  # fmt: skip
    if not showing.blind and found is not None:
        header["measurements"] = found
    return header


def recorded_words(row: Record) -> str | None:
    """Return when a record was made, or None; a shifted date says so."""
    if row.recorded_at is None:
        return None
    return f"{text_of(row.recorded_at).replace('T', ' ')}{' (date shifted)' if row.has_shifted_time else ''}"


def serial_rows(row: Record, most: int) -> list[tuple[Record, str]]:
    """Return the other records of the subject in the order of their times, each with how long before or after it was made."""
    return [
        (each, apart(row.recorded_at, each.recorded_at) if row.recorded_at and each.recorded_at else "")
        for each in serial_of(row)[:most]
    ]


def source_of(row: Record) -> EcgRecord:
    """Return the original signal of a record; only what is drawn or measured is read from the disk."""
    return signals.mapped(row)
