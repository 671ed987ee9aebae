"""A learning rate before the start: the finder's sweep on the training part that the run would have, as a job of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets.models import Dataset, LabelMap
from datasets.preprocess.recipe import Recipe
from ecgportal.errors import InvalidInput
from ecgportal.jobs.context import JobContext
from ecgportal.jobs.models import Job
from modelhub import loading
from modelhub.models import ModelVersion
from training import running
from training.choices import Choices, choose, unsaved_run
from training.data import JointView, prepare
from training.problems.registry import get_problem
from training.splitting import deal, rounds

KIND = "find_rate"
_PREPARED = 0.2
_STEPS = 60


def to_payload(choices: Choices, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was asked for as plain JSON; ``from_payload`` reads it."""
    plain = ("classes", "task", "target", "architecture", "mode", "settings", "selection", "split", "recipe")
    return {
        **{name: asked[name] for name in plain if asked.get(name) is not None},
        "datasets": [str(row.pk) for row in choices.datasets],
        "label_map": str(choices.label_map.pk) if choices.label_map else None,
        "base_version": str(choices.base_version.pk) if choices.base_version else None,
    }


def from_payload(project: Any, payload: Mapping[str, Any]) -> Choices:
    """Return the choices that ``to_payload`` kept; InvalidInput when what they name is gone."""
    rows = Dataset.objects.filter(project=project, pk__in=payload["datasets"]).select_related("project")
    by_id = {str(row.pk): row for row in rows}
    base = payload["base_version"]
    maps, versions = LabelMap.objects.filter(pk=payload["label_map"]), ModelVersion.objects.select_related("model")
    is_there = len(by_id) == len(payload["datasets"]) and (not payload["label_map"] or maps.exists())
    if not is_there or (base and not versions.filter(pk=base).exists()):
        raise InvalidInput(
            "The dataset, the label map or the base model was deleted in the meantime.", code="data_gone"
        )
    rest = {name: value for name, value in payload.items() if name not in ("datasets", "label_map", "base_version")}
    return choose(
        project=project, datasets=[by_id[pk] for pk in payload["datasets"]], label_map=maps.first(),
        base_version=versions.get(pk=base) if base else None, **rest,
    )  # fmt: skip


def run(context: JobContext) -> dict[str, Any]:
    """Sweep the rate and return rates, losses, valley, steepest and the suggestion; nothing else is kept."""
    from training.engine.lr_finder import find_learning_rate

    choices = from_payload(context.job.project, context.payload["asked"])
    context.progress(0.01, "Reading labels")
    items = choices.items()
    seed = choices.settings.seed
    parts = rounds(items, deal(items, choices.split, seed).parts, choices.split, seed)[0]
    train = [item for item in items if parts[str(item.record)] == "train"]
    row, recipe = unsaved_run(choices), Recipe.from_json(choices.recipe)
    stores = prepare(
        choices.datasets, recipe, lambda part, note: context.progress(0.02 + (_PREPARED - 0.02) * part, note)
    )
    contract = running.contract_of(row, recipe)
    module = loading.start_module(choices.architecture, contract, choices.base_version, seed=seed)
    done = 0

    def before_batch() -> None:
        nonlocal done
        context.progress(_PREPARED + (1 - _PREPARED) * done / _STEPS, f"Rate {done + 1} of {_STEPS}")
        done += 1

    def waiting(first: bool) -> None:
        context.progress(
            _PREPARED, "Another training has this machine's accelerator; the finder waits until it has ended."
        )

    found = find_learning_rate(
        module, JointView(stores, train), running.targets_of(row, train), get_problem(choices.task), choices.settings,
        fs_hz=contract.fs_hz, unit=contract.unit, names=contract.classes, in_units=loading.answers_in_units(contract, choices.base_version),
        before_batch=before_batch, waiting=waiting, steps=_STEPS,
    )  # fmt: skip
    return found.to_json() | {"architecture": choices.architecture, "records": len(train)}


def suggestions(job: Job) -> Sequence[tuple[str, float]]:
    """Return the rates that a finished job suggests, each with its name, the one that a run would take first."""
    found = [("valley", job.result.get("valley")), ("steepest fall", job.result.get("steepest"))]
    named = [(name, float(f"{rate:.2g}")) for name, rate in found if rate]
    if not named and job.result.get("suggestion"):
        named = [("default", float(job.result["suggestion"]))]
    return named
