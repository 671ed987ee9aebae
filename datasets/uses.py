"""What other rooms made of records, told when records are deleted. Those rooms register a function each."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

Uses = Callable[[Sequence[uuid.UUID]], list[str]]

Forget = Callable[[Any, Sequence[uuid.UUID]], None]

_REGISTERED: list[Uses] = []
_FORGETTING: list[Forget] = []


def register(function: Uses) -> Uses:
    """Register a function that returns the ids of trainings that learned from or were judged on some records."""
    _REGISTERED.append(function)
    return function


def on_delete(function: Forget) -> Forget:
    """Register a function that takes deleted records of a dataset out of what a room keeps of many in one row."""
    _FORGETTING.append(function)
    return function


def forget_everywhere(dataset: Any, records: Sequence[uuid.UUID]) -> None:
    """Take deleted records of a dataset out of what all rooms keep of many in one row."""
    for function in _FORGETTING:
        function(dataset, records)


def runs_using(records: Sequence[uuid.UUID]) -> list[str]:
    """Return the ids of the training runs that used one of the records, in order."""
    return sorted({run for function in _REGISTERED for run in function(records)})
