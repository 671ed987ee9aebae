"""Predict for the ECG files of a folder. Signals are read, prepared and answered; nothing of them is stored."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datasets import ecg
from datasets.formats import registry
from datasets.formats.archive import FileSource
from datasets.formats.base import ReadOptions
from datasets.formats.wfdb import is_signal_file_name
from datasets.preprocess.recipe import Recipe
from ecgportal.audit.trail import record as audit
from ecgportal.errors import InvalidInput, PortalError
from modelhub import loading
from modelhub.architectures.person import person_features
from modelhub.models import ModelVersion
from modelhub.predicting import decide, why_not
from modelhub.services import check_runnable

_BATCH = 64
MAX_FILES = 200_000


@dataclass(frozen=True)
class _Found:
    """A record of a file, with the names that ``why_not`` asks for."""

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


def predict_folder(
    version: ModelVersion, path: Path, output: Path, *, actor: Any, tell: Callable[[int, int], None]
) -> dict[str, Any]:
    """Write one CSV row per record of the folder's ECG files; returns counts and the files that were refused, with reasons.

    InvalidInput when the folder is not there or holds nothing. tell: hears how many of how many files are done.
    """
    contract = check_runnable(version)
    if not path.is_dir():
        raise InvalidInput(f"{path} is not a folder.", fields={"folder": "Give a folder of ECG files."})
    index = {
        file.relative_to(path).as_posix(): file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not file.is_symlink()
    }
    if not index or len(index) > MAX_FILES:
        raise InvalidInput(f"{path} holds {len(index)} files; between 1 and {MAX_FILES} are read.")
    predictor, recipe = loading.predictor(version), Recipe.from_json(loading.recipe_of(contract))
    refused: list[dict[str, str]] = []
    draft, predicted, waiting = output.with_name(output.name + ".part"), 0, []
    with draft.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        names = [name if contract.task == "regression" else f"p({name})" for name in contract.classes]
        writer.writerow(["key", *names, "predicted"])

        def answer() -> int:
            if not waiting:
                return 0
            people = [entry.record.meta for entry in waiting]
            person = (
                person_features([p.age for p in people], [_sex(p.sex) for p in people])[0] if contract.needs else None
            )
            values = predictor.predict(np.stack([recipe.apply(entry.record).signal for entry in waiting]), person)
            for entry, row, classes in zip(waiting, values, decide(values, contract), strict=True):
                key = "'" + entry.key if entry.key[:1] in "=+-@" else entry.key
                writer.writerow([key, *(f"{value:.6f}" for value in row), "; ".join(classes)])
            count = len(waiting)
            waiting.clear()
            return count

        for number, name in enumerate(index, start=1):
            for entry in _records(name, index, refused):
                reason = why_not(entry, contract)
                if reason:
                    refused.append({"name": name, "code": "contract_not_met", "message": reason})
                    continue
                waiting.append(entry)
                if len(waiting) == _BATCH:
                    predicted += answer()
            tell(number, len(index))
        predicted += answer()
    draft.replace(output)
    changes = {"records": predicted, "refused": len(refused), "source": "folder"}
    audit("prediction.started", version, actor=actor, project=version.model.project, changes=changes)
    return {"predicted": predicted, "refused": len(refused), "refused_files": refused[:1000]}


def _sex(word: Any) -> str:
    return str(word or "")[:1].upper()


def _records(name: str, index: dict[str, Path], refused: list[dict[str, str]]) -> Iterator[_Found]:
    if is_signal_file_name(name) and f"{PurePosixPath(name).with_suffix('.hea')}" in index:
        return
    try:
        source = FileSource(name, index[name], index)
        reader = registry.sniff(source)
        if reader is None:
            refused.append({"name": name, "code": "not_an_ecg", "message": f"{name} is not an ECG in a known format."})
            return
        for key, record in reader.read(source, ReadOptions()).records:
            yield _Found(name if key == PurePosixPath(name).stem else f"{name}:{key}", record)
    except PortalError as error:
        message = " ".join([error.message, *error.fields.values()])
        refused.append({"name": name, "code": error.code, "message": message})
