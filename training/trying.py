"""One training of a study: stored as a trial, stopped when it must be, and scored with an interval."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ecgportal import storage
from ecgportal.errors import JobCancelled, PortalError, StorageFailed
from ecgportal.jobs.context import JobContext, JobInterrupted
from training import keeping
from training.data import Stores
from training.engine.callbacks import Callback, Progress
from training.engine.settings import FitSettings
from training.fitting import fit_network
from training.metrics.base import better
from training.metrics.report import evaluate
from training.models import Study, TrainingRun, Trial, TrialState
from training.problems.registry import get_problem
from training.targets import Labelled

if TYPE_CHECKING:
    from modelhub.contract import ModelContract
    from modelhub.models import ModelVersion
    from training.engine.crew import Crew
    from training.engine.result import FitResult

# For choosing and for a curve, fewer resamples than an evaluation takes.
_RESAMPLES = 300


@dataclass
class Follow(Callback):
    """Reports epochs of a trial and asks whether it shall go on.

    tell: ``(epoch, goodness) -> reason to stop or None``; goodness is the metric that chooses the epoch, the higher the
    better. Epochs of before an interruption are told first. over: a reason to stop at any moment. reason: why the trial was
    told to stop, else empty.
    """

    context: JobContext
    share: Callable[[float], None]
    tell: Callable[[int, float], str | None] = lambda epoch, goodness: None
    over: Callable[[], str | None] = lambda: None
    reason: str = field(default="", init=False)
    _reason: str | None = field(default=None, init=False)
    _sign: float = field(default=1.0, init=False)

    def on_start(self, info: Mapping[str, Any]) -> None:
        from training.engine.monitor import sign_of

        self._sign = sign_of(info["monitor"])
        for row in info["history"]:
            self.on_epoch_end(row)

    def on_batch(self, progress: Progress) -> None:
        self.share(progress.fraction)

    def on_epoch_end(self, row: Mapping[str, Any]) -> None:
        if row.get("score") is not None:
            self._reason = self._reason or self.tell(row["epoch"], self._sign * row["score"])

    def should_stop(self) -> bool | str:
        self.reason = self.context.stop_reason() or self._reason or self.over() or ""
        return self.reason or False


def headline(task: str) -> str:
    """Return the name of the figure by which trainings of a task are compared."""
    return "mae" if task == "regression" else "auroc_macro"


def is_lower_better(task: str) -> bool:
    return better(headline(task)) == "lower"


def train_trial(
    trial: Trial, row: TrainingRun, contract: ModelContract, base: ModelVersion | None, settings: FitSettings, stores: Stores,
    by_part: Mapping[str, list[Labelled]], targets: Callable[[list[Labelled]], np.ndarray], follow: Follow, crew: Crew,
    groups: tuple[list[Any], list[Any]],
) -> FitResult | None:  # fmt: skip
    """Train one trial and note how it went; None when this network cannot be trained so. JobInterrupted and JobCancelled
    leave the trial to be gone on with. groups: as for ``fit``."""
    begun = time.monotonic()
    folder = folder_of(trial.study, trial.number)
    keeping.fetch(folder)
    try:
        _, result = fit_network(
            contract.architecture or row.architecture, contract, base, settings, stores, by_part, _encoded(by_part, targets),
            callbacks=[follow, keeping.Kept(row, folder)], folder=folder, groups=groups, crew=crew,
        )  # fmt: skip
    except JobCancelled as error:
        if error.code == "interrupted":
            raise JobInterrupted from error
        raise
    except StorageFailed:
        raise
    except PortalError as error:
        trial.state, trial.note = TrialState.FAILED, error.message[:300]
        return None
    finally:
        trial.seconds += time.monotonic() - begun
        trial.save()
    if result.stopped_reason == "loss_not_finite":
        trial.state, trial.note = TrialState.FAILED, result.notes[-1][:300]
        trial.save()
        return None
    if result.stopped_reason == "interrupted":
        raise JobInterrupted
    if result.stopped_reason == "cancelled":
        raise JobCancelled("The job was cancelled; what was tried so far is kept.")
    return result


class _NoFurther(Callback):
    """Stops a training at once."""

    def should_stop(self) -> bool | str:
        return "cancelled"


def result_of(
    trial: Trial, row: TrainingRun, contract: ModelContract, base: ModelVersion | None, settings: FitSettings, stores: Stores,
    by_part: Mapping[str, list[Labelled]], targets: Callable[[list[Labelled]], np.ndarray], groups: tuple[list[Any], list[Any]],
    follow: Callback | None = None,
) -> FitResult:  # fmt: skip
    """Return what a trial gave so far, from its checkpoint and without another step; JobCancelled when that is nothing.
    The arguments are those that the trial was trained with. follow: with one, what is missing of it is trained."""
    folder = folder_of(trial.study, trial.number)
    try:
        keeping.fetch(folder)
    except StorageFailed:
        # What lies here is good enough where the bucket does not answer.
        if not folder.exists():
            raise
    _, result = fit_network(
        contract.architecture or row.architecture, contract, base, settings, stores, by_part, _encoded(by_part, targets),
        callbacks=[follow or _NoFurther()], folder=folder, groups=groups, alone=True,
    )  # fmt: skip
    return result


def _encoded(
    by_part: Mapping[str, list[Labelled]], targets: Callable[[list[Labelled]], np.ndarray]
) -> dict[str, np.ndarray]:
    return {part: targets(by_part[part]) for part in ("train", "validation")}


def note_score(trial: Trial, row: TrainingRun, answers: np.ndarray, truth: np.ndarray, groups: list[str]) -> None:
    """Score a trial by its raw outputs ``(records, outputs)`` and the truth, with an interval by patient."""
    problem = get_problem(row.task)
    report = evaluate(
        problem.activate(answers), truth, problem.output_names(row.classes), row.task, groups=groups, n_resamples=_RESAMPLES,
    ).to_json()  # fmt: skip
    figure = report.get(headline(row.task)) or {}
    trial.score, trial.low, trial.high = (figure.get(name) for name in ("value", "low", "high"))
    trial.note = (figure.get("reason") or trial.note)[:300]


def note_beside(
    trial: Trial, row: TrainingRun, result: FitResult, linear: np.ndarray, by_part: Mapping[str, list[Labelled]],
    targets: Callable[[list[Labelled]], np.ndarray], settings: FitSettings,
) -> None:  # fmt: skip
    """Score a trial anew, whose network has been scored alone, as it answers beside a linear model; nothing of that is chosen on
    these records. linear: raw outputs ``(records, outputs)`` for the records of validation. settings: of the trial."""
    from training.engine.companion import answers_beside
    from training.engine.monitor import goodness_of

    problem = get_problem(row.task)
    truth, learned = targets(by_part["validation"]), targets(by_part["train"])
    both = answers_beside(result.validation_outputs, linear, is_classes=not problem.standardise)
    goodness = goodness_of(result.monitor, both, truth, learned, problem, settings, problem.output_names(row.classes))
    if goodness is None:
        return
    trial.alone, trial.goodness = trial.score, goodness
    note_score(trial, row, both, truth, [item.group for item in by_part["validation"]])


def folder_of(study: Study, number: int) -> Path:
    return Path(storage.area("checkpoints", study.pk)) / f"trial-{number}"


def next_trial(study: Study, choices: dict[str, Any]) -> Trial:
    """Return the trial that was begun with these choices and not ended, or a new one."""
    begun = study.trials.filter(state=TrialState.RUNNING).first()  # type: ignore[attr-defined]
    if begun is not None and begun.choices == choices:
        return begun
    if begun is not None:
        storage.clear_folder(folder_of(study, begun.number))
        begun.delete()
    last = study.trials.order_by("-number").first()  # type: ignore[attr-defined]
    return Trial.objects.create(study=study, number=last.number + 1 if last else 1, choices=choices)
