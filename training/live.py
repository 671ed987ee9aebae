"""What a training tells while it runs: the rows that pages poll, and the wish to stop on its way into the engine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ecgportal.jobs.context import JobContext
from training.engine.callbacks import Callback, Progress
from training.models import EpochMetrics, TrainingRun


class Report(Callback):
    """Writes progress and epochs of one network. span: the part of the job's progress that is its own."""

    def __init__(self, context: JobContext, run: TrainingRun, span: tuple[float, float], member: int = 1):
        self.context, self.run, self.span, self.member = context, run, span, member
        self._written = 0.0

    def on_start(self, info: Mapping[str, Any]) -> None:
        self.context.report(self.span[0], "Starting to train")
        if info.get("learning_rate"):
            TrainingRun.objects.filter(pk=self.run.pk).update(learning_rate=info["learning_rate"])
        # A process that was killed between an epoch's checkpoint and its row has not told it.
        told = set(EpochMetrics.objects.filter(run=self.run, member=self.member).values_list("epoch", flat=True))
        for row in info.get("history", ()):
            if row["epoch"] not in told:
                self.on_epoch_end(row)

    def on_batch(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._written < 1.0:
            return
        self._written = now
        low, high = self.span
        live = {
            "member": self.member, "epoch": progress.epoch, "epochs": progress.epochs, "batch": progress.batch, "batches": progress.batches,
            "loss": progress.loss if np.isfinite(progress.loss) else None, "learning_rate": progress.learning_rate,
            "elapsed_s": progress.elapsed_s, "left_s": progress.left_s,
        }  # fmt: skip
        TrainingRun.objects.filter(pk=self.run.pk).update(live=live)
        which = f"Network {self.member} of {self.run.members}, epoch" if self.run.members > 1 else "Epoch"
        left = f", about {duration(progress.left_s)} left" if progress.left_s is not None else ""
        self.context.report(
            low + (high - low) * progress.fraction, f"{which} {progress.epoch} of {progress.epochs}{left}"
        )

    def on_epoch_end(self, row: Mapping[str, Any]) -> None:
        values = {name: value for name, value in row.items() if name != "epoch"}
        EpochMetrics.objects.update_or_create(
            run=self.run, member=self.member, epoch=row["epoch"], defaults={"values": values}
        )

    def on_note(self, sentence: str) -> None:
        add_warnings(self.run, [sentence])

    def on_wait(self, sentence: str) -> None:
        # What is over when the run has begun is no warning about it.
        self.context.report(self.span[0], sentence)

    def should_stop(self) -> bool | str:
        return self.context.stop_reason() or False


def add_warnings(run: TrainingRun, sentences: list[str]) -> None:
    """Add sentences that the run's page shall show, each once."""
    merged = list(dict.fromkeys([*run.warnings, *sentences]))
    if merged != run.warnings:
        run.warnings = merged
        TrainingRun.objects.filter(pk=run.pk).update(warnings=merged)


def duration(seconds: float) -> str:
    """Return a length of time as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
