"""How a run tells what it does, and how it is told to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ecgportal.errors import JobCancelled


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a batch.

    epoch, batch: 1-based. loss: of this batch, NaN where it was not read back from the accelerator.
    fraction: share of all epochs done, [0, 1]. left_s: estimate for all epochs that remain, None at first.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    learning_rate: float
    elapsed_s: float
    left_s: float | None
    fraction: float


class Callback:
    """Receives the moments of a run; every method is optional to override."""

    def on_start(self, info: Mapping[str, Any]) -> None:
        """Called once before the first batch with ``epochs, batches, device, learning_rate, resumed_epoch, notes, ...``."""

    def on_batch(self, progress: Progress) -> None:
        """Called after each training batch."""

    def on_epoch_end(self, row: Mapping[str, Any]) -> None:
        """Called with the epoch's row of the history after its checkpoint is on disk; rows of a resumed run come once."""

    def on_note(self, sentence: str) -> None:
        """Called when the run did something the user should know, such as taking smaller batches."""

    def on_wait(self, sentence: str) -> None:
        """Called when the run begins to wait for something that others have; a note where this is not overridden."""
        self.on_note(sentence)

    def on_end(self) -> None:
        """Called last, whatever happened."""

    def should_stop(self) -> bool | str:
        """Return True or a reason (``cancelled``, ``interrupted``) to stop; asked before every batch."""
        return False


class Callbacks(Callback):
    """Several callbacks as one."""

    def __init__(self, members: Sequence[Callback]):
        self.members = tuple(members)

    def on_start(self, info: Mapping[str, Any]) -> None:
        for member in self.members:
            member.on_start(info)

    def on_batch(self, progress: Progress) -> None:
        for member in self.members:
            member.on_batch(progress)

    def on_epoch_end(self, row: Mapping[str, Any]) -> None:
        for member in self.members:
            member.on_epoch_end(row)

    def on_note(self, sentence: str) -> None:
        for member in self.members:
            member.on_note(sentence)

    def on_wait(self, sentence: str) -> None:
        for member in self.members:
            member.on_wait(sentence)

    def on_end(self) -> None:
        for member in self.members:
            member.on_end()

    def should_stop(self) -> bool | str:
        for member in self.members:
            answer = member.should_stop()
            if answer:
                return answer
        return False

    def wait_for_accelerator(self, first: bool) -> None:
        """Say, the ``first`` time, that another run has the accelerator; raise JobCancelled when asked to stop meanwhile."""
        if first:
            self.on_wait("Another training has this machine's accelerator; this one waits until it has ended.")
        answer = self.should_stop()
        if answer:
            raise JobCancelled(
                "Training was stopped while it waited for the accelerator.",
                code=answer if isinstance(answer, str) else "cancelled",
            )


class StopOnSignal(Callback):
    """Stops the run with reason ``interrupted`` when the process is asked to end (SIGTERM by default)."""

    def __init__(self, *signals: int):
        self._signals = signals or (signal.SIGTERM,)
        self._before: dict[int, Any] = {}
        self._asked = False

    def on_start(self, info: Mapping[str, Any]) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                self._before[number] = signal.signal(number, self._note)

    def on_end(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def should_stop(self) -> bool | str:
        return "interrupted" if self._asked else False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
