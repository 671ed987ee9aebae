"""Forms of what people mark in a record."""

from __future__ import annotations

from typing import Any

from django import forms

from datasets.annotating import MAX_CODE, MAX_TEXT
from datasets.forms import SYSTEM_WORDS
from datasets.labels import builtin
from datasets.labels.table import SYSTEMS
from datasets.models import Record

_SECONDS = {"step": "any", "min": "0", "inputmode": "decimal"}


class AnnotationForm(forms.Form):
    """A point or a span in one lead or in all; the service checks it against the record."""

    t0_s = forms.FloatField(label="From (s)", widget=forms.NumberInput(attrs=_SECONDS))
    t1_s = forms.FloatField(
        label="To (s)", required=False, help_text="Empty for a single point.", widget=forms.NumberInput(attrs=_SECONDS)
    )
    lead = forms.ChoiceField(required=False)
    text = forms.CharField(
        max_length=MAX_TEXT, help_text="What is to be seen there. No names or other facts that tell who the person is.",
        widget=forms.Textarea(attrs={"rows": 2}),
    )  # fmt: skip

    def __init__(self, record: Record, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["lead"].choices = [("", "All leads"), *((name, name) for name in record.leads)]
        self.fields["t0_s"].help_text = f"The record lasts {record.duration_s:g} s."


class LabelForm(forms.Form):
    """A label by its code or its words; the built-in tables tell which code is meant."""

    code = forms.CharField(
        max_length=MAX_CODE, label="Finding or code",
        help_text="For example atrial fibrillation, AFIB or 164889003; suggestions appear while you type.",
        widget=forms.TextInput(attrs={"list": "known-codes", "autocomplete": "off"}),
    )  # fmt: skip
    system = forms.ChoiceField(
        label="Code system", required=False,
        choices=[("", "The one that knows it"), *((name, SYSTEM_WORDS[name]) for name in SYSTEMS)],
        help_text="Choose one for a code that no built-in table knows; it is taken as typed.",
    )  # fmt: skip

    def clean(self) -> dict[str, Any]:
        values = super().clean()
        text, system = values.get("code", ""), values.get("system", "")
        if meant := builtin.resolve(text, system):
            values["system"], values["code"] = meant
        elif text and not system and "system" not in self.errors:
            self.add_error("code", "No built-in table knows this. Take a suggestion, or choose the code system.")
        return values
