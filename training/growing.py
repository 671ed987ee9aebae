"""The learning curve of a run: the same training on growing parts of its training data, judged on its test part."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ecgportal import storage
from ecgportal.errors import JobCancelled, TrainingFailed
from ecgportal.jobs.context import JobContext
from modelhub.architectures.catalog import is_computed
from training import running
from training.engine.settings import MOST_SEED, FitSettings
from training.forecast import Point, forecast
from training.lineage import unseen
from training.models import Study, TrainingRun, TrialState
from training.run_records import keeps_truths
from training.running import Prepared
from training.targets import Labelled, data_digest
from training.trying import Follow, headline, is_lower_better, next_trial, note_score, train_trial

if TYPE_CHECKING:
    from training.engine.crew import Crew

SHARES = (0.1, 0.2, 0.35, 0.6, 1.0)
# Fewer records than this cannot be learned from.
_FEWEST = 10


def run(context: JobContext) -> dict[str, Any]:
    """Train on every part that is not done yet, then fit the curve and forecast; after a cancel by what is done."""
    from training.engine.crew import Crew

    study = Study.objects.get(pk=context.payload["study"])
    row = running.load(str(study.run_id))
    data = running.ready(context, row)
    if not keeps_truths(row) and data_digest(data.items) != row.manifest.get("data_sha256"):
        raise TrainingFailed(
            "The labels or the records have changed since this run was trained, and a run of that time did not keep its own. A "
            "learning curve would be of other data: use Run again, and draw the curve of that run.",
            code="labels_changed",
        )
    plan = _plan(study)
    missing = missing_parts(study)
    try:
        with Crew() as crew:
            for number, (share, repeat) in enumerate(plan):
                if (share, repeat) in missing:
                    span = number / len(plan), (number + 1) / len(plan)
                    _train_part(context, row, study, data, share, repeat, span, crew)
    except JobCancelled:
        # What is done stays readable, and the rest can be gone on with.
        _note_result(study, row)
        raise
    _note_result(study, row)
    # A curve may be drawn again with more repeats, under the same name.
    storage.clear_folder(storage.area("checkpoints", study.pk))
    return study.result


def _plan(study: Study) -> list[tuple[float, int]]:
    return [(share, repeat) for repeat in range(study.settings["repeats"]) for share in SHARES]


def missing_parts(study: Study) -> list[tuple[float, int]]:
    """Return the trainings of a learning curve that are not done, as ``(share, repeat)``."""
    ended = [trial for trial in study.trials.all() if trial.state != TrialState.RUNNING]  # type: ignore[attr-defined]
    done = {(trial.choices["share"], trial.choices["repeat"]) for trial in ended}
    return [part for part in _plan(study) if part not in done]


def part_of(items: Sequence[Labelled], share: float, seed: int) -> list[Labelled]:
    """Return about a share of the records, by whole patients; a larger share holds the smaller one of the same seed."""
    # By what the same patients have in every portal.
    held: dict[str, list[str]] = {}
    for item in items:
        held.setdefault(item.group, []).append(item.order)
    groups = sorted(held, key=lambda group: (sorted(filter(None, held[group])), group))
    random.Random(f"part {seed}").shuffle(groups)
    kept, wanted, count = set(), share * len(items), 0
    sizes: dict[str, int] = {}
    for item in items:
        sizes[item.group] = sizes.get(item.group, 0) + 1
    for group in groups:
        if count >= wanted - 1e-9:
            break
        kept.add(group)
        count += sizes[group]
    return [item for item in items if item.group in kept]


def seed_of(seed: int, repeat: int) -> int:
    """Return the seed of one of several trainings of a size; after the largest seed comes 0."""
    return (seed + repeat) % (MOST_SEED + 1)


def _train_part(
    context: JobContext, row: TrainingRun, study: Study, data: Prepared, share: float, repeat: int, span: tuple[float, float],
    crew: Crew,
) -> None:  # fmt: skip
    by_part, networks = data.by_part(1), int(row.manifest.get("networks", 1))
    settings = FitSettings.from_dict({**row.settings, "seed": seed_of(row.settings["seed"], repeat)})
    folds = networks
    if is_computed(row.architecture, row.mode):
        # It is one model, of as many folds as in the run.
        folds = settings.n_members(len(by_part["train"]) + len(by_part["validation"]))
    settings = replace(settings, members=folds)
    grown = {"train": part_of(by_part["train"], share, settings.seed)}
    if folds > 1:
        # What is cross-fitted learns from the validation records, too, so these grow alike.
        grown["validation"] = part_of(by_part["validation"], share, settings.seed)
    learned = [item for items in grown.values() for item in items]
    choices = {
        "share": share,
        "repeat": repeat,
        "records": len(learned),
        "subjects": len({item.group for item in learned}),
    }
    trial, test = next_trial(study, choices), by_part["test"]
    if row.base_version is not None:
        # As in the run's own evaluation.
        test, _ = unseen(test, row.base_version)
    why = (
        f"{len(learned)} records are too few to learn from." if len(learned) < _FEWEST
        else "" if test
        else f"{row.base_version} was trained on the whole test part, so there is nothing to judge by."
    )  # fmt: skip
    if why:
        trial.state, trial.note = TrialState.FAILED, why
        trial.save()
        return

    def progress(fraction: float) -> None:
        context.report(span[0] + (span[1] - span[0]) * fraction, f"Training on {len(learned)} records")

    contract = running.contract_of(row, data.recipe, networks)
    seen = by_part | grown
    result = train_trial(
        trial, row, contract, row.base_version, settings, data.stores, seen, lambda items: running.targets_of(row, items),
        Follow(context, progress), crew, groups=running.groups_of(row, seen),
    )  # fmt: skip
    if result is not None:
        from modelhub import loading

        module = loading.start_module(row.architecture, contract, row.base_version, seed=settings.seed)
        module = loading.with_state(module, result.best_state)
        answers = running.answers_of(row, module, data.stores, test, context.raise_if_stopping)
        note_score(trial, row, answers, running.targets_of(row, test), [item.group for item in test])
        trial.state = TrialState.DONE
    trial.save()


def _note_result(study: Study, row: TrainingRun) -> None:
    """Store the fitted curve with what twice the records would bring, or the reason why there is none."""
    points = [
        Point(trial.choices["records"], trial.score, trial.low, trial.high)
        for trial in study.trials.filter(state=TrialState.DONE)  # type: ignore[attr-defined]
        if trial.score is not None
    ]
    lower = is_lower_better(row.task)
    found = forecast(points, lower_is_better=lower, most=None if lower else 1.0)
    study.result = {"metric": headline(row.task), **found.to_json()}
    study.save(update_fields=["result"])
