"""Predict for the ECG files of a folder. Signals are read, prepared and answered; nothing of them is stored.

Answers go line by line into ``<output>.part``; a run that was broken off goes on from there, and the output itself is
written when all is done.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from django.utils import timezone

from datasets import ecg
from datasets.formats import registry
from datasets.formats.archive import FileSource
from datasets.formats.base import ReadOptions
from datasets.formats.wfdb import is_signal_file_name
from datasets.labels.tabular import safe_cell
from datasets.quality import assess
from ecgportal.audit.trail import record as audit
from ecgportal.errors import InvalidInput, PortalError
from modelhub import downloads, sr_json
from modelhub.answering import Answerer, why_not
from modelhub.contract import ModelContract
from modelhub.models import ModelVersion
from modelhub.services import check_runnable

_BATCH = 64
MAX_FILES = 200_000
#: Kinds of output by the end of the file's name, the longest first.
KINDS = {".sr.json": "sr", ".json": "json", ".csv": "csv"}


@dataclass(frozen=True)
class _Found:
    """A record of a file, with the names that ``why_not`` and ``novelty`` ask for."""

    key: str
    record: ecg.Record

    @property
    def leads(self) -> tuple[str, ...]:
        return self.record.leads

    @property
    def fs_hz(self) -> float:
        return self.record.fs_hz

    @property
    def duration_s(self) -> float:
        return self.record.signal.shape[1] / self.record.fs_hz

    @property
    def age(self) -> float | None:
        return self.record.meta.age

    @property
    def sex(self) -> str:
        return _sex(self.record.meta.sex)

    @cached_property
    def quality_score(self) -> float:
        return assess(self.record).score


def kind_of(output: Path) -> str:
    """Return how predictions are written to a file, by its name; InvalidInput names the kinds."""
    for end, kind in KINDS.items():
        if output.name.lower().endswith(end):
            return kind
    raise InvalidInput(
        f"{output.name} does not say how to write predictions.", fields={"output": f"End it in {', '.join(KINDS)}."}
    )


class _Draft:
    """What is answered so far, one JSON value a line; the first line says for which model and folder."""

    def __init__(self, path: Path, about: dict[str, str]) -> None:
        self.path, self.rows, self.refused, self.files = path, [], [], set()  # type: ignore[var-annotated]
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        self.goes_on = bool(lines) and lines[0] == json.dumps(about)
        if not self.goes_on:
            lines = [json.dumps(about)]
        for line in lines[1:]:
            self._take(json.loads(line))
        # A line that was cut off is left behind.
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        self._stream = path.open("a", encoding="utf-8")

    def add(self, values: list[dict[str, Any]]) -> None:
        for value in values:
            self._stream.write(json.dumps(value, ensure_ascii=False) + "\n")
            self._take(value)
        self._stream.flush()

    def _take(self, value: dict[str, Any]) -> None:
        if "done" in value:
            self.files.add(value["done"])
        elif "refused" in value:
            self.refused.append(value["refused"])
        else:
            self.rows.append(value)

    def close(self) -> None:
        self._stream.close()


def predict_folder(
    version: ModelVersion, path: Path, output: Path, *, actor: Any, tell: Callable[[int, int], None]
) -> dict[str, Any]:
    """Write the answers for the folder's ECG files; returns counts and the files that were refused, with reasons.

    output: a file whose name ends in ``.csv``, ``.json`` or ``.sr.json``. What an earlier run of the same model and
    folder answered is kept. InvalidInput when the folder is not there or holds nothing. tell: hears how many of how many
    files are done.
    """
    kind, contract = kind_of(output), check_runnable(version)
    index = _index(path)
    answerer = Answerer(version)
    about = {"version": str(version.pk), "sha256": version.sha256, "folder": str(path.resolve())}
    draft = _Draft(output.with_name(output.name + ".part"), about)
    try:
        _answer_all(answerer, index, draft, tell)
    finally:
        draft.close()
    rows, refused = _once(draft.rows), draft.refused
    output.write_text(_written(kind, version, contract, rows, refused, answerer.basis), encoding="utf-8", newline="")
    draft.path.unlink()
    changes = {"records": len(rows), "refused": len(refused), "source": "folder"}
    audit("prediction.started", version, actor=actor, project=version.model.project, changes=changes)
    return {"predicted": len(rows), "refused": len(refused), "refused_files": refused[:1000], "resumed": draft.goes_on}


def _index(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        raise InvalidInput(f"{path} is not a folder.", fields={"folder": "Give a folder of ECG files."})
    index = {
        file.relative_to(path).as_posix(): file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not file.is_symlink()
    }
    if not index or len(index) > MAX_FILES:
        raise InvalidInput(f"{path} holds {len(index)} files; between 1 and {MAX_FILES} are read.")
    return index


def _answer_all(answerer: Answerer, index: dict[str, Path], draft: _Draft, tell: Callable[[int, int], None]) -> None:
    """Answer for every file that the draft does not have yet, batch by batch."""
    waiting: list[_Found] = []
    read: list[str] = []
    refused: list[dict[str, str]] = []

    def flush() -> None:
        rows = _rows(answerer, waiting) if waiting else []
        draft.add([*rows, *({"refused": row} for row in refused), *({"done": name} for name in read)])
        for held in (waiting, read, refused):
            held.clear()

    for number, name in enumerate(index, start=1):
        if name in draft.files:
            continue
        for entry in _records(name, index, refused):
            reason = why_not(entry, answerer.contract)
            if reason:
                refused.append({"name": name, "code": "contract_not_met", "message": reason})
            else:
                waiting.append(entry)
        read.append(name)
        if len(waiting) >= _BATCH or len(read) >= 10 * _BATCH:
            flush()
        tell(number, len(index))
    flush()


def _rows(answerer: Answerer, found: list[_Found]) -> list[dict[str, Any]]:
    batch = np.stack([answerer.recipe.apply(row.record).signal for row in found])
    return [
        {"key": row.key, **asdict(answer)} for row, answer in zip(found, answerer.answers(found, batch), strict=True)
    ]


def _once(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each key: a file of several records may have been answered in part before a cut."""
    return list({row["key"]: row for row in rows}.values())


def _written(
    kind: str, version: ModelVersion, contract: ModelContract, rows: list[dict[str, Any]], refused: list[dict[str, str]], basis: str,
) -> str:  # fmt: skip
    limits = contract.limits(contract.thresholds)
    if kind == "csv":
        out = io.StringIO()
        writer = csv.writer(out)
        names = [name if contract.task == "regression" else f"p({name})" for name in contract.classes]
        writer.writerow(["key", *names, *(f"threshold({name})" for name in limits or ()), "predicted", "notices"])
        for row in rows:
            figures = [f"{value:.6f}" for value in (*row["values"], *(limits or {}).values())]
            texts = (row["key"], "; ".join(row["predicted"]), " ".join(row["notices"]))
            key, predicted, notices = map(safe_cell, texts)
            writer.writerow([key, *figures, predicted, notices])
        return out.getvalue()
    told = [
        {
            "record": row["key"], "key": row["key"], "probabilities": dict(zip(contract.classes, row["values"], strict=True)),
            "predicted": row["predicted"], "thresholds": limits, "notices": row["notices"],
        }
        for row in rows
    ]  # fmt: skip
    about = {"model": str(version), "sha256": version.sha256, "task": contract.task}
    if kind == "sr":
        at, origin = timezone.now(), downloads.origin_of(version, contract.thresholds)
        return json.dumps(
            [sr_json.document(row, at=at, origin=origin, **about) for row in told], ensure_ascii=False, allow_nan=False
        )
    whole = {
        **about,
        "classes": list(contract.classes),
        "thresholds": limits,
        "threshold_origin": downloads.origin_of(version, contract.thresholds),
        "care_basis": basis,
        "refused": refused,
        "rows": told,
    }
    return json.dumps(whole, ensure_ascii=False, allow_nan=False)


def _sex(word: Any) -> str:
    return str(word or "")[:1].upper()


def _records(name: str, index: dict[str, Path], refused: list[dict[str, str]]) -> Iterator[_Found]:
    if is_signal_file_name(name) and f"{PurePosixPath(name).with_suffix('.hea')}" in index:
        return
    try:
        source = FileSource(name, index[name], index)
        reader = registry.sniff(source)
        if reader is None and f"{PurePosixPath(name).with_suffix('.hea')}" in index:
            # Annotations and the like of a WFDB record, which is read by its header.
            return
        if reader is None:
            refused.append({"name": name, "code": "not_an_ecg", "message": f"{name} is not an ECG in a known format."})
            return
        for key, record in reader.read(source, ReadOptions()).records:
            yield _Found(name if key == PurePosixPath(name).stem else f"{name}:{key}", record)
    except PortalError as error:
        message = " ".join([error.message, *error.fields.values()])
        refused.append({"name": name, "code": error.code, "message": message})
