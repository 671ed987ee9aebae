"""Batches in pieces that fit into memory. Needs no torch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from ecgportal.errors import PortalError

T = TypeVar("T")
# How the allocators of torch (on processors) and of ONNX Runtime report through errors of a wider kind.
_SAID = ("can't allocate memory", "not enough memory", "Failed to allocate memory", "bad_alloc", "bad allocation")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocator, an accelerator's or the processor's, had no memory left."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, Exception) and any(words in str(error) for words in _SAID)


def free_cached_memory() -> None:
    """Give memory that torch keeps for later back to the accelerator."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


class Pieces:
    """Computes records in pieces of at most ``size``; where memory runs out the piece is halved, and so are later ones.

    For work in which records do not depend on each other. notes: a sentence each time, which ``note`` is told, too.
    """

    def __init__(self, size: int, note: Callable[[str], None] | None = None):
        self.size, self.notes, self._told = size, list[str](), note

    def of(self, compute: Callable[..., T], *arrays: Any) -> list[T]:
        """Return what ``compute`` gives for the pieces of the arrays (one row per record), in order; PortalError
        ``out_of_memory`` when not even one record fits."""
        found: list[T] = []
        done, n = 0, len(arrays[0])
        while done < n:
            end = min(done + self.size, n)
            try:
                found.append(compute(*(array[done:end] for array in arrays)))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            else:
                done = end
                continue
            # Here, behind the error, what the attempt held is free.
            self._halve(end - done)
        return found

    def _halve(self, n: int) -> None:
        free_cached_memory()
        if n == 1:
            raise PortalError(
                "Not even one record at a time fits into memory beside what else runs. Try again when less is running, or choose a "
                "smaller network or shorter signals.",
                code="out_of_memory",
            )
        self.size = -(-n // 2)
        self.notes.append(
            f"Memory ran out; the network now answers {self.size} record{'' if self.size == 1 else 's'} at a time. The answers are the same."
        )
        if self._told is not None:
            self._told(self.notes[-1])
