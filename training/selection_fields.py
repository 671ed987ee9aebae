"""The fields of a form that say which records a run uses: every filter of the record list, balance and cap."""

from __future__ import annotations

from collections.abc import Mapping

from django import forms

from datasets.forms import filter_field
from datasets.models import Sex
from datasets.quality import RECORD_FLAGS
from datasets.record_filters import ANY_FLAG, FILTERS, NO_FLAG

PREFIX = "selection.filter."
_USUAL_FILTERS = ("label", "sex", "age_min", "age_max", "quality_min", "site", "missing")
#: Shown where only some of the records are wanted.
USUAL = (*(PREFIX + name for name in _USUAL_FILTERS), "selection.balanced", "selection.cap")
#: Folded once more; ranges last, so that both ends of each stand side by side.
FURTHER = tuple(
    PREFIX + name
    for name in sorted(
        FILTERS, key=lambda name: name != "quality_max" and name.endswith(("_min", "_max", "_from", "_to"))
    )
    if name not in _USUAL_FILTERS
)
_ANY_NUMBER = forms.NumberInput({"step": "any"})


def selection_fields(sites: Mapping[str, int]) -> dict[str, forms.Field]:
    """Return the fields by their names in REST. sites: records by hospital."""
    number = {"required": False, "widget": _ANY_NUMBER}
    own: dict[str, forms.Field] = {
        "label": forms.CharField(
            required=False, max_length=120, label="With the code", help_text="As its source states it, such as AFIB."
        ),
        "sex": forms.ChoiceField(
            required=False, label="Sex", choices=[("", "All"), *((v, word.capitalize()) for v, word in Sex.choices)]
        ),
        "age_min": forms.FloatField(min_value=0, max_value=130, label="Age from", **number),
        "age_max": forms.FloatField(min_value=0, max_value=130, label="Age to", **number),
        "quality_min": forms.FloatField(
            min_value=0, max_value=1, label="Quality from", help_text="0 is unusable, 1 is perfect.", **number
        ),
        "site": forms.ChoiceField(
            required=False, label="Hospital", choices=[("", "All"), *((site, f"{site} ({n})") for site, n in sites.items())]
        ),
        "missing": forms.ChoiceField(
            required=False, label="Lacking", choices=[("", "Nothing asked"), ("age", "Age"), ("sex", "Sex"), ("subject", "Subject")]
        ),
        "quality": forms.ChoiceField(
            required=False, label="Quality",
            choices=[("", "All"), (NO_FLAG, "no flag"), (ANY_FLAG, "any flag"), *((flag, flag.replace("_", " ")) for flag in RECORD_FLAGS)],
        ),
    }  # fmt: skip
    return {PREFIX + name: own.get(name) or filter_field(entry) for name, entry in FILTERS.items()} | {
        "selection.balanced": forms.BooleanField(
            required=False, label="Equally many records of every class",
            help_text="Off: thresholds chosen afterwards take care of rare classes, and no record is wasted.",
        ),
        "selection.cap": forms.IntegerField(
            required=False, min_value=10, label="At most", help_text="Records, drawn by the seed; balanced, as many of each class. Empty: all of them."
        ),
    }  # fmt: skip
