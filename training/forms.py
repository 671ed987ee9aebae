"""The form of a training run, in four steps. Every setting comes from the engine's own description, with its default and
reason; fields are named as the REST interface names them, so that an error of a service finds its field."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from django import forms
from django.utils.datastructures import MultiValueDict

from datasets.ecg import LEADS_12
from datasets.models import Dataset, LabelMap
from datasets.preprocess.recipe import DEFAULT_RECIPE, plain_recipe
from datasets.selectors import label_maps_for
from ecgportal.errors import InvalidInput
from ecgportal.forms import FilterForm, RowField, RowsField, count_of
from modelhub.architectures.catalog import catalog
from modelhub.contract import MOST_NETWORKS, PRETRAINING
from modelhub.forms import runnable_versions, usable_versions
from modelhub.models import ModelVersion
from training import setting_words
from training.choices import DEFAULT_ARCHITECTURE
from training.engine.settings import settings_schema
from training.engine.unlabelled import settings as unlabelled
from training.models import Mode
from training.problems.registry import get_problem, problem_names
from training.requirements import MOST_SEARCH_MIN
from training.selection_fields import FURTHER, PREFIX, USUAL, selection_fields
from training.selectors import sites_of
from training.splitting import METHODS, SplitSettings
from training.targets import NUMERIC_TARGETS

# The settings that are shown; the others are folded.
SHOWN = ("epochs", "batch_size", "learning_rate", "seed", "patience", "members", "class_weights")
# Fields of the page that stand for another's name in the services.
_OF_SERVICE = {"split.late": "split.test"}
_ANY_NUMBER = forms.NumberInput({"step": "any"})


class ManyChoices(forms.MultipleChoiceField):
    """Checkboxes; a value that is not among them gets a sentence of its own."""

    widget = forms.CheckboxSelectMultiple


class _BaseRowField(RowField):
    """Model versions, each with its size, so that they can be weighed."""

    def label_from_instance(self, version: ModelVersion) -> str:
        size = f", {version.parameters / 1e6:.3g} M parameters" if version.parameters else ""
        return f"{version}{size}"


class RunForm(forms.Form):
    """``asked`` is what ``run_start`` and ``check`` take. The steps are properties that give bound fields."""

    DATA = ("datasets", "task", "label_map", "classes", "target")
    RECIPE = (
        "recipe.fs_hz", "recipe.duration_s", "recipe.leads", "recipe.padding", "recipe.baseline", "recipe.normalisation",
    )  # fmt: skip
    LEARNS = "pretraining.method"
    OF_LEARNING = {
        name: tuple(f"pretraining.{field}" for field in fields) for name, fields in unlabelled.methods_schema().items()
    }
    OF_METHOD = {
        "fractions": ("split.test",),
        "k_fold": ("split.folds", "split.fold"),
        "given_folds": ("split.test_folds", "split.validation_folds"),
        "site": ("split.test_sites",),
        "time": ("split.since", "split.late"),
    }

    def __init__(self, *args: Any, project: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.project = project
        self.recipe: dict[str, Any] | None = None
        self._data_fields()
        self.fields |= selection_fields(dict(self._sites()))
        self._split_fields()
        self._model_fields()
        self._recipe_fields()
        schema = settings_schema()["properties"]
        self.setting_names = [name for name in schema if name not in ("mode", "augmentation")]
        self.augmentation_names = list(schema["augmentation"]["properties"])
        for name in self.setting_names:
            self.fields[name] = _setting_field(name, schema[name])
        for name in self.augmentation_names:
            self.fields[f"augmentation.{name}"] = _setting_field(name, schema["augmentation"]["properties"][name])
        self.fields["name"] = forms.CharField(
            max_length=120, required=False,
            help_text="Also the name of the model that comes out. Empty: datasets and network.",
        )  # fmt: skip

    def _given(self, name: str) -> list[str]:
        """Return what was sent, or is there at first, for a field, before it is checked."""
        if self.is_bound:
            getlist = getattr(self.data, "getlist", None)
            value = getlist(name) if getlist else self.data.get(name, [])
        else:
            value = self.initial.get(name) or []
        return [str(each) for each in (value if isinstance(value, list | tuple) else [value]) if each]

    def _data_fields(self) -> None:
        datasets = Dataset.objects.filter(project=self.project).order_by("name", "pk")
        self.fields["datasets"] = RowsField(
            datasets, widget=forms.CheckboxSelectMultiple, label="Datasets",
            help_text="Several are trained on together. A patient or a signal that is in two of them stays on one side of the split.",
            error_messages={"required": "Choose at least one dataset.", "invalid_choice": "There is no such dataset."},
        )  # fmt: skip
        self.fields["task"] = forms.ChoiceField(
            choices=[
                *((name, get_problem(name).title) for name in sorted(problem_names(), key=lambda n: n != "multilabel")),
                (PRETRAINING, "Without labels: a trunk to fine-tune"),
            ]
        )
        self.fields["label_map"] = RowField(
            label_maps_for(self.project), required=False, empty_label="Choose a label map",
            help_text="Says which codes become which class. Its classes are the outputs. Without labels: what a later run with it "
            "will hold back is not learned from.",
        )  # fmt: skip
        self.fields["classes"] = ManyChoices(
            choices=[(name, name) for name in self._classes()], required=False,
            help_text="Some of the map's classes; none ticked: all of them.",
            error_messages={"invalid_choice": "%(value)s is not a class of the chosen map. Choose the classes again."},
        )  # fmt: skip
        self.fields["target"] = forms.ChoiceField(
            choices=[("", "none"), *((name, name) for name in NUMERIC_TARGETS)], required=False, label="Numeric target",
            help_text="For a regression only.",
        )  # fmt: skip

        self.fields[self.LEARNS] = forms.ChoiceField(
            choices=list(unlabelled.TITLES.items()), initial=unlabelled.DEFAULT, widget=forms.RadioSelect, required=False,
            label="How it learns", help_text="Either gives a trunk to fine-tune.",
        )  # fmt: skip
        for fields in unlabelled.methods_schema().values():
            self.fields |= {f"pretraining.{name}": _setting_field(name, entry) for name, entry in fields.items()}

    def _classes(self) -> list[str]:
        given = self._given("label_map")
        try:
            found = label_maps_for(self.project).filter(pk=given[0]).first() if given else None
        except (ValueError, forms.ValidationError):
            return []
        return found.classes if found else []

    def _sites(self) -> list[tuple[str, int]]:
        return list(sites_of(Dataset.objects.filter(project=self.project)).items())

    def _split_fields(self) -> None:
        default = SplitSettings()
        share = {"min_value": 0.05, "max_value": 0.5, "required": False, "widget": _ANY_NUMBER}
        self.fields |= {
            "split.method": forms.ChoiceField(
                choices=list(METHODS.items()), initial=default.method, widget=forms.RadioSelect, label="Divide the records", required=False,
                help_text="Whichever way: a patient, or the same signal under two names, is never on two sides.",
            ),
            "split.test": forms.FloatField(
                initial=default.test, label="Held back", help_text="Share for the evaluation. A fifth leaves enough to learn from.", **share
            ),
            "split.validation": forms.FloatField(
                initial=default.validation, label="Validation",
                help_text="Share of what is not held back; it chooses the epoch and the thresholds.", **share
            ),
            "split.folds": forms.IntegerField(
                initial=default.folds, min_value=3, max_value=MOST_NETWORKS, required=False, label="Folds"
            ),
            "split.fold": forms.IntegerField(
                min_value=1, max_value=MOST_NETWORKS, required=False, label="Held-out fold",
                help_text="Empty: every fold in turn. One network per fold is trained, each judged on the fold that it has not seen.",
            ),
            "split.test_folds": forms.CharField(initial="10", required=False, label="Folds held back", help_text="Such as 10, or 9, 10."),
            "split.validation_folds": forms.CharField(initial="9", required=False, label="Folds for validation"),
            "split.test_sites": ManyChoices(
                choices=[(site, f"{site} ({n} records)") for site, n in self._sites()], required=False, label="Hospitals held back",
                help_text="Shows how the model does where it was not trained.",
            ),
            "split.since": forms.DateField(
                required=False, label="Held back from", widget=forms.DateInput(attrs={"type": "date"}),
                help_text="The day as the record list shows it. Empty: the latest share. Shows how the model does on what comes later.",
            ),
            "split.late": forms.FloatField(
                initial=default.test, label="Latest share", help_text="Held back where no day is given.", **share
            ),
        }  # fmt: skip

    def _model_fields(self) -> None:
        self.fields |= {
            "base_version": _BaseRowField(
                usable_versions(self.project), required=False, label="Start from", empty_label="Fresh weights (from scratch)",
                help_text="Or a model of this project, to fine-tune it: its input and recipe are taken over, its head is made anew for other classes.",
            ),
            "mode": forms.ChoiceField(
                choices=[("", "Head, then all layers (default)"), *((v, t) for v, t in Mode.choices if v not in (Mode.SCRATCH, Mode.HEAD_THEN_FULL))],
                required=False, label="What is fine-tuned", help_text="Few records: the head alone. More: head first, then all, which keeps what the base has learned.",
            ),
            "search.minutes": forms.FloatField(
                min_value=0.1, max_value=MOST_SEARCH_MIN, required=False, label="Choose for me: minutes", widget=_ANY_NUMBER,
                help_text="The linear model of fixed features, networks, modes and settings are tried for so long on the development part; the best is "
                "then trained in full and judged once. Settings that you change are kept, others are tried. Empty: the network chosen below.",
            ),
            "architecture": forms.ChoiceField(
                choices=[(facts.name, facts.title) for facts in catalog().values()], required=False, initial=DEFAULT_ARCHITECTURE, label="Network",
            ),
        }  # fmt: skip

    def _recipe_fields(self) -> None:
        number = {"required": False, "widget": _ANY_NUMBER}
        self.fields |= {
            "recipe.fs_hz": forms.FloatField(
                initial=100, min_value=20, max_value=1000, label="Sampling rate (Hz)",
                help_text="100 Hz loses nothing for the usual findings and is five times as fast as 500 Hz.", **number
            ),
            "recipe.duration_s": forms.FloatField(
                initial=10, min_value=1, max_value=60, label="Length (s)", help_text="The middle of longer records is taken.", **number
            ),
            "recipe.leads": forms.CharField(
                initial=", ".join(LEADS_12), required=False, label="Leads, in order", help_text="A model can be used only where these are recorded.",
            ),
            "recipe.padding": forms.ChoiceField(
                choices=[("zero", "Fill with zero"), ("repeat", "Repeat the record")], required=False, label="Shorter records"
            ),
            "recipe.baseline": forms.ChoiceField(
                choices=[("", "Keep it (default)"), ("highpass", "High-pass, 0.5 Hz"), ("median", "Median filters, keep the ST segment")],
                required=False, label="Baseline", help_text="Networks learn to look past a wandering baseline; filters may touch the ST segment.",
            ),
            "recipe.normalisation": forms.ChoiceField(
                choices=[("none", "None: millivolt (default)"), ("lead_zscore", "Each lead to mean 0, deviation 1"), ("record_zscore", "All leads by one deviation"), ("min_max", "Each lead to -1 to 1")],
                required=False, label="Normalisation", help_text="Voltages carry findings such as hypertrophy; normalising takes them away.",
            ),
        }  # fmt: skip

    def _recipe(self) -> dict[str, Any] | None:
        """Return the recipe that was sent; None where it is the portal's own."""
        sent = {
            name.removeprefix("recipe."): self.cleaned_data[name]
            for name in self.RECIPE
            if name in self.data and self.cleaned_data.get(name) not in (None, "")
        }
        if "leads" in sent:
            sent["leads"] = tuple(part.strip() for part in sent["leads"].split(",") if part.strip())
        recipe = plain_recipe(**sent)
        return None if recipe == DEFAULT_RECIPE else json.loads(recipe.to_json())

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        if not values.get("base_version"):
            try:
                self.recipe = self._recipe()
            except InvalidInput as error:
                self.add_error("recipe.leads", error.message)
        for name in ("split.test_folds", "split.validation_folds"):
            text = values.get(name) or ""
            numbers = [count_of(part.strip()) for part in text.split(",") if part.strip()]
            if self.method == "given_folds" and (not numbers or None in numbers):
                self.add_error(name, "Give fold numbers, separated by commas.")
            values[name] = [number for number in numbers if number is not None]
        return values

    @property
    def method(self) -> str:
        given = self._given("split.method")
        return given[0] if given and given[0] in METHODS else "fractions"

    @property
    def asked(self) -> dict[str, Any]:
        """What the services take; call it on a valid form."""
        data = self.cleaned_data
        base, minutes = data["base_version"], data["search.minutes"]
        found = {
            name: data[name].isoformat() if isinstance(data[name], date) else data[name]
            for name in (*USUAL, *FURTHER) if name.startswith(PREFIX)
        }  # fmt: skip
        takes = (*self.OF_METHOD[self.method], *(() if self.method == "given_folds" else ("split.validation",)))
        learns = data[self.LEARNS] or unlabelled.DEFAULT
        how = {
            name.removeprefix("pretraining."): data[name] for name in self.OF_LEARNING[learns] if data[name] is not None
        }
        split = {
            _OF_SERVICE.get(name, name).removeprefix("split."): data[name]
            for name in takes
            if data[name] not in (None, "")
        }
        split = {name: value.isoformat() if isinstance(value, date) else value for name, value in split.items()}
        return {
            "project": self.project, "datasets": list(data["datasets"]), "label_map": data["label_map"],
            # What the page folds away for a task stays chosen there, and means nothing.
            "classes": (data["classes"] or None) if data["task"] != "regression" else None,
            "task": data["task"], "target": data["target"] if data["task"] == "regression" else "", "architecture": None if base or minutes else data["architecture"], "base_version": base,
            "mode": data["mode"] if base else None, "search": {"minutes": minutes} if minutes else None, "settings": self.settings(), "name": data["name"],
            "split": {"method": self.method} | split, "recipe": self.recipe,
            "pretraining": {"method": learns} | how if data["task"] == PRETRAINING else None,
            "selection": {
                "filter": {name.removeprefix(PREFIX): value for name, value in found.items() if value not in (None, "")},
                "balanced": data["selection.balanced"] and data["task"] != "regression", "cap": data["selection.cap"],
            },
        }  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """Return the settings that were sent; an empty field takes its default, except where empty means something."""
        schema = settings_schema()["properties"]
        given = self._settings_of(schema, {name: name for name in self.setting_names})
        inner = {name: f"augmentation.{name}" for name in self.augmentation_names}
        augmentation = self._settings_of(schema["augmentation"]["properties"], inner)
        return given | ({"augmentation": augmentation} if augmentation else {})

    def _settings_of(self, schema: dict[str, Any], fields: dict[str, str]) -> dict[str, Any]:
        given = {}
        for name, field in fields.items():
            if field not in self.data:
                continue
            value = self.cleaned_data[field]
            if value in (None, ""):
                if "null" in _types(schema[name]):
                    given[name] = None
                continue
            given[name] = value == "true" if "boolean" in _types(schema[name]) else value
        return given

    def _bound(self, names: Any) -> list[forms.BoundField]:
        return [self[name] for name in names]

    @property
    def data_fields(self) -> list[forms.BoundField]:
        return self._bound(name for name in self.DATA if name != "classes")

    @property
    def selection_fields(self) -> list[forms.BoundField]:
        return self._bound(USUAL)

    @property
    def further_filters(self) -> list[forms.BoundField]:
        return self._bound(FURTHER)

    @property
    def learns_field(self) -> forms.BoundField:
        return self[self.LEARNS]

    @property
    def learning_groups(self) -> list[tuple[str, str, list[forms.BoundField]]]:
        """The fields of each way of learning without labels, with its name and title."""
        return [(name, unlabelled.TITLES[name], self._bound(fields)) for name, fields in self.OF_LEARNING.items()]

    @property
    def split_groups(self) -> list[tuple[str, str, list[forms.BoundField]]]:
        """The fields of each method, with its name and title."""
        return [(name, METHODS[name], self._bound(fields)) for name, fields in self.OF_METHOD.items()]

    @property
    def recipe_fields(self) -> list[forms.BoundField]:
        return self._bound(self.RECIPE)

    @property
    def method_field(self) -> forms.BoundField:
        return self["split.method"]

    @property
    def search_field(self) -> forms.BoundField:
        return self["search.minutes"]

    @property
    def validation_field(self) -> forms.BoundField:
        return self["split.validation"]

    @property
    def shown_settings(self) -> list[forms.BoundField]:
        return self._bound(SHOWN)

    @property
    def folded_settings(self) -> list[forms.BoundField]:
        return self._bound(name for name in self.setting_names if name not in SHOWN)

    @property
    def augmentation_fields(self) -> list[forms.BoundField]:
        return self._bound(f"augmentation.{name}" for name in self.augmentation_names)

    @property
    def open_parts(self) -> dict[str, bool]:
        """Which folded parts must be open: those with an error, or with something chosen."""
        wrong = set(self.errors) if self.is_bound else set()
        usual, further = (
            any(self._given(name) for name in names) or bool(wrong & set(names)) for names in (USUAL, FURTHER)
        )
        return {
            "selection": usual or further,
            "filters": further,
            "settings": bool(wrong & {name for name in self.setting_names if name not in SHOWN}),
            "recipe": bool(wrong & set(self.RECIPE)) or (self.is_bound and bool(self.recipe)),
            "augmentation": any(name.startswith("augmentation.") for name in wrong),
        }


def initial_of(asked: MultiValueDict, project: Any) -> dict[str, Any]:
    """Return the first values of the form from a page's address: ``?dataset=&base=&label_map=&task=``. Where the project has one
    dataset, it is meant."""
    chosen = asked.getlist("dataset")
    there = Dataset.objects.filter(project=project).values_list("pk", flat=True)[:2]
    return {
        "datasets": chosen or (list(there) if len(there) == 1 else []), "base_version": asked.get("base"), "label_map": asked.get("label_map"),
        "task": PRETRAINING if asked.get("task") == PRETRAINING else "multilabel",
    }  # fmt: skip


def _types(entry: dict[str, Any]) -> list[str]:
    kind = entry.get("type", "string")
    return kind if isinstance(kind, list) else [kind]


def _setting_field(name: str, entry: dict[str, Any]) -> forms.Field:
    """Return the form field of one setting."""
    common = {
        "label": f"{entry['title']} ({unit})" if (unit := setting_words.UNITS.get(name)) else entry["title"], "help_text": entry["description"], "required": False, "initial": entry.get("default"),
    }  # fmt: skip
    if choices := [value for value in entry.get("enum", []) if value is not None]:
        return forms.ChoiceField(choices=setting_words.choices(name, choices), **common)
    if "boolean" in _types(entry):
        common["initial"] = "true" if entry.get("default") else "false"
        return forms.ChoiceField(choices=[("true", "yes"), ("false", "no")], **common)
    limits = {"min_value": entry.get("minimum"), "max_value": entry.get("maximum")}
    if "integer" in _types(entry):
        return forms.IntegerField(**limits, **common)
    if "number" in _types(entry):
        return forms.FloatField(widget=forms.NumberInput({"step": "any"}), **limits, **common)
    return forms.CharField(max_length=80, **common)


class RenameForm(forms.Form):
    name = forms.CharField(max_length=120)


class EvaluationForm(forms.Form):
    version = RowField(ModelVersion.objects.none(), label="Model version", empty_label="Choose a version")
    dataset = RowField(Dataset.objects.none(), empty_label="Choose a dataset")
    label_map = RowField(LabelMap.objects.none(), required=False, empty_label="The one that the model was trained with")

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
