"""Forms of the model hub. Choices are narrowed to what the user sees in the project."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django import forms

from datasets.models import Dataset, LabelMap, Record
from datasets.selectors import label_maps_for
from ecgportal.errors import InvalidInput
from ecgportal.forms import FilterForm, RowField
from modelhub.answer_list import AnswerList
from modelhub.answers import ANSWERS
from modelhub.architectures.catalog import catalog
from modelhub.contract import PRETRAINING, TASKS
from modelhub.models import Exchange, ModelVersion, VersionState
from modelhub.services import CARD_FIELDS
from modelhub.statements import OFFERED, STATEMENTS


def runnable_versions(project: Any) -> Any:
    """Return the versions of a project that may be run; trunks have nothing to answer."""
    return usable_versions(project).exclude(task=PRETRAINING)


def usable_versions(project: Any) -> Any:
    """Return the versions of a project that may be run or fine-tuned."""
    return (
        ModelVersion.objects.filter(model__project=project, state=VersionState.READY)
        .select_related("model")
        .order_by("model__name", "-number")
    )


class AnswersForm(forms.Form):
    """What a model file leaves open. ``known`` are values to begin with; ``asked`` narrows to the open questions."""

    classes = forms.CharField(
        required=False, max_length=20_000, widget=forms.Textarea({"rows": 2}), help_text=ANSWERS["classes"]
    )
    task = forms.ChoiceField(required=False, choices=[("", "As the file says"), *TASKS.items()])
    leads = forms.CharField(
        required=False,
        max_length=2000,
        help_text="The rows of the input in order, separated by commas; for 12 leads I, II, III, aVR, aVL, aVF, V1 to V6 unless you say otherwise.",
    )
    fs_hz = forms.FloatField(required=False, min_value=1, max_value=100_000, label="Sampling rate (Hz)")
    n_samples = forms.IntegerField(required=False, min_value=1, max_value=10_000_000, label="Length (samples)")
    unit = forms.ChoiceField(required=False, choices=[("", "As the file says, or mV"), ("mV", "mV"), ("uV", "uV")])
    standardizer = forms.ChoiceField(
        required=False,
        label="Standardisation",
        choices=[
            ("", "As the file says, or none"),
            ("None", "none"),
            ("minMax", "-1 to 1 per record"),
            ("meanStd", "mean 0, deviation 1 per record"),
        ],
    )
    architecture = forms.ChoiceField(
        required=False, label="Network", help_text="For weights without a graph (.safetensors, .pt)."
    )

    def __init__(self, *args: Any, questions: dict[str, str] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["architecture"].choices = [
            ("", "Told by the weights' names"),
            *((n, f.title) for n, f in catalog().items()),
        ]
        for name in [n for n in ANSWERS if questions is not None and n not in questions]:
            del self.fields[name]
        for name, sentence in (questions or {}).items():
            if name in self.fields:
                self.fields[name].required = True
                self.fields[name].help_text = sentence
            if name == "task":
                self.fields[name].choices = [("", "Choose"), *TASKS.items()]

    @property
    def answers(self) -> dict[str, Any]:
        """What was said, ready for ``read_answers``."""
        return {name: self.cleaned_data.get(name) for name in ANSWERS if self.cleaned_data.get(name) not in (None, "")}


class StatementsForm(forms.Form):
    """Licence, intended use and training data, which every version has to state; narrowed to what is open."""

    licence = forms.CharField(
        max_length=8000, help_text=STATEMENTS["licence"], widget=forms.TextInput({"list": "licences", "autocomplete": "off"})
    )  # fmt: skip
    intended_use = forms.CharField(
        max_length=8000, help_text=STATEMENTS["intended_use"], widget=forms.Textarea({"rows": 2})
    )
    training_data = forms.CharField(
        max_length=8000, help_text=STATEMENTS["training_data"], widget=forms.Textarea({"rows": 2})
    )
    licences = OFFERED

    def __init__(self, *args: Any, card: dict[str, str], asked: Iterable[str] = STATEMENTS, **kwargs: Any):
        super().__init__(*args, initial={name: card.get(name, "") for name in STATEMENTS}, **kwargs)
        for name in set(self.fields) - set(asked):
            del self.fields[name]


class LicenceForm(forms.Form):
    """The licence that models trained in a project begin with."""

    licence = forms.CharField(
        max_length=2000, label="Licence of models trained here", required=False,
        widget=forms.TextInput({"list": "licences", "autocomplete": "off"}),
        help_text="New versions begin with it, unless they are fine-tuned from a model with a licence of its own.",
    )  # fmt: skip
    licences = OFFERED


class ImportForm(AnswersForm):
    name = forms.CharField(
        max_length=120, help_text="The model's name in this project; a second import adds a version."
    )
    file = forms.FileField(
        label="Model file",
        help_text="ONNX, a bundle of an ECG Portal, or weights (.safetensors, .pt) of a known network.",
    )
    licence = forms.CharField(
        required=False, max_length=8000, widget=forms.TextInput({"list": "licences", "autocomplete": "off"}),
        help_text="Files of a portal say it. It has to be said before the model is used, here or later.",
    )  # fmt: skip
    intended_use = forms.CharField(
        required=False, max_length=8000, widget=forms.Textarea({"rows": 2}), help_text=STATEMENTS["intended_use"]
    )
    training_data = forms.CharField(
        required=False, max_length=8000, widget=forms.Textarea({"rows": 2}), help_text=STATEMENTS["training_data"]
    )
    licences = OFFERED
    field_order = ["name", "file", *STATEMENTS, *ANSWERS]

    def ask_for_file_again(self) -> None:
        """Say that the file has to be chosen anew: no browser keeps it in a form that comes back."""
        if self.files and "file" not in self.errors:
            self.add_error("file", "Choose the file again; the browser does not keep it.")


def asked_before(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was filled in for an import, by its job's payload, as the first values of ``ImportForm``."""
    said = {name: ", ".join(value) if isinstance(value, list) else value for name, value in payload["contract"].items()}
    return {**said, **payload["card"], "name": payload["name"]}


class PredictForm(forms.Form):
    version = RowField(ModelVersion.objects.none(), label="Model version", empty_label="Choose a version")
    dataset = RowField(Dataset.objects.none(), empty_label="Choose a dataset")
    records = forms.CharField(
        required=False, max_length=200_000, label="Only these records", widget=forms.Textarea({"rows": 2}),
        help_text="Keys of records, separated by commas or lines; empty for the whole dataset.",
    )  # fmt: skip
    label_map = RowField(
        LabelMap.objects.none(), required=False, label="Compare with the labels by", empty_label="The model's own label map",
        help_text="Where records have labels, the answers are compared with them.",
    )  # fmt: skip

    def __init__(self, *args: Any, project: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["version"].queryset = runnable_versions(project)
        self.fields["dataset"].queryset = datasets = Dataset.objects.filter(project=project)
        # Where there is one, it is meant.
        if not self.initial.get("dataset") and len(only := datasets[:2]) == 1:
            self.initial["dataset"] = only[0].pk
        self.fields["label_map"].queryset = label_maps_for(project)

    def chosen(self) -> dict[str, Any]:
        """Return the arguments of ``prediction_start``; InvalidInput names keys that are not in the dataset."""
        values = dict(self.cleaned_data)
        keys = [key.strip() for key in values.pop("records").replace("\n", ",").split(",") if key.strip()]
        found = list(Record.objects.filter(dataset=values["dataset"], key__in=keys)) if keys else []
        missing = sorted(set(keys) - {record.key for record in found})
        if missing:
            sentence = f"{values['dataset']} has no record {', '.join(missing[:5])}."
            raise InvalidInput(sentence, fields={"records": sentence})
        return {**values, "records": found}


class AnswerListForm(FilterForm):
    """By what a run's answers are narrowed (``modelhub.answer_list``)."""

    agreement = forms.ChoiceField(
        label="Answer and labels",
        choices=[
            ("", "All answers"), ("differs", "Differ"), ("false_positive", "Predicted only"), ("false_negative", "Labelled only"),
            ("agrees", "Agree"), ("unlabelled", "Labels not known"),
        ],
    )  # fmt: skip
    label_map = forms.ChoiceField(label="Labels by")

    def __init__(self, *args: Any, listed: AnswerList, maps: list[LabelMap], **kwargs: Any):
        super().__init__(*args, **kwargs)
        # A name that is a word of the language cannot be an attribute.
        names = [(name, name) for name in listed.run.version.named_classes]
        self.fields["class"] = forms.ChoiceField(label="Class", choices=[("", "Any class"), *names], required=False)
        self.order_fields(["agreement", "class", "label_map"])
        self.fields["label_map"].choices = [(str(row.pk), str(row)) for row in maps]
        self.initial = {"label_map": listed.label_map and str(listed.label_map.pk)}
        if len(maps) < 2:
            del self.fields["label_map"]
        if not maps:
            del self.fields["agreement"]
        if listed.run.version.task == "regression":
            del self.fields["class"]


class TryForm(forms.Form):
    """One record, by its dataset and key."""

    dataset = RowField(Dataset.objects.none(), empty_label=None)
    key = forms.CharField(
        required=False, max_length=200, label="Record", help_text="Its key; empty for the first record."
    )

    def __init__(self, *args: Any, datasets: Any, **kwargs: Any):
        super().__init__(*args, auto_id="try_%s", **kwargs)
        self.fields["dataset"].queryset = datasets

    def record(self) -> Record:
        """Return the chosen record; InvalidInput when there is none."""
        rows = (
            Record.objects.filter(dataset=self.cleaned_data["dataset"])
            .select_related("dataset__project")
            .order_by("key", "id")
        )
        key = self.cleaned_data["key"].strip()
        found = (rows.filter(key=key) if key else rows).first()
        if found is None:
            sentence = (
                f"{self.cleaned_data['dataset']} has no record {key}." if key else "The dataset has no records yet."
            )
            raise InvalidInput(sentence, fields={"key": sentence})
        return found


class KeyForm(forms.Form):
    name = forms.CharField(
        max_length=120, label="Whose key", help_text="For example the name of the other hospital's portal."
    )
    public_key = forms.CharField(
        max_length=200, label="Public key", help_text="64 hexadecimal digits. Ask the other portal's administrator on a second way."
    )  # fmt: skip


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
    exchange = RowField(Exchange.objects.all(), empty_label="Choose an exchange")


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
