"""Ask a version about prepared records: its values, what they decide, and why to read them with care."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.preprocess.recipe import Recipe
from modelhub import loading, novelty
from modelhub.architectures.person import person_features
from modelhub.contract import LEAST_SHARE, ModelContract, decided
from modelhub.models import ModelVersion


@dataclass(frozen=True)
class Answer:
    """What a version says about one record: a value for each class, the classes it decides for, sentences of care."""

    values: list[float]
    predicted: list[str]
    notices: list[str]


class Answerer:
    """A version ready to be asked, with what is known of the data it was trained on."""

    def __init__(self, version: ModelVersion) -> None:
        self.contract = ModelContract.from_dict(version.contract)
        self.recipe = Recipe.from_json(loading.recipe_of(self.contract))
        self._reference = novelty.reference_for(version)
        self._predictor = loading.predictor(version, features=self._reference is not None)

    @property
    def basis(self) -> str:
        """What records are compared with before their answers are believed."""
        return novelty.basis(self._reference)

    @property
    def notes(self) -> list[str]:
        """What is to be said of how the answers were computed."""
        return self._predictor.pieces.notes

    def answers(self, records: Sequence[Any], batch: np.ndarray) -> list[Answer]:
        """Return an answer for each record.

        records: what ``novelty.notices`` asks about; batch: their prepared signals, float32 ``(n, leads, samples)``.
        """
        values, features = self._predictor.predict_with_features(batch, persons_of(records, self.contract))
        said = novelty.notices(records, self.contract, features, self._reference)
        return [
            Answer([float(value) for value in row], predicted, notices)
            for row, predicted, notices in zip(values, decide(values, self.contract), said, strict=True)
        ]


def persons_of(records: Sequence[Any], contract: ModelContract) -> np.ndarray | None:
    """Return age and sex as a network that takes them wants them, ``(n, 5)``; None for one that does not."""
    return person_features([r.age for r in records], [r.sex for r in records])[0] if contract.needs else None


def decide(values: np.ndarray, contract: ModelContract) -> list[list[str]]:
    """Return the predicted classes per record; none where numbers are answered."""
    if contract.activation == "identity":
        return [[] for _ in values]
    limits = contract.limits(contract.thresholds)
    hits = decided(
        values, None if limits is None else list(limits.values()), one_of_several=contract.activation == "softmax"
    )
    return [[name for name, hit in zip(contract.classes, row) if hit] for row in hits]


def why_not(record: Any, contract: ModelContract) -> str | None:
    """Return why a record cannot be given to the model and what to do, or None. A missing lead or a record far too short
    would make the answer one about zeros."""
    missing = [name for name in contract.leads if name not in record.leads]
    if missing:
        return (
            f"{record.key} has no lead {', '.join(missing)}; the model needs it. Choose a model for the leads "
            f"{', '.join(record.leads)}."
        )
    if record.duration_s < LEAST_SHARE * contract.duration_s:
        return (
            f"{record.key} lasts {record.duration_s:.1f} s; the model needs {contract.duration_s:g} s. Choose a model for "
            "shorter records, or a longer recording."
        )
    if record.fs_hz < LEAST_SHARE * contract.fs_hz:
        return (
            f"{record.key} was recorded at {record.fs_hz:g} Hz; the model needs {contract.fs_hz:g} Hz, and what was not "
            "recorded cannot be made up. Choose a model for a lower rate."
        )
    return None
