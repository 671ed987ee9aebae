"""What a run is asked to be: every choice checked before anything is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets.models import Dataset, LabelMap, Record, RecordLabel
from datasets.preprocess.recipe import DEFAULT_RECIPE, Recipe
from ecgportal.errors import InvalidInput
from modelhub.architectures.catalog import catalog
from modelhub.contract import ModelContract
from modelhub.loading import recipe_of
from modelhub.models import ModelVersion
from modelhub.services import check_runnable
from training.engine.settings import FitSettings
from training.models import Mode, TrainingRun
from training.problems.registry import get_problem
from training.selection import Selection
from training.splitting import SplitSettings
from training.targets import NUMERIC_TARGETS, Labelled, labelled_records

DEFAULT_ARCHITECTURE = "inception_time"
FEWEST_RECORDS, FEWEST_PATIENTS = 10, 3
_MOST_DATASETS = 20
# Twelve leads of a minute at 500 Hz.
_LARGEST_INPUT = 12 * 60 * 500
MOST_SEARCH_MIN = 7 * 24 * 60


@dataclass(frozen=True)
class Choices:
    """The choices of a run. outputs: the classes, or the numeric target. members: how many trainings it takes, one for
    each fold that is held out; each of them may train an ensemble (``settings.members``)."""

    project: Any
    datasets: tuple[Dataset, ...]
    label_map: LabelMap | None
    outputs: tuple[str, ...]
    task: str
    target: str
    architecture: str
    base_version: ModelVersion | None
    mode: str
    settings: FitSettings
    selection: Selection
    split: SplitSettings
    members: int
    recipe: dict[str, Any]

    def items(self) -> list[Labelled]:
        """Return the records that take part."""
        return chosen_records(
            self.datasets, self.selection, self.task, self.outputs, self.label_map, self.target, self.settings.seed
        )


def chosen_records(
    datasets: Sequence[Dataset], selection: Selection, task: str, outputs: Sequence[str], label_map: LabelMap | None, target: str, seed: int,
) -> list[Labelled]:  # fmt: skip
    """Return the labelled records of the datasets that pass a selection, in the order of their keys."""
    records = selection.records(Record.objects.filter(dataset__in=[row.pk for row in datasets]))
    items = labelled_records(records, task, outputs, label_map, target)
    return selection.draw(items, outputs, task, seed)


def records_of(run: TrainingRun) -> list[Labelled]:
    """Return the records that take part in a run, by its frozen choices."""
    return chosen_records(
        list(run.datasets.order_by("name", "pk")), Selection.from_dict(run.selection), run.task, run.classes, run.label_map, run.target,
        run.settings["seed"],
    )  # fmt: skip


def choose(
    *,
    project: Any,
    datasets: Sequence[Dataset],
    label_map: LabelMap | None,
    classes: Sequence[str] | None = None,
    task: str = "multilabel",
    target: str = "",
    architecture: str | None = None,
    base_version: ModelVersion | None = None,
    mode: str | None = None,
    settings: Mapping[str, Any] | None = None,
    selection: Mapping[str, Any] | None = None,
    split: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Choices:
    """Return the checked choices. InvalidInput names each one that cannot be (``fields``)."""
    rows = _datasets(project, datasets)
    outputs = _outputs(task, label_map, classes, target)
    network, mode = _network(architecture, base_version, mode, project)
    fit_settings = FitSettings.from_dict({**(settings or {}), "mode": mode})
    how = SplitSettings.from_dict(split or {})
    return Choices(
        project, rows, label_map, tuple(outputs), task, target if task == "regression" else "", network, base_version, mode, fit_settings,
        Selection.from_dict(selection or {}), how, how.folds if how.holds_out_every_fold else 1, _recipe(recipe, base_version),
    )  # fmt: skip


def check_data(choices: Choices) -> None:
    """Raise InvalidInput when the datasets can be seen at once to hold too little."""
    names = " and ".join(row.name for row in choices.datasets)
    records = choices.selection.records(Record.objects.filter(dataset__in=[row.pk for row in choices.datasets]))
    count = records.count()
    if count < FEWEST_RECORDS:
        which = "pass the filter" if choices.selection.filter else "are there"
        raise InvalidInput(
            f"Only {count} records of {names} {which}; training needs at least {FEWEST_RECORDS}.",
            fields={"selection.filter" if choices.selection.filter else "dataset": "Too few records."},
        )
    if choices.task != "regression" and not RecordLabel.objects.filter(record__in=records.values("pk")).exists():
        raise InvalidInput(
            f"The records of {names} have no labels. Upload a label table first.", fields={"dataset": "No labels."}
        )
    known = records.order_by().values("subject__key").distinct().count()
    # Who is not known stands for himself.
    nobody = records.filter(subject=None).count()
    if sentence := too_few_patients(known + nobody - (1 if nobody else 0)):
        raise InvalidInput(sentence, code="too_few_patients", fields={"dataset": "Too few patients."})


def too_few_patients(count: int) -> str | None:
    """Return a sentence when so many patients cannot be divided into three parts."""
    if count >= FEWEST_PATIENTS:
        return None
    return (
        f"The data comes from {count} {'patient' if count == 1 else 'patients'}. Training, validation and test need different "
        f"patients, {FEWEST_PATIENTS} at least."
    )


def check_search(search: Mapping[str, Any] | None, architecture: str | None, split: SplitSettings) -> dict[str, float]:
    """Return the checked wish to have network and settings chosen; empty when it is not wished."""
    if not search:
        return {}
    minutes = search.get("minutes")
    is_number = isinstance(minutes, int | float) and not isinstance(minutes, bool)
    if not is_number or not 0 < minutes <= MOST_SEARCH_MIN or set(search) != {"minutes"}:
        raise InvalidInput(
            f"A search takes the minutes that it may last, up to {MOST_SEARCH_MIN}.",
            fields={"search.minutes": f"A number above 0 and up to {MOST_SEARCH_MIN}."},
        )
    if architecture:
        raise InvalidInput(
            "A search chooses the network itself.", fields={"architecture": "Leave it out, or leave the search out."}
        )
    if split.holds_out_every_fold:
        raise InvalidInput(
            "A search chooses on one development part; this split holds out every fold in turn.",
            fields={"split.method": "Choose one held-out fold, or another way."},
        )
    return {"minutes": float(minutes)}


def _datasets(project: Any, datasets: Sequence[Dataset]) -> tuple[Dataset, ...]:
    rows = tuple({row.pk: row for row in datasets}.values())
    if not rows:
        raise InvalidInput("A training run needs a dataset.", fields={"dataset": "Choose one at least."})
    if len(rows) > _MOST_DATASETS:
        raise InvalidInput(
            f"A training run takes at most {_MOST_DATASETS} datasets.", fields={"datasets": "Choose fewer."}
        )
    if any(row.project_id != project.pk for row in rows):
        raise InvalidInput("The dataset belongs to another project.", fields={"dataset": "Choose one of this project."})
    return rows


def _recipe(given: Mapping[str, Any] | None, base: ModelVersion | None) -> dict[str, Any]:
    """Return the recipe that makes the network's input: the base model's, the given one, or the portal's own."""
    if base is not None:
        if given:
            raise InvalidInput(
                "The base model decides how records are prepared.", fields={"recipe": "Leave it out when fine-tuning."}
            )
        return recipe_of(ModelContract.from_dict(base.contract))
    if not given:
        return json.loads(DEFAULT_RECIPE.to_json())
    try:
        recipe = Recipe.from_json(given)
    except InvalidInput as error:
        raise InvalidInput(error.message, code=error.code, fields={"recipe": error.message}) from error
    spec = recipe.output_spec()
    if spec.leads is None or spec.fs_hz is None or spec.n_samples is None:
        raise InvalidInput(
            "The recipe leaves open which leads, rate or length come out; a network needs all three fixed.",
            code="invalid_recipe", fields={"recipe": "Add select_leads, resample, and crop with expand to one duration."},
        )  # fmt: skip
    if len(spec.leads) * spec.n_samples > _LARGEST_INPUT:
        raise InvalidInput(
            f"The recipe makes {len(spec.leads)} x {spec.n_samples} samples of a record; at most {_LARGEST_INPUT:,} are trained on.",
            code="invalid_recipe", fields={"recipe": "Choose a lower rate, a shorter part or fewer leads."},
        )  # fmt: skip
    return json.loads(recipe.to_json())


def _outputs(task: str, label_map: LabelMap | None, classes: Sequence[str] | None, target: str) -> list[str]:
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
