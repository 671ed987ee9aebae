"""Forms of the model hub. Choices are narrowed to what the user sees in the project."""

from __future__ import annotations

from typing import Any

from django import forms

from datasets.models import Dataset
from modelhub.models import Exchange, ModelVersion, VersionState
from modelhub.services import CARD_FIELDS


def runnable_versions(project: Any) -> Any:
    """Return the versions of a project that may be run."""
    return (
        ModelVersion.objects.filter(model__project=project, state=VersionState.READY)
        .select_related("model")
        .order_by("model__name", "-number")
    )


class ImportForm(forms.Form):
    name = forms.CharField(
        max_length=120, help_text="The model's name in this project; a second import adds a version."
    )
    file = forms.FileField(
        label="Model file", help_text="ONNX, a bundle of an ECG Portal, or safetensors of a known network."
    )


class PredictForm(forms.Form):
    version = forms.ModelChoiceField(ModelVersion.objects.none(), label="Model version", empty_label="Choose a version")
    dataset = forms.ModelChoiceField(Dataset.objects.none(), empty_label="Choose a dataset")

    def __init__(self, *args: Any, project: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["version"].queryset = runnable_versions(project)
        self.fields["dataset"].queryset = Dataset.objects.filter(project=project)


class CardForm(forms.Form):
    """The prose of a model card; what stays blank says so on the card."""

    def __init__(self, *args: Any, card: dict[str, str], **kwargs: Any):
        super().__init__(*args, **kwargs)
        for name in CARD_FIELDS:
            self.fields[name] = forms.CharField(
                required=False,
                max_length=8000,
                initial=card.get(name, ""),
                label=name.replace("_", " ").capitalize(),
                widget=forms.Textarea({"rows": 3}),
            )


class PushForm(forms.Form):
    exchange = forms.ModelChoiceField(Exchange.objects.all(), empty_label="Choose an exchange")


class ExchangeForm(forms.Form):
    name = forms.CharField(max_length=80)
    url = forms.CharField(
        max_length=400, label="Address", help_text="The WebDAV folder, for example https://dav.example.org/ecg-models/"
    )
    username = forms.CharField(max_length=120, required=False, label="User name")
    password = forms.CharField(
        max_length=400,
        required=False,
        widget=forms.PasswordInput({"autocomplete": "new-password"}),
        help_text="Stored encrypted and never shown. Empty keeps the present one.",
    )
