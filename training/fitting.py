"""From a run's rows to a training in the engine, by as many processes as the portal is set to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from django.conf import settings as portal

from modelhub import loading
from training.data import JointView, Stores
from training.engine.callbacks import Callback
from training.engine.settings import FitSettings
from training.problems.registry import get_problem
from training.targets import Labelled

if TYPE_CHECKING:
    from torch import nn

    from modelhub.contract import ModelContract
    from modelhub.models import ModelVersion
    from training.engine.crew import Crew
    from training.engine.result import FitResult


def team_size(n_records: int, batch_size: int) -> int:
    """Return how many processes train on so many records, by the portal's setting and its accelerators."""
    from training.engine.launch import processes_for

    return processes_for(portal.TRAIN_PROCESSES or None, n_records, batch_size)


def fit_network(
    architecture: str, contract: ModelContract, base: ModelVersion | None, settings: FitSettings, stores: Stores,
    by_part: Mapping[str, list[Labelled]], targets: Mapping[str, np.ndarray], *, callbacks: Sequence[Callback], folder: Path,
    groups: tuple[list[Any], list[Any]] | None = None, crew: Crew | None = None, alone: bool = False,
) -> tuple[nn.Module, FitResult]:  # fmt: skip
    """Train a network on the parts ``train`` and ``validation`` and return it as it was at the start, with what was learned.

    targets: encoded truth by part. folder: of the checkpoint. groups: as for ``fit``. crew: processes that are kept from one
    training to the next. alone: in this process, whatever the setting.
    """
    from training.engine.computed import is_computed
    from training.engine.fit import fit
    from training.engine.launch import together

    module = loading.start_module(
        architecture, contract, base, settings.seed, lambda said: [told.on_note(said) for told in callbacks]
    )
    train, validation = by_part["train"], by_part["validation"]
    # Half of the records: folds are smaller than the training part. What is computed needs no team.
    count = 1 if alone or is_computed(module, settings) else team_size(len(train) // 2, settings.batch_for(len(train)))
    result = together(
        fit, count, module, JointView(stores, train), targets["train"], JointView(stores, validation), targets["validation"],
        get_problem(contract.task), settings, fs_hz=contract.fs_hz, names=contract.classes, groups=groups, unit=contract.unit, in_units=loading.answers_in_units(contract, base),
        callbacks=callbacks,
        checkpoint_dir=folder, crew=crew, make=loading.maker(architecture, contract, base) if count > 1 else None,
    )  # fmt: skip
    return module, result
