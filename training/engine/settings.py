"""The settings of a run: validated with sentences, described for forms, serialised for manifests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ecgportal.errors import InvalidInput

if TYPE_CHECKING:
    from training.problems.base import Problem

MODES = ("scratch", "head", "full", "head_then_full")
OPTIMISERS = ("adamw", "adam", "nadam", "sgd")
SCHEDULES = ("one_cycle", "cosine", "constant")
# Networks of the default ensemble, with the fewest and the most development records that it is for.
ENSEMBLES = ((5, 200, 750), (3, 60, 1500))
# The default batch: the smallest one, doubled while an epoch takes more steps than this.
SMALLEST_BATCH, LARGEST_BATCH, MOST_STEPS = 32, 256, 200
# A model that is computed in one pass holds the features of all its records: 300 MB of so many, and a GB while it is fitted.
MOST_COMPUTED = 20_000
MOST_SEED = 2**31 - 1
DEVICES = ("auto", "cpu", "cuda", "mps")


def setting(default: Any, title: str, reason: str, **limits: Any) -> Any:
    """Return a dataclass field that knows its title, the reason of its default, and its limits."""
    return field(default=default, metadata={"title": title, "reason": reason, **limits})


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training signals. Amplitudes in mV, times in s, probabilities in [0, 1].

    Each is off at 0. A finding keeps its label under every one of them at the default strengths.
    """

    noise_mv: float = setting(
        0.05,
        "Noise",
        "White noise of up to this deviation in mV, as large as muscle noise gets in a usable record.",
        minimum=0,
        maximum=1,
    )
    scale: float = setting(
        0.3,
        "Scaling",
        "All leads are multiplied by one factor within 1 +- this: body build changes the voltage.",
        minimum=0,
        maximum=0.9,
    )
    shift_s: float = setting(
        2.0,
        "Time shift",
        "The record is moved by up to this many seconds (at most a quarter of it), so that no place in time means anything.",
        minimum=0,
        maximum=10,
    )
    lead_dropout: float = setting(
        0.2,
        "Lead dropout",
        "Chance per lead to be set to zero, so that a faulty lead does not decide alone.",
        minimum=0,
        maximum=0.9,
    )
    wander_mv: float = setting(
        0.1,
        "Baseline wander",
        "Slow sine (0.05 to 0.5 Hz) of up to this amplitude in mV: breathing moves the baseline.",
        minimum=0,
        maximum=2,
    )
    hum_mv: float = setting(
        0.0,
        "Mains hum",
        "50 or 60 Hz of up to this amplitude in mV; off because 100 Hz cannot carry it.",
        minimum=0,
        maximum=1,
    )
    mixup: float = setting(
        0.0,
        "Mixup",
        "Strength (alpha) of mixing pairs of records and their labels (arXiv 1710.09412); helps with more data.",
        minimum=0,
        maximum=2,
    )


@dataclass(frozen=True)
class FitSettings:
    """Everything that shapes a training run beside data and network.

    Raises InvalidInput with one sentence per field (``fields``) when a value cannot be used.
    """

    mode: str = setting(
        "scratch",
        "What is trained",
        "From fresh weights; for a base model: its head, all layers, or head first and then all.",
        choices=MODES,
    )
    epochs: int = setting(
        40,
        "Epochs",
        "Passes over the training part; with a few hundred records forty were enough to learn and not to memorise.",
        minimum=1,
        maximum=1000,
    )
    batch_size: int | None = setting(
        None,
        "Batch size",
        "Small batches take more steps per epoch, which small datasets need; large ones are faster. Empty: 32, and more where an "
        "epoch would take more than 200 steps, up to 256. Where an accelerator's memory does not suffice it is halved.",
        minimum=1,
        maximum=4096,
        nullable=True,
    )
    learning_rate: float | None = setting(
        3e-3,
        "Learning rate",
        "The peak of the schedule. Empty: found on the training part before the start.",
        minimum=1e-8,
        maximum=1.0,
        nullable=True,
    )
    trunk_rate_factor: float = setting(
        0.1,
        "Rate of the trunk",
        "When all layers of a base model are trained, those below the head learn at this share of the rate; after the head "
        "alone, the head does, too.",
        minimum=1e-4,
        maximum=1.0,
    )
    head_epochs: int | None = setting(
        None,
        "Epochs of the head alone",
        "First part of 'head then all'; empty: a quarter of the epochs.",
        minimum=1,
        maximum=999,
        nullable=True,
    )
    optimiser: str = setting("adamw", "Optimiser", "AdamW; no decay on norms and biases.", choices=OPTIMISERS)
    weight_decay: float = setting(
        0.01, "Weight decay", "Holds weights small; the value of the published ECG recipes.", minimum=0, maximum=1
    )
    schedule: str = setting(
        "one_cycle",
        "Rate over time",
        "Rises for the first quarter, falls to nearly zero at the end.",
        choices=SCHEDULES,
    )
    warmup: float = setting(
        0.25, "Share of rising rate", "Share of all steps in which the rate rises.", minimum=0, maximum=0.9
    )
    clip_norm: float | None = setting(
        1.0,
        "Gradient limit",
        "A larger gradient is scaled down to this norm: one odd record cannot throw the network off.",
        minimum=1e-3,
        maximum=1e3,
        nullable=True,
    )
    class_weights: str = setting(
        "none",
        "Class weights",
        "None: thresholds chosen afterwards take care of rare classes and probabilities stay calibrated.",
        choices=("none", "sqrt", "balanced"),
    )
    focal_gamma: float = setting(
        0.0, "Focal loss", "0 is plain cross entropy; 2 puts weight on hard records.", minimum=0, maximum=5
    )
    label_smoothing: float = setting(
        0.0, "Label smoothing", "Share of each label moved to the other outcomes.", minimum=0, maximum=0.4
    )
    ema_decay: float = setting(
        0.98,
        "Weight averaging",
        "The model kept is a running average of the weights with this decay per step; 0: off. It steadies small runs.",
        minimum=0,
        maximum=0.9999,
    )
    members: int | None = setting(
        None,
        "Networks in the ensemble",
        "So many networks are trained on different parts of the development data and answer together. Empty: three or five "
        "where a fresh network meets few records, else one.",
        minimum=1,
        maximum=10,
        nullable=True,
    )
    companion: str = setting(
        "auto",
        "Linear companion",
        "A linear model of fixed features (kernels, mean beat, rhythm) that answers together with fresh networks: a few hundred "
        "records teach it more. Auto: beside an ensemble; never where every fold is held out.",
        choices=("auto", "always", "never"),
    )
    monitor: str = setting(
        "auto",
        "Metric that chooses the best epoch",
        "Auto: the task's own (macro AUROC for classes); 'loss' for the validation loss.",
    )
    smoothing: int = setting(
        3,
        "Smoothing of that metric",
        "Epochs averaged before comparing: on a small validation part one epoch's value is mostly chance.",
        minimum=1,
        maximum=50,
    )
    tolerance: float = setting(
        0.1,
        "Tolerance of that metric",
        "The latest epoch is kept that loses less than this share of the best value. It holds for 100 validation records "
        "and falls with the root of their number: smaller differences are chance.",
        minimum=0,
        maximum=0.5,
    )
    patience: int | None = setting(
        15,
        "Patience",
        "Epochs in a row that lose more than the tolerance before stopping; never before the rate has begun to fall. "
        "Empty: never stop early.",
        minimum=1,
        maximum=1000,
        nullable=True,
    )
    augmentation: Augmentation = field(default_factory=Augmentation)
    mixed_precision: bool = setting(
        True, "Mixed precision", "bfloat16 where an accelerator has it; never on the processor, where it gains nothing."
    )
    threads: int | None = setting(
        None,
        "Processor threads",
        "Empty: as torch decides. The same weights to the bit need the same number.",
        minimum=1,
        maximum=256,
        nullable=True,
    )
    seed: int = setting(
        0,
        "Seed",
        "The same seed, data and settings give the same weights on the processor; the same files are divided alike in every portal.",
        minimum=0,
        maximum=MOST_SEED,
    )

    def __post_init__(self) -> None:
        problems = problems_of(self) | {f"augmentation.{k}": v for k, v in problems_of(self.augmentation).items()}
        if not problems and self.mode == "head_then_full":
            if self.epochs < 2:
                problems["epochs"] = "'Head then all' needs at least 2 epochs."
            elif self.head_epochs is not None and self.head_epochs >= self.epochs:
                problems["head_epochs"] = f"The epochs of the head alone must be fewer than all {self.epochs} epochs."
        if problems:
            raise InvalidInput(" ".join(problems.values()), code="bad_settings", fields=problems)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FitSettings:
        """Build settings from JSON; unknown names and wrong types are named in one error."""
        given = dict(values)
        nested = given.pop("augmentation", None)
        known = {f.name for f in fields(cls)} - {"augmentation"}
        bad = {name: f"There is no setting '{name}'." for name in given if name not in known}
        inner: dict[str, Any] = {}
        if nested is not None and not isinstance(nested, (Mapping, Augmentation)):
            bad["augmentation"] = "The augmentation must be an object with one number per kind."
        elif isinstance(nested, Mapping):
            inner = dict(nested)
            bad |= {
                f"augmentation.{n}": f"There is no augmentation '{n}'."
                for n in inner if n not in {f.name for f in fields(Augmentation)}
            }  # fmt: skip
        if bad:
            raise InvalidInput(" ".join(bad.values()), code="bad_settings", fields=bad)
        return cls(**given, augmentation=nested if isinstance(nested, Augmentation) else Augmentation(**inner))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def batch_for(self, n_train: int) -> int:
        """Return the batch size for ``n_train`` records to learn from: what was asked for, or the default.

        On PTB-XL's 17,418 the published benchmark takes 128 (doi:10.1109/JBHI.2020.3022989), as this does.
        """
        size = self.batch_size or SMALLEST_BATCH
        while self.batch_size is None and size < LARGEST_BATCH and n_train > MOST_STEPS * size:
            size *= 2
        return size

    def n_members(self, n_development: int) -> int:
        """Return how many networks to train on ``n_development`` records: what was asked for, or the default.

        With few records a single network depends on its seed, and a validation part is too small to choose an epoch and
        thresholds by; an ensemble that is cross-fitted steadies both. Five networks miss a fifth of the records each where
        three miss a third, which counts most where records are few; up to 750 they take no more time than three on 1,500
        do, and from 200 on a fold keeps the 40 records that its figures need. With many records an ensemble would only cost
        time. A model that is fine-tuned stays one network, unless more are asked for.
        """
        if self.members is not None:
            return self.members
        fitting = [members for members, fewest, most in ENSEMBLES if fewest <= n_development <= most]
        return fitting[0] if fitting and self.mode == "scratch" else 1

    def has_companion(self, networks: int) -> bool:
        """Tell whether a linear companion is fitted beside so many fresh networks: as asked, or by default beside an ensemble."""
        return self.companion == "always" or (self.companion == "auto" and networks > 1 and self.mode == "scratch")


def too_many_to_compute(count: int) -> str | None:
    """Return a sentence when a model that is computed in one pass cannot be computed on so many records."""
    if count <= MOST_COMPUTED:
        return None
    return (
        f"The linear model of fixed features keeps the features of all records in memory, for at most {MOST_COMPUTED:,} records of "
        f"training and validation; there are {count:,}. Set a cap on the records, or choose a network."
    )


def written(value: float) -> str:
    """Return a number as a person writes it: whole ones with all their digits."""
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def problems_of(settings: Any) -> dict[str, str]:
    """Return a sentence per field that cannot be used."""
    problems = {}
    for f in fields(settings):
        if "title" in f.metadata:
            sentence = _problem(f, getattr(settings, f.name))
            if sentence:
                problems[f.name] = sentence
    return problems


def _problem(f: Any, value: Any) -> str | None:
    title, limits = f.metadata["title"], f.metadata
    if value is None:
        return None if limits.get("nullable") else f"{title} must be given."
    if "choices" in limits:
        return (
            None
            if value in limits["choices"]
            else f"{title} must be one of {', '.join(limits['choices'])}, not {value!r}."
        )
    kind = str(f.type).split(" |")[0]
    if kind == "bool":
        return None if isinstance(value, bool) else f"{title} must be true or false, not {value!r}."
    if kind == "str":
        return None if isinstance(value, str) and value else f"{title} must be a name, not {value!r}."
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (kind == "int" and not isinstance(value, int)):
        return f"{title} must be a {'whole ' if kind == 'int' else ''}number, not {value!r}."
    if isinstance(value, float) and not math.isfinite(value):
        return f"{title} must be a finite number, not {value}."
    if not limits["minimum"] <= value <= limits["maximum"]:
        # A whole number may be too large for a floating-point one, and too long to be told.
        told = written(value) if abs(value) < 10**15 else "a number with more than 15 digits"
        return f"{title} must lie between {written(limits['minimum'])} and {written(limits['maximum'])}, not {told}."
    return None


def monitored_metric(settings: FitSettings, problem: Problem) -> str:
    """Return the metric by which the best epoch of such a task is chosen; InvalidInput when it has no such metric."""
    wanted = problem.monitor if settings.monitor == "auto" else settings.monitor
    offered = ("loss", *problem.metrics)
    if wanted not in offered:
        raise InvalidInput(
            f"The task '{problem.name}' has no metric '{wanted}' to choose the best epoch by; it has: {', '.join(offered)}.",
            fields={"monitor": "Unknown metric."},
        )
    return wanted


def settings_schema() -> dict[str, Any]:
    """Return a JSON schema of :class:`FitSettings` with ``title``, ``default`` and the reason (``description``) per field."""
    schema = described(FitSettings)
    schema["properties"]["augmentation"] = described(Augmentation) | {"title": "Augmentation"}
    return schema


def described(cls: type) -> dict[str, Any]:
    """Return a JSON schema of a dataclass whose fields come from :func:`setting`."""
    properties = {}
    for f in fields(cls):
        if "title" not in f.metadata:
            continue
        kind = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}[str(f.type).split(" |")[0]]
        entry: dict[str, Any] = {
            "title": f.metadata["title"],
            "description": f.metadata["reason"],
            "default": f.default,
        }
        entry["type"] = [kind, "null"] if f.metadata.get("nullable") else kind
        if "choices" in f.metadata:
            entry["enum"] = list(f.metadata["choices"])
        entry |= {k: f.metadata[k] for k in ("minimum", "maximum") if k in f.metadata}
        properties[f.name] = entry
    return {"type": "object", "additionalProperties": False, "properties": properties}
