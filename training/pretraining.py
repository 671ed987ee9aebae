"""The job of a run without labels: it learns from signals alone and gives a trunk, a version to fine-tune."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.db import transaction

from datasets.preprocess.recipe import Recipe
from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import JobCancelled
from ecgportal.jobs.context import JobContext, JobInterrupted
from modelhub import loading
from modelhub.architectures.catalog import definition_of
from modelhub.contract import ModelContract
from modelhub.models import ModelVersion, Origin
from modelhub.services import model_get_or_create, version_add
from training import keeping, running
from training.choices import needs_of
from training.data import JointView
from training.engine.settings import FitSettings
from training.engine.unlabelled.settings import method_from
from training.fitting import team_size
from training.live import Report, add_warnings
from training.manifests import manifest_of, scale_of
from training.models import TrainingRun
from training.selectors import SCORES

if TYPE_CHECKING:
    from torch import nn

    from training.engine.pretrain import PretrainResult

_PREPARED, _TRAINED = 0.05, 0.97
#: On so many of the held-back records the loss is told.
_MOST_JUDGED = 256


class _Told(Report):
    """Adds the speed to the rows of epochs, as a training with labels has it."""

    def __init__(self, context: JobContext, run: TrainingRun, n_records: int):
        super().__init__(context, run, (_PREPARED, _TRAINED))
        self.n_records = n_records

    def on_epoch_end(self, row: Mapping[str, Any]) -> None:
        super().on_epoch_end({**row, "records_per_s": self.n_records / max(row["seconds"], 1e-9)})


def run(context: JobContext) -> dict[str, Any]:
    """Do one run without labels; after an interruption it goes on from the last whole epoch."""
    from training.engine.launch import together
    from training.engine.pretrain import pretrain

    row = running.begin(context)
    data = running.ready(context, row)
    by_part, settings, how = data.by_part(), FitSettings.from_dict(row.settings), method_from(row.pretraining)
    contract = contract_of(row)
    module = loading.start_module(row.architecture, contract, row.base_version, seed=settings.seed)
    # What a later run validates on may be learned from without labels; what it is judged on may not: the loss on some of
    # it is told, and nothing is chosen by that.
    view = JointView(data.stores, [*by_part["train"], *by_part["validation"]])
    others = JointView(data.stores, by_part["test"][:_MOST_JUDGED]) if by_part["test"] else None
    folder = Path(storage.area("checkpoints", row.pk))
    keeping.fetch(folder)
    count = team_size(len(view), settings.batch_for(len(view)))
    try:
        result = together(
            pretrain, count, module, view, settings, fs_hz=contract.fs_hz, how=how, held_back=others, unit=contract.unit,
            callbacks=[_Told(context, row, len(view)), keeping.Kept(row, folder)], checkpoint_dir=folder,
            make=loading.maker(row.architecture, contract, row.base_version) if count > 1 else None,
        )  # fmt: skip
    except JobCancelled as error:
        # A stop of the portal is not the user's cancel.
        if error.code == "interrupted":
            raise JobInterrupted from error
        raise
    if result.stopped_reason == "interrupted":
        raise JobInterrupted
    row.manifest = manifest_of(row, data.recipe, data.items, by_part, settings, result.device) | _how_it_went(
        row, result, settings.batch_for(len(view))
    )
    row.best_epoch = len(result.history)
    row.save(update_fields=["best_epoch", "manifest"])
    add_warnings(row, list(result.notes))
    context.report(0.98, "Storing the trunk")
    version = _publish(row, loading.with_state(module, result.state), contract, result)
    outcome = {"version": str(version.pk), "evaluation": None, "stopped": result.stopped_reason}
    cancelled = result.stopped_reason == "cancelled"
    with transaction.atomic():
        audit(
            "run.finished", row, actor=row.created_by, project=row.project,
            changes={"version": str(version), "stopped": result.stopped_reason},
        )  # fmt: skip
        storage.release_area("checkpoints", row.pk)
        context.close(outcome, cancelled=cancelled)
    storage.remove_area("checkpoints", row.pk)
    if cancelled:
        raise JobCancelled("The training was cancelled; the trunk of the last whole epoch was kept.")
    return outcome


def contract_of(row: TrainingRun) -> ModelContract:
    """Return the contract of a trunk: an input, and no classes."""
    spec, base = Recipe.from_json(row.recipe).output_spec(), row.base_version
    assert spec.leads is not None and spec.fs_hz is not None and spec.n_samples is not None
    return ModelContract(
        leads=tuple(spec.leads), fs_hz=float(spec.fs_hz), n_samples=int(spec.n_samples), classes=(), task="pretraining", unit=spec.unit,
        normalisation=spec.normalisation, recipe=row.recipe, architecture=row.architecture,
        needs=needs_of(row.architecture, base), parent=base.sha256 if base else None,
        config=base.contract.get("config", {}) if base else {}, definition=definition_of(row.architecture),
    )  # fmt: skip


def _how_it_went(row: TrainingRun, result: PretrainResult, size: int) -> dict[str, Any]:
    last = result.history[-1]
    return {
        **scale_of(result), "batch_size": size, "networks": 1, "processes": result.processes, "weights_hash": result.weights_hash, "monitor": "train_loss", "stopped_reason": result.stopped_reason,
        "epochs": len(result.history), "pretraining": row.pretraining | {name: last[name] for name in SCORES if name in last},
    }  # fmt: skip


@transaction.atomic
def _publish(row: TrainingRun, module: nn.Module, contract: ModelContract, result: PretrainResult) -> ModelVersion:
    """Add the trunk as a version; once only, also when the job is started again after this step."""
    if row.produced_version_id is not None:
        return ModelVersion.objects.get(pk=row.produced_version_id)
    files, last = loading.export(module, contract), result.history[-1]
    facts = {
        "training_run": str(row.pk), "dataset": " and ".join(row.manifest["datasets"]), "records": row.manifest["records"],
        "split_digest": row.manifest["split_digest"], "best_epoch": len(result.history), "mode": row.mode, "networks": 1,
        "base": str(row.base_version) if row.base_version else None,
        "pretraining": row.manifest["pretraining"] | {"train_loss": last["train_loss"]},
    }  # fmt: skip
    model = model_get_or_create(actor=row.created_by, project=row.project, name=row.name)
    version = version_add(
        actor=row.created_by, model=model, onnx=files.main, contract=contract, origin=Origin.TRAINED, parameters=files.parameters,
        weights=files.weights, parent=row.base_version, facts=facts, checks=files.checks,
    )  # fmt: skip
    row.produced_version = version
    row.save(update_fields=["produced_version"])
    return version
