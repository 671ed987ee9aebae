"""The form of a training run. Every setting comes from the engine's own description, with its default and reason."""

from __future__ import annotations

from typing import Any

from django import forms

from datasets.models import Dataset, LabelMap
from datasets.selectors import label_maps_for
from ecgportal.forms import FilterForm
from modelhub.architectures.catalog import catalog
from modelhub.forms import runnable_versions
from modelhub.models import ModelVersion
from training.engine.settings import settings_schema
from training.models import Mode
from training.problems.registry import get_problem, problem_names
from training.targets import NUMERIC_TARGETS

# The settings on the page; the API takes all of them.
SHOWN = ("epochs", "batch_size", "learning_rate", "seed", "patience", "class_weights", "optimiser", "schedule")


class RunForm(forms.Form):
    name = forms.CharField(
        max_length=120,
        required=False,
        help_text="Also the name of the model that comes out. Empty: dataset and network.",
    )
    dataset = forms.ModelChoiceField(Dataset.objects.none(), empty_label="Choose a dataset")
    task = forms.ChoiceField(choices=())
    label_map = forms.ModelChoiceField(
        LabelMap.objects.none(),
        required=False,
        help_text="Says which codes become which class. Its classes are the outputs.",
    )
    classes = forms.CharField(
        required=False, help_text="Some of the map's classes, separated by commas. Empty: all of them."
    )
    target = forms.ChoiceField(choices=(), required=False, label="Numeric target", help_text="For a regression only.")
    base_version = forms.ModelChoiceField(
        ModelVersion.objects.none(),
        required=False,
        label="Start from",
        empty_label="fresh weights (from scratch)",
        help_text="A model version of this project to fine-tune.",
    )
    architecture = forms.ChoiceField(
        choices=(),
        required=False,
        label="Network",
        help_text="For training from scratch; a fine-tuned model keeps its own.",
    )
    mode = forms.ChoiceField(
        choices=[("", "default"), *[c for c in Mode.choices if c[0] != Mode.SCRATCH]],
        required=False,
        label="What is fine-tuned",
    )

    def __init__(self, *args: Any, project: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["dataset"].queryset = Dataset.objects.filter(project=project)
        self.fields["label_map"].queryset = label_maps_for(project)
        self.fields["base_version"].queryset = runnable_versions(project)
        self.fields["task"].choices = [
            (name, get_problem(name).title) for name in sorted(problem_names(), key=lambda n: n != "multilabel")
        ]
        self.fields["target"].choices = [("", "none"), *[(name, name) for name in NUMERIC_TARGETS]]
        self.fields["architecture"].choices = [
            (facts.name, f"{facts.title}: {facts.parameters / 1e6:.2f} million parameters, {facts.million_macs:.0f} million operations per ECG")
            for facts in sorted(catalog().values(), key=lambda f: (f.name != "inception_time", f.name)) if not facts.needs
        ]  # fmt: skip
        schema = settings_schema()["properties"]
        for name in SHOWN:
            self.fields[name] = _field(schema[name])

    def settings(self) -> dict[str, Any]:
        """Return the settings that were given; an empty field takes its default, except where empty means something."""
        schema = settings_schema()["properties"]
        given = {}
        for name in SHOWN:
            value = self.cleaned_data[name]
            if value in (None, ""):
                if "null" in _types(schema[name]):
                    given[name] = None
                continue
            given[name] = value
        return given

    @property
    def plain_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in self.fields if name not in SHOWN]

    @property
    def setting_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in SHOWN]


def _types(entry: dict[str, Any]) -> list[str]:
    kind = entry.get("type", "string")
    return kind if isinstance(kind, list) else [kind]


def _field(entry: dict[str, Any]) -> forms.Field:
    """Return the form field of one setting."""
    common = {
        "label": entry["title"],
        "help_text": entry["description"],
        "required": False,
        "initial": entry.get("default"),
    }
    if choices := [value for value in entry.get("enum", []) if value is not None]:
        return forms.ChoiceField(choices=[(value, str(value).replace("_", " ")) for value in choices], **common)
    limits = {"min_value": entry.get("minimum"), "max_value": entry.get("maximum")}
    if "integer" in _types(entry):
        return forms.IntegerField(**limits, **common)
    return forms.FloatField(widget=forms.NumberInput({"step": "any"}), **limits, **common)


class EvaluationForm(forms.Form):
    version = forms.ModelChoiceField(ModelVersion.objects.none(), label="Model version")
    dataset = forms.ModelChoiceField(Dataset.objects.none(), empty_label="Choose a dataset")
    label_map = forms.ModelChoiceField(
        LabelMap.objects.none(), required=False, help_text="Empty: the map that the model was trained with."
    )

    def __init__(self, *args: Any, project: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["version"].queryset = runnable_versions(project)
        self.fields["dataset"].queryset = Dataset.objects.filter(project=project)
        self.fields["label_map"].queryset = label_maps_for(project)


class ThresholdForm(FilterForm):
    """Which class is called at which probability, and how common it is where the model will be used."""

    of_class = forms.ChoiceField(label="Class")
    threshold = forms.FloatField(
        min_value=0, max_value=1, widget=forms.NumberInput(attrs={"step": "any", "inputmode": "decimal"}),
        help_text="Called at this probability and above.",
    )  # fmt: skip
    prevalence = forms.FloatField(
        label="Share with the class (%)", min_value=0, max_value=100, widget=forms.NumberInput(attrs={"step": "any", "inputmode": "decimal"}),
        help_text="Where the model will be used, for its predictive values there.",
    )  # fmt: skip

    def __init__(self, *args: Any, classes: list[str], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["of_class"].choices = [(name, name) for name in classes]
