"""What a search may try within its minutes, what it samples and what it costs; without loading torch or optuna."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ecgportal.errors import InvalidInput
from modelhub.architectures.catalog import catalog, is_computed
from training.choices import Choices, misfit
from training.costs import Cost, cost_of, seconds_per_epoch, speeds
from training.engine.settings import Augmentation, FitSettings, too_many_to_compute
from training.live import duration
from training.models import Mode, Speed
from training.selectors import start_title
from training.setting_words import tried

# What is computed first, then networks of different families and sizes; those whose trial would take more than this share of
# the budget are left out.
_CANDIDATES = (
    "linear", "inception_time", "xresnet1d18", "net1d_s", "se_wrn", "xception_time", "resnet1d_wang", "xresnet1d50",
    "s4d_128",
)  # fmt: skip
_LARGEST_SHARE = 0.25  # the page of a search says a quarter
_TRIAL_EPOCHS = 15
#: Beside the start: a range, on a logarithmic scale, and values.
SPACE: dict[str, Any] = {
    "learning_rate": (3e-4, 1e-2), "weight_decay": (1e-3, 0.01, 0.1), "augmentation": ("off", "default", "strong"), "class_weights": ("none", "sqrt"),
}  # fmt: skip
# Half as much again as the default, at which a finding is sure to keep its label.
_STRONG = 1.5


def augmentations() -> dict[str, dict[str, float]]:
    """Return what each augmentation that is sampled changes of the default: none at all, nothing, and what is on by default
    stronger."""
    usual = asdict(Augmentation())
    strong = {name: round(_STRONG * value, 4) for name, value in usual.items() if value}
    return {"off": dict.fromkeys(usual, 0.0), "default": {}, "strong": strong}


def sampled(asked: FitSettings) -> list[str]:
    """Return the settings that a search samples: those that were left at their defaults. Others are kept as they were asked for."""
    usual = FitSettings()
    return [name for name in SPACE if getattr(asked, name) == getattr(usual, name)]


def trial_epochs(asked: FitSettings) -> int:
    """Return how many epochs a trial has at most; two at least, which head-then-all needs."""
    return max(2, min(_TRIAL_EPOCHS, asked.epochs))


@dataclass(frozen=True)
class Offer:
    """starts: what trainings of a search can start from, ``base:`` and a mode, what is computed, and networks. too_slow: networks
    whose trial would take too much of the minutes."""

    starts: list[str]
    too_slow: list[str]


def offer(
    settings: FitSettings, has_base: bool, recipe: Mapping[str, Any], n_train: int, n_validation: int, budget_s: float,
    known: Mapping[str, Speed] | None = None,
) -> Offer:  # fmt: skip
    """Return what can be tried in ``budget_s``: modes of the base model, what is computed, and networks whose trial fits; the
    quickest network where none does. known: as ``speeds`` gives it."""
    known = speeds() if known is None else known
    own = [
        f"base:{mode}" for mode in (Mode.HEAD, Mode.FULL, Mode.HEAD_THEN_FULL) if has_base and _is_valid(settings, mode)
    ]
    epochs = trial_epochs(settings)
    fitting = [name for name in _CANDIDATES if name in catalog() and misfit(name, recipe) is None]
    networks = [name for name in fitting if not catalog()[name].computed]
    seconds = {name: seconds_per_epoch(name, n_train, n_validation, recipe, known) for name in fitting}

    def affordable(name: str, epochs: int) -> bool:
        return epochs * seconds[name] <= _LARGEST_SHARE * budget_s

    # With a companion that is wanted always it cannot be trained in full.
    can_compute = settings.companion != "always" and not too_many_to_compute(n_train + n_validation)
    computed = [name for name in fitting if can_compute and name not in networks and affordable(name, 1)]
    found = [name for name in networks if affordable(name, epochs)]
    found = found or sorted(networks, key=lambda name: seconds[name])[:1]
    return Offer([*own, *computed, *found], [name for name in networks if name not in found])


def _is_valid(settings: FitSettings, mode: str) -> bool:
    try:
        replace(settings, mode=mode)
    except InvalidInput:
        return False
    return True


@dataclass(frozen=True)
class SearchCost:
    """whole: of a search and of what training its winner in full may take, at most. sentence: what is tried and what is kept as
    asked. too_short: why the minutes are too few for a network, else empty."""

    whole: Cost
    sentence: str
    too_short: str


def cost_of_search(choices: Choices, minutes: float, n_train: int, n_validation: int) -> SearchCost:
    """Return the cost of a run whose network a search of so many minutes chooses."""
    budget_s, known = 60 * minutes, speeds()
    has_base = choices.base_version is not None
    starts = offer(choices.settings, has_base, choices.recipe, n_train, n_validation, budget_s, known).starts
    linear = [start for start in starts if is_computed(start, Mode.SCRATCH)]
    networks = [start for start in starts if start not in linear]
    first = networks[0] if networks else None
    first_s = _epoch_s(choices, first, n_train, n_validation, known) if first else None
    full = {start: cost_of(_started(choices, start), n_train, n_validation, known) for start in starts}
    seconds = {start: cost.seconds for start, cost in full.items() if cost.seconds is not None}
    memory = [cost.memory_mib for cost in full.values() if cost.memory_mib is not None]
    # With nothing computed beside it, the first network is tried for one epoch whatever that takes.
    search_s = budget_s if linear or first_s is None else max(budget_s, first_s)
    whole_s, basis = None, "how long its winner takes in full is not known"
    if seconds and len(seconds) == len(full):
        dearest = max(seconds, key=lambda start: seconds[start])
        whole_s = search_s + seconds[dearest]
        basis = f"up to {duration(seconds[dearest])} for its winner in full, longest for {start_title(dearest)}; {full[dearest].basis}"
    whole = Cost(
        parameters=None, million_macs=None, memory_mib=max(memory, default=None), seconds=whole_s, epoch_seconds=None,
        networks=max((cost.networks for cost in full.values()), default=1), measured=all(cost.measured for cost in full.values()),
        basis=f"{duration(search_s)} of search and {basis}",
    )  # fmt: skip
    sentence = (
        f"Tried for {minutes:g} minutes on the development part alone: {', '.join(map(start_title, [*linear, *networks]))}. Training "
        "the winner in full comes on top."
    )
    if kept := [name for name in SPACE if name not in sampled(choices.settings)]:
        sentence += f" Kept as asked and not tried otherwise: {tried(choices.settings.to_dict(), kept)}."
    too_short = ""
    if first is not None and first_s is not None and first_s > budget_s:
        then = (
            "no network gets to an answer, and the linear model wins"
            if linear
            else "the search lasts for that epoch, and there is nothing to compare it with"
        )
        too_short = (
            f"One epoch of {start_title(first)}, the first network that is tried, takes about {duration(first_s)}, and the search "
            f"{minutes:g} minutes: {then}. Give more minutes, or set a cap on the records."
        )
    return SearchCost(whole, sentence, too_short)


def _epoch_s(choices: Choices, start: str, n_train: int, n_validation: int, known: Mapping[str, Speed]) -> float | None:
    """Return the estimated seconds of an epoch of a trial, which is of one network, or of all of the base model; None where they
    are not known."""
    alone = _started(choices, start)
    alone = replace(alone, settings=replace(alone.settings, members=1))
    seconds = cost_of(alone, n_train, n_validation, known).epoch_seconds
    return seconds * alone.networks(n_train + n_validation) if seconds is not None else None


def _started(choices: Choices, start: str) -> Choices:
    """Return the choices of a run that starts so."""
    mode = start.removeprefix("base:") if start.startswith("base:") else Mode.SCRATCH.value
    changed = replace(choices, mode=mode, settings=replace(choices.settings, mode=mode))
    return changed if start.startswith("base:") else replace(changed, architecture=start, base_version=None)
