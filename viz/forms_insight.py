"""Forms of the pages about a dataset."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms

from datasets.measure.features import FEATURES
from datasets.models import Dataset
from ecgportal.forms import FilterForm, RowField
from modelhub.forms import runnable_versions
from modelhub.models import ModelVersion
from viz.models import Basis

_FIELD_TITLES = {
    "labels": "Labels", "age": "Age", "sex": "Sex", "rate": "Sampling rate", "length": "Length", "format": "File format",
    "device": "Device", "site": "Hospital", "quality": "Quality flags", "leads": "Missing leads",
}  # fmt: skip


class GroupForm(FilterForm):
    """Which field or measure is shown within each value of which field."""

    TITLES: ClassVar[dict[str, str]] = _FIELD_TITLES | {name: one.title for name, one in FEATURES.items()}
    what = forms.ChoiceField(label="Show", choices=[("", "Choose"), *TITLES.items()])
    by = forms.ChoiceField(label="By", choices=[("", "Choose"), *_FIELD_TITLES.items()])

    def clean(self) -> dict[str, Any]:
        chosen = self.cleaned_data
        if chosen.get("what") and chosen["what"] == chosen.get("by"):
            self.add_error("by", f"Choose another field than the one shown: {self.TITLES[chosen['what']]}.")
        elif chosen.get("what") and "by" in chosen and not chosen["by"]:
            self.add_error("by", "Choose the field whose values are told apart.")
        elif chosen.get("by") and "what" in chosen and not chosen["what"]:
            self.add_error("what", "Choose what is shown for each of these values.")
        return self.cleaned_data


class CompareForm(FilterForm):
    """The dataset to compare with, of the same project."""

    other = RowField(Dataset.objects.none(), label="Compare with", empty_label="Choose a dataset")

    def __init__(self, *args: Any, dataset: Dataset, **kwargs: Any):
        super().__init__(*args, **kwargs)
        others = Dataset.objects.filter(project=dataset.project_id).exclude(pk=dataset.pk)
        self.fields["other"].queryset = others


class MapForm(forms.Form):
    """What a new map is made of."""

    basis = forms.ChoiceField(label="Made of", choices=Basis.choices)
    version = RowField(
        ModelVersion.objects.none(),
        required=False,
        label="Model",
        empty_label="None",
        help_text="For what a model sees.",
    )
    with_umap = forms.BooleanField(
        required=False, initial=True, label="Also by UMAP", help_text="Shows groups better; takes minutes for thousands of records.",
    )  # fmt: skip

    def __init__(self, *args: Any, project: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["version"].queryset = runnable_versions(project)
