"""Before a run starts: what is wrong or risky about it, and what it will cost."""

from __future__ import annotations

import math
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings
from psutil import virtual_memory

from datasets.preprocess.recipe import Recipe
from ecgportal.errors import InvalidInput, PortalError
from ecgportal.jobs.models import JobState
from modelhub.architectures.catalog import is_computed
from modelhub.contract import PRETRAINING
from training.candidates import cost_of_search
from training.checking_data import labels_told, signals_told, sources_told
from training.choices import Choices, choose
from training.costs import cost_of
from training.engine.settings import too_many_to_compute
from training.findings import Checked
from training.lineage import known_to
from training.models import PARTS, Speed, TrainingRun
from training.problems.base import counted, listed
from training.problems.registry import get_problem
from training.requirements import FEWEST_RECORDS, check_data, check_search, empty_part, records_in, too_few_patients
from training.splitting import counts_of, deal_for, rounds
from training.targets import Labelled

# Fewer patients of a class than this give figures with very wide intervals.
FEW_PATIENTS = 10
# Fewer steps than this are over before the schedule's rate has risen and fallen.
FEW_STEPS = 20
# Dividing so many takes about a second, and the first batch is to come within three of the click.
_MOST_AT_START = 5_000
# So many of a base model's classes are named.
_SHOWN = 5


def check(**asked: Any) -> Checked:
    """Check a run as ``run_start`` would be asked for it; nothing is written."""
    found = Checked()
    asked.pop("name", None)
    wish = asked.pop("search", None)
    try:
        choices = choose(**asked)
        budget = check_search(wish, asked.get("architecture"), choices)
        check_data(choices)
        items = choices.items()
    except PortalError as error:
        found.take(error)
        return found
    found.records, found.subjects = len(items), len({item.group for item in items})
    classes = labels_told(found, choices, items)
    if _too_few(found, items):
        return found
    signals_told(found, choices, items)
    sources_told(found, choices, items, classes)
    _head(found, choices)
    _divide(found, choices, items, budget.get("minutes"))
    return found


def require_possible(choices: Choices, search_min: float | None = None) -> None:
    """Raise InvalidInput with what ``check`` calls an error of these choices: a run that cannot end well is not started.
    search_min: minutes of a search, None without one. Many records take longer than a request should: of these the job says
    the same when it divides them."""
    if records_in(choices).count() > _MOST_AT_START:
        return
    found, items = Checked(), choices.items()
    if not _too_few(found, items):
        _divide(found, choices, items, search_min)
    errors = [row for row in found.findings if row.level == "error"]
    if errors:
        fields: dict[str, str] = {}
        for row in errors:
            if row.field:
                fields[row.field] = f"{fields.get(row.field, '')} {row.message}".strip()
        raise InvalidInput(" ".join(row.message for row in errors), code=errors[0].code, fields=fields)


def _too_few(found: Checked, items: Sequence[Labelled]) -> bool:
    """Tell, and note, whether too few records of the chosen data have a known truth."""
    if len(items) >= FEWEST_RECORDS:
        return False
    found.add(
        "error", "labels_unknown",
        f"Only {counted(len(items), 'record')} of the chosen data can be used; training needs at least {FEWEST_RECORDS}. "
        "Check the label map's coverage on the dataset's Labels page.", "label_map",
    )  # fmt: skip
    return True


def _head(found: Checked, choices: Choices) -> None:
    """Say what becomes of the head of a base model that has learned to tell something else."""
    base = choices.base_version
    if base is None or base.task == PRETRAINING or choices.head == "kept":
        return
    shown = base.classes[:_SHOWN]
    more = f" and {len(base.classes) - len(shown)} more" if len(base.classes) > len(shown) else ""
    sentence = (
        f"The classes are those of {base} in another order: its head is kept, with its outputs in the new order."
        if choices.head == "reordered"
        else f"The head of {base} was trained for {', '.join(shown)}{more} ({base.task}). This run makes a new one; the rest of the network "
        "goes on from what it has learned."
    )
    found.add("info", "head", sentence, "base_version")


def _divide(found: Checked, choices: Choices, items: list[Labelled], search_min: float | None) -> None:
    """Divide the records as the run will, and judge the parts. search_min: minutes of a search, None without one."""
    seed = choices.settings.seed
    try:
        dealt = deal_for(choices.task, items, choices.split, seed)
        parts = rounds(items, dealt.parts, choices.split, seed)[0]
    except PortalError as error:
        found.take(error)
        return
    by_part = {part: [item for item in items if parts[str(item.record)] == part] for part in PARTS}
    found.split = counts_of(items, parts)
    for sentence in dealt.warnings:
        found.add("warning", "split", sentence, "split.method")
    patients: dict[str, set[str]] = defaultdict(set)
    for item in items:
        for name in item.classes:
            patients[name].add(item.group)
    if choices.task != "regression":
        quiet = choices.task == PRETRAINING
        absent: list[str] = []
        few: dict[str, int] = {}
        for name in choices.outputs:
            counts = {part: sum(name in item.classes for item in rows) for part, rows in by_part.items()}
            found.classes[name] = counts | {"patients": len(patients[name])}
            if quiet:
                continue
            if not patients[name]:
                absent.append(name)
            elif 3 <= len(patients[name]) < FEW_PATIENTS:
                few[name] = len(patients[name])
        _rare(found, absent, few)
    sentence = empty_part(choices.task, {part: len(rows) for part, rows in by_part.items()})
    if choices.task != PRETRAINING and (said := too_few_patients(len({item.group for item in items}))):
        found.add("error", "too_few_patients", said, "dataset")
    elif sentence:
        found.add("error", "empty_part", sentence, "split.method")
    elif choices.task != PRETRAINING:
        _learnable(found, choices, by_part["train"])
        _leakage(found, choices, by_part)
    n_development = len(by_part["train"]) + len(by_part["validation"])
    if (
        choices.split.method == "given_folds"
        and max(choices.settings.n_members(n_development), choices.networks(n_development)) > 1
    ):
        found.add(
            "info", "folds_dealt_anew",
            "The networks of the ensemble deal the records of training and validation anew, and each is judged on a part of its own: the "
            "folds named for validation are learned from, too. With one network they are for validation alone. The folds held back stay so.",
            "members",
        )  # fmt: skip
    if search_min:
        searched = cost_of_search(choices, search_min, len(by_part["train"]), len(by_part["validation"]))
        found.cost = searched.whole
        found.add("info", "search", searched.sentence)
        if searched.too_short:
            found.add("warning", "search_too_short", searched.too_short, "search.minutes")
    else:
        found.cost = cost_of(choices, len(by_part["train"]), len(by_part["validation"]))
    if is_computed(choices.architecture, choices.mode):
        _computed(found, len(by_part["train"]), len(by_part["validation"]))
    _room(found, choices, len(by_part["train"]), len(items))


def _rare(found: Checked, absent: Sequence[str], few: Mapping[str, int]) -> None:
    """Name the classes that no record has, and those with few patients, in one sentence each."""
    if absent:
        which = f"the class {absent[0]}" if len(absent) == 1 else f"any of the classes {', '.join(absent)}"
        found.add("warning", "class_absent", f"No record has {which}.", "classes")
    if len(few) == 1:
        [(name, count)] = few.items()
        sentence = f"The class {name} has {count} patients; its figures will have very wide intervals."
        found.add("warning", "few_patients", sentence, "classes")
    elif few:
        sentence = f"Classes with fewer than {FEW_PATIENTS} patients: {listed(few)}. Their figures will have very wide intervals."
        found.add("warning", "few_patients", sentence, "classes")


def _learnable(found: Checked, choices: Choices, train: Sequence[Labelled]) -> None:
    problem = get_problem(choices.task)
    targets = problem.encode([item.label for item in train], choices.outputs).values
    try:
        for sentence in problem.check_trainable(targets, problem.output_names(choices.outputs)):
            found.add("warning", "training_part", sentence, "classes")
    except PortalError as error:
        found.add("error", error.code, error.message, "classes")


def _leakage(found: Checked, choices: Choices, by_part: Mapping[str, Sequence[Labelled]]) -> None:
    """Say how much of what a run is judged by its base model has been trained on."""
    if choices.base_version is None:
        return
    held = known_to(choices.base_version, [item for items in by_part.values() for item in items])
    known, leaked = (sum(item.record in held for item in by_part[part]) for part in ("validation", "test"))
    if known:
        found.add(
            "info", "leakage_validation",
            f"{choices.base_version} was developed on {counted(known, 'record')} of the validation part. The figures on it, by "
            "which epoch and thresholds are chosen, look better than on new records; those on the test part do not.", "base_version",
        )  # fmt: skip
    if leaked:
        rest = "" if leaked < len(by_part["test"]) else ", and nothing is left to judge by"
        found.add(
            "warning", "leakage",
            f"{choices.base_version} was trained on {counted(leaked, 'record')} of the test part, or on their patients or "
            f"signals. They will be left out of the evaluation{rest}; the same seed and split as then avoids it.", "base_version",
        )  # fmt: skip


def _computed(found: Checked, n_train: int, n_validation: int) -> None:
    """Say what a model that is computed in one pass needs, and what it has no use for."""
    if sentence := too_many_to_compute(n_train + n_validation):
        found.add("error", "too_many_records", sentence, "selection.cap")
    if not n_validation:
        found.add("error", "no_validation", "This model chooses how far it trusts its features on a validation part, and there is none.", "split.validation")  # fmt: skip
    found.add(
        "info", "computed",
        "This model is computed in one pass: epochs, batches, rates, schedules and augmentations have no effect. What is asked for as "
        "the number of networks is the number of folds that it is judged on; with one, the validation part judges it.", "architecture",
    )  # fmt: skip


def _room(found: Checked, choices: Choices, n_train: int, n_records: int) -> None:
    """Say when the machine is too small, or busy."""
    assert found.cost is not None
    batch_size = choices.settings.batch_for(n_train)
    if batch_size > n_train and not is_computed(choices.architecture, choices.mode):
        found.add(
            "info", "batch_size",
            f"The batch of {batch_size} is larger than the training part of {counted(n_train, 'record')}: each "
            "epoch is one step.", "batch_size",
        )  # fmt: skip
    steps = choices.settings.epochs * math.ceil(n_train / batch_size)
    if steps < FEW_STEPS and not is_computed(choices.architecture, choices.mode):
        found.add(
            "warning", "few_steps",
            f"The run takes {counted(steps, 'step')} in all, of which the first have a small part of the learning rate only: it learns "
            "next to nothing. Give it more epochs, or smaller batches.", "epochs",
        )  # fmt: skip
    available = virtual_memory().available // 2**20
    # What was measured on an accelerator is not kept in this memory, and is halved there when it runs out.
    on_processor = not Speed.objects.exclude(device="cpu").exists()
    if on_processor and found.cost.memory_mib is not None and found.cost.memory_mib > available:
        found.add(
            "warning", "memory",
            f"Training takes about {found.cost.memory_mib} MiB; {available} MiB are free. Take a smaller batch or network.", "batch_size",
        )  # fmt: skip
    spec = Recipe.from_json(choices.recipe).output_spec()
    signals = 2 * n_records * len(spec.leads or ()) * (spec.n_samples or 0)
    needed = (signals + 4 * 8 * (found.cost.parameters or 0) * found.cost.networks) // 2**20
    free = shutil.disk_usage(settings.PORTAL_HOME).free // 2**20
    if needed > free:
        found.add(
            "error", "disk", f"The run needs about {needed} MiB on the disk; {free} MiB are free. Make room first."
        )
    waiting = TrainingRun.objects.filter(job__state__in=(JobState.QUEUED, JobState.RUNNING)).count()
    if waiting:
        found.add("info", "queue", f"Trainings of this portal that run or wait before this one: {waiting}.")
