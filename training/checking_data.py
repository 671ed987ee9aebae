"""What is wrong or risky about the records that a run is to learn from: their labels, their signals, where they come from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from django.db.models import F, Q

from datasets.fingerprint import same_signal
from datasets.identity import OLDEST_TOLD
from datasets.labels.maps import apply_map, coverage
from datasets.models import Record
from datasets.preprocess.recipe import Recipe
from datasets.selectors import spec_of
from modelhub.contract import LEAST_SHARE, PRETRAINING
from training.choices import LIMB_LEADS, Choices
from training.findings import Checked
from training.problems.base import counted
from training.requirements import records_in
from training.targets import Labelled, labels_of

_SHOWN = 5


def labels_told(found: Checked, choices: Choices, items: Sequence[Labelled]) -> dict[Any, frozenset[str]]:
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
        _one_counts(found, choices, [own[item.record] for item in items])
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


def _one_counts(found: Checked, choices: Choices, classes: Sequence[frozenset[str]]) -> None:
    """Say of how many records one of several classes counts. classes: those of each record."""
    if several := sum(len(names) > 1 for names in classes):
        found.add(
            "warning" if several > len(classes) / 5 else "info", "several_classes",
            f"{counted(several, 'record')} of {len(classes)} with several of the classes count for the first that they have of "
            f"{', '.join(choices.outputs)}. The task of several findings at once keeps them all.", "task",
        )  # fmt: skip


def signals_told(found: Checked, choices: Choices, items: Sequence[Labelled]) -> None:
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


def sources_told(
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
