"""What data and wishes must be for a run to begin, said before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet

from datasets.models import Record, RecordLabel
from datasets.preprocess.recipe import Recipe
from ecgportal.errors import InvalidInput
from modelhub.contract import PRETRAINING
from training.choices import LIMB_LEADS, Choices
from training.splitting import too_few_for_folds

FEWEST_RECORDS, FEWEST_PATIENTS = 10, 3
MOST_SEARCH_MIN = 7 * 24 * 60


def records_in(choices: Choices) -> QuerySet[Record]:
    """Return the records of the chosen datasets that pass the filter, also those whose truth is not known."""
    return choices.selection.records(Record.objects.filter(dataset__in=[row.pk for row in choices.datasets]))


def check_data(choices: Choices) -> None:
    """Raise InvalidInput when the datasets can be seen at once to hold too little."""
    names = " and ".join(row.name for row in choices.datasets)
    records = records_in(choices)
    count = records.count()
    if count < FEWEST_RECORDS:
        which = "pass the filter" if choices.selection.filter else "are there"
        raise InvalidInput(
            f"Only {count} records of {names} {which}; training needs at least {FEWEST_RECORDS}.",
            fields={"selection.filter" if choices.selection.filter else "dataset": "Too few records."},
        )
    wanted = list(Recipe.from_json(choices.recipe).output_spec().leads or ())
    there = {lead for leads in records.order_by().values_list("leads", flat=True).distinct() for lead in leads}
    if wanted and not there.intersection([*wanted, *(("I", "II") if LIMB_LEADS.intersection(wanted) else ())]):
        sentence = (
            f"No record of {names} has one of the leads {', '.join(wanted)} that the network reads, so it would learn from zeros. "
            f"The records have {', '.join(sorted(there)[:12]) or 'none'}. Choose a base model or a recipe for these."
        )
        field = "base_version" if choices.base_version else "recipe"
        raise InvalidInput(sentence, code="leads_missing", fields={field: sentence})
    if choices.has_classes and not RecordLabel.objects.filter(record__in=records.values("pk")).exists():
        raise InvalidInput(
            f"The records of {names} have no labels. Upload a label table first.", fields={"dataset": "No labels."}
        )
    if choices.task == PRETRAINING and choices.label_map is None:
        return
    known = records.order_by().values("subject__key").distinct().count()
    # Who is not known stands for himself.
    nobody = records.filter(subject=None).count()
    patients = known + nobody - (1 if nobody else 0)
    if sentence := too_few_patients(patients):
        raise InvalidInput(sentence, code="too_few_patients", fields={"dataset": "Too few patients."})
    if sentence := too_few_for_folds(choices.split, patients):
        raise InvalidInput(sentence, code="bad_split", fields={"split.folds": sentence})


def too_few_patients(count: int) -> str | None:
    """Return a sentence when so many patients cannot be divided into three parts."""
    if count >= FEWEST_PATIENTS:
        return None
    return (
        f"The data comes from {count} {'patient' if count == 1 else 'patients'}. Training, validation and test need different "
        f"patients, {FEWEST_PATIENTS} at least."
    )


def empty_part(task: str, records: Mapping[str, int]) -> str | None:
    """Return a sentence when a part that a run cannot do without has no records, which are counted by part."""
    if task == PRETRAINING:
        return None if records["train"] else "Nothing would be left to learn from."
    if records["train"] and records["test"]:
        return None
    return (
        f"The {'test' if records['train'] else 'training'} part would be empty: patients, and records with the same signal, are "
        "never divided. Choose another split, or more data."
    )


def check_search(search: Mapping[str, Any] | None, architecture: str | None, choices: Choices) -> dict[str, float]:
    """Return the checked wish to have network and settings chosen; empty when it is not wished."""
    if not search:
        return {}
    if choices.pretraining is not None:
        raise InvalidInput(
            "A search compares networks by labels; without labels choose the network.",
            fields={"search.minutes": "Leave it out for learning without labels."},
        )
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
    if choices.split.holds_out_every_fold:
        raise InvalidInput(
            "A search chooses on one development part; this split holds out every fold in turn.",
            fields={"split.method": "Choose one held-out fold, or another way."},
        )
    return {"minutes": float(minutes)}
