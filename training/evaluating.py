"""Judge a version on labelled records: probabilities by the published file, truth by the label map, intervals by subject."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from django.db import transaction

from datasets.models import Record
from datasets.preprocess.recipe import Recipe
from ecgportal.audit.trail import record as audit
from ecgportal.errors import InvalidInput
from ecgportal.jobs.context import JobContext
from modelhub import loading
from modelhub.answering import why_not
from modelhub.contract import ModelContract
from modelhub.models import ModelVersion
from training.attributes import attributes
from training.data import JointView, prepare
from training.lineage import unseen
from training.metrics.membership import WARN_ABOVE, membership, record_losses
from training.metrics.report import evaluate
from training.metrics.subgroups import subgroups
from training.models import Evaluation, TrainingRun
from training.problems.registry import get_problem
from training.targets import Labelled, labelled_records

# Small enough that a cancel is heard within a few seconds whatever the network.
_BATCH = 64

Told = Callable[[float, str], None]


def _quiet(part: float, note: str) -> None:
    """Tell nobody how far an evaluation is."""


# Answers per record are kept up to here, for curves with bands and for looking at mistakes.
_MAX_SAMPLES = 20_000


def probabilities(
    version: ModelVersion, view: JointView, progress: Told = _quiet, notes: list[str] | None = None
) -> np.ndarray:
    """Return the version's answers ``(records, classes)`` for prepared records. progress: told the share that is done.
    notes: gets what is to be said of how they were computed."""
    predictor = loading.predictor(version)
    parts = []
    for start in range(0, len(view), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(view)))
        parts.append(predictor.predict(view.read(rows), view.persons[rows]))
        progress((rows[-1] + 1) / len(view), f"{rows[-1] + 1:,} of {len(view):,} records")
    if notes is not None:
        notes += predictor.pieces.notes
    return np.concatenate(parts) if parts else np.zeros((0, len(version.classes)), np.float32)


def _truth_of(contract: ModelContract, items: list[Labelled], unknown: Collection[str] = ()) -> tuple[str, np.ndarray]:
    """Return by which task a model is judged, and the truth, ``(records, classes)``: a binary model with an output for either
    side tells two classes apart."""
    task = "multiclass" if contract.task == "binary" and contract.n_classes == 2 else contract.task
    truth = get_problem(task).encode([item.label for item in items], list(contract.classes)).values
    truth[:, [name in unknown for name in contract.classes]] = np.nan
    return task, truth


def _judge(
    version: ModelVersion,
    view: JointView,
    items: list[Labelled],
    progress: Told,
    answers: np.ndarray | None = None,
    unknown: Collection[str] = (),
) -> dict[str, Any]:
    """Return the report; ``answers``: probabilities that were computed already, ``(records, classes)``. progress: called
    every few seconds; what it raises ends the work. unknown: classes of which no record's truth is known."""

    def before_step() -> None:
        progress(1.0, "Resampling subjects for the intervals")

    contract = ModelContract.from_dict(version.contract)
    task, truth = _truth_of(contract, items, unknown)
    limits = contract.limits(contract.thresholds)
    thresholds = None if limits is None else list(limits.values())
    notes: list[str] = []
    if answers is None:
        answers = probabilities(version, view, progress, notes)
    groups = [item.group for item in items]
    report = evaluate(
        answers, truth, contract.classes, task, groups=groups, thresholds=thresholds, before_step=before_step
    ).to_json()
    report["subgroups"] = subgroups(
        answers,
        truth,
        contract.classes,
        task,
        attributes(items),
        groups=groups,
        thresholds=thresholds,
        before_step=before_step,
    )
    notes += _refused(items, contract)
    if notes:
        report["notes"] = [*report.get("notes", []), *notes]
    if len(items) <= _MAX_SAMPLES:
        report["samples"] = {
            "records": [str(item.record) for item in items],
            "truth": [[None if np.isnan(v) else float(v) for v in row] for row in truth],
            "probabilities": [[round(float(v), 6) for v in row] for row in answers],
        }  # fmt: skip
    return report


def _refused(items: list[Labelled], contract: ModelContract) -> list[str]:
    """Say of how many of the judged records a prediction would refuse to speak; nothing where it would of none."""
    rows = Record.objects.filter(pk__in=[item.record for item in items]).only("key", "leads", "fs_hz", "n_samples")
    count = sum(why_not(row, contract) is not None for row in rows.iterator(chunk_size=2000))
    if not count:
        return []
    return [
        f"A prediction refuses {count} of these {len(items)} records: they are too short, were recorded at too low a rate, or lack a "
        "lead that the model needs. Here they are judged by what there is of them."
    ]


def _store_report(row: Evaluation, report: dict[str, Any]) -> Evaluation:
    row.curves = {"curves": report.pop("curves", {}), "samples": report.pop("samples", None)}
    row.report = report
    row.save()
    return row


def of_run(
    run: TrainingRun, version: ModelVersion, view: JointView, items: list[Labelled], answers: np.ndarray | None = None, part: str = "test",
    left_out: int = 0, trained_on: tuple[JointView, list[Labelled]] | None = None, progress: Told = _quiet,
) -> Evaluation | None:  # fmt: skip
    """Evaluate a run's version on its held-back part, once; None when that part is empty.

    Records that the model it was fine-tuned from has been trained on are left out and counted. answers: with ``part``
    ``folds``, the probabilities of the networks that have not seen the record each. trained_on: records of the training
    part, to tell how far the version gives them away. progress: called every few seconds with the share that is done.
    """
    if not items:
        return None
    known = Evaluation.objects.filter(run=run).first()
    if known is not None:
        return known
    notes: list[str] = []
    if answers is None:
        answers = probabilities(version, view, progress, notes)
    report = _judge(version, view, items, progress, answers=answers)
    if notes:
        report["notes"] = [*report.get("notes", []), *notes]
    report["left_out_training_subjects"] = left_out
    if trained_on is not None:
        _tell_membership(report, version, trained_on, (answers, items), progress)
    with transaction.atomic():
        row = Evaluation(
            project=run.project,
            created_by=run.created_by,
            version=version,
            dataset=run.dataset,
            label_map=run.label_map,
            part=part,
            run=run,
            job=run.job,
        )
        return _store_report(row, report)


def _tell_membership(
    report: dict[str, Any],
    version: ModelVersion,
    trained_on: tuple[JointView, list[Labelled]],
    held_back: tuple[np.ndarray, list[Labelled]],
    progress: Told,
) -> None:
    """Add to a report how well training records can be told from held-back ones by their loss, and a note if well."""
    contract = ModelContract.from_dict(version.contract)
    view, seen = trained_on
    losses = [
        record_losses(answers, _truth_of(contract, items)[1], contract.task)
        for answers, items in ((probabilities(version, view, progress), seen), held_back)
    ]
    subjects = (len({item.group for item in seen}), len({item.group for item in held_back[1]}))
    found = membership(losses[0], losses[1], subjects)
    report["membership"] = found.to_json()
    if found.value is not None and found.value > WARN_ABOVE:
        report["notes"] = [
            *report.get("notes", []),
            f"By its losses this model tells records it was trained on from others (AUROC {found.value:.2f}; 0.50 is not at "
            "all). Whoever has the model and a person's ECG may guess whether the person was in the training data: weigh "
            "this before it leaves your institution.",
        ]


def _told_apart(row: Evaluation, contract: ModelContract) -> list[str]:
    """Return the classes that records are judged for: the model's, and the one that a binary model of this portal learned
    to tell its own from, where the label map has it."""
    run = TrainingRun.objects.filter(produced_version=row.version, task="binary").first()
    if run is None or row.label_map is None or not set(run.classes) <= set(row.label_map.classes):
        return list(contract.classes)
    return list(run.classes)


def run(context: JobContext) -> dict[str, Any]:
    """The job of an evaluation on a whole dataset. Records that the version was trained on are left out and counted."""
    row = Evaluation.objects.select_related(
        "version__model", "dataset__project", "label_map", "project", "created_by"
    ).get(pk=context.payload["evaluation"])
    contract = ModelContract.from_dict(row.version.contract)
    target = contract.classes[0] if contract.task == "regression" else ""
    records = Record.objects.filter(dataset=row.dataset)
    outputs = _told_apart(row, contract)
    items = labelled_records(records, contract.task, outputs, row.label_map, target)
    items, left_out = unseen(items, row.version)
    if not items:
        reason = (
            f" {left_out} records were left out because the model was trained on their subjects." if left_out else ""
        )
        raise InvalidInput(
            f"No record of {row.dataset.name} can be used: none has a label that the map knows.{reason}",
            code="no_truth",
        )
    recipe = Recipe.from_json(loading.recipe_of(contract))
    stores = prepare([row.dataset], recipe, lambda part, note: context.progress(0.3 * part, note))
    # Of a class that the map does not have, its records say nothing.
    there = row.label_map.classes if row.label_map is not None and contract.task == "multilabel" else contract.classes
    report = _judge(
        row.version, JointView(stores, items), items, lambda part, note: context.progress(0.3 + 0.6 * part, note),
        unknown=set(contract.classes).difference(there),
    )  # fmt: skip
    if len(outputs) > len(contract.classes):
        report["notes"] = [*report.get("notes", []), f"{outputs[0]} is judged against {outputs[1]}, as it was learned."]
    report["left_out_training_subjects"] = left_out
    outcome = {"evaluation": str(row.pk), "n": report["n"]}
    with transaction.atomic():
        _store_report(row, report)
        audit("evaluation.finished", row, actor=row.created_by, project=row.project)
        context.close(outcome)
    return outcome
