"""What a run is asked to be: every choice checked before anything is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets.models import Dataset, LabelMap
from datasets.preprocess.recipe import DEFAULT_RECIPE, Recipe
from ecgportal.errors import InvalidInput
from modelhub.architectures.catalog import catalog, is_computed
from modelhub.contract import PRETRAINING, ModelContract
from modelhub.loading import fixed_head, head_of, networks_in, recipe_of
from modelhub.models import ModelVersion
from modelhub.services import check_trainable
from training.engine.settings import FitSettings, monitored_metric
from training.engine.unlabelled.settings import FEWEST_TOGETHER, Contrastive, Method, method_from, raise_for, to_json
from training.models import DrawnBy, Mode, TrainingRun
from training.problems.registry import get_problem
from training.run_records import chosen_records
from training.selection import Selection
from training.splitting import SplitSettings
from training.targets import NUMERIC_TARGETS, Labelled

DEFAULT_ARCHITECTURE = "inception_time"
_MOST_DATASETS = 20
# These follow from I and II.
LIMB_LEADS = frozenset(("III", "aVR", "aVL", "aVF"))
# Twelve leads of a minute at 500 Hz.
_LARGEST_INPUT = 12 * 60 * 500


@dataclass(frozen=True)
class Choices:
    """The choices of a run. outputs: the classes, or the numeric target. members: how many trainings it takes, one for
    each fold that is held out; each of them may train an ensemble (``settings.members``). pretraining: None with labels."""

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
    pretraining: Method | None = None
    drawn_by: str = DrawnBy.CONTENT

    @property
    def has_classes(self) -> bool:
        """Whether the network learns to tell classes apart."""
        return self.task not in ("regression", PRETRAINING)

    @property
    def needs(self) -> tuple[str, ...]:
        """What the network takes beside the ECG."""
        return needs_of(self.architecture, self.base_version)

    @property
    def head(self) -> str | None:
        """What becomes of the base model's head, ``kept``, ``reordered`` or ``new``; None without a base model."""
        if self.base_version is None:
            return None
        if self.task == PRETRAINING:
            return "new"
        names = tuple(get_problem(self.task).output_names(self.outputs))
        base = ModelContract.from_dict(self.base_version.contract)
        return head_of(self.base_version, base.with_changes(classes=names, task=self.task, thresholds={}))

    def networks(self, n_development: int) -> int:
        """Return how many networks each training trains together on so many records of training and validation: those of an
        ensemble that is fine-tuned, or what was asked for."""
        if self.members > 1 or is_computed(self.architecture, self.mode):
            return 1
        of_base = networks_in(self.base_version) if self.base_version is not None else 1
        return of_base if of_base > 1 else self.settings.n_members(n_development)

    def items(self) -> list[Labelled]:
        """Return the records that take part."""
        return chosen_records(
            self.datasets, self.selection, self.task, self.outputs, self.label_map, self.target, self.settings.seed, self.drawn_by
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
    pretraining: Mapping[str, Any] | None = None,
    drawn_by: str | None = None,
) -> Choices:
    """Return the checked choices. InvalidInput names each one that cannot be (``fields``).

    Of the task ``pretraining`` the label map is optional: it says what a later run will hold back.
    """
    rows = _datasets(project, datasets)
    mode = _one_mode(mode, settings or {})
    outputs = _outputs(project, task, label_map, classes, target)
    if task == PRETRAINING and base_version is not None:
        if mode not in (None, "", Mode.FULL):
            raise InvalidInput(
                "Learning without labels goes on in all layers.", fields={"mode": "Leave it out, or choose all layers."}
            )
        mode = Mode.FULL
    network, mode = _network(architecture, base_version, mode, project)
    asked = {**(settings or {}), "mode": mode}
    if task == PRETRAINING:
        asked["members"] = 1 if asked.get("members") is None else asked["members"]
    elif pretraining:
        raise_for(dict.fromkeys(pretraining, "For learning without labels only: choose the task pretraining."))
    fit_settings = FitSettings.from_dict(asked)
    if task != PRETRAINING:
        monitored_metric(fit_settings, get_problem(task))
    how, which = SplitSettings.from_dict(split or {}), Selection.from_dict(selection or {})
    choices = Choices(
        project, rows, label_map, tuple(outputs), task, target if task == "regression" else "", network, base_version, mode, fit_settings,
        which, how, how.folds if how.holds_out_every_fold else 1, _recipe(recipe, base_version),
        method_from(pretraining or {}) if task == PRETRAINING else None, drawn_by or _drawn_as_the_base(rows, base_version),
    )  # fmt: skip
    if base_version is None and (sentence := misfit(network, choices.recipe)):
        raise InvalidInput(
            f"{sentence} The recipe makes something else: choose another network, or another length, rate or leads.",
            code="network_does_not_fit",
            fields={"architecture": sentence, "recipe": "It makes what the network does not take."},
        )
    if choices.pretraining is not None:
        _check_pretraining(choices, choices.pretraining)
    _check_together(choices)
    if choices.members > 1 and base_version is not None and _is_several(base_version):
        raise InvalidInput(
            "Where every fold is held out in turn, each fold trains one network, and this model is several that answer together.",
            fields={"base_version": "Choose a model of one network, or hold out one fold."},
        )
    if base_version is not None and choices.head == "new" and (sentence := fixed_head(base_version)):
        raise InvalidInput(sentence, code="head_not_found", fields={"base_version": sentence})
    if is_computed(network, mode) and fit_settings.companion == "always":
        raise InvalidInput(
            "This model is what a linear companion is, and has none beside it.",
            fields={"companion": "Choose auto or never."},
        )
    if choices.target and choices.target in choices.needs:
        about = "base_version" if base_version else "architecture"
        raise InvalidInput(
            f"The network takes {choices.target} beside the ECG, so it cannot learn to tell it from the ECG.",
            fields={about: "Choose a network that takes the ECG alone."},
        )
    return choices


def _check_together(choices: Choices) -> None:
    """Raise InvalidInput for settings that would be without effect beside the others."""
    problems, asked, base = {}, choices.settings, choices.base_version
    of_base = networks_in(base) if base is not None else 1
    if choices.task == "regression" and choices.selection.balanced:
        problems["selection.balanced"] = "A number has no classes to balance: leave it out."
    if choices.members > 1 and (asked.members or 1) > 1:
        problems["members"] = (
            "Where every fold is held out in turn, each fold trains one network: leave it empty, or hold out one fold."
        )
    elif (asked.members or 1) > 1 and choices.architecture not in catalog():
        problems["members"] = "A network that came as a file is trained alone: leave it empty."
    elif of_base > 1 and choices.members == 1 and asked.members not in (None, of_base):
        problems["members"] = (
            f"{base} is {of_base} networks that answer together, and all of them are trained: leave it empty."
        )
    if asked.companion == "always" and choices.members > 1:
        problems["companion"] = (
            "Where every fold is held out in turn there is no linear companion: choose auto or never."
        )
    elif asked.companion == "always" and choices.base_version is not None:
        problems["companion"] = "A linear companion stands beside fresh networks only: choose auto or never."
    if problems:
        raise InvalidInput(" ".join(problems.values()), code="settings_without_effect", fields=problems)


def misfit(architecture: str, recipe: Mapping[str, Any]) -> str | None:
    """Return why a network from scratch cannot take what a recipe (the portal's own when empty) makes of a record; None when it can."""
    spec = (Recipe.from_json(recipe) if recipe else DEFAULT_RECIPE).output_spec()
    return catalog()[architecture].misfit(
        n_leads=len(spec.leads or ()), n_samples=spec.n_samples or 0, fs_hz=spec.fs_hz or 0.0
    )


def unsaved_run(choices: Choices, **fields: Any) -> TrainingRun:
    """Return a run with these choices, which is not stored; ``fields``: what else it holds."""
    return TrainingRun(
        project=choices.project, dataset=choices.datasets[0], label_map=choices.label_map, classes=list(choices.outputs), task=choices.task,
        target=choices.target, architecture=choices.architecture, base_version=choices.base_version, mode=choices.mode,
        settings=choices.settings.to_dict(), selection=choices.selection.to_dict(), split_settings=choices.split.to_dict(),
        members=choices.members, drawn_by=choices.drawn_by, recipe=choices.recipe, pretraining=to_json(choices.pretraining) if choices.pretraining else {}, **fields,
    )  # fmt: skip


def _is_several(version: ModelVersion) -> bool:
    """Tell whether a model is an ensemble, or a network with a companion."""
    return networks_in(version) > 1 or bool(version.contract.get("config", {}).get("companion"))


def _drawn_as_the_base(datasets: Sequence[Dataset], base: ModelVersion | None) -> str:
    """Return how a run is drawn: where its base learned from one of its datasets, as the base's own run was, so that with one
    seed both hold the same records back."""
    learned = TrainingRun.objects.filter(produced_version=base, datasets__in=datasets) if base is not None else None
    earlier = learned.values_list("drawn_by", flat=True).first() if learned is not None else None
    return earlier or DrawnBy.CONTENT


def _check_pretraining(choices: Choices, how: Method) -> None:
    """Raise InvalidInput for what learning without labels cannot be combined with."""
    problems = {}
    facts, base = catalog().get(choices.architecture), choices.base_version
    if base is not None and facts is None:
        problems["base_version"] = (
            "A network that came as ONNX cannot go on learning without labels. Choose a version of a network of the portal."
        )
    elif base is not None and _is_several(base):
        problems["base_version"] = "It is an ensemble, and a trunk is one network. Choose a trunk or a single network."
    elif facts is not None and facts.computed:
        problems["base_version" if base is not None else "architecture"] = (
            "Its features are fixed: there is no trunk that could learn."
        )
    elif facts is not None and isinstance(how, Contrastive) and not facts.dynamic_length:
        problems["base_version" if base is not None else "architecture"] = (
            "This network takes one length only, so it cannot learn from windows. Choose another, or masked reconstruction."
        )
    size = choices.settings.batch_size
    if isinstance(how, Contrastive) and size is not None and size < FEWEST_TOGETHER:
        problems["batch_size"] = (
            f"In a batch of {size} there are no other records to tell a window from: choose at least {FEWEST_TOGETHER}."
        )
    if choices.split.holds_out_every_fold:
        problems["split.method"] = "A trunk is one network: choose one held-out fold, or another way."
    if choices.settings.members != 1:
        problems["members"] = "A trunk is one network."
    if choices.selection.balanced:
        problems["selection.balanced"] = "Without labels there are no classes to balance."
    if problems:
        raise InvalidInput(" ".join(problems.values()), code="bad_pretraining", fields=problems)
    spec = Recipe.from_json(choices.recipe).output_spec()
    how.check_fits((spec.n_samples or 0) / (spec.fs_hz or 1.0))


def needs_of(architecture: str, base: ModelVersion | None) -> tuple[str, ...]:
    """Return what a network takes beside the ECG (``age``, ``sex``): as its base does, or as its kind does."""
    if base is not None:
        return tuple(base.contract.get("needs", ()))
    return catalog()[architecture].needs


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


def _outputs(
    project: Any, task: str, label_map: LabelMap | None, classes: Sequence[str] | None, target: str
) -> list[str]:
    """Return the names of the outputs, checked against the label map or the numeric target."""
    if target and task != "regression":
        raise InvalidInput(
            "Only a regression learns a numeric field.",
            fields={"target": "Leave it out, or choose the task regression."},
        )
    if task == "regression":
        if classes and list(classes) != [target]:
            raise InvalidInput("A regression tells no classes apart.", fields={"classes": "Leave them out."})
        if target not in NUMERIC_TARGETS:
            raise InvalidInput(
                "A regression needs a numeric field.", fields={"target": f"Choose one of {', '.join(NUMERIC_TARGETS)}."}
            )
        return [target]
    if task == PRETRAINING and label_map is None:
        return []
    if label_map is None:
        raise InvalidInput("Say what the network shall tell apart.", fields={"label_map": "Choose a label map."})
    if label_map.project_id not in (None, project.pk):
        raise InvalidInput(
            "The label map belongs to another project.", fields={"label_map": "Choose one of this project."}
        )
    chosen = list(dict.fromkeys(classes or label_map.classes))
    unknown = [name for name in chosen if name not in label_map.classes]
    if unknown:
        raise InvalidInput(
            f"{label_map} has no class {', '.join(unknown)}.",
            fields={"classes": f"It has {', '.join(label_map.classes)}."},
        )
    if task != PRETRAINING:
        get_problem(task).encode([], chosen)
    return chosen


def _one_mode(mode: str | None, settings: Mapping[str, Any]) -> str | None:
    """Return the mode, which may stand beside the settings or among them."""
    among = settings.get("mode") or None
    if among is not None and not isinstance(among, str):
        raise InvalidInput("The mode must be a name.", fields={"mode": f"One of {', '.join(Mode.values)}."})
    if mode and among and mode != among:
        twice = "Give the mode once, or the same in both places."
        raise InvalidInput(
            f"The mode is {mode}, and {among} among the settings.", fields={"mode": twice, "settings.mode": twice}
        )
    return mode or among


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
        return name, Mode.SCRATCH
    check_trainable(base)
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
