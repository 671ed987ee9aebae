"""What a training will cost on this machine, without loading torch: from measured speeds, or from arithmetic alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from datasets.preprocess.recipe import Recipe
from ecgportal.errors import InvalidInput
from modelhub.architectures.catalog import ArchitectureFacts, catalog, is_computed
from modelhub.contract import PRETRAINING
from modelhub.models import ModelVersion
from training.choices import DEFAULT_ARCHITECTURE, Choices
from training.engine.settings import FitSettings
from training.live import duration
from training.models import Mode, Speed
from training.splitting import SplitSettings

# Multiply-accumulates of a forward pass per second and core while training; only until something was measured.
_MACS_PER_S = 5e9
# A forward pass takes about a third of a training step; a frozen trunk spares its backward pass.
_FORWARD, _HEAD_ONLY = 1 / 3, 0.4
MEASURED_SAMPLES = 1000
# Beside the networks: reading, exporting, evaluating.
_AROUND_S = 10.0
# Bytes of weights, gradients, two moments and the running average per parameter.
_BYTES_PER_PARAMETER = 4 * 5
# Bytes of a record's features, and of what is made of them, where a model is computed in one pass.
_BYTES_COMPUTED = 75_000
# Bytes kept for the backward pass per multiply-accumulate, between those of wide and of narrow networks.
_BYTES_PER_MAC = 0.004


@dataclass(frozen=True)
class Cost:
    """parameters, million_macs: of one network; None when they are not known without loading it. memory_mib: while
    training. seconds: of the whole run at most; early stopping makes it less. measured: whether the speed was measured on
    this machine. basis: where the time comes from, as a sentence."""

    parameters: int | None
    million_macs: float | None
    memory_mib: int | None
    seconds: float | None
    epoch_seconds: float | None
    networks: int
    measured: bool
    basis: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def time(self) -> str:
        return duration(self.seconds) if self.seconds is not None else "not known"


def speed_key(architecture: str, base: ModelVersion | None) -> str:
    """Return the name under which a network's speed is kept."""
    return f"sha256:{base.sha256[:50]}" if base is not None and architecture not in catalog() else architecture


def speeds() -> dict[str, Speed]:
    return {row.architecture: row for row in Speed.objects.all()}


def cost_of(choices: Choices, n_train: int, n_validation: int, known: Mapping[str, Speed] | None = None) -> Cost:
    """Return the cost of a run on ``n_train`` and ``n_validation`` records."""
    known = speeds() if known is None else known
    facts, base = catalog().get(choices.architecture), choices.base_version
    key = speed_key(choices.architecture, base)
    size = _size(choices.recipe)
    macs = _million_macs(facts, known.get(key), base)
    step_s, measured, basis = _step_s(key, macs, known)
    computed = is_computed(choices.architecture, choices.mode)
    # Of an ensemble each network learns from all but its own fold; the networks of one run are trained in step.
    alike = choices.networks(n_train + n_validation)
    networks = choices.members * alike
    parameters = facts.parameters if facts else (base.parameters if base else None)
    if computed:
        memory: int | None = _computed_mib(n_train + n_validation)
    else:
        memory = _memory(macs, known.get(key), choices.settings.batch_for(n_train), parameters, size)
        memory = memory * alike if memory is not None else None
    epoch_s = None
    if step_s is not None:
        step_s *= size * _share_of_step(choices)
        epoch_s = step_s * (n_train + n_validation * _FORWARD)
    epochs = 1 if computed else choices.settings.epochs
    seconds = epoch_s * epochs * networks + _AROUND_S if epoch_s is not None else None
    macs = round(macs * size, 1) if macs is not None else None
    return Cost(parameters, macs, memory, seconds, epoch_s, networks, measured, basis)


def _million_macs(facts: ArchitectureFacts | None, speed: Speed | None, base: ModelVersion | None) -> float | None:
    """Return the million multiply-accumulates of a record of 1000 samples: as stated, measured, or counted when a file came."""
    if facts is not None:
        return facts.million_macs
    if speed is not None and speed.million_macs is not None:
        return speed.million_macs
    # Recurrent layers are not counted.
    return (base.checks.get("million_macs") or None) if base is not None else None


def _size(recipe: Mapping[str, Any] | None) -> float:
    """Return how long the network's input is, as a share of the 1000 samples that are measured with."""
    n_samples = Recipe.from_json(recipe).output_spec().n_samples if recipe else None
    return (n_samples or MEASURED_SAMPLES) / MEASURED_SAMPLES


@dataclass(frozen=True)
class NetworkCost:
    """One network to choose: what it is, and what it would cost with the other choices as they stand. million_macs: of one
    record as long as the recipe makes it."""

    facts: ArchitectureFacts
    million_macs: float
    memory_mib: int | None
    seconds: float | None
    measured: bool

    @property
    def time(self) -> str:
        return duration(self.seconds) if self.seconds is not None else ""

    def to_json(self) -> dict[str, Any]:
        return {
            "architecture": self.facts.name, "title": self.facts.title, "parameters": self.facts.parameters,
            "million_macs": self.million_macs, "memory_mib": self.memory_mib, "seconds": self.seconds, "measured": self.measured,
        }  # fmt: skip


def costs_of_networks(asked: Mapping[str, Any], split: Mapping[str, Mapping[str, int]]) -> list[NetworkCost]:
    """Return every network, the default first and then by arithmetic; with the memory and the time
    of the run that ``asked`` describes, where that is a whole one from scratch. split: as a check counts the parts; may be empty."""
    n_train, n_validation = (split.get(part, {}).get("records", 0) for part in ("train", "validation"))
    usable = sorted(catalog().values(), key=lambda facts: (facts.name != DEFAULT_ARCHITECTURE, facts.million_macs))
    known = speeds()
    settings, size, folds = FitSettings(), 1.0, 1
    if asked:
        with suppress(InvalidInput):
            alone = {"members": 1} if asked.get("task") == PRETRAINING else {}
            settings, size = FitSettings.from_dict({**asked["settings"], **alone}), _size(asked.get("recipe"))
            how = SplitSettings.from_dict(asked.get("split") or {})
            folds = how.folds if how.holds_out_every_fold else 1
    found = []
    for facts in usable:
        step_s, measured, _ = _step_s(facts.name, facts.million_macs, known)
        # Each fold that is held out trains one network.
        alike = 1 if folds > 1 else settings.n_members(n_train + n_validation)
        memory = _memory(facts.million_macs, known.get(facts.name), settings.batch_for(n_train), facts.parameters, size)
        memory, passes = memory and memory * alike, settings.epochs * alike
        if facts.computed:
            memory, passes = _computed_mib(n_train + n_validation), 1
        seconds = None
        if step_s is not None and n_train:
            seconds = step_s * size * (n_train + n_validation * _FORWARD) * passes * folds + _AROUND_S
        found.append(NetworkCost(facts, round(facts.million_macs * size, 1), memory, seconds, measured))
    return found


def seconds_per_epoch(
    architecture: str, n_train: int, n_validation: int, recipe: Mapping[str, Any] | None, known: Mapping[str, Speed]
) -> float:
    """Return the estimated seconds of one epoch of a network from scratch, with its validation. known: as ``speeds`` gives it."""
    facts = catalog().get(architecture)
    step_s, _, _ = _step_s(architecture, facts.million_macs if facts else None, known)
    return (step_s or 0.0) * _size(recipe) * (n_train + n_validation * _FORWARD)


def _share_of_step(choices: Choices) -> float:
    """Return what a step takes of one that trains every layer, on average over the epochs."""
    if choices.mode == Mode.HEAD:
        return _HEAD_ONLY
    if choices.mode == Mode.HEAD_THEN_FULL:
        head = choices.settings.head_epochs or max(1, choices.settings.epochs // 4)
        return (head * _HEAD_ONLY + choices.settings.epochs - head) / choices.settings.epochs
    return 1.0


def _step_s(name: str, million_macs: float | None, known: Mapping[str, Speed]) -> tuple[float | None, bool, str]:
    if name in known:
        return known[name].step_s, True, f"measured on this machine, {known[name].device}"
    if million_macs is None:
        return None, False, "This network has not been trained here yet, so its time is not known."
    others = [(row, catalog()[row.architecture]) for row in known.values() if row.architecture in catalog()]
    if others:
        nearest, other = min(others, key=lambda pair: abs(pair[1].million_macs - million_macs))
        step_s = nearest.step_s * million_macs / other.million_macs
        return step_s, False, f"from the speed of {other.title} on this machine and the arithmetic; rough"
    step_s = million_macs * 1e6 / (_MACS_PER_S * (os.cpu_count() or 1))
    return step_s, False, "from the arithmetic alone; this machine's speed was not measured yet"


def _memory(
    million_macs: float | None, speed: Speed | None, batch: int, parameters: int | None, size: float
) -> int | None:
    if speed is not None and speed.memory_base is not None and speed.memory_per_record is not None:
        return round((speed.memory_base + batch * size * speed.memory_per_record) / 2**20)
    if million_macs is None or parameters is None:
        return None
    return round((parameters * _BYTES_PER_PARAMETER + batch * size * million_macs * 1e6 * _BYTES_PER_MAC) / 2**20)


def _computed_mib(n_records: int) -> int:
    return max(1, round(n_records * _BYTES_COMPUTED / 2**20))


def note_speed(
    architecture: str,
    seconds: float,
    n_train: int,
    n_validation: int,
    device: str,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Remember the speed of a training that was done: seconds of one epoch over the given records, prepared by ``recipe``.
    architecture: as ``speed_key`` gives it."""
    records = (n_train + n_validation * _FORWARD) * _size(recipe)
    if (architecture in catalog() or architecture.startswith("sha256:")) and seconds > 0 and records > 0:
        Speed.objects.update_or_create(
            architecture=architecture, defaults={"step_s": seconds / records, "device": device}
        )
