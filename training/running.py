"""The training job: split, prepare, fit, publish the version, evaluate it on the held-back part."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from django.db import transaction

from datasets.fingerprint import same_signal
from datasets.models import Record
from datasets.preparing import StoreView, bring_up_to_date
from datasets.preprocess.recipe import Recipe
from datasets.splits import SplitItem, merged_groups, split
from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import JobCancelled, TrainingFailed
from ecgportal.jobs.context import JobContext, JobInterrupted
from modelhub import loading
from modelhub.architectures.catalog import catalog
from modelhub.contract import ModelContract
from modelhub.models import ModelVersion, Origin
from modelhub.services import model_get_or_create, version_add
from training import evaluating
from training.engine.callbacks import Callback, Progress
from training.engine.settings import FitSettings
from training.models import EpochMetrics, Split, SplitGroup, SplitMember, TrainingRun
from training.problems.registry import get_problem
from training.targets import Labelled, labelled_records

# A fifth is held back for the test, and about a seventh of the rest chooses epoch and thresholds.
FRACTIONS = {"train": 0.68, "validation": 0.12, "test": 0.20}


class Report(Callback):
    """Writes progress and epochs to the rows that pages poll, and carries the wish to stop into the engine."""

    def __init__(self, context: JobContext, run: TrainingRun, span: tuple[float, float]):
        self.context, self.run, self.span = context, run, span
        self._written = 0.0

    def on_start(self, info: Mapping[str, Any]) -> None:
        if info.get("learning_rate"):
            TrainingRun.objects.filter(pk=self.run.pk).update(learning_rate=info["learning_rate"])

    def on_batch(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._written < 1.0:
            return
        self._written = now
        low, high = self.span
        left = f", about {_duration(progress.left_s)} left" if progress.left_s is not None else ""
        live = {
            "epoch": progress.epoch, "epochs": progress.epochs, "batch": progress.batch, "batches": progress.batches,
            "loss": progress.loss if np.isfinite(progress.loss) else None, "learning_rate": progress.learning_rate,
            "elapsed_s": progress.elapsed_s, "left_s": progress.left_s,
        }  # fmt: skip
        TrainingRun.objects.filter(pk=self.run.pk).update(live=live)
        self.context.report(
            low + (high - low) * progress.fraction, f"Epoch {progress.epoch} of {progress.epochs}{left}"
        )

    def on_epoch_end(self, row: Mapping[str, Any]) -> None:
        values = {name: value for name, value in row.items() if name != "epoch"}
        EpochMetrics.objects.update_or_create(run=self.run, epoch=row["epoch"], defaults={"values": values})

    def on_note(self, sentence: str) -> None:
        if sentence not in self.run.warnings:
            self.run.warnings.append(sentence)
            TrainingRun.objects.filter(pk=self.run.pk).update(warnings=self.run.warnings)

    def should_stop(self) -> bool | str:
        return self.context.stop_reason() or False


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


@transaction.atomic
def make_split(run: TrainingRun, items: list[Labelled]) -> tuple[dict[str, str], list[str]]:
    """Return ``{record id: part}`` of the run's split, drawn and stored at the first call; and warnings."""
    if run.split_id is not None:
        rows = SplitMember.objects.filter(split=run.split_id).values_list("record_id", "group__part")
        return {str(record): part for record, part in rows}, []
    twins = same_signal({str(item.record): item.fingerprint or None for item in items})
    entries = [
        SplitItem(
            key=str(item.record),
            group=item.group,
            labels=item.classes,
            fold=None,
            same_signal=twins.get(str(item.record)),
        )
        for item in items
    ]
    result = split(entries, fractions=FRACTIONS, seed=run.settings["seed"])
    how = {"seed": run.settings["seed"], "method": "by subject and signal, stratified", "fractions": FRACTIONS}
    row = Split.objects.create(dataset=run.dataset, digest=result.digest, settings=how)
    # A group is named after its first record, which is unique; its members share a subject or a signal.
    members = merged_groups(entries)
    groups = SplitGroup.objects.bulk_create(
        SplitGroup(split=row, key=group[0].key, part=result.parts[group[0].key]) for group in members
    )
    SplitMember.objects.bulk_create(
        SplitMember(split=row, group=group, record_id=item.key)
        for group, items_of in zip(groups, members, strict=True)
        for item in items_of
    )
    run.split = row
    run.save(update_fields=["split"])
    return dict(result.parts), list(result.warnings)


def run(context: JobContext) -> dict[str, Any]:
    """Do one training run; after an interruption it goes on from the last whole epoch."""
    row = TrainingRun.objects.select_related(
        "dataset__project", "project", "label_map", "created_by", "base_version__model", "split"
    ).get(pk=context.payload["run"])
    if context.is_resumed:
        row.resumed += 1
        row.save(update_fields=["resumed"])
    context.progress(0.01, "Reading labels")
    items = labelled_records(row.dataset, row.task, row.classes, row.label_map, row.target)
    if len(items) < 10:
        raise TrainingFailed(
            f"Only {len(items)} records of {row.dataset.name} have a label that {row.label_map or 'the target'} knows; training needs at least 10. "
            "Check the label map's coverage on the dataset's Labels page.",
            code="labels_unknown",
        )  # fmt: skip
    parts, warnings = make_split(row, items)
    items = [item for item in items if str(item.record) in parts]
    by_part = {
        part: [item for item in items if parts[str(item.record)] == part] for part in ("train", "validation", "test")
    }
    row.warnings = list(dict.fromkeys([*row.warnings, *warnings]))
    row.save(update_fields=["warnings"])
    recipe = Recipe.from_json(row.recipe)
    store = bring_up_to_date(row.dataset, recipe, lambda part, note: context.progress(0.02 + 0.03 * part, note))
    result, module, contract = _fit(context, row, recipe, store, by_part)
    context.report(0.96, "Exporting the model")
    version = _publish(row, module, contract, result)
    context.report(0.98, "Evaluating on the held-back part")
    evaluation = evaluating.of_run(row, version, store, by_part["test"])
    with transaction.atomic():
        audit(
            "run.finished",
            row,
            actor=row.created_by,
            project=row.project,
            changes={"version": str(version), "stopped": result.stopped_reason},
        )
    storage.remove_area("checkpoints", row.pk)
    outcome = {
        "version": str(version.pk),
        "evaluation": str(evaluation.pk) if evaluation else None,
        "stopped": result.stopped_reason,
    }
    if result.stopped_reason == "cancelled":
        context.job.result = outcome
        raise JobCancelled("The training was cancelled; the best model so far was kept.")
    return outcome


def _fit(
    context: JobContext, row: TrainingRun, recipe: Recipe, store: Any, by_part: dict[str, list[Labelled]]
) -> tuple[Any, Any, ModelContract]:
    from training.engine.fit import fit
    from training.engine.manifest import environment

    problem = get_problem(row.task)
    names = problem.output_names(row.classes)
    spec = recipe.output_spec()
    contract = ModelContract(
        leads=tuple(spec.leads), fs_hz=float(spec.fs_hz), n_samples=int(spec.n_samples), classes=tuple(names), task=row.task,  # type: ignore[arg-type]
        unit=spec.unit, normalisation=_contract_normalisation(spec.normalisation), recipe=row.recipe,
        architecture=row.architecture if row.architecture in catalog() else None,
        parent=row.base_version.sha256 if row.base_version else None,
    )  # fmt: skip
    module = loading.start_module(row.architecture, contract, row.base_version, seed=row.settings["seed"])
    targets = {
        part: problem.encode([item.label for item in rows], row.classes).values for part, rows in by_part.items()
    }
    views = {part: StoreView(store, [item.record for item in rows]) for part, rows in by_part.items()}
    settings = FitSettings.from_dict(row.settings)
    try:
        result = fit(
            module, views["train"], targets["train"], views["validation"], targets["validation"], problem, settings, fs_hz=contract.fs_hz,
            names=names, callbacks=[Report(context, row, (0.05, 0.95))], checkpoint_dir=Path(storage.area("checkpoints", row.pk)),
        )  # fmt: skip
    except JobCancelled as error:
        # Before the first whole epoch there is nothing to keep; a stop of the portal is not the user's cancel.
        if error.code == "interrupted":
            raise JobInterrupted from error
        raise
    if result.stopped_reason == "interrupted":
        raise JobInterrupted
    module = loading.with_state(module, result.best_state)
    thresholds = (
        {} if result.thresholds is None else {name: float(value) for name, value in zip(names, result.thresholds)}
    )
    row.best_epoch, row.learning_rate, row.lr_finder = result.best_epoch, result.learning_rate, result.lr_finder or {}
    row.warnings = list(dict.fromkeys([*row.warnings, *result.notes]))
    row.manifest = {
        "split_digest": row.split.digest if row.split else None, "settings": settings.to_dict(), "weights_hash": result.weights_hash,
        "recipe_digest": recipe.digest, "monitor": result.monitor, "stopped_reason": result.stopped_reason, "epochs": result.epochs,
        "label_map": str(row.label_map) if row.label_map else None, "environment": environment(),
        "records": {part: len(rows) for part, rows in by_part.items()},
    }  # fmt: skip
    row.save(update_fields=["best_epoch", "learning_rate", "lr_finder", "manifest", "warnings"])
    return result, module, contract.with_changes(thresholds=thresholds)


def _contract_normalisation(name: str) -> str:
    return name if name in ("none", "min_max", "mean_std") else "none"


def _publish(row: TrainingRun, module: Any, contract: ModelContract, result: Any) -> ModelVersion:
    """Add the trained network as a version; once only, also when the job is started again after this step."""
    if row.produced_version_id is not None:
        return ModelVersion.objects.get(pk=row.produced_version_id)
    files = loading.export(module, contract)
    last = EpochMetrics.objects.filter(run=row, epoch=result.best_epoch).first()
    facts = {
        "training_run": str(row.pk), "dataset": row.dataset.name, "records": row.manifest["records"], "label_map": row.manifest["label_map"],
        "best_epoch": result.best_epoch, "validation": last.values if last else {}, "split_digest": row.manifest["split_digest"],
        "mode": row.mode, "base": str(row.base_version) if row.base_version else None,
    }  # fmt: skip
    with transaction.atomic():
        model = model_get_or_create(actor=row.created_by, project=row.project, name=row.name)
        version = version_add(
            actor=row.created_by, model=model, onnx=files.main, contract=contract, origin=Origin.TRAINED, parameters=files.parameters,
            weights=files.weights, parent=row.base_version, facts=facts, checks=files.checks,
        )  # fmt: skip
        row.produced_version = version
        row.save(update_fields=["produced_version"])
    return version


def test_records(row: TrainingRun) -> list[Record]:
    """Return the records of a run's held-back part."""
    ids = SplitMember.objects.filter(split=row.split_id, group__part="test").values("record")
    return list(Record.objects.filter(pk__in=ids).order_by("key"))
