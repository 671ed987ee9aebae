"""The task types by name. A module of this package that registers a problem is found by itself."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TypeVar

import training.problems
from ecgportal.errors import InvalidInput
from training.problems.base import Problem

_PROBLEMS: dict[str, Problem] = {}
# These hold shared code, and losses.py would load torch into web processes.
_NOT_PROBLEMS = {"base", "registry", "losses", "thresholds"}

P = TypeVar("P", bound=type[Problem])


def problem(cls: P) -> P:
    """Class decorator: register a task type under its ``name``."""
    if not cls.name:
        raise ValueError(f"{cls.__name__} has no name")
    if cls.name in _PROBLEMS and type(_PROBLEMS[cls.name]) is not cls:
        raise ValueError(f"two task types are named {cls.name!r}")
    _PROBLEMS[cls.name] = cls()
    return cls


@cache
def _load() -> None:
    for module in sorted(m.name for m in pkgutil.iter_modules(training.problems.__path__)):
        if module not in _NOT_PROBLEMS:
            importlib.import_module(f"training.problems.{module}")


def get_problem(name: str) -> Problem:
    """Return the task type of this name."""
    _load()
    try:
        return _PROBLEMS[name]
    except KeyError:
        known = ", ".join(sorted(_PROBLEMS))
        raise InvalidInput(
            f"There is no task named '{name}'. Choose one of: {known}.", fields={"task": "Unknown."}
        ) from None


def problem_names() -> list[str]:
    _load()
    return sorted(_PROBLEMS)
