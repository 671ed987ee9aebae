"""Forms of the catalogue."""

from __future__ import annotations

from typing import Any

from django import forms

from ecgportal.forms import FilterForm, RowField, RowsField
from ecgportal.projects.models import Project
from modelhub import catalogue
from modelhub.contract import TASKS
from modelhub.models import CatalogueEntry, CatalogueState


class CatalogueFilterForm(FilterForm):
    text = forms.CharField(label="Search", max_length=200)
    task = forms.ChoiceField()
    label = forms.CharField(label="Class", max_length=80)
    architecture = forms.ChoiceField(label="Network")
    leads = forms.IntegerField(label="Leads", min_value=1, max_value=64)
    fs_hz = forms.FloatField(label="Rate (Hz)", min_value=1, max_value=100_000)
    data = forms.CharField(label="Judged on", max_length=80)
    auroc = forms.FloatField(label="Least AUROC", min_value=0, max_value=1)
    licence = forms.CharField(max_length=200)
    state = forms.ChoiceField()

    def __init__(self, *args: Any, entries: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        for name in ("task", "architecture"):
            found = entries.order_by().values_list(f"version__{name}", flat=True).distinct()
            self.fields[name].choices = [
                ("", "Any"),
                *((value, TASKS.get(value, value)) for value in sorted(filter(None, found))),
            ]
        self.fields["state"].choices = [("", "Any"), *CatalogueState.choices]


class ReasonForm(forms.Form):
    reason = forms.CharField(max_length=4000, widget=forms.Textarea({"rows": 3}))


class DecideForm(ReasonForm):
    decision = forms.ChoiceField()
    field_order = ["decision", "reason"]

    def __init__(self, *args: Any, entry: CatalogueEntry, **kwargs: Any):
        super().__init__(*args, **kwargs)
        titles = {"approve": "Approve", "refuse": "Refuse", "retire": "Retire"}
        self.fields["decision"].choices = [
            (name, titles[name]) for name, (before, _) in catalogue.DECISIONS.items() if before == entry.state
        ]


class ShareForm(forms.Form):
    visible_to_all = forms.BooleanField(required=False, label="Every user of this portal")
    projects = RowsField(
        Project.objects.filter(archived_at=None), required=False, widget=forms.SelectMultiple({"size": 8})
    )


class CopyForm(forms.Form):
    project = RowField(Project.objects.none(), label="Into the project", empty_label=None)

    def __init__(self, *args: Any, targets: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["project"].queryset = targets
