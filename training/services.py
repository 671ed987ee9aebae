"""Write training runs and evaluations."""

from __future__ import annotations

import json
from typing import Any

from django.db import transaction

from datasets.models import Dataset, LabelMap, RecordLabel
from datasets.preprocess.recipe import DEFAULT_RECIPE
from datasets.selectors import coverages, label_maps_for
from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput
from ecgportal.jobs.models import TERMINAL, JobState
from ecgportal.jobs.services import enqueue
from modelhub.architectures.catalog import catalog
from modelhub.models import ModelVersion
from modelhub.services import check_runnable
from training.engine.settings import FitSettings
from training.models import Evaluation, Mode, TrainingRun
from training.problems.registry import get_problem
from training.targets import NUMERIC_TARGETS

DEFAULT_ARCHITECTURE = "inception_time"


def _outputs(task: str, label_map: LabelMap | None, classes: list[str] | None, target: str) -> list[str]:
    """Return the names of the outputs, checked against the label map or the numeric target."""
    if task == "regression":
        if target not in NUMERIC_TARGETS:
            raise InvalidInput(
                "A regression needs a numeric field.", fields={"target": f"Choose one of {', '.join(NUMERIC_TARGETS)}."}
            )
        return [target]
    if label_map is None:
        raise InvalidInput("Say what the network shall tell apart.", fields={"label_map": "Choose a label map."})
    chosen = list(dict.fromkeys(classes or label_map.classes))
    unknown = [name for name in chosen if name not in label_map.classes]
    if unknown:
        raise InvalidInput(
            f"{label_map} has no class {', '.join(unknown)}.",
            fields={"classes": f"It has {', '.join(label_map.classes)}."},
        )
    get_problem(task).encode([], chosen)
    return chosen


def _network(architecture: str | None, base: ModelVersion | None, mode: str | None, project: Any) -> tuple[str, str]:
    if base is None:
        if mode not in (None, "", Mode.SCRATCH):
            raise InvalidInput(
                "Fine-tuning needs a model to start from.", fields={"base_version": "Choose a model version."}
            )
        name = architecture or DEFAULT_ARCHITECTURE
        if name not in catalog():
            raise InvalidInput(
                f"There is no network {name!r}.", fields={"architecture": f"Choose one of {', '.join(catalog())}."}
            )
        if catalog()[name].needs:
            raise InvalidInput(
                f"{name} needs {', '.join(catalog()[name].needs)} beside the ECG.",
                fields={"architecture": "Choose a network that takes the ECG alone."},
            )
        return name, Mode.SCRATCH
    check_runnable(base)
    if base.model.project_id != project.pk:
        raise InvalidInput(
            "The base model belongs to another project. Publish it and pull it into this one.",
            fields={"base_version": "Another project's."},
        )
    if mode == Mode.SCRATCH or (mode and mode not in Mode.values):
        raise InvalidInput(
            "With a base model, choose what is fine-tuned.", fields={"mode": "head, full or head_then_full."}
        )
    if architecture and architecture != base.architecture:
        raise InvalidInput(
            "The base model decides the network.", fields={"architecture": f"It is {base.architecture or 'foreign'}."}
        )
    return base.architecture or "foreign", mode or Mode.HEAD_THEN_FULL


@transaction.atomic
def run_start(
    *,
    actor: Any,
    project: Any,
    dataset: Dataset,
    label_map: LabelMap | None,
    classes: list[str] | None = None,
    task: str = "multilabel",
    target: str = "",
    architecture: str | None = None,
    base_version: ModelVersion | None = None,
    mode: str | None = None,
    settings: dict[str, Any] | None = None,
    name: str = "",
) -> TrainingRun:
    """Freeze the choices of a training run and start its job. InvalidInput names each choice that cannot be."""
    if dataset.project_id != project.pk:
        raise InvalidInput("The dataset belongs to another project.", fields={"dataset": "Choose one of this project."})
    outputs = _outputs(task, label_map, classes, target)
    network, mode = _network(architecture, base_version, mode, project)
    fit_settings = FitSettings.from_dict({**(settings or {}), "mode": mode})
    records = dataset.records.count()
    if records < 10:
        raise InvalidInput(
            f"{dataset.name} has {records} records; training needs at least 10.", fields={"dataset": "Too few records."}
        )
    if task != "regression" and not RecordLabel.objects.filter(record__dataset=dataset).exists():
        raise InvalidInput(
            f"The records of {dataset.name} have no labels. Upload a label table first.",
            fields={"dataset": "No labels."},
        )
    recipe = base_version.contract.get("recipe") if base_version else None
    run = TrainingRun(
        project=project, created_by=actor, dataset=dataset, label_map=label_map, classes=outputs, task=task, target=target,
        architecture=network, base_version=base_version, mode=mode, settings=fit_settings.to_dict(),
        recipe=recipe or json.loads(DEFAULT_RECIPE.to_json()), name=(name.strip() or f"{dataset.name}, {network}")[:120],
    )  # fmt: skip
    run.job = enqueue("train", actor=actor, project=project, payload={"run": str(run.pk)}, title=f"Train {run.name}")
    run.save(force_insert=True)
    if label_map is not None and not label_map.frozen:
        LabelMap.objects.filter(pk=label_map.pk).update(frozen=True)
    audit(
        "run.started",
        run,
        actor=actor,
        project=project,
        changes={"architecture": network, "mode": mode, "task": task, "dataset": dataset.name},
    )
    return run


# A class with fewer records cannot be split into three parts and judged.
_FEWEST_RECORDS = 8


def suggest(dataset: Dataset) -> tuple[LabelMap, list[str]] | None:
    """Return the label map that makes most of a dataset's labels, and its classes with enough records to be learned.

    A map counts by the records that it gives a class, times the share of its classes that can be learned, so that a
    map made for these labels wins over one that only touches them. None when no map gives two such classes.
    """
    best, best_score = None, 0.0
    for found in coverages(dataset, label_maps_for(dataset.project)):
        usable = [name for name, count in found.by_class.items() if count >= _FEWEST_RECORDS]
        score = found.classified * len(usable) / len(found.label_map.classes)
        if len(usable) >= 2 and score > best_score:
            best, best_score = (found.label_map, usable), score
    return best


@transaction.atomic
def run_start_suggested(*, actor: Any, dataset: Dataset) -> TrainingRun:
    """Start a run with every default: the suggested label map, its learnable classes, the default network."""
    found = suggest(dataset)
    if found is None:
        raise InvalidInput(
            f"No label map gives two classes with at least {_FEWEST_RECORDS} records of {dataset.name}. Upload labels, or "
            "make a label map that knows their codes.",
            code="labels_unknown",
        )
    return run_start(actor=actor, project=dataset.project, dataset=dataset, label_map=found[0], classes=found[1])


@transaction.atomic
def run_resume(*, actor: Any, run: TrainingRun) -> TrainingRun:
    """Go on with a failed or cancelled run from its last checkpoint."""
    run = TrainingRun.objects.select_for_update(of=("self",)).select_related("job", "project").get(pk=run.pk)
    if run.job.state not in (JobState.FAILED, JobState.CANCELLED):
        raise Conflict(
            f"The run is {run.job.state}; only a failed or cancelled one can be resumed.", code="not_resumable"
        )
    if run.produced_version_id:
        raise Conflict("The run has produced its model already; start a new one to train on.", code="not_resumable")
    run.job = enqueue(
        "train", actor=actor, project=run.project, payload={"run": str(run.pk)}, title=f"Resume {run.name}"
    )
    run.resumed += 1
    run.save(update_fields=["job", "resumed"])
    audit("run.resumed", run, actor=actor, project=run.project)
    return run


def run_delete(*, actor: Any, run: TrainingRun) -> None:
    """Delete a finished run with its metrics and checkpoints; the version that it produced stays."""
    if run.job.state not in TERMINAL:
        raise Conflict("The run has not ended. Cancel it first.", code="run_open")
    run_id, split = run.pk, run.split
    with transaction.atomic():
        run.delete()
        if split is not None:
            split.delete()
        run.pk = run_id
        audit("run.deleted", run, actor=actor, project=run.project)
    storage.remove_area("checkpoints", run_id)


@transaction.atomic
def evaluation_start(
    *, actor: Any, version: ModelVersion, dataset: Dataset, label_map: LabelMap | None = None
) -> Evaluation:
    """Start the evaluation of a version on all labelled records of a dataset."""
    contract = check_runnable(version)
    project = version.model.project
    if dataset.project_id != project.pk:
        raise InvalidInput(
            "The model and the dataset must belong to the same project.", fields={"dataset": "Another project's."}
        )
    if contract.task != "regression":
        if label_map is None:
            run = TrainingRun.objects.filter(produced_version=version).select_related("label_map").first()
            label_map = run.label_map if run else None
        if label_map is None:
            raise InvalidInput(
                "Say how the labels map to the model's classes.", fields={"label_map": "Choose a label map."}
            )
        missing = [name for name in contract.classes if name not in label_map.classes]
        if len(missing) == len(contract.classes):
            raise InvalidInput(
                f"{label_map} has none of the model's classes ({', '.join(contract.classes)}).",
                fields={"label_map": "Choose a map with these classes."},
            )
    row = Evaluation(
        project=project, created_by=actor, version=version, dataset=dataset, label_map=label_map, part="all"
    )
    row.job = enqueue(
        "evaluate",
        actor=actor,
        project=project,
        payload={"evaluation": str(row.pk)},
        title=f"Evaluate {version} on {dataset.name}",
    )
    row.save(force_insert=True)
    audit("evaluation.started", row, actor=actor, project=project)
    return row
