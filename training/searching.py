"""Choose for me: for a budget of minutes networks, modes and settings are tried on the development part by successive
halving; the winner is trained in full and judged once on the test part."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any

from ecgportal import storage
from ecgportal.jobs.context import JobContext
from modelhub.architectures.catalog import catalog
from modelhub.contract import ModelContract
from training import running
from training.costs import seconds_per_epoch
from training.engine.settings import FitSettings
from training.live import add_warnings, duration
from training.models import Mode, Study, StudyKind, TrainingRun, Trial, TrialState
from training.running import Prepared
from training.selectors import start_title
from training.trying import Follow, headline, next_trial, note_score, train_trial

if TYPE_CHECKING:
    import optuna

# Networks of different families and sizes; those whose trial would take more than this share of the budget are left out.
_CANDIDATES = (
    "inception_time", "xresnet1d18", "net1d_s", "se_wrn", "xception_time", "resnet1d_wang", "xresnet1d50", "s4d_128",
)  # fmt: skip
_LARGEST_SHARE = 0.25
_TRIAL_EPOCHS, _FIRST_RUNG, _FACTOR = 15, 3, 3
_AUGMENTATION = {
    "off": {"noise_mv": 0.0, "scale": 0.0, "shift_s": 0.0, "lead_dropout": 0.0},
    "default": {},
    "strong": {"noise_mv": 0.05, "scale": 0.4, "shift_s": 1.0, "lead_dropout": 0.2},
}
_SPACE: dict[str, Any] = {
    "learning_rate": (3e-4, 1e-2), "weight_decay": (1e-3, 0.01, 0.1), "augmentation": tuple(_AUGMENTATION), "class_weights": ("none", "sqrt"),
}  # fmt: skip
# Of the job's progress: the search, then the training of the winner.
_SEARCHED = 0.6


def run(context: JobContext) -> dict[str, Any]:
    """Search, then train the winner; after an interruption both go on where they were."""
    row = running.load(context.payload["run"])
    study = Study.objects.get(run=row, kind=StudyKind.SEARCH)
    if context.is_resumed:
        row.resumed += 1
        row.save(update_fields=["resumed"])
    data = running.ready(context, row)
    if not study.result:
        _search(context, row, study, data)
        _take_winner(row, study)
    return running.train(context, row, data, (_SEARCHED, 0.95))


def starts(row: TrainingRun, n_train: int, n_validation: int, budget_s: float) -> list[str]:
    """Return what can be started from: modes of the base model, and networks whose trial fits into the budget."""
    own = [f"base:{mode}" for mode in (Mode.HEAD, Mode.FULL, Mode.HEAD_THEN_FULL)] if row.base_version else []
    epochs = min(_TRIAL_EPOCHS, row.settings["epochs"])
    affordable = [
        name for name in _CANDIDATES
        if name in catalog() and epochs * seconds_per_epoch(name, n_train, n_validation) <= _LARGEST_SHARE * budget_s
    ]  # fmt: skip
    cheapest = min((n for n in _CANDIDATES if n in catalog()), key=lambda name: catalog()[name].million_macs)
    return [*own, *(affordable or [cheapest])]


def _search(context: JobContext, row: TrainingRun, study: Study, data: Prepared) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    by_part = data.by_part(1)
    budget_s = 60 * study.settings["minutes"]
    offered = starts(row, len(by_part["train"]), len(by_part["validation"]), budget_s)
    tries = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=row.settings["seed"], n_startup_trials=8),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=_FIRST_RUNG, reduction_factor=_FACTOR, bootstrap_count=0),
    )  # fmt: skip
    space = _distributions(offered)
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
            tries.enqueue_trial({"start": name, "learning_rate": 3e-3, "weight_decay": 0.01, "augmentation": "default", "class_weights": "none"})  # fmt: skip
    while spent < budget_s or not _best(study):
        if len(ended) >= 500:
            break
        asked = tries.ask(space)
        trial = next_trial(study, dict(asked.params))
        _try(context, row, study, data, trial, asked, spent, budget_s)
        if trial.state == TrialState.DONE and trial.scores:
            tries.tell(asked, trial.scores[-1])
        else:
            state = optuna.trial.TrialState.FAIL if trial.state == TrialState.FAILED else optuna.trial.TrialState.PRUNED
            tries.tell(asked, state=state)
        ended.append(trial)
        spent += trial.seconds
        if all(each.state == TrialState.FAILED for each in ended) and len(ended) >= 2 * len(offered):
            break


def _distributions(offered: list[str]) -> dict[str, optuna.distributions.BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    low, high = _SPACE["learning_rate"]
    return {
        "start": CategoricalDistribution(offered), "learning_rate": FloatDistribution(low, high, log=True),
        **{name: CategoricalDistribution(_SPACE[name]) for name in ("weight_decay", "augmentation", "class_weights")},
    }  # fmt: skip


def _tell_again(tries: optuna.Study, trial: Trial, space: dict[str, Any]) -> None:
    """Give the sampler a trial of before an interruption."""
    from optuna.trial import TrialState as State
    from optuna.trial import create_trial

    if trial.choices["start"] not in space["start"].choices:
        return
    states = {TrialState.DONE: State.COMPLETE, TrialState.FAILED: State.FAIL}
    state = states.get(TrialState(trial.state), State.PRUNED)
    if state == State.COMPLETE and not trial.scores:
        state = State.FAIL
    tries.add_trial(
        create_trial(
            state=state, params=trial.choices, distributions=space, value=trial.scores[-1] if state == State.COMPLETE else None,
            intermediate_values={} if state == State.FAIL else dict(enumerate(trial.scores, start=1)),
        )
    )  # fmt: skip


def settings_of(row: TrainingRun, choices: dict[str, Any], *, epochs: int | None = None) -> FitSettings:
    """Return the run's settings with a trial's choices; ``epochs``: of a trial, which is one network."""
    start = choices["start"]
    wanted = FitSettings.from_dict(row.settings)
    changed = replace(
        wanted, mode=start.removeprefix("base:") if start.startswith("base:") else Mode.SCRATCH, learning_rate=choices["learning_rate"],
        weight_decay=choices["weight_decay"], class_weights=choices["class_weights"],
        augmentation=replace(wanted.augmentation, **_AUGMENTATION[choices["augmentation"]]),
    )  # fmt: skip
    return replace(changed, epochs=epochs, members=1, patience=None, head_epochs=None) if epochs else changed


def _try(
    context: JobContext, row: TrainingRun, study: Study, data: Prepared, trial: Trial, asked: Any, spent: float, budget_s: float,
) -> None:  # fmt: skip
    start = trial.choices["start"]
    base = row.base_version if start.startswith("base:") else None
    epochs = max(2, min(_TRIAL_EPOCHS, row.settings["epochs"]))
    by_part = data.by_part(1)
    contract = _contract(row, data, start)
    trial.scores, trial.score = [], None
    has_other = study.trials.filter(state=TrialState.DONE).exists()  # type: ignore[attr-defined]
    begun = monotonic()

    def share(fraction: float) -> None:
        used = min(1.0, (spent + monotonic() - begun) / budget_s)
        left = duration(max(0.0, budget_s - spent - (monotonic() - begun)))
        context.report(
            0.05 + (_SEARCHED - 0.05) * used, f"Trying {start_title(start)} (number {trial.number}), {left} left"
        )

    def tell(epoch: int, goodness: float) -> str | None:
        trial.scores.append(goodness)
        asked.report(goodness, epoch)
        return "pruned" if asked.should_prune() else None

    def over() -> str | None:
        return "budget" if has_other and spent + monotonic() - begun > budget_s else None

    result = train_trial(
        trial, row, contract, base, settings_of(row, trial.choices, epochs=epochs), data.stores, by_part,
        lambda items: running.targets_of(row, items), Follow(context, share, tell, over),
    )  # fmt: skip
    if result is not None:
        items = by_part["validation"]
        note_score(
            trial, row, result.validation_outputs, running.targets_of(row, items), [item.group for item in items]
        )
        stopped = {"pruned": "others were better at this epoch", "budget": "the minutes were over"}
        trial.state = TrialState.STOPPED if result.stopped_reason in stopped else TrialState.DONE
        trial.note = stopped.get(result.stopped_reason, trial.note)
    trial.save()


def _contract(row: TrainingRun, data: Prepared, start: str) -> ModelContract:
    contract = running.contract_of(row, data.recipe)
    if start.startswith("base:"):
        return contract
    return contract.with_changes(architecture=start, config={}, parent=None, needs=catalog()[start].needs)


def _best(study: Study) -> Trial | None:
    """Return the trial that went through with the best last smoothed score; of equal ones the quicker."""
    done = [trial for trial in study.trials.filter(state=TrialState.DONE) if trial.scores]  # type: ignore[attr-defined]
    if not done:
        done = [trial for trial in study.trials.filter(state=TrialState.STOPPED) if trial.scores]  # type: ignore[attr-defined]
    return max(done, key=lambda t: (t.scores[-1], -t.seconds), default=None)


def _take_winner(row: TrainingRun, study: Study) -> None:
    """Make the best trial's choices those of the run; without any the run keeps the defaults and says so."""
    best = _best(study)
    count = study.trials.count()  # type: ignore[attr-defined]
    if best is None:
        add_warnings(row, ["No network could be tried within the minutes given; the defaults are trained."])
        study.result = {"trial": None}
    else:
        start, settings = best.choices["start"], settings_of(row, best.choices)
        if not start.startswith("base:"):
            row.architecture, row.base_version = start, None
        row.mode, row.settings = settings.mode, settings.to_dict()
        row.save(update_fields=["architecture", "base_version", "mode", "settings"])
        study.result = {
            "trial": best.number, "tried": count, "metric": headline(row.task), "value": best.score, "choices": best.choices,
        }  # fmt: skip
    study.save(update_fields=["result"])
    storage.remove_area("checkpoints", study.pk)
