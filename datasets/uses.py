"""What other rooms made of records, told when records are deleted. Those rooms register a function each."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

Uses = Callable[[Sequence[uuid.UUID]], list[str]]

_REGISTERED: list[Uses] = []


def register(function: Uses) -> Uses:
    """Register a function that returns the ids of trainings that learned from or were judged on some records."""
    _REGISTERED.append(function)
    return function


def runs_using(records: Sequence[uuid.UUID]) -> list[str]:
    """Return the ids of the training runs that used one of the records, in order."""
    return sorted({run for function in _REGISTERED for run in function(records)})
