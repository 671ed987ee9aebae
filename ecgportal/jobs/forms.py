"""Forms of jobs."""

from __future__ import annotations

from django import forms

from ecgportal.forms import FilterForm
from ecgportal.jobs.models import JobState
from ecgportal.jobs.registry import KINDS


class JobFilterForm(FilterForm):
    state = forms.ChoiceField()
    kind = forms.ChoiceField(label="Kind")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["state"].choices = [("", "All states"), *JobState.choices]
        self.fields["kind"].choices = [("", "All kinds"), *((kind.name, kind.title) for kind in KINDS.values())]
