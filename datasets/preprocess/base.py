"""What a preparation step is, what it is handed, and how steps are found.

A step is one module of this package with one frozen dataclass marked ``@step("name")``; its fields are the step's
parameters (float, int, bool, str, or tuples of float or str).
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from typing import Any, ClassVar, TypeVar

import numpy as np

from datasets import preprocess
from ecgportal.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Stage:
    """A record between two steps.

    signal: float32 ``(leads, samples)``, NaN where a sample is missing. mask: bool of the same shape, True where the
    sample was recorded (or computed from recorded ones), False where it is missing or was made up by a step. A sample
    with mask True is never NaN.
    notes: sentences about what the steps changed beyond their plain task.
    """

    signal: np.ndarray
    fs_hz: float
    leads: tuple[str, ...]
    mask: np.ndarray
    notes: tuple[str, ...] = ()

    def with_note(self, note: str) -> Stage:
        return replace(self, notes=(*self.notes, note))


@dataclass(frozen=True)
class OutputSpec:
    """What steps make of any record; None where it depends on the record.

    unit: ``mV``, or ``1`` when the scale was taken away. normalisation: ``none`` or the kind of ``normalise``.
    """

    leads: tuple[str, ...] | None = None
    fs_hz: float | None = None
    min_samples: int = 1
    max_samples: int | None = None
    unit: str = "mV"
    normalisation: str = "none"

    @property
    def n_samples(self) -> int | None:
        """Samples per lead, or None when records of different length come out."""
        return self.min_samples if self.min_samples == self.max_samples else None


class Step:
    """Base of all steps: parameters in, parameters out as JSON, and two methods to write."""

    name: ClassVar[str] = ""

    def apply(self, stage: Stage) -> Stage:
        """Return the stage behind this step; the given one is left unchanged."""
        raise NotImplementedError

    def spec(self, spec: OutputSpec) -> OutputSpec:
        """Return what this step makes of a specification."""
        return spec

    def to_json(self) -> dict[str, Any]:
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}  # type: ignore[arg-type]
        return {"step": self.name} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


_STEPS: dict[str, type[Step]] = {}
_Found = TypeVar("_Found", bound=Step)


def step(name: str) -> Callable[[type[_Found]], type[_Found]]:
    """Register a step class under its name; a second one of the same name is a programming error."""

    def register(cls: type[_Found]) -> type[_Found]:
        if name in _STEPS:
            raise RuntimeError(f"Two preparation steps are called {name!r}.")
        cls.name = name
        _STEPS[name] = cls
        return cls

    return register


@cache
def steps() -> dict[str, type[Step]]:
    """Return every step by name. The package's modules are imported at the first call, in order of their names."""
    for module in sorted(info.name for info in pkgutil.iter_modules(preprocess.__path__)):
        if module not in {"base", "recipe"} and not module.startswith("_"):
            importlib.import_module(f"{preprocess.__name__}.{module}")
    return dict(sorted(_STEPS.items()))


def parameters(cls: type[Step]) -> dict[str, dict[str, Any]]:
    """Return a step's parameters for forms: type, default (absent when required), choices and help where known."""
    hints = typing.get_type_hints(cls)
    found: dict[str, dict[str, Any]] = {}
    for entry in fields(cls):  # type: ignore[arg-type]
        found[entry.name] = {"type": _type_name(hints[entry.name]), **entry.metadata}
        if entry.default is not MISSING:
            found[entry.name]["default"] = entry.default
    return found


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return f"list of {_type_name(typing.get_args(hint)[0])}"
    return {float: "number", int: "integer", bool: "boolean", str: "text"}[hint]


def _coerce(value: Any, hint: Any, where: str) -> Any:
    if typing.get_origin(hint) is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_coerce(entry, typing.get_args(hint)[0], where) for entry in value)
    elif (
        hint is float
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
    ):
        # Adding 0 makes -0.0 and 0.0 one value, so equal recipes have equal digests.
        return float(value) + 0.0
    elif hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    elif hint in (bool, str) and isinstance(value, hint):
        return value
    raise InvalidInput(f"{where} must be a {_type_name(hint)}, not {value!r}.", code="invalid_recipe")


def step_from_json(data: Mapping[str, Any]) -> Step:
    """Build a step from its JSON form; InvalidInput (``invalid_recipe``) names what is wrong."""
    name = data.get("step") if isinstance(data, Mapping) else None
    cls = steps().get(name) if isinstance(name, str) else None
    if cls is None:
        raise InvalidInput(
            f"There is no preparation step {name!r}. There are {', '.join(steps())}.", code="invalid_recipe"
        )
    known = parameters(cls)
    unknown = sorted(set(data) - {"step"} - set(known))
    missing = sorted(key for key, entry in known.items() if "default" not in entry and key not in data)
    if unknown or missing:
        raise InvalidInput(
            f"The step {name} takes {', '.join(known) or 'no parameters'}; "
            + (f"unknown: {', '.join(map(str, unknown))}. " if unknown else "")
            + (f"missing: {', '.join(missing)}." if missing else ""),
            code="invalid_recipe",
        )
    hints = typing.get_type_hints(cls)
    return cls(**{key: _coerce(data[key], hints[key], f"{name}.{key}") for key in known if key in data})


def coerce_fields(self: Step) -> None:
    """Bring a step's parameters to their declared types; called in ``__post_init__``."""
    hints = typing.get_type_hints(type(self))
    for entry in fields(self):  # type: ignore[arg-type]
        value = _coerce(getattr(self, entry.name), hints[entry.name], f"{self.name}.{entry.name}")
        choices = entry.metadata.get("choices")
        if choices and value not in choices:
            raise InvalidInput(
                f"{self.name}.{entry.name} must be one of {', '.join(choices)}, not {value!r}.", code="invalid_recipe"
            )
        object.__setattr__(self, entry.name, value)


def require(condition: bool, sentence: str) -> None:
    """Raise InvalidInput (``invalid_recipe``) with the sentence unless the condition holds."""
    if not condition:
        raise InvalidInput(sentence, code="invalid_recipe")


def meta(help: str, choices: tuple[str, ...] = ()) -> types.MappingProxyType[str, Any]:
    """Return field metadata: a help sentence and the allowed values."""
    return types.MappingProxyType({"help": help} | ({"choices": choices} if choices else {}))
