"""Read searches and learning curves: the rows and the words that their page, the interface and the command show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import Exists, OuterRef, QuerySet

from ecgportal.jobs.models import JobState
from modelhub.architectures.catalog import is_computed
from training import setting_words
from training.candidates import SPACE, sampled
from training.engine.settings import FitSettings
from training.growing import missing_parts
from training.models import Mode, Study, StudyKind, TrainingRun, Trial, TrialState
from training.selectors import start_title

_FIELDS = ("number", "state", "choices", "score", "low", "high", "alone", "seconds", "note")


def study_of(run: TrainingRun, kind: str) -> Study | None:
    """Return the search or the learning curve of a run with its job and trials."""
    return Study.objects.filter(run=run, kind=kind).select_related("job").prefetch_related("trials").first()


def with_search(runs: QuerySet[TrainingRun]) -> QuerySet[TrainingRun]:
    """Tell of each run, as ``is_unchosen``, whether its search has not chosen a network, in the query that reads them."""
    return runs.annotate(is_unchosen=Exists(Study.objects.filter(run=OuterRef("pk"), kind=StudyKind.SEARCH, result={})))


def is_unchosen(run: TrainingRun) -> bool:
    """Tell whether the search of one run has not chosen a network, without a query where ``with_search`` has told it."""
    known = getattr(run, "is_unchosen", None)
    return known if known is not None else with_search(TrainingRun.objects.filter(pk=run.pk)).get().is_unchosen  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Row:
    """One training in words. start, settings: of a search, else empty. is_kept: whether it became the run's model; note: what
    there is to say of that beside its state."""

    trial: Trial
    start: str
    settings: str
    state: str
    is_kept: bool
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        words = {
            "start": self.start,
            "settings": self.settings,
            "outcome": f"{self.state}; {self.note}" if self.note else self.state,
        }
        return {name: getattr(self.trial, name) for name in _FIELDS} | words


@dataclass(frozen=True)
class Compared:
    """What a study compares. metric: of the scores. notes: what its figures mean, and what was tried and kept. outcome: what one
    that was cancelled or has failed leaves behind. has_beside: whether networks are scored beside a linear model."""

    study: Study
    metric: str
    notes: list[str]
    outcome: str
    rows: list[Row]
    has_beside: bool


def compared(run: TrainingRun, kind: str) -> Compared | None:
    """Return what the search or the learning curve of a run compares; None without one."""
    study = study_of(run, kind)
    if study is None:
        return None
    trials = list(study.trials.all())  # type: ignore[attr-defined]
    metric = "Mean error" if run.task == "regression" else "AUROC"
    has_beside = any(trial.goodness is not None for trial in trials)
    return Compared(
        study, metric, _notes(study, metric, trials, has_beside), study_outcome(study), [_row(study, trial) for trial in trials], has_beside,
    )  # fmt: skip


def _row(study: Study, trial: Trial) -> Row:
    is_kept, note = trial.number == study.result.get("trial"), ""
    if is_kept:
        state = "kept as the model" if study.result.get("kept") else "trained in full"
        note = f"as a trial stopped early: {trial.note}" if trial.state == TrialState.STOPPED else ""
    elif trial.state == TrialState.RUNNING and not study.job.is_open:
        state = "not finished"
    else:
        state = trial.get_state_display() + (f": {trial.note}" if trial.note else "")
    if study.kind != StudyKind.SEARCH:
        return Row(trial, "", "", state, is_kept, note)
    settings = setting_words.tried(trial.choices) or (
        "computed, without epochs" if is_computed(trial.choices.get("start", ""), Mode.SCRATCH) else "as asked"
    )
    return Row(trial, start_title(trial.choices.get("start", "")), settings, state, is_kept, note)


def _notes(study: Study, metric: str, trials: list[Trial], has_beside: bool) -> list[str]:
    if study.kind == StudyKind.LEARNING_CURVE:
        return [
            f"The same training on growing parts of the training data, by whole patients; {metric} on the test part with 95 % interval."
        ]
    told = [
        f"{study.settings['minutes']:g} minutes of trying single networks on the development part; {metric} on validation with 95 % "
        "interval, which does not count the choice itself. The test part was not looked at."
    ]
    if any(is_computed(trial.choices.get("start", ""), Mode.SCRATCH) for trial in trials):
        told.append(
            "The linear model is computed from the training part alone and chooses nothing on the validation records."
        )
        if has_beside:
            told.append(
                "A network that is trained in full with a linear companion is scored and compared by what it and this linear model say "
                "together, in a proportion that nothing here was chosen by; what the network says alone chooses its epoch, what is "
                "tried next and what is stopped early."
            )
        told.append(
            "In full, networks are trained longer, and from scratch on few records several together with a linear companion; the "
            "linear model gains records only."
        )
    notes = [" ".join(told), *_tried(study)]
    if left_out := study.settings.get("too_slow"):
        notes.append(
            "Not tried, because one trial would take more than a quarter of the minutes: "
            f"{', '.join(map(start_title, left_out))}. A search of more minutes tries them, too."
        )
    return notes


def _tried(study: Study) -> list[str]:
    """Return in words what a search samples, and what it keeps; empty before it has begun."""
    if "sampled" not in study.settings:
        return []
    asked = FitSettings.from_dict(study.settings["run"])
    names = study.settings["sampled"]
    titles = ["the network", *setting_words.titles(names)]
    notes = [f"Tried: {', '.join(titles)}."]
    if "augmentation" in names:
        strong = setting_words.changes(study.settings["augmentations"]["strong"])
        notes[0] += f" Augmentation off is no random change at all, strong is {strong}."
    if kept := [name for name in SPACE if name not in sampled(asked)]:
        notes.append(f"Kept as asked: {setting_words.tried(asked.to_dict(), kept)}.")
    if "class_weights" in set(sampled(asked)) - set(names):
        notes.append("No class weights are tried, because they change the loss that trials are compared by.")
    return notes


def study_json(run: TrainingRun, kind: str) -> dict[str, Any]:
    """Return a study of a run as plain data; ``state`` is None when there is none."""
    found = compared(run, kind)
    if found is None:
        return {
            "run": str(run.pk), "job": None, "state": None, "progress": None, "settings": {}, "trials": [], "result": {}, "outcome": "",
            "notes": [], "metric": "",
        }  # fmt: skip
    study = found.study
    return {
        "run": str(run.pk), "job": str(study.job_id), "state": study.job.state, "progress": study.job.progress, "settings": study.settings,
        "trials": [row.to_json() for row in found.rows], "result": study.result, "outcome": found.outcome,
        "notes": found.notes, "metric": found.metric,
    }  # fmt: skip


def study_outcome(study: Study) -> str:
    """Return what a search or a learning curve that was cancelled or has failed leaves behind; empty for others."""
    if study.job.state not in (JobState.CANCELLED, JobState.FAILED):
        return ""
    trials = list(study.trials.all())  # type: ignore[attr-defined]
    how = "was cancelled" if study.job.state == JobState.CANCELLED else "failed"
    if study.kind == StudyKind.LEARNING_CURVE:
        missing = missing_parts(study)
        if not missing:
            return ""
        shares = ", ".join(dict.fromkeys(f"{100 * share:.0f} %" for share, _ in missing))
        return (
            f"The learning curve {how}: {len(missing)} of its trainings {'is' if len(missing) == 1 else 'are'} missing "
            f"({shares} of the training records). What was finished stays; going on trains the rest."
        )
    ended = sum(trial.state == TrialState.DONE for trial in trials)
    if study.result.get("kept"):
        return (
            f"The search {how} after {ended} whole {'training' if ended == 1 else 'trainings'}. The model is what number {study.result['trial']} "
            "gave, the best so far, on fewer epochs or records than a training in full; any of them can be trained in full."
        )
    return ""
