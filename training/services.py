"""Write training runs and evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction

from datasets.models import Dataset, LabelMap
from datasets.selectors import coverages, label_maps_for
from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput
from ecgportal.jobs.models import OPEN, TERMINAL, Job, JobState
from ecgportal.jobs.services import enqueue
from modelhub.architectures.catalog import is_computed
from modelhub.contract import PRETRAINING
from modelhub.models import ModelVersion
from modelhub.services import check_runnable, check_trainable
from training import rating, searching
from training.candidates import augmentations
from training.checking import require_possible
from training.choices import choose, unsaved_run
from training.models import Evaluation, RunDataset, Study, StudyKind, TrainingRun, Trial
from training.requirements import check_data, check_search
from training.splitting import SplitSettings
from training.targets import NUMERIC_TARGETS


@transaction.atomic
def run_start(
    *, actor: Any, project: Any, dataset: Dataset | None = None, datasets: Sequence[Dataset] = (), name: str = "", repeats: TrainingRun | None = None,
    search: Mapping[str, Any] | None = None, **asked: Any,
) -> TrainingRun:  # fmt: skip
    """Freeze the choices of a training run (``asked``: as ``training.choices.choose`` takes them) and start its job.

    InvalidInput names each choice that cannot be. repeats: the run that this one does again. search: ``{"minutes": 20}`` to
    try networks and settings for so long before the best of them is trained.
    """
    choices = choose(project=project, datasets=[*([dataset] if dataset else []), *datasets], **asked)
    budget = check_search(search, asked.get("architecture"), choices)
    check_data(choices)
    require_possible(choices, budget.get("minutes"))
    names = " and ".join(row.name for row in choices.datasets)
    made = (
        "chosen network"
        if budget
        else f"trunk of {choices.architecture}"
        if choices.pretraining
        else choices.architecture
    )
    run = unsaved_run(choices, created_by=actor, repeats=repeats, name=(name.strip() or f"{names}, {made}")[:120])
    run.job = _train_job(run, actor, "search" if budget else _kind_of(run), "Train")
    run.save(force_insert=True)
    if budget:
        wish = budget | {"run": run.settings, "augmentations": augmentations()}
        if run.base_version_id:
            wish["base"] = str(run.base_version_id)
        Study.objects.create(run=run, kind=StudyKind.SEARCH, job=run.job, settings=wish)
    RunDataset.objects.bulk_create(
        RunDataset(run=run, dataset=row, position=position) for position, row in enumerate(choices.datasets)
    )
    if choices.label_map is not None and not choices.label_map.frozen:
        LabelMap.objects.filter(pk=choices.label_map.pk).update(frozen=True)
    changes = {"architecture": choices.architecture, "mode": choices.mode, "task": choices.task, "dataset": names}
    audit("run.started", run, actor=actor, project=project, changes=changes)
    return run


def _kind_of(run: TrainingRun) -> str:
    """Return the kind of job that does a run, once a network is chosen."""
    return "pretrain" if run.is_pretraining else "train"


def _train_job(run: TrainingRun, actor: Any, kind: str, verb: str) -> Job:
    return enqueue(kind, actor=actor, project=run.project, payload={"run": str(run.pk)}, title=f"{verb} {run.name}")


@transaction.atomic
def learning_curve_start(*, actor: Any, run: TrainingRun, repeats: int = 1) -> Study:
    """Start, or go on with, the learning curve of a run that has ended well. repeats: trainings per size."""
    if not run.manifest or run.split_id is None or run.produced_version_id is None:
        raise Conflict("A learning curve needs a run that has produced a model.", code="not_finished")
    if run.is_pretraining:
        raise Conflict("A learning curve needs labels to judge by; this run learned without.", code="no_test_part")
    if SplitSettings.from_dict(run.split_settings).holds_out_every_fold:
        raise Conflict("A learning curve needs one held-back part; this run holds out every fold.", code="no_test_part")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or not 1 <= repeats <= 10:
        raise InvalidInput("The repeats must be a whole number from 1 to 10.", fields={"repeats": "From 1 to 10."})
    study = Study.objects.select_for_update().filter(run=run, kind=StudyKind.LEARNING_CURVE).first()
    if study is not None and study.job.state not in TERMINAL:
        raise Conflict("The learning curve of this run is being made.", code="study_open")
    study = study or Study(run=run, kind=StudyKind.LEARNING_CURVE)
    study.settings = {"repeats": max(repeats, study.settings.get("repeats", 1))}
    study.job = enqueue(
        "learning_curve", actor=actor, project=run.project, payload={"study": str(study.pk)}, title=f"Learning curve of {run.name}"
    )  # fmt: skip
    study.save()
    audit("run.learning_curve", run, actor=actor, project=run.project)
    return study


def trial_take(*, actor: Any, run: TrainingRun, number: int) -> TrainingRun:
    """Start a run with what a trial of a search tried, on the search's data and split, in full."""
    trial = Trial.objects.filter(study__run=run, study__kind=StudyKind.SEARCH, number=number).first()
    if trial is None:
        raise InvalidInput(
            f"There is no trial {number} of a search for {run}.",
            fields={"number": "Choose one of the search's trials."},
        )
    start = trial.choices["start"]
    base = ModelVersion.objects.select_related("model").filter(pk=trial.study.settings.get("base")).first()
    if start.startswith("base:") and base is None:
        raise Conflict("The base model of this trial is gone.", code="not_repeatable")
    settings = searching.settings_of(trial.study, trial.choices).to_dict()
    mode = settings.pop("mode")
    is_tuned = start.startswith("base:")
    return run_start(
        actor=actor, project=run.project, datasets=list(run.datasets.order_by("pk")), label_map=run.label_map, classes=run.classes,
        task=run.task, target=run.target, architecture=None if is_tuned else start, base_version=base if is_tuned else None,
        mode=mode if is_tuned else None, settings=settings, selection=run.selection, split=run.split_settings,
        recipe=None if is_tuned else run.recipe, name=f"{run.name}, trial {number}"[:120], drawn_by=run.drawn_by,
    )  # fmt: skip


def run_again(*, actor: Any, run: TrainingRun) -> TrainingRun:
    """Start a run with the choices, seed and split settings of another; on a processor it gives the same weights."""
    if run.label_map is None and run.task not in ("regression", PRETRAINING):
        raise Conflict("The label map of this run is gone, so it cannot be done again.", code="not_repeatable")
    return run_start(
        actor=actor, project=run.project, datasets=list(run.datasets.order_by("pk")), label_map=run.label_map, classes=run.classes,
        task=run.task, target=run.target, architecture=None if run.base_version else run.architecture, base_version=run.base_version,
        mode=run.mode if run.base_version else None, settings={k: v for k, v in run.settings.items() if k != "mode"},
        selection=run.selection, split=run.split_settings, recipe=None if run.base_version else run.recipe, name=run.name, repeats=run,
        pretraining=run.pretraining or None, drawn_by=run.drawn_by,
    )  # fmt: skip


@transaction.atomic
def run_rename(*, actor: Any, run: TrainingRun, name: str) -> TrainingRun:
    """Give a run another name; the model that it produced keeps its own."""
    name = " ".join(name.split())
    if not 1 <= len(name) <= 120:
        raise InvalidInput(
            "A run's name has 1 to 120 characters.", fields={"name": "Give a name of 1 to 120 characters."}
        )
    before, run.name = run.name, name
    run.save(update_fields=["name"])
    audit("run.renamed", run, actor=actor, project=run.project, changes={"name": [before, name]})
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
    """Go on with a failed or cancelled run from its last checkpoint, where its base model may still be trained."""
    run = TrainingRun.objects.select_for_update(of=("self",)).select_related("job", "project").get(pk=run.pk)
    if run.job.state not in (JobState.FAILED, JobState.CANCELLED):
        raise Conflict(
            f"The run is {run.job.state}; only a failed or cancelled one can be resumed.", code="not_resumable"
        )
    if run.produced_version_id:
        raise Conflict("The run has produced its model already; start a new one to train on.", code="not_resumable")
    if run.base_version is not None:
        check_trainable(run.base_version)
    searches = Study.objects.filter(run=run, kind=StudyKind.SEARCH)
    run.job = _train_job(run, actor, "search" if searches.exists() else _kind_of(run), "Resume")
    searches.update(job=run.job)
    run.resumed += 1
    run.save(update_fields=["job", "resumed"])
    audit("run.resumed", run, actor=actor, project=run.project)
    return run


def run_delete(*, actor: Any, run: TrainingRun) -> None:
    """Delete a finished run with its metrics and checkpoints; the version that it produced stays."""
    if run.job.state not in TERMINAL:
        raise Conflict("The run has not ended. Cancel it first.", code="run_open")
    studies = list(run.studies.select_related("job"))  # type: ignore[attr-defined]
    if any(study.job.state not in TERMINAL for study in studies):
        raise Conflict("The learning curve of the run is being made. Cancel it first.", code="run_open")
    run_id, split = run.pk, run.split
    with transaction.atomic():
        run.delete()
        if split is not None:
            split.delete()
        run.pk = run_id
        for area in (run_id, *(study.pk for study in studies)):
            storage.release_area("checkpoints", area)
        audit("run.deleted", run, actor=actor, project=run.project)
    for area in (run_id, *(study.pk for study in studies)):
        storage.remove_area("checkpoints", area)


@transaction.atomic
def measure_start(*, actor: Any, project: Any) -> Job:
    """Start the job that measures what each network costs on the machine that trains; the open one if there is one."""
    known = Job.objects.filter(kind="measure_speeds", state__in=OPEN, project=project).first()
    if known is not None:
        return known
    title = "Measure this machine"
    job = enqueue("measure_speeds", actor=actor, project=project, payload={}, title=title)
    audit("run.machine_measured", title, actor=actor, project=project, changes={"job": str(job.pk)})
    return job


@transaction.atomic
def rate_start(
    *, actor: Any, project: Any, search: Mapping[str, Any] | None = None, name: str = "", **asked: Any
) -> Job:
    """Start the job that finds a learning rate for a run as it is asked for (as ``run_start``); no run is made.

    search, name: not used; they are part of what a run is asked for.
    """
    choices = choose(project=project, **asked)
    if choices.pretraining is not None:
        raise InvalidInput(
            "The finder needs labels; learning without them takes 3e-3 where no rate is given.",
            fields={"learning_rate": "Give a rate, or leave it empty."},
        )
    if is_computed(choices.architecture, choices.mode):
        sentence = "This model is computed in one pass and has no learning rate."
        raise InvalidInput(sentence, fields={"learning_rate": sentence})
    check_data(choices)
    names = " and ".join(row.name for row in choices.datasets)
    payload = {"asked": rating.to_payload(choices, asked)}
    title = f"Find a learning rate for {choices.architecture} on {names}"
    job = enqueue(rating.KIND, actor=actor, project=project, payload=payload, title=title)
    audit("run.rate_sought", title, actor=actor, project=project, changes={"job": str(job.pk)})
    return job


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
    if contract.task == "regression":
        strange = [name for name in contract.classes if name not in NUMERIC_TARGETS]
        if strange or len(contract.classes) > 1:
            raise InvalidInput(
                f"{version} answers {', '.join(contract.classes)}; records state {', '.join(NUMERIC_TARGETS)} alone, so there is "
                "no truth to judge it by.",
                code="no_truth", fields={"version": f"A regression is judged when it answers {NUMERIC_TARGETS[0]}."},
            )  # fmt: skip
    else:
        if label_map is None:
            run = TrainingRun.objects.filter(produced_version=version).select_related("label_map").first()
            label_map = run.label_map if run else None
        if label_map is None:
            raise InvalidInput(
                "Say how the labels map to the model's classes.", fields={"label_map": "Choose a label map."}
            )
        if label_map.project_id not in (None, project.pk):
            raise InvalidInput(
                "The label map belongs to another project.", fields={"label_map": "Choose one of this project."}
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
