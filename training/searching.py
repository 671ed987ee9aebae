"""Choose for me: for a budget of minutes networks, modes and settings are tried on the development part by successive
halving; the winner is trained in full and judged once on the test part.

The linear model of fixed features is tried first. A network that is trained in full beside a linear companion is compared with
others, and shown, by what it answers beside that model. What is proposed next, and what is stopped early, is decided among
networks by what they answer alone.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from time import monotonic
from typing import TYPE_CHECKING, Any

from ecgportal import storage
from ecgportal.errors import JobCancelled
from ecgportal.jobs.context import JobContext, JobInterrupted
from modelhub import loading
from modelhub.architectures.catalog import catalog, is_computed
from modelhub.contract import ModelContract
from training import running
from training.candidates import SPACE, offer, sampled, trial_epochs
from training.engine.settings import FitSettings
from training.live import add_warnings, duration
from training.models import EpochMetrics, Mode, Study, StudyKind, TrainingRun, Trial, TrialState
from training.problems.registry import get_problem
from training.running import CHOSEN, Member, Prepared
from training.selectors import start_title
from training.targets import Labelled
from training.trying import Follow, folder_of, headline, next_trial, note_beside, note_score, result_of, train_trial

if TYPE_CHECKING:
    import numpy as np
    import optuna

    from training.engine.crew import Crew

_FIRST_RUNG, _FACTOR = 3, 3
# What stops a trial early, by the reason that the engine is told.
_STOPPED = {"pruned": "others were better at this epoch", "budget": "the minutes were over"}
# Of the job's progress: the search, then the training of the winner.
_SEARCHED = 0.6


def run(context: JobContext) -> dict[str, Any]:
    """Search, then train the winner; after an interruption both go on where they were.

    A cancel keeps the best so far: of the winner's training, or before its first whole epoch the best trial.
    """
    from training.engine.crew import Crew

    row = running.begin(context)
    study = Study.objects.get(run=row, kind=StudyKind.SEARCH)
    data = running.ready(context, row)
    try:
        if not study.result:
            with Crew() as crew:
                _search(context, row, study, data, crew)
            _take_winner(row, study)
        outcome = running.train(context, row, data, (_SEARCHED, 0.95))
    except JobCancelled:
        try:
            if row.produced_version_id is None:
                _keep_best(context, row, study, data)
        finally:
            if row.produced_version_id is not None:
                storage.remove_area("checkpoints", study.pk)
        raise
    storage.remove_area("checkpoints", study.pk)
    return outcome


def _note_plan(study: Study, left_out: list[str], space: Iterable[str]) -> None:
    """Note which networks would take too much of the minutes, and what is sampled, for the page to say."""
    study.settings = {**study.settings, "too_slow": left_out, "sampled": [name for name in SPACE if name in space]}
    study.save(update_fields=["settings"])


def _search(context: JobContext, row: TrainingRun, study: Study, data: Prepared, crew: Crew) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    by_part = data.by_part(1)
    budget_s = 60 * study.settings["minutes"]
    found = offer(
        FitSettings.from_dict(row.settings), row.base_version is not None, row.recipe, len(by_part["train"]), len(by_part["validation"]), budget_s,
    )  # fmt: skip
    offered = [name for name in found.starts if not is_computed(name, Mode.SCRATCH)]
    space = _space(row, by_part, offered)
    _note_plan(study, found.too_slow, space)
    _try_computed(context, row, study, data, [name for name in found.starts if name not in offered], budget_s, crew)
    linear = _linear_answers(context, row, study, data)
    tries = optuna.create_study(
        direction="maximize", sampler=sampler(row.settings["seed"], 0),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=_FIRST_RUNG, reduction_factor=_FACTOR, bootstrap_count=0),
    )  # fmt: skip
    ended = list(study.trials.exclude(state=TrialState.RUNNING))  # type: ignore[attr-defined]
    spent = sum(trial.seconds for trial in ended)
    for trial in ended:
        _tell_again(tries, trial, space)
    begun = study.trials.filter(state=TrialState.RUNNING).first()  # type: ignore[attr-defined]
    if begun is not None and begun.choices["start"] in offered:
        tries.enqueue_trial(begun.choices)
    for name in offered:
        # Each start is tried once with the defaults before the sampler mixes.
        if not any(trial.choices["start"] == name for trial in [*ended, *([begun] if begun else [])]):
            usual = {"start": name, "learning_rate": 3e-3, "weight_decay": 0.01, "augmentation": "default", "class_weights": "none"}  # fmt: skip
            tries.enqueue_trial({key: value for key, value in usual.items() if key in space})
    # With nothing to compare when the minutes are over, one network is tried all the same, for one epoch.
    while spent < budget_s or not (_best(study) or any(trial.choices["start"] in offered for trial in ended)):
        tries.sampler = sampler(row.settings["seed"], len(ended))
        asked = _ask(tries, space, [trial.choices for trial in ended])
        if asked is None or len(ended) >= 500:
            break
        trial = next_trial(study, dict(asked.params))
        _try(context, row, study, data, trial, asked, spent, budget_s, crew, linear)
        if trial.state == TrialState.DONE and trial.scores:
            tries.tell(asked, trial.scores[-1])
        else:
            state = optuna.trial.TrialState.FAIL if trial.state == TrialState.FAILED else optuna.trial.TrialState.PRUNED
            tries.tell(asked, state=state)
        ended.append(trial)
        spent += trial.seconds
        if all(each.state == TrialState.FAILED for each in ended) and len(ended) >= 2 * len(offered):
            break


def _ask(tries: optuna.Study, space: dict[str, Any], tried: list[dict[str, Any]]) -> optuna.Trial | None:
    """Return the next proposal; where a range is sampled none comes twice, and of values alone each once: None when all were tried."""
    import optuna

    asked = tries.ask(space)
    if "learning_rate" in space or asked.params not in tried:
        return asked
    tries.tell(asked, state=optuna.trial.TrialState.FAIL)
    every = (dict(zip(space, values, strict=True)) for values in product(*(own.choices for own in space.values())))
    left = next((choices for choices in every if choices not in tried), None)
    if left is None:
        return None
    tries.enqueue_trial(left)
    return tries.ask(space)


def _try_computed(
    context: JobContext, row: TrainingRun, study: Study, data: Prepared, names: list[str], budget_s: float, crew: Crew
) -> None:
    """Try what is computed, once each and first: it has no settings to sample and no epochs to be stopped by."""
    from training.engine.data import folds_of

    # Of fewer patients it would choose on the records that it is compared on.
    names = names if folds_of(running.groups_of(row, data.by_part(1))[0]) else []
    for name in names:
        before = list(study.trials.all())  # type: ignore[attr-defined]
        begun = [trial for trial in before if trial.state == TrialState.RUNNING]
        is_done = any(trial.choices["start"] == name for trial in before if trial not in begun)
        # A search that was interrupted in another trial goes on with that one.
        if not is_done and all(trial.choices["start"] == name for trial in begun):
            spent = sum(trial.seconds for trial in before)
            _try(context, row, study, data, next_trial(study, {"start": name}), None, spent, budget_s, crew)


def _linear_answers(context: JobContext, row: TrainingRun, study: Study, data: Prepared) -> np.ndarray | None:
    """Return what the linear model of a search says of the records of validation, raw outputs ``(records, outputs)``, as its trial
    stored it; None where it was not tried."""
    done = study.trials.filter(state=TrialState.DONE)  # type: ignore[attr-defined]
    trial = next((trial for trial in done if is_computed(trial.choices["start"], Mode.SCRATCH)), None)
    if trial is None:
        return None
    by_part, follow = data.by_part(1), Follow(context, lambda fraction: None)
    try:
        return result_of(
            trial, row, _contract(row, data, trial.choices["start"]), None, settings_of(study, trial.choices, as_tried=True),
            data.stores, by_part, lambda items: running.targets_of(row, items), running.groups_of(row, by_part), follow,
        ).validation_outputs  # fmt: skip
    except JobCancelled as error:
        if error.code == "interrupted":
            raise JobInterrupted from error
        raise


def sampler(seed: int, number: int) -> optuna.samplers.TPESampler:
    """Return what proposes the trial after ``number`` others. Each has chance of its own, so that a search that was interrupted
    goes on with what it would have tried, and not from its first proposals again."""
    from optuna.samplers import TPESampler

    from training.engine.seeding import derive

    return TPESampler(seed=derive(seed, "trial", number) % 2**32, n_startup_trials=8)


def _space(
    row: TrainingRun, by_part: dict[str, list[Labelled]], offered: list[str]
) -> dict[str, optuna.distributions.BaseDistribution]:
    """Return what is sampled: not what was asked for, and class weights only where trials are not compared by the loss, which
    these change."""
    from training.engine.monitor import choose_monitor

    problem, truth = get_problem(row.task), running.targets_of(row, by_part["validation"])
    asked = FitSettings.from_dict(row.settings)
    monitor, _ = choose_monitor(asked, problem, truth, problem.output_names(row.classes))
    taken = {"start", *sampled(asked)} - ({"class_weights"} if monitor == "loss" else set())
    return {name: own for name, own in _distributions(offered).items() if name in taken}


def _distributions(offered: list[str]) -> dict[str, optuna.distributions.BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    low, high = SPACE["learning_rate"]
    return {
        "start": CategoricalDistribution(offered), "learning_rate": FloatDistribution(low, high, log=True),
        **{name: CategoricalDistribution(SPACE[name]) for name in ("weight_decay", "augmentation", "class_weights")},
    }  # fmt: skip


def _tell_again(tries: optuna.Study, trial: Trial, space: dict[str, Any]) -> None:
    """Give the sampler a trial of before an interruption."""
    from optuna.trial import TrialState as State
    from optuna.trial import create_trial

    if trial.choices["start"] not in space["start"].choices or space.keys() - trial.choices.keys():
        return
    states = {TrialState.DONE: State.COMPLETE, TrialState.FAILED: State.FAIL}
    state = states.get(TrialState(trial.state), State.PRUNED)
    if state == State.COMPLETE and not trial.scores:
        state = State.FAIL
    tries.add_trial(
        create_trial(
            state=state, params={name: trial.choices[name] for name in space}, distributions=space, value=trial.scores[-1] if state == State.COMPLETE else None,
            intermediate_values={} if state == State.FAIL else dict(enumerate(trial.scores, start=1)),
        )
    )  # fmt: skip


def settings_of(study: Study, choices: dict[str, Any], *, as_tried: bool = False) -> FitSettings:
    """Return what was asked for with a trial's choices; what is computed has none of its own. as_tried: as the search trains it, one network in few epochs."""
    start, wanted = choices["start"], FitSettings.from_dict(study.settings.get("run") or study.run.settings)
    changed = replace(
        wanted, mode=start.removeprefix("base:") if start.startswith("base:") else Mode.SCRATCH.value,
        **{name: choices[name] for name in ("learning_rate", "weight_decay", "class_weights") if name in choices},
    )  # fmt: skip
    if "augmentation" in choices:
        changed = replace(
            changed,
            augmentation=replace(wanted.augmentation, **study.settings["augmentations"][choices["augmentation"]]),
        )
    if not as_tried:
        return changed
    return replace(changed, epochs=trial_epochs(wanted), members=1, patience=None, head_epochs=None)


def _try(
    context: JobContext, row: TrainingRun, study: Study, data: Prepared, trial: Trial, asked: optuna.Trial | None, spent: float,
    budget_s: float, crew: Crew, linear: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Do one trial. asked: the sampler's proposal that it is; None for what is computed, which nothing stops early. linear: what
    the linear model says of the records of validation."""
    start = trial.choices["start"]
    base = row.base_version if start.startswith("base:") else None
    by_part = data.by_part(1)
    contract = _contract(row, data, start)
    settings = settings_of(study, trial.choices, as_tried=True)
    trial.scores, trial.score, trial.alone, trial.goodness = [], None, None, None
    has_other = _best(study) is not None
    # What a trial that was interrupted took before counts, too.
    begun = monotonic() - trial.seconds

    def share(fraction: float) -> None:
        left_s = max(0.0, budget_s - spent - (monotonic() - begun))
        context.report(
            0.05 + (_SEARCHED - 0.05) * (1 - left_s / budget_s),
            f"Trying {start_title(start)} (number {trial.number}), {duration(left_s)} left",
        )

    def tell(epoch: int, goodness: float) -> str | None:
        trial.scores.append(goodness)
        if asked is None:
            return None
        asked.report(goodness, epoch)
        return "pruned" if asked.should_prune() else None

    def over() -> str | None:
        # The first result may take one epoch more than the minutes.
        has_any = has_other or bool(trial.scores)
        return "budget" if asked is not None and has_any and spent + monotonic() - begun > budget_s else None

    def targets(items: list[Labelled]) -> np.ndarray:
        return running.targets_of(row, items)

    follow = Follow(context, share, tell, over)
    result = train_trial(
        trial, row, contract, base, settings, data.stores, by_part, targets, follow, crew, running.groups_of(row, by_part),
    )  # fmt: skip
    trained = monotonic()
    if result is not None:
        items = by_part["validation"]
        note_score(trial, row, result.validation_outputs, targets(items), [item.group for item in items])
        if linear is not None and _gains_companion(row, study, data, trial):
            note_beside(trial, row, result, linear, by_part, targets, settings)
        trial.state = TrialState.DONE
        trial.seconds += monotonic() - trained
    # Also one that was stopped before its first epoch had ended, which gives no result.
    reason = result.stopped_reason if result is not None else follow.reason
    if reason in _STOPPED:
        trial.state, trial.note = TrialState.STOPPED, _STOPPED[reason]
    trial.save()


def _gains_companion(row: TrainingRun, study: Study, data: Prepared, trial: Trial) -> bool:
    """Tell whether what a trial tried is trained in full beside a linear companion."""
    full = copy.copy(row)
    _choose(full, study, trial)
    return running.gains_companion(full, data)


def _contract(row: TrainingRun, data: Prepared, start: str) -> ModelContract:
    contract = running.contract_of(row, data.recipe)
    if start.startswith("base:"):
        return contract
    return contract.with_changes(architecture=start, config={}, parent=None, needs=catalog()[start].needs)


def _best(study: Study, *, as_tried: bool = False) -> Trial | None:
    """Return the trial that went through and was best, by what it reached beside the linear model or else by its last smoothed
    score; of equal ones the quicker. Where none went through, the best of those that were stopped early.

    as_tried: to be kept as it is, without a companion: by its own score, and where nothing else is there the one that was begun.
    """
    scored = [trial for trial in study.trials.all() if trial.scores]  # type: ignore[attr-defined]
    for state in (TrialState.DONE, TrialState.STOPPED, *([TrialState.RUNNING] if as_tried else [])):
        found = [trial for trial in scored if trial.state == state]
        if found:
            return max(
                found, key=lambda t: (t.scores[-1] if as_tried or t.goodness is None else t.goodness, -t.seconds)
            )
    return None


def _choose(row: TrainingRun, study: Study, trial: Trial, *, as_tried: bool = False) -> None:
    """Make a trial's choices those of the run. as_tried: the run is to be the trial itself."""
    start, settings = trial.choices["start"], settings_of(study, trial.choices, as_tried=as_tried)
    if not start.startswith("base:"):
        row.architecture, row.base_version = start, None
    row.mode, row.settings = settings.mode, settings.to_dict()


def _outcome(row: TrainingRun, study: Study, best: Trial, *, as_tried: bool = False) -> dict[str, Any]:
    value = best.score if best.goodness is None or not as_tried else best.alone
    return {
        "trial": best.number, "tried": study.trials.count(), "metric": headline(row.task), "value": value,  # type: ignore[attr-defined]
        "choices": best.choices,
    }  # fmt: skip


def _take_winner(row: TrainingRun, study: Study) -> None:
    """Make the best trial's choices those of the run; without any the run keeps the defaults and says so."""
    best = _best(study)
    if best is None:
        add_warnings(row, ["No network could be tried within the minutes given; the defaults are trained."])
        study.result = {"trial": None}
    else:
        _choose(row, study, best)
        row.save(update_fields=CHOSEN)
        study.result = _outcome(row, study, best)
    study.save(update_fields=["result"])
    # A cancel before the winner's first whole epoch falls back on what was tried.
    for trial in study.trials.all():  # type: ignore[attr-defined]
        if trial != best:
            shutil.rmtree(folder_of(study, trial.number), ignore_errors=True)


def _keep_best(context: JobContext, row: TrainingRun, study: Study, data: Prepared) -> None:
    """After a cancel make the best trial the run's model; nothing where no trial finished an epoch."""
    if study.result:
        best = study.trials.filter(number=study.result["trial"]).first()  # type: ignore[attr-defined]
    else:
        best = _best(study, as_tried=True)
    if best is None:
        return
    _choose(row, study, best, as_tried=True)
    contract, settings, by_part = (
        _contract(row, data, best.choices["start"]),
        FitSettings.from_dict(row.settings),
        data.by_part(1),
    )
    result = result_of(
        best, row, contract, row.base_version, settings, data.stores, by_part, lambda items: running.targets_of(row, items),
        running.groups_of(row, by_part),
    )  # fmt: skip
    module = loading.start_module(row.architecture, contract, row.base_version, seed=settings.seed)
    member = Member(loading.with_state(module, result.best_state), by_part, 1, result)
    for epoch in result.history:
        values = {name: value for name, value in epoch.items() if name != "epoch"}
        EpochMetrics.objects.update_or_create(run=row, member=1, epoch=epoch["epoch"], defaults={"values": values})
    study.trials.filter(state=TrialState.RUNNING).update(state=TrialState.STOPPED, note="the search was cancelled")  # type: ignore[attr-defined]
    study.result = _outcome(row, study, best, as_tried=True) | {"kept": True}
    study.save(update_fields=["result"])
    running.keep(context, row, data, contract, [member], settings, "cancelled", trial=best.number)
