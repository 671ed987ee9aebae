"""The training job: split, prepare, fit, publish the version, evaluate it on the held-back part."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from django.db import transaction

from datasets.models import Record
from datasets.preprocess.recipe import Recipe
from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import JobCancelled, TrainingFailed
from ecgportal.jobs.context import JobContext, JobInterrupted
from ecgportal.jobs.services import enqueue
from modelhub import loading
from modelhub.architectures.catalog import catalog, definition_of, is_computed
from modelhub.contract import ModelContract
from modelhub.models import ModelVersion, Origin
from modelhub.services import check_trainable, model_get_or_create, version_add
from modelhub.statements import prefilled
from training import evaluating, keeping
from training.choices import needs_of
from training.costs import note_speed, speed_key
from training.data import JointView, Stores, prepare
from training.engine.settings import FitSettings
from training.fitting import fit_network
from training.lineage import unseen
from training.live import Report, add_warnings
from training.manifests import manifest_of, on_two_sides, scale_of
from training.models import PARTS, EpochMetrics, Evaluation, SplitMember, TrainingRun
from training.problems.base import counted
from training.problems.registry import get_problem
from training.requirements import FEWEST_RECORDS, empty_part, too_few_patients
from training.run_records import labels_changed, records_of
from training.splitting import SplitSettings, make_split, rounds
from training.targets import Labelled

if TYPE_CHECKING:
    from torch import nn

    from training.engine.crew import Crew
    from training.engine.result import FitResult

# Shares of the job's progress: reading and preparing, training, and what follows.
_PREPARED, _TRAINED, _EVALUATING = 0.05, 0.95, 0.97
_BATCH = 64
#: Fields of a run that a search chooses.
CHOSEN = ("architecture", "base_version", "mode", "settings")


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a run trains on. rounds: ``{record id: part}`` as each network sees it; one for all of them, or one each."""

    items: list[Labelled]
    rounds: list[dict[str, str]]
    recipe: Recipe
    stores: Stores

    def by_part(self, member: int = 1) -> dict[str, list[Labelled]]:
        """Return the records of each part as network ``member`` sees them."""
        own = self.rounds[member - 1 if len(self.rounds) > 1 else 0]
        return {part: [item for item in self.items if own[str(item.record)] == part] for part in PARTS}


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network of a run, or an ensemble, and the parts that it saw."""

    module: nn.Module
    by_part: dict[str, list[Labelled]]


@dataclass(frozen=True, eq=False)
class Member(Trained):
    """What one training of a run gave."""

    number: int
    result: FitResult


def load(run_id: str) -> TrainingRun:
    return TrainingRun.objects.select_related(
        "dataset__project", "project", "label_map", "created_by", "base_version__model", "split"
    ).get(pk=run_id)


def begin(context: JobContext) -> TrainingRun:
    """Return the run of a training job, with a restart counted.

    Conflict or InvalidInput where its base model may no longer be trained, by the rule of the start: that may have changed
    while the job waited.
    """
    row = load(context.payload["run"])
    if row.base_version is not None and row.produced_version_id is None:
        check_trainable(row.base_version)
    if context.is_resumed:
        row.resumed += 1
        row.save(update_fields=["resumed"])
    return row


def run(context: JobContext) -> dict[str, Any]:
    """Do one training run; after an interruption it goes on from the last whole epoch."""
    row = begin(context)
    return train(context, row, ready(context, row), (_PREPARED, _TRAINED))


def ready(context: JobContext, row: TrainingRun) -> Prepared:
    """Read the labels, divide the records and prepare their signals."""
    context.progress(0.01, "Reading labels")
    is_begun, items = row.split_id is not None, records_of(row)
    if len(items) < FEWEST_RECORDS and row.is_pretraining:
        raise TrainingFailed(
            f"Only {len(items)} records of {row.dataset.name} are left; learning needs at least {FEWEST_RECORDS}.",
            code="too_few_records",
        )
    if len(items) < FEWEST_RECORDS:
        raise TrainingFailed(
            f"Only {len(items)} records of {row.dataset.name} have a label that {row.label_map or 'the target'} knows; training needs at least {FEWEST_RECORDS}. "
            "Check the label map's coverage on the dataset's Labels page.",
            code="labels_unknown",
        )  # fmt: skip
    if not row.is_pretraining and (sentence := too_few_patients(len({item.group for item in items}))):
        raise TrainingFailed(sentence, code="too_few_patients")
    parts, warnings = make_split(row, items)
    if is_begun and not row.is_pretraining and (changed := labels_changed(row, items)):
        warnings = [
            f"Since this run began the labels of {changed} of its {counted(len(items), 'record')} have changed. It goes on with "
            "those that it began with, as does its learning curve; Run again takes the new ones."
        ]  # fmt: skip
    add_warnings(row, warnings)
    recipe = Recipe.from_json(row.recipe)
    stores = prepare(
        list(row.datasets.order_by("name", "pk")), recipe, lambda part, note: context.progress(0.02 + 0.03 * part, note)
    )
    items = [item for item in items if str(item.record) in parts]
    parts = {str(item.record): parts[str(item.record)] for item in items}
    seen = rounds(items, parts, SplitSettings.from_dict(row.split_settings), row.settings["seed"])
    data = Prepared(items, seen, recipe, stores)
    if sentence := empty_part(row.task, {part: len(rows) for part, rows in data.by_part().items()}):
        raise TrainingFailed(sentence, code="empty_part")
    return data


def train(context: JobContext, row: TrainingRun, data: Prepared, span: tuple[float, float]) -> dict[str, Any]:
    """Train the networks of a run, publish them as one version and evaluate it; after a cancel the best so far.

    Raises JobCancelled without a version where no network had finished an epoch.
    """
    from training.engine.crew import Crew

    settings = FitSettings.from_dict(row.settings)
    contract = contract_of(row, data.recipe, _cross_fitted(row, settings, data))
    with Crew() as crew:
        members, stopped = _train_all(context, row, settings, contract, data, span, crew)
    return keep(context, row, data, contract, members, settings, stopped)


def _train_all(
    context: JobContext, row: TrainingRun, settings: FitSettings, contract: ModelContract, data: Prepared, span: tuple[float, float],
    crew: Crew,
) -> tuple[list[Member], str]:  # fmt: skip
    """Train the networks of a run one after the other; return them and why that ended."""
    members: list[Member] = []
    stopped = "finished"
    for number in range(1, row.members + 1):
        low = span[0] + (span[1] - span[0]) * (number - 1) / row.members
        high = span[0] + (span[1] - span[0]) * number / row.members
        try:
            member = _fit(context, row, settings, contract, data, number, (low, high), crew)
        except JobCancelled as error:
            # Before the first whole epoch there is nothing to keep; a stop of the portal is not the user's cancel.
            if error.code == "interrupted":
                raise JobInterrupted from error
            if not members:
                raise
            stopped = "cancelled"
            break
        members.append(member)
        stopped = member.result.stopped_reason
        if stopped == "cancelled":
            break
    return members, stopped


def keep(
    context: JobContext, row: TrainingRun, data: Prepared, contract: ModelContract, members: list[Member], settings: FitSettings,
    stopped: str, *, trial: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Publish trained networks as one version of a run, evaluate it, and close the job. stopped: why the training ended;
    after ``cancelled`` the evaluation is left to a job of its own and JobCancelled is raised. trial: of a search, the
    number of the one that the networks are of."""
    contract = contract.with_changes(thresholds=_thresholds(row, members, contract))
    _note_outcome(row, data, members, settings, stopped, trial)
    context.report(0.96, "Exporting the model")
    module, contract = _as_one(members, contract)
    version = _publish(row, module, contract, members[0].result)
    evaluation = None
    try:
        if stopped != "cancelled":
            evaluation = evaluate_held_back(context, row, version, data, members)
    except JobCancelled:
        stopped = "cancelled"
    outcome = {"version": str(version.pk), "evaluation": str(evaluation.pk) if evaluation else None, "stopped": stopped}
    with transaction.atomic():
        if stopped == "cancelled":
            # Who cancels waits for the end of it, not for figures.
            follows = enqueue("judge_run", actor=row.created_by, project=row.project, payload={"run": str(row.pk)}, title=f"Evaluate {row.name}")  # fmt: skip
            outcome["evaluation_job"] = str(follows.pk)
        audit(
            "run.finished", row, actor=row.created_by, project=row.project, changes={"version": str(version), "stopped": stopped}
        )  # fmt: skip
        for area in (row.pk, *row.studies.values_list("pk", flat=True)):  # type: ignore[attr-defined]
            storage.release_area("checkpoints", area)
        context.close(outcome, cancelled=stopped == "cancelled")
    storage.remove_area("checkpoints", row.pk)
    if stopped == "cancelled":
        raise JobCancelled("The training was cancelled; the best model so far was kept.")
    return outcome


def judge(context: JobContext) -> dict[str, Any]:
    """The job that evaluates what a cancelled run kept, on its held-back part."""
    row = TrainingRun.objects.filter(pk=context.payload["run"]).first() and load(context.payload["run"])
    version = row.produced_version if row else None
    if row is None or version is None:
        raise TrainingFailed("The run or its model was deleted, so there is nothing to evaluate.", code="model_gone")
    data, folds = ready(context, row), row.manifest.get("members", [])
    # The network of a fold judges the records of that fold.
    networks = loading.members_of(version, row.base_version, len(folds)) if folds else [loading.module_of(version)]
    members = [Trained(network.eval(), data.by_part(number)) for number, network in enumerate(networks, start=1)]
    evaluation = evaluate_held_back(context, row, version, data, members)
    return {"version": str(version.pk), "evaluation": str(evaluation.pk) if evaluation else None}


def _cross_fitted(row: TrainingRun, settings: FitSettings, data: Prepared) -> int:
    """Return how many networks the engine trains as one, on folds of the development data; 1 where the run has several
    by its folds already, or a model is computed, whose folds end in one."""
    parts = data.by_part(1)
    if (
        row.members > 1
        or not parts["validation"]
        or row.architecture not in catalog()
        or is_computed(row.architecture, settings.mode)
    ):
        return 1
    return settings.n_members(len(parts["train"]) + len(parts["validation"]))


def gains_companion(row: TrainingRun, data: Prepared) -> bool:
    """Tell whether a linear companion is fitted beside the networks of a run; one that a base model brings does not count."""
    from training.engine.companion import MOST_RECORDS

    parts = data.by_part(1)
    networks = _cross_fitted(row, FitSettings.from_dict(row.settings), data)
    is_planned = contract_of(row, data.recipe, networks).config.get("companion", False)
    return row.base_version is None and is_planned and len(parts["train"]) + len(parts["validation"]) <= MOST_RECORDS


def contract_of(row: TrainingRun, recipe: Recipe, networks: int = 1) -> ModelContract:
    """Return the contract of what a run produces, without thresholds. networks: how many the engine trains as one."""
    config: dict[str, Any] = {"members": networks} if networks > 1 else {}
    if row.base_version is None:
        if row.members == 1 and FitSettings.from_dict(row.settings).has_companion(networks):
            config["companion"] = True
    else:
        config |= row.base_version.contract.get("config", {})
        if row.architecture not in catalog():
            config.pop("members", None)
    spec = recipe.output_spec()
    assert spec.leads is not None and spec.fs_hz is not None and spec.n_samples is not None
    names = get_problem(row.task).output_names(row.classes)
    return ModelContract(
        leads=tuple(spec.leads), fs_hz=float(spec.fs_hz), n_samples=int(spec.n_samples), classes=tuple(names), task=row.task,  # type: ignore[arg-type]
        unit=spec.unit, normalisation=spec.normalisation, recipe=row.recipe,
        architecture=row.architecture if row.architecture in catalog() else None,
        parent=row.base_version.sha256 if row.base_version else None,
        config=config, needs=needs_of(row.architecture, row.base_version), definition=definition_of(row.architecture),
    )  # fmt: skip


def targets_of(row: TrainingRun, items: list[Labelled]) -> np.ndarray:
    """Return the encoded truth of records, float32 ``(records, outputs)``."""
    return get_problem(row.task).encode([item.label for item in items], row.classes).values


def _fit(
    context: JobContext, row: TrainingRun, settings: FitSettings, contract: ModelContract, data: Prepared, number: int, span: tuple[float, float],
    crew: Crew,
) -> Member:  # fmt: skip
    by_part = data.by_part(number)
    folder = Path(storage.area("checkpoints", row.pk))
    folder = folder / f"network-{number}" if row.members > 1 else folder
    keeping.fetch(folder)
    module, result = fit_network(
        row.architecture, contract, row.base_version, settings, data.stores, by_part,
        {part: targets_of(row, by_part[part]) for part in ("train", "validation")}, groups=groups_of(row, by_part),
        callbacks=[Report(context, row, span, number), keeping.Kept(row, folder)], folder=folder, crew=crew,
    )  # fmt: skip
    if result.stopped_reason == "interrupted":
        raise JobInterrupted
    return Member(loading.with_state(module, result.best_state), by_part, number, result)


def groups_of(row: TrainingRun, by_part: Mapping[str, list[Labelled]]) -> tuple[list[Any], list[Any]]:
    """Return what must stay together for each record of training and of validation: the group of the split."""
    of = dict(SplitMember.objects.filter(split=row.split_id).values_list("record_id", "group_id"))
    train, validation = (
        [of.get(item.record, item.group) for item in by_part[part]] for part in ("train", "validation")
    )
    return train, validation


def _thresholds(row: TrainingRun, members: list[Member], contract: ModelContract) -> dict[str, float]:
    """Return the decision thresholds of what was trained, chosen on validation records.

    Networks that hold out a fold each have judged each its own validation part; the thresholds are of all of these.
    """
    if len(members) == 1:
        found = members[0].result.thresholds
    else:
        problem = get_problem(row.task)
        outputs = np.concatenate([member.result.validation_outputs for member in members])
        items = [item for member in members for item in member.by_part["validation"]]
        found = problem.thresholds(problem.activate(outputs), targets_of(row, items)) if len(items) else None
    return {} if found is None else {name: float(value) for name, value in zip(contract.classes, found)}


def _as_one(members: list[Member], contract: ModelContract) -> tuple[nn.Module, ModelContract]:
    """Return what is published: the one network, or those of the folds as an ensemble."""
    if len(members) == 1:
        return members[0].module, contract
    from modelhub.architectures.ensemble import Ensemble

    one = Ensemble([member.module for member in members]).eval()  # type: ignore[misc]
    if contract.architecture is None:
        # Its file is one network to whoever loads it.
        return one, contract
    return one, contract.with_changes(config={**contract.config, "members": len(members)})


def _note_outcome(
    row: TrainingRun, data: Prepared, members: list[Member], settings: FitSettings, stopped: str, trial: int | None
) -> None:
    """Write what was trained, and on what, into the run and its manifest."""
    first = members[0].result
    row.best_epoch, row.learning_rate, row.lr_finder = first.best_epoch, first.learning_rate, first.lr_finder or {}
    add_warnings(row, [note for member in members for note in member.result.notes])
    row.manifest = manifest_of(row, data.recipe, data.items, members[0].by_part, settings, first.device) | {
        **scale_of(first), "networks": len(members) * first.members, "processes": first.processes, "batch_size": settings.batch_for(len(members[0].by_part["train"])), "weights_hash": _hash_of([member.result.weights_hash for member in members]),
        "monitor": first.monitor, "stopped_reason": stopped, "epochs": first.epochs,
        "facts": list(dict.fromkeys(fact for member in members for fact in member.result.facts)), **({} if trial is None else {"trial": trial}),
    }  # fmt: skip
    if len(members) > 1:
        sides = [on_two_sides(member.by_part) for member in members]
        row.manifest |= {name: max(own[name] for own in sides) for name in sides[0]}
        row.manifest["members"] = [
            {
                "member": member.number, "weights_hash": member.result.weights_hash, "best_epoch": member.result.best_epoch,
                "epochs": member.result.epochs, "records": {part: len(rows) for part, rows in member.by_part.items()},
            }
            for member in members
        ]  # fmt: skip
    row.save(update_fields=["best_epoch", "learning_rate", "lr_finder", "manifest"])
    if settings.mode in ("scratch", "full") and first.history:
        seconds = float(np.median([epoch["seconds"] for epoch in first.history]))
        n_train, n_validation = row.manifest["records"]["train"], row.manifest["records"]["validation"]
        if first.cross_fitted and first.members > 1:
            n_train, n_validation = (first.members - 1) * (n_train + n_validation), n_train + n_validation
        else:
            n_train, n_validation = first.members * n_train, first.members * n_validation
        key = speed_key(row.architecture, row.base_version)
        note_speed(key, seconds, n_train, n_validation, row.manifest["environment"]["device"], row.recipe)


def _hash_of(hashes: list[str]) -> str:
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _publish(row: TrainingRun, module: Any, contract: ModelContract, result: Any) -> ModelVersion:
    """Add the trained network as a version; once only, also when the job is started again after this step."""
    if row.produced_version_id is not None:
        return ModelVersion.objects.get(pk=row.produced_version_id)
    card = prefilled(
        project=row.project, contract=contract, data=" and ".join(row.manifest["datasets"]), base=row.base_version,
        records=row.manifest["records"], label_map=str(row.manifest["label_map"] or ""),
    )  # fmt: skip
    files = loading.export(module, contract, prose=card)
    last = EpochMetrics.objects.filter(run=row, member=1, epoch=result.best_epoch).first()
    facts = {
        "training_run": str(row.pk), "dataset": " and ".join(row.manifest["datasets"]), "records": row.manifest["records"], "label_map": row.manifest["label_map"],
        "best_epoch": result.best_epoch, "validation": last.values if last else {}, "split_digest": row.manifest["split_digest"],
        "mode": row.mode, "base": str(row.base_version) if row.base_version else None, "networks": row.manifest["networks"],
    }  # fmt: skip
    with transaction.atomic():
        model = model_get_or_create(actor=row.created_by, project=row.project, name=row.name)
        version = version_add(
            actor=row.created_by, model=model, onnx=files.main, contract=contract, origin=Origin.TRAINED, parameters=files.parameters,
            weights=files.weights, parent=row.base_version, facts=facts, checks=files.checks, card=card,
        )  # fmt: skip
        row.produced_version = version
        # What a search chose is the run's own from here on.
        row.save(update_fields=["produced_version", *CHOSEN])
    return version


def evaluate_held_back(
    context: JobContext, row: TrainingRun, version: ModelVersion, data: Prepared, members: Sequence[Trained]
) -> Evaluation | None:
    """Evaluate the version on the held-back records; with folds each record by the network that has not seen it.

    What the base model has been trained on is no fair test and is left out. JobCancelled and JobInterrupted leave nothing.
    """
    how = SplitSettings.from_dict(row.split_settings)
    context.progress(_EVALUATING, "Evaluating on the held-back part")

    def progress(part: float, note: str) -> None:
        context.progress(_EVALUATING + (1 - _EVALUATING) * part, f"Evaluating on the held-back part: {note}")

    problem, base = get_problem(row.task), row.base_version
    answers: list[np.ndarray] = []
    items: list[Labelled] = []
    left_out = 0
    there = set(Record.objects.filter(pk__in=[item.record for item in data.items]).values_list("pk", flat=True))
    for member in members if how.holds_out_every_fold else members[:1]:
        # A person may be deleted while a training goes on.
        own = [item for item in member.by_part["test"] if item.record in there]
        if base is not None:
            own, leaked = unseen(own, base)
            left_out += leaked
        if how.holds_out_every_fold and own:
            outputs = answers_of(row, member.module, data.stores, own, context.raise_if_stopping)
            answers.append(problem.activate(outputs))
        items += own
    if left_out:
        add_warnings(
            row,
            [
                f"{left_out} records of the test part were left out, because {base} was trained on their subjects or signals."
                + ("" if items else " Nothing is left to judge by, so there is no evaluation.")
            ],
        )
    seen = None if how.holds_out_every_fold else _some_trained_on(row, members[0], data, len(items), there)
    return evaluating.of_run(
        row, version, JointView(data.stores, items), items, answers=np.concatenate(answers) if answers else None,
        part="folds" if how.holds_out_every_fold else "test", left_out=left_out, trained_on=seen, progress=progress,
    )  # fmt: skip


def answers_of(
    row: TrainingRun, module: nn.Module, stores: Stores, items: list[Labelled], before_batch: Callable[[], None]
) -> np.ndarray:
    """Return a network's raw outputs ``(records, outputs)``; ``before_batch`` may end the work by what it raises."""
    from modelhub.runtime.pieces import Pieces
    from training.engine.predict import predict

    parts, pieces = [], Pieces(_BATCH, lambda sentence: add_warnings(row, [sentence]))
    for start in range(0, len(items), _BATCH):
        before_batch()
        parts.append(predict(module, JointView(stores, items[start : start + _BATCH]), pieces=pieces))
    return np.concatenate(parts)


def _some_trained_on(
    row: TrainingRun, member: Trained, data: Prepared, at_most: int, there: set[Any]
) -> tuple[JointView, list[Labelled]]:
    """Return records of the training part, drawn by the seed: as many as are held back, so that judging costs as much."""
    items = [item for item in member.by_part["train"] if item.record in there]
    chosen = np.random.default_rng(row.settings["seed"]).permutation(len(items))[:at_most]
    drawn = [items[k] for k in sorted(chosen)]
    return JointView(data.stores, drawn), drawn
