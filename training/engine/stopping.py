"""Whether a run shall stop, asked by what trains."""

from __future__ import annotations

import time

import torch

from training.engine.batches import Stopped
from training.engine.callbacks import Callbacks
from training.engine.team import Team

#: Within a batch a run asks at most this often.
ASK_EVERY_S = 1.0


class StopRequests:
    """Asks a run's callbacks; the processes of a team ask together, between batches."""

    def __init__(self, callbacks: Callbacks, team: Team, device: torch.device) -> None:
        self._callbacks, self._team, self._device = callbacks, team, device
        self._asked = time.monotonic()

    def check(self) -> None:
        """Raise Stopped with the reason when the run shall stop."""
        self._asked = time.monotonic()
        answer = self._callbacks.should_stop()
        reason = answer if isinstance(answer, str) else "cancelled" if answer else ""
        reason = self._team.text_by_first(reason, self._device)
        if reason:
            raise Stopped(reason)

    def check_now_and_then(self) -> None:
        """The same, unless it was asked just now."""
        if time.monotonic() - self._asked > ASK_EVERY_S:
            self.check()
