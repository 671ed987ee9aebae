"""What a model expects and what it answers: the contract that travels with every model version.

Needs neither torch nor onnx: pages read contracts too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal, cast

import numpy as np

from ecgportal.errors import InvalidInput

Task = Literal["multiclass", "multilabel", "binary", "regression", "pretraining"]
Output = Literal["logits", "probabilities"]

#: The tasks, with their titles.
TASKS: Mapping[str, str] = MappingProxyType({
    "multiclass": "One of several classes", "multilabel": "Several findings at once (multi-label)",
    "binary": "One finding against the rest (binary)", "regression": "A number (regression)",
})  # fmt: skip
#: The task of a trunk: a network that learned from signals without labels. It has no classes and answers nothing.
PRETRAINING = "pretraining"
#: Of the length and the rate that a model reads a record must have this share; below it the answer would be one about made-up samples.
LEAST_SHARE = 0.5
#: So many networks at most answer together as one model: those of an ensemble, or one for each fold that is held out.
MOST_NETWORKS = 20
UNITS: tuple[str, ...] = ("mV", "uV", "1")
NORMALISATIONS: tuple[str, ...] = ("none", "lead_zscore", "record_zscore", "min_max", "mean_std")
NEEDS: tuple[str, ...] = ("age", "sex")
MAX_CLASSES = 1000
MAX_CLASS_NAME = 200
MAX_JSON_BYTES = 1_000_000
#: What a file's metadata says about the use of the model, under these names with a prefix.
STATED_IN_FILES = ("licence", "intended_use", "training_data")
_STATED = "ecg_portal."
FORMAT = 1


@dataclass(frozen=True)
class ModelContract:
    """Input and output of a model version.

    leads: the rows of the input, in order. fs_hz, n_samples: rate and length of each row.
    unit: of the input values, ``mV``, ``uV`` or ``1`` where the recipe takes the scale away. normalisation: the kind the
    recipe ends with, in the words of the ``normalise`` step.
    classes: names of the outputs in order; for ``binary`` either the positive class alone (one output, sigmoid) or
    negative and positive (two outputs, softmax); for ``regression`` the names of the quantities; none for a trunk
    (``pretraining``), which is there to be fine-tuned.
    output: ``logits`` when the activation of the task has to follow, ``probabilities`` when the model applies it.
    recipe: the preprocessing recipe as JSON. thresholds: decision threshold per class, 0..1 (see ``decided``).
    fixed_length: the network accepts ``n_samples`` only. needs: what it takes beside the ECG (``age``, ``sex``); files of
    such networks have a second input (modelhub.architectures.person). definition: SHA-256 of the file that defines the
    network where an administrator installed it (modelhub.architectures.installed). parent: digest of the version this one was trained from.
    """

    leads: tuple[str, ...]
    fs_hz: float
    n_samples: int
    classes: tuple[str, ...]
    task: Task
    unit: str = "mV"
    normalisation: str = "none"
    architecture: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    recipe: Any = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    output: Output = "logits"
    fixed_length: bool = False
    needs: tuple[str, ...] = ()
    parent: str | None = None
    definition: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "leads", tuple(self.leads))
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "needs", tuple(self.needs))
        object.__setattr__(self, "config", dict(self.config))
        if _is_number(self.fs_hz):
            object.__setattr__(self, "fs_hz", float(self.fs_hz))
        object.__setattr__(self, "thresholds", dict(self.thresholds))
        problems = self.problems()
        if problems:
            raise InvalidInput(
                "The model's contract cannot be used: " + " ".join(problems.values()),
                code="bad_contract",
                fields=problems,
            )

    @property
    def n_leads(self) -> int:
        return len(self.leads)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @property
    def is_trunk(self) -> bool:
        """Whether this is a network without classes, to fine-tune only."""
        return self.task == PRETRAINING

    @property
    def n_outputs(self) -> int:
        """Outputs of the network; a trunk keeps one that nothing reads, until fine-tuning replaces its head."""
        return max(1, self.n_classes)

    @property
    def duration_s(self) -> float:
        return self.n_samples / self.fs_hz

    @property
    def activation(self) -> Literal["softmax", "sigmoid", "identity"]:
        """What turns logits into the task's answer."""
        if self.task == "regression" or self.is_trunk:
            return "identity"
        if self.task == "multilabel" or self.n_classes == 1:
            return "sigmoid"
        return "softmax"

    def limits(self, thresholds: Mapping[str, float]) -> dict[str, float] | None:
        """Return the threshold of each class that decides, given those that are stated: 0.5 for classes judged one by one, where
        none is. None where none decides: the largest of several probabilities does, or numbers are answered."""
        if self.activation == "identity" or (self.activation == "softmax" and not thresholds):
            return None
        usual = 0.5 if self.activation == "sigmoid" else 0.0
        return {name: float(thresholds.get(name, usual)) for name in self.classes}

    def problems(self) -> dict[str, str]:
        """Return ``{field: sentence}`` for everything that is wrong; empty when the contract can be used."""
        return _problems(self)

    def check_batch(self, batch: np.ndarray) -> None:
        """Raise InvalidInput with the mismatch spelled out unless ``batch`` is float32 ``(n, leads, samples)``."""
        array = np.asarray(batch)
        wanted = f"float32 of shape (records, {self.n_leads}, {self.n_samples})"
        if array.ndim != 3:
            raise InvalidInput(
                f"The model takes {wanted}; the batch has {array.ndim} axes. Add the missing axis or split the batch.",
                code="input_mismatch",
            )
        if array.dtype != np.float32:
            raise InvalidInput(
                f"The model takes {wanted}; the batch is {array.dtype}. Convert it with astype('float32').",
                code="input_mismatch",
            )
        if array.shape[1] != self.n_leads:
            raise InvalidInput(
                f"The model takes {self.n_leads} leads ({', '.join(self.leads)}); the batch has {array.shape[1]}. "
                "Select the leads by name or choose another model.",
                code="input_mismatch",
            )
        if array.shape[2] != self.n_samples:
            raise InvalidInput(
                f"The model takes {self.n_samples} samples ({self.duration_s:g} s at {self.fs_hz:g} Hz); the batch has "
                f"{array.shape[2]}. Let the recipe resample and cut the record.",
                code="input_mismatch",
            )

    def with_changes(self, **changes: Any) -> ModelContract:
        """Return a copy with some fields changed, validated again."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, with the format's number under ``format``."""
        values = {"format": FORMAT, **asdict(self), "leads": list(self.leads), "classes": list(self.classes)}
        # Left out where they say nothing, so that contracts of the portal's own networks read as they always did.
        rare = {"needs": list(values.pop("needs")), "definition": values.pop("definition")}
        return values | {name: value for name, value in rare.items() if value}

    def to_json(self) -> str:
        """Return canonical JSON: sorted keys, no blanks, no NaN. Equal contracts give equal text."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelContract:
        """Read what ``to_dict`` wrote. InvalidInput (``bad_contract``) names what is missing or wrong."""
        if not isinstance(data, Mapping):
            raise InvalidInput("A model's contract is a JSON object.", code="bad_contract")
        if data.get("format", FORMAT) != FORMAT:
            raise InvalidInput(
                f"The contract has format {data.get('format')!r}; this portal reads format {FORMAT}. Update the portal.",
                code="bad_contract",
            )
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in data.items() if key != "format"}
        strange = sorted(set(values) - known)
        missing = sorted({"leads", "fs_hz", "n_samples", "classes", "task"} - set(values))
        if strange or missing:
            parts = [f"missing: {', '.join(missing)}."] * bool(missing)
            parts += [f"not known: {', '.join(map(str, strange))[:200]}."] * bool(strange)
            raise InvalidInput("The model's contract cannot be used: " + " ".join(parts), code="bad_contract")
        for name, kind, word in _JSON_SHAPES:
            if name in values and not isinstance(values[name], kind):
                raise InvalidInput(f"In the model's contract, {name} must be {word}.", code="bad_contract")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelContract:
        """Read what ``to_json`` wrote, at most 1 MB."""
        if len(text) > MAX_JSON_BYTES:
            raise InvalidInput("The model's contract is larger than 1 MB.", code="bad_contract")
        try:
            data = json.loads(text, parse_constant=_no_constants)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"The model's contract is not valid JSON: {error}.", code="bad_contract") from error
        return cls.from_dict(data)


def decided(
    probabilities: np.ndarray, limits: Sequence[float] | np.ndarray | None, *, one_of_several: bool
) -> np.ndarray:
    """Return what is predicted, bool ``(records, classes)``: of several classes the one that exceeds its threshold the most, where
    a tie goes to the first; of classes judged one by one those at or above theirs.

    probabilities: ``(records, classes)``. limits: a threshold per class; None for none, and for 0.5 each where classes are judged one by one.
    """
    if not one_of_several:
        return np.asarray(probabilities >= (0.5 if limits is None else np.asarray(limits)))
    best = (probabilities - (0.0 if limits is None else np.asarray(limits))).argmax(axis=1)
    return np.asarray(best[:, None] == np.arange(probabilities.shape[1]))


def statements_for_file(prose: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata that carries licence, intended use and training data in a file of weights."""
    return {_STATED + name: prose[name] for name in STATED_IN_FILES if prose.get(name, "").strip()}


def statements_in(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return licence, intended use and training data as a file's metadata states them."""
    found = {name: metadata.get(_STATED + name, "").strip() for name in STATED_IN_FILES}
    return {name: text[:8000] for name, text in found.items() if text}


_JSON_SHAPES: tuple[tuple[str, Any, str], ...] = (
    ("leads", (list, tuple), "a list of lead names"),
    ("classes", (list, tuple), "a list of class names"),
    ("needs", (list, tuple), "a list"),
    ("config", Mapping, "an object"),
    ("thresholds", Mapping, "an object of class name to threshold"),
)


def _no_constants(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _problems(contract: ModelContract) -> dict[str, str]:
    found: dict[str, str] = {}
    leads, classes = contract.leads, contract.classes
    if not leads or not all(isinstance(n, str) and n.strip() for n in leads) or len(set(leads)) != len(leads):
        found["leads"] = "The leads must be a non-empty list of different names, in the order of the input rows."
    if not _is_number(contract.fs_hz) or contract.fs_hz <= 0:
        found["fs_hz"] = f"The sampling rate must be a positive number of hertz, not {contract.fs_hz!r}."
    whole = isinstance(contract.n_samples, int) and not isinstance(contract.n_samples, bool)
    if not whole or contract.n_samples < 1:
        found["n_samples"] = f"The length must be a positive whole number of samples, not {contract.n_samples!r}."
    if contract.unit not in UNITS:
        found["unit"] = f"The unit must be one of {', '.join(UNITS)}, not {contract.unit!r}."
    if contract.normalisation not in NORMALISATIONS:
        found["normalisation"] = f"The normalisation must be one of {', '.join(NORMALISATIONS)}."
    if contract.task not in (*TASKS, PRETRAINING):
        found["task"] = f"The task must be one of {', '.join(TASKS)}, not {contract.task!r}."
    if contract.needs and set(contract.needs) != set(NEEDS):
        found["needs"] = f"Beside the ECG a network can take {' and '.join(NEEDS)} together, or nothing."
    if contract.output not in ("logits", "probabilities"):
        found["output"] = "The output must be logits or probabilities."
    if sentence := _class_problem(contract):
        found["classes"] = sentence
    strange = [name for name in contract.thresholds if name not in classes]
    if strange:
        found["thresholds"] = f"Thresholds are given for what is not a class: {', '.join(map(str, strange))[:200]}."
    elif not all(_is_number(value) and 0 <= value <= 1 for value in contract.thresholds.values()):
        found["thresholds"] = "Every threshold must lie between 0 and 1."
    if contract.architecture is not None and not _is_identifier(contract.architecture):
        found["architecture"] = "The architecture must be a name of small letters, digits and underscores."
    if contract.parent is not None and not re.fullmatch(r"[0-9a-f]{64}", str(contract.parent)):
        found["parent"] = "The parent must be a SHA-256 digest: 64 small hexadecimal digits."
    if contract.definition is not None and not re.fullmatch(r"[0-9a-f]{64}", str(contract.definition)):
        found["definition"] = "The definition must be a SHA-256 digest: 64 small hexadecimal digits."
    try:
        json.dumps([contract.config, contract.recipe], allow_nan=False)
    except (TypeError, ValueError):
        found["recipe"] = "The recipe and the network's settings must be plain JSON values."
    return found


def _class_problem(contract: ModelContract) -> str | None:
    classes = cast("tuple[object, ...]", contract.classes)
    if contract.is_trunk:
        return "A trunk that learned without labels has no classes." if classes else None
    if not classes:
        return "At least one class must be named."
    if len(classes) > MAX_CLASSES:
        return f"At most {MAX_CLASSES} classes are supported, not {len(classes)}."
    if not all(isinstance(name, str) and name.strip() and len(name) <= MAX_CLASS_NAME for name in classes):
        return f"Every class needs a name of 1 to {MAX_CLASS_NAME} characters."
    if len(set(classes)) != len(classes):
        return "A class is named twice."
    if contract.task == "binary" and len(classes) > 2:
        return "A binary model has one output (the positive class) or two (negative, positive)."
    if contract.task == "multiclass" and len(classes) < 2:
        return "A multiclass model needs at least two classes."
    return None


def _is_identifier(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(r"[a-z][a-z0-9_]{0,63}", text) is not None
