"""The stages of a run: which layers train in which epochs."""

from __future__ import annotations

from dataclasses import dataclass

from training.engine.settings import FitSettings


@dataclass(frozen=True)
class Plan:
    """``stages``: what is trained (``scratch``, ``head``, ``full``, ``full_after_head``) and for how many epochs."""

    stages: tuple[tuple[str, int], ...]

    def index(self, epoch: int) -> int:
        """Return the number of the stage that the 1-based epoch belongs to."""
        end = 0
        for number, (_, length) in enumerate(self.stages):
            end += length
            if epoch <= end:
                return number
        return len(self.stages) - 1

    def start(self, epoch: int) -> int:
        """Return how many epochs lie before the stage of ``epoch``."""
        return sum(length for _, length in self.stages[: self.index(epoch)])

    def length(self, epoch: int) -> int:
        """Return how many epochs the stage of ``epoch`` has."""
        return self.stages[self.index(epoch)][1]

    def name(self, epoch: int) -> str:
        return self.stages[self.index(epoch)][0]

    def begins(self, epoch: int) -> bool:
        return epoch == self.start(epoch) + 1

    def is_last(self, epoch: int) -> bool:
        return self.index(epoch) == len(self.stages) - 1

    def progress(self, epoch: int, share: float) -> float:
        """Return how much of the epoch's stage is done, [0, 1], with ``share`` of the epoch done."""
        return (epoch - 1 - self.start(epoch) + share) / self.length(epoch)


def plan(settings: FitSettings) -> Plan:
    """Return the stages that the settings ask for."""
    if settings.mode == "head_then_full":
        head = settings.head_epochs or max(1, settings.epochs // 4)
        return Plan((("head", head), ("full_after_head", settings.epochs - head)))
    return Plan(((settings.mode, settings.epochs),))
