"""Forms of the audit trail."""

from __future__ import annotations

from django import forms

from ecgportal.audit.actions import ACTIONS
from ecgportal.forms import FilterForm

_DATE = forms.DateInput(attrs={"type": "date"})


class AuditFilterForm(FilterForm):
    actor = forms.CharField(max_length=150, label="User name")
    action = forms.ChoiceField()
    outcome = forms.ChoiceField(
        choices=[("", "All"), ("success", "Success"), ("failure", "Failure"), ("refused", "Refused")]
    )
    since = forms.DateField(label="From day", widget=_DATE)
    until = forms.DateField(label="To day", widget=_DATE)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["action"].choices = [("", "All actions"), *((name, name) for name in sorted(ACTIONS))]

    def clean(self):
        values = super().clean()
        if values.get("since") and values.get("until") and values["since"] > values["until"]:
            self.add_error("until", "This day lies before the first one.")
        return values
