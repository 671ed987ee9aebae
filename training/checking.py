"""Before a run starts: what is wrong or risky about it, and what it will cost."""

from __future__ import annotations

import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from django.conf import settings
from django.db.models import F, Q
from psutil import virtual_memory

from datasets.fingerprint import same_signal
from datasets.identity import OLDEST_TOLD
from datasets.labels.maps import apply_map, coverage
from datasets.models import Record
from datasets.preprocess.recipe import Recipe
from datasets.selectors import spec_of
from ecgportal.errors import InvalidInput, PortalError
from ecgportal.jobs.models import JobState
from modelhub.architectures.catalog import is_computed
from modelhub.contract import LEAST_SHARE, PRETRAINING
from training.candidates import cost_of_search
from training.choices import LIMB_LEADS, Choices, choose
from training.costs import Cost, cost_of
from training.engine.settings import too_many_to_compute
from training.lineage import known_to
from training.models import PARTS, Speed, TrainingRun
from training.problems.base import counted, listed
from training.problems.registry import get_problem
from training.requirements import FEWEST_RECORDS, check_data, check_search, empty_part, records_in, too_few_patients
from training.splitting import counts_of, deal_for, rounds
from training.targets import Labelled, labels_of

# Fewer patients of a class than this give figures with very wide intervals.
FEW_PATIENTS = 10
# Fewer steps than this are over before the schedule's rate has risen and fallen.
FEW_STEPS = 20
_SHOWN = 5
# Dividing so many takes about a second, and the first batch is to come within three of the click.
_MOST_AT_START = 5_000


@dataclass(frozen=True)
class Finding:
    """level: ``error`` (the run would fail), ``warning`` (it is risky) or ``info``. field: the choice it is about."""

    level: str
    code: str
    message: str
    field: str = ""


@dataclass
class Checked:
    """What a check found. split: records and subjects by part; classes: records by class and part, and patients."""

    findings: list[Finding] = field(default_factory=list)
    records: int = 0
    subjects: int = 0
    split: dict[str, dict[str, int]] = field(default_factory=dict)
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    cost: Cost | None = None

    @property
    def ok(self) -> bool:
        return not any(finding.level == "error" for finding in self.findings)

    @property
    def notes(self) -> list[str]:
        """What is neither wrong nor risky."""
        return [finding.message for finding in self.findings if finding.level == "info"]

    def add(self, level: str, code: str, message: str, about: str = "") -> None:
        self.findings.append(Finding(level, code, message, about))

    def take(self, error: PortalError) -> None:
        """Note an error, once for each field that it names."""
        if not error.fields:
            self.add("error", error.code, error.message)
        for name, sentence in error.fields.items():
            text = error.message if len(error.fields) == 1 and sentence not in error.message else ""
            self.add("error", error.code, f"{text} {sentence}".strip(), name)

    def to_json(self) -> dict[str, Any]:
        order = ("error", "warning", "info")
        return {
            "ok": self.ok, "findings": [asdict(row) for row in sorted(self.findings, key=lambda row: order.index(row.level))],
            "records": self.records, "subjects": self.subjects, "split": self.split, "classes": self.classes,
            "cost": self.cost.to_json() if self.cost else None,
        }  # fmt: skip


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
    classes = _labels(found, choices, items)
    if _too_few(found, items):
        return found
    _signals(found, choices, items)
    _sources(found, choices, items, classes)
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


def _labels(found: Checked, choices: Choices, items: Sequence[Labelled]) -> dict[Any, frozenset[str]]:
    """Say what the label map leaves out, and return which of the classes each record has, also where one alone counts."""
    own = {item.record: item.classes for item in items}
    records = records_in(choices)
    total = records.count()
    if choices.task == PRETRAINING:
        known = sum(item.label is not None for item in items)
        held = (
            f"What a run with {choices.label_map}, this split and this seed holds back of {counted(known, 'labelled record')} is "
            "left out of learning."
            if choices.label_map is not None
            else "All records are learned from. Choose the label map of a later run to leave out what that run will hold back "
            "for its evaluation."
        )
        found.add("info", "without_labels", held, "label_map")
        return own
    if choices.task == "regression":
        missing = total - len(items)
        if missing and not (choices.selection.balanced or choices.selection.cap):
            found.add("info", "target_missing", f"{counted(missing, 'record')} without {choices.target} are left out.")
        oldest = sum(item.label == OLDEST_TOLD for item in items)
        if choices.target == "age" and oldest:
            found.add(
                "info", "age_capped",
                f"{counted(oldest, 'record')} of age {OLDEST_TOLD:g}, which stands for this age and above: it is learned from as exactly that.",
                "target",
            )  # fmt: skip
        return own
    assert choices.label_map is not None
    labels = {record: frozenset(given) for record, given in labels_of(records).items()}
    spec, sets = spec_of(choices.label_map), Counter(labels.values())
    report = coverage(sets, spec)
    left = total - report.classified
    if left:
        level = "warning" if left > total / 5 else "info"
        found.add(
            level, "without_class",
            f"{left} of {counted(total, 'record')} get no class from {choices.label_map} and are left out "
            f"({total - len(labels)} have no label at all).", "label_map",
        )  # fmt: skip
    beside = 0 if choices.selection.balanced or choices.selection.cap else report.classified - len(items)
    if beside and choices.task == "binary" and len(choices.outputs) == 2:
        found.add(
            "info", "of_neither",
            f"{counted(beside, 'record')} with neither or both of {' and '.join(choices.outputs)} are left out.", "classes",
        )  # fmt: skip
    elif beside and choices.task == "multiclass":
        found.add(
            "warning" if beside > report.classified / 5 else "info", "of_none",
            f"{counted(beside, 'record')} of other classes of {choices.label_map} are left out.", "classes",
        )  # fmt: skip
    if choices.task == "multiclass":
        outputs = {given: apply_map(given, spec).classes & set(choices.outputs) for given in sets}
        own |= {item.record: frozenset(outputs[labels[item.record]]) for item in items if item.record in labels}
        several = sum(len(own[item.record]) > 1 for item in items)
        if several:
            found.add(
                "warning" if several > len(items) / 5 else "info", "several_classes",
                f"{counted(several, 'record')} of {len(items)} with several of the classes count for the first that they have of "
                f"{', '.join(choices.outputs)}. The task of several findings at once keeps them all.", "task",
            )  # fmt: skip
    if choices.selection.balanced and len(items) < report.classified / 2:
        found.add(
            "warning", "balanced",
            f"Equally many records of every class leaves {len(items)} of {report.classified}: so few has the rarest class. Without "
            "it every record is learned from, and thresholds take care of rare classes.", "selection.balanced",
        )  # fmt: skip
    if report.unknown:
        named = ", ".join(f"{code.code} ({code.records})" for code in report.unknown[:_SHOWN])
        more = f" and {len(report.unknown) - _SHOWN} more" if len(report.unknown) > _SHOWN else ""
        found.add(
            "warning", "unmapped_codes",
            f"{choices.label_map} does not know {counted(len(report.unknown), 'code')} of the data: {named}{more}. "
            "A record with such a code only is left out; one with other codes too counts as not having it.", "label_map",
        )  # fmt: skip
    return own


def _signals(found: Checked, choices: Choices, items: Sequence[Labelled]) -> None:
    """Say which signals are incomplete, poor, or there twice."""
    ids = [item.record for item in items]
    rows = Record.objects.filter(dataset__in=[row.pk for row in choices.datasets], pk__in=ids)
    spec = Recipe.from_json(choices.recipe).output_spec()
    leads = list(spec.leads or ())
    recorded = [lead for lead in leads if lead not in LIMB_LEADS]
    lacking = rows.exclude(leads__contains=recorded).count()
    if lacking:
        found.add(
            "warning", "missing_leads",
            f"Records without one of the leads {', '.join(recorded)}, or several: {lacking}. A missing lead is read as 0 mV.",
        )  # fmt: skip
    fs_hz, duration_s = spec.fs_hz or 0.0, (spec.n_samples or 0) / (spec.fs_hz or 1.0)
    for code, words, limit in (
        (
            "too_short",
            f"shorter than half of the {duration_s:g} s",
            {"n_samples__lt": F("fs_hz") * (LEAST_SHARE * duration_s)},
        ),
        ("rate_too_low", f"recorded at less than half of the {fs_hz:g} Hz", {"fs_hz__lt": LEAST_SHARE * fs_hz}),
    ):
        if count := rows.filter(**limit).count():
            found.add(
                "warning", code,
                f"Records {words} that the network reads: {count}. They are learned from and judged with what is there, but a "
                "prediction refuses such records. Leave them out by a filter, or choose a recipe for them.", "selection.filter",
            )  # fmt: skip
    gaps = rows.filter(
        Q(quality__leads__contains=[{"flags": ["gaps"]}]) | Q(quality__leads__contains=[{"flags": ["missing"]}])
    ).count()
    if gaps:
        found.add(
            "warning", "missing_samples",
            f"Records with missing samples (NaN): {gaps}. The samples are bridged or read as 0 mV.",
        )  # fmt: skip
    for flag, words in (
        ("implausible_amplitude", "with an implausible amplitude: the unit may be wrong"),
        ("implausible_rate", "with an implausible heart rate: the sampling rate may be wrong"),
        ("no_beats", "in which no beat was found"),
    ):
        if count := rows.filter(quality_flags__contains=[flag]).count():
            found.add("warning", flag, f"Records {words}: {count}. A quality filter can leave them out.")
    if choices.needs:
        unknown = sum(item.age is None or not item.sex for item in items)
        if unknown:
            found.add(
                "warning" if unknown > len(items) / 5 else "info", "person_unknown",
                f"The network takes age and sex beside the ECG; {unknown} of {counted(len(items), 'record')} lack one of them. "
                "The means of large collections stand in for it, as in predictions.", "architecture",
            )  # fmt: skip
    twins = Counter(same_signal({str(item.record): item.fingerprint or None for item in items}).values())
    if copies := sum(count for count in twins.values() if count > 1):
        found.add(
            "info", "same_signal",
            f"{copies} records hold a signal that is there under another name, too; copies stay on one side of the split.",
        )  # fmt: skip


def _sources(
    found: Checked, choices: Choices, items: Sequence[Labelled], classes: Mapping[Any, frozenset[str]]
) -> None:
    """Say which classes, or patients, tie the data to its sources. classes: those that each record has."""
    homes: dict[str, set[Any]] = defaultdict(set)
    for item in items:
        homes[item.group].add(item.dataset)
    if shared := sum(len(found_in) > 1 for found_in in homes.values()):
        found.add(
            "info", "subject_in_several_datasets",
            f"Patients with the same key in several datasets: {shared}; all records of each stay on one side of the split.",
        )  # fmt: skip
    names = {row.pk: row.name for row in choices.datasets}
    for what, place_of in (
        ("hospital", lambda item: item.site),
        ("dataset", lambda item: names[item.dataset]),
    ):
        everywhere = {place_of(item) for item in items} - {""}
        if len(everywhere) < 2 or not choices.has_classes:
            continue
        for name in choices.outputs:
            places = {place_of(item) for item in items if name in classes[item.record]} - {""}
            if len(places) == 1:
                found.add(
                    "warning", "class_of_one_source",
                    f"{name} is found in one {what} only ({next(iter(places))}): the network may learn to tell the {what} "
                    "instead of the finding.", "classes",
                )  # fmt: skip


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
    if choices.split.method == "given_folds" and choices.settings.n_members(n_development) > 1:
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
    needed = (signals + 4 * 8 * (found.cost.parameters or 0) * choices.members) // 2**20
    free = shutil.disk_usage(settings.PORTAL_HOME).free // 2**20
    if needed > free:
        found.add(
            "error", "disk", f"The run needs about {needed} MiB on the disk; {free} MiB are free. Make room first."
        )
    waiting = TrainingRun.objects.filter(job__state__in=(JobState.QUEUED, JobState.RUNNING)).count()
    if waiting:
        found.add("info", "queue", f"Trainings of this portal that run or wait before this one: {waiting}.")
