"""Forms of datasets, uploads, label tables and label maps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from django import forms

from datasets import record_filters
from datasets.ecg import LEADS_12
from datasets.formats.registry import title_of
from datasets.labels import builtin
from datasets.labels.maps import RELATIONS
from datasets.labels.table import SYSTEMS
from datasets.models import Dataset, LabelMap, Outcome, Sex
from datasets.record_filters import ANY_FLAG, FILTERS, NO_FLAG, RecordFilter
from datasets.selectors import Totals
from ecgportal.forms import FilterForm, RowField

_DIGITS = "digits"
_UNITS = [
    ("", "As the file says"),
    ("mV", "mV"),
    ("uV", "µV"),
    ("V", "V"),
    ("nV", "nV"),
    (_DIGITS, "Digits of the converter"),
]
SYSTEM_WORDS = {
    "snomed": "SNOMED CT",
    "scp": "SCP-ECG",
    "icd10": "ICD-10",
    "icd9": "ICD-9",
    "aha": "AHA",
    "name": "names",
    "any": "several (system:code)",
}


class ManyFilesInput(forms.FileInput):
    allow_multiple_selected = True


class ManyFilesField(forms.FileField):
    """Any number of files; cleans to a list."""

    def clean(self, data: Any, initial: Any = None) -> list[Any]:
        files = data if isinstance(data, list | tuple) else [data]
        return [super(ManyFilesField, self).clean(file, initial) for file in files or [None]]


class DatasetForm(forms.Form):
    name = forms.CharField(max_length=120)
    description = forms.CharField(
        max_length=4000, required=False, widget=forms.Textarea(attrs={"rows": 4}),
        help_text="Where the records come from, under which approval, and how they were labelled.",
    )  # fmt: skip


class DeleteDatasetForm(forms.Form):
    """Deleting a dataset is confirmed by its name."""

    name = forms.CharField(
        max_length=120, label="Name of the dataset", widget=forms.TextInput(attrs={"autocomplete": "off"})
    )

    def __init__(self, dataset: Dataset, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._dataset = dataset

    def clean_name(self) -> str:
        if self.cleaned_data["name"].strip() != self._dataset.name:
            raise forms.ValidationError(f"Type {self._dataset.name} to delete it.")
        return self.cleaned_data["name"]


class AnswersForm(forms.Form):
    """What a file may leave open. ``answers`` is ready for the service; errors of the service fall on these fields."""

    fs_hz = forms.FloatField(
        required=False, label="Sampling rate (Hz)", help_text="Samples per second and lead.",
        widget=forms.NumberInput(attrs={"step": "any", "inputmode": "decimal"}),
    )  # fmt: skip
    unit = forms.ChoiceField(required=False, choices=_UNITS, help_text="What one number in the file stands for.")
    digits_per_mv = forms.FloatField(
        required=False, label="Digits per millivolt", help_text="Only with digits of the converter, for example 200.",
        min_value=1e-6, widget=forms.NumberInput(attrs={"step": "any", "inputmode": "decimal"}),
    )  # fmt: skip
    lead_order = forms.CharField(
        required=False, max_length=400, label="Lead order",
        help_text="The leads in the order of the file, separated by commas: I, II, III, aVR, aVL, aVF, V1, V2, V3, V4, V5, V6.",
    )  # fmt: skip

    def __init__(self, *args: Any, asked: Collection[str] | None = None, **kwargs: Any):
        """asked: the fields that are shown; None for all."""
        super().__init__(*args, **kwargs)
        if asked is not None:
            shown = {*asked, "digits_per_mv"} if "unit" in asked else {*asked}
            self.fields = {name: field for name, field in self.fields.items() if name in shown}

    def clean(self) -> dict[str, Any]:
        values = super().clean()
        if values.get("unit") == _DIGITS and not values.get("digits_per_mv") and "digits_per_mv" not in self.errors:
            self.add_error("digits_per_mv", "Say how many digits stand for one millivolt.")
        return values

    @property
    def answers(self) -> dict[str, Any]:
        values = self.cleaned_data
        unit = f"{values['digits_per_mv']:g}/mV" if values.get("unit") == _DIGITS else values.get("unit")
        return {"fs_hz": values.get("fs_hz"), "unit": unit, "lead_order": values.get("lead_order")}


def answered(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answers that an upload was sent with as the form's first values."""
    found = {name: options[name] for name in ("fs_hz", "unit") if name in options}
    if str(found.get("unit", "")).endswith("/mV"):
        found |= {"unit": _DIGITS, "digits_per_mv": found["unit"].removesuffix("/mV")}
    if names := options.get("lead_order"):
        found["lead_order"] = ", ".join(names)
    return found


def guessed(guesses: Mapping[str, str]) -> dict[str, Any]:
    """Return the guesses for a group of files (field to guess, empty where there is none) as the form's first values."""
    found: dict[str, Any] = {}
    for field, value in guesses.items():
        if field == "unit" and value.endswith("/mV"):
            found |= {"unit": _DIGITS, "digits_per_mv": value.removesuffix("/mV")}
        elif value:
            found[field] = ", ".join(value.replace(",", " ").split()) if field == "lead_order" else value
    return found


class UploadForm(AnswersForm):
    files = ManyFilesField(
        label="ECG files", widget=ManyFilesInput(),
        help_text="Single files, WFDB pairs (.hea with .dat or .mat), or archives (.zip, .tar.gz) of them.",
        error_messages={"required": "Choose at least one file.", "empty": "One of the files is empty."}, allow_empty_file=True,
    )  # fmt: skip
    field_order = ["files"]


class ImportForm(forms.Form):
    """The choice of a collection (``name@folder``; without a folder it is downloaded) and the dataset it goes to."""

    name = forms.CharField(
        max_length=120, required=False, label="Name of the dataset",
        help_text="Left empty, it is called as the collection is. A dataset that is there is added to.",
    )  # fmt: skip
    choice = forms.CharField(
        max_length=1000, widget=forms.HiddenInput, error_messages={"required": "Choose one of the collections."}
    )


MISSING = [
    ("", "Nothing asked"), ("labels", "Labels"), ("age", "Age"), ("sex", "Sex"), ("subject", "Subject"), ("site", "Hospital"), ("device", "Device"), ("time", "Time of recording"),
    *((f"lead:{name}", f"Lead {name}") for name in LEADS_12),
]  # fmt: skip
_ANY_NUMBER = forms.NumberInput(attrs={"step": "any"})


def filter_field(entry: RecordFilter) -> forms.Field:
    """Return the form's field of a filter of records."""
    if entry.kind == "number":
        return forms.FloatField(label=entry.title, required=False, widget=_ANY_NUMBER)
    if entry.kind == "time":
        return forms.DateField(label=entry.title, required=False, widget=forms.DateInput(attrs={"type": "date"}))
    return forms.CharField(label=entry.title, required=False, max_length=200)


class RecordFilterForm(FilterForm):
    """The filters of a dataset's records. Those that links of other pages set are shown only while they are in force."""

    search = forms.CharField(max_length=120, label=FILTERS["search"].title)
    label = forms.ChoiceField()
    format = forms.ChoiceField()
    sex = forms.ChoiceField(choices=[("", "All"), *((value, word.capitalize()) for value, word in Sex.choices)])
    quality = forms.ChoiceField(label="Quality")
    age_min = forms.FloatField(label="Age from", min_value=0, max_value=130, widget=_ANY_NUMBER)
    age_max = forms.FloatField(label="Age to", min_value=0, max_value=130, widget=_ANY_NUMBER)
    missing = forms.ChoiceField(choices=MISSING)

    def __init__(self, *args, totals: Totals, labels: dict[str, int], **kwargs):
        super().__init__(*args, **kwargs)
        shown = {"recorded_from", "recorded_to"} if totals.timed else set()
        for name, entry in FILTERS.items():
            if name not in self.fields and (name in shown or self.data.get(name)):
                self.fields[name] = filter_field(entry)
        for name, counts, say in (("label", labels, _with_words), ("format", totals.formats, title_of)):
            choices = [(value, f"{say(value)} ({count:,})") for value, count in counts.items()]
            self.fields[name].choices = [("", "All"), *choices]
        flags = [(flag, f"{flag.replace('_', ' ')} ({count:,})") for flag, count in totals.flags.items()]
        of_leads = [
            (f"lead:{flag}", f"some lead: {flag.replace('_', ' ')} ({count:,})")
            for flag, count in totals.lead_flags.items()
        ]
        self.fields["quality"].choices = [("", "All"), (NO_FLAG, "no flag"), (ANY_FLAG, "any flag"), *flags, *of_leads]
        asked = self.data.get("quality")
        if asked and record_filters.usable({"quality": asked}):
            # One lead's flag, which links set.
            choices = self.fields["quality"].choices
            if asked not in dict(choices):
                self.fields["quality"].choices = [*choices, (asked, asked.replace("_", " "))]


def _with_words(code: str) -> str:
    words = builtin.words_of(code)
    return f"{code} {words}" if words else code


_REASON_WORDS = {"needs_answer": "needs an answer", "not_an_ecg": "not an ECG"}


def reason_words(code: str) -> str:
    """Return what people read in place of the code of a file's outcome."""
    return _REASON_WORDS.get(code, code.replace("_", " "))


class ItemFilterForm(FilterForm):
    outcome = forms.ChoiceField(choices=[("", "All"), *Outcome.choices])
    code = forms.ChoiceField(label="Reason")
    search = forms.CharField(max_length=200, label="File name")

    def __init__(self, *args, codes: list[str], **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["code"].choices = [("", "All"), *((code, reason_words(code)) for code in codes)]


class LabelTableForm(forms.Form):
    file = forms.FileField(label="Label table", help_text="CSV, TSV, XLSX or JSON with one row per record.")


# What a column of a label table can be. One column a row says the record; several may hold labels.
SINGLE_ROLES = {
    "record": "Record",
    "subject": "Subject",
    "age": "Age",
    "sex": "Sex",
    "fold": "Fold",
    "site": "Site",
    "recorded_at": "Time of recording",
    "likelihood": "Likelihood",
}
COLUMN_ROLES = [
    ("", "Not used"), *SINGLE_ROLES.items(), ("also_record", "Record, other name"), ("codes:", "Labels, any system"),
    *((f"codes:{system}", f"Labels, {SYSTEM_WORDS[system]}") for system in SYSTEMS),
    ("flag:", "Label, 0 or 1, any system"), *((f"flag:{system}", f"Label, 0 or 1, {SYSTEM_WORDS[system]}") for system in SYSTEMS),
]  # fmt: skip


def roles_of(mapping: dict[str, Any], columns: list[str]) -> dict[str, str]:
    """Return the role of each column under a mapping (the JSON form of ``ColumnMapping``)."""
    roles = dict.fromkeys(columns, "")
    for name in SINGLE_ROLES:
        if mapping.get(name):
            roles[mapping[name]] = name
    roles |= dict.fromkeys(mapping.get("also_record", ()), "also_record")
    roles |= {
        column["column"]: f"{column['kind']}:{column.get('system') or ''}" for column in mapping.get("labels", ())
    }
    return roles


class ColumnsForm(forms.Form):
    """One choice per column of a label table. ``mapping`` is what the service takes."""

    def __init__(self, *args, columns: list[str], guessed: dict[str, Any], **kwargs):
        super().__init__(*args, **kwargs)
        self.columns, self._guessed = columns, guessed
        roles = roles_of(guessed, columns)
        for number, column in enumerate(columns):
            self.fields[f"column_{number}"] = forms.ChoiceField(
                label=column, choices=COLUMN_ROLES, required=False, initial=roles[column]
            )

    def clean(self) -> dict[str, Any]:
        values = super().clean()
        seen: dict[str, str] = {}
        for number, column in enumerate(self.columns):
            role = values.get(f"column_{number}", "")
            if role in SINGLE_ROLES and role in seen:
                self.add_error(f"column_{number}", f"{seen[role]} is chosen as {SINGLE_ROLES[role].lower()} already.")
            seen.setdefault(role, column)
        if "record" not in seen and not self.errors:
            self.add_error(None, "Choose the column that names the records.")
        return values

    @property
    def mapping(self) -> dict[str, Any]:
        """Return the whole mapping; the codes of flags that were guessed stay as they are."""
        codes = {column["column"]: column.get("code") for column in self._guessed.get("labels", ())}
        chosen: dict[str, Any] = {**dict.fromkeys(SINGLE_ROLES), "also_record": [], "labels": []}
        for number, column in enumerate(self.columns):
            role = self.cleaned_data.get(f"column_{number}", "")
            kind, has_system, system = role.partition(":")
            if role in SINGLE_ROLES:
                chosen[role] = column
            elif role == "also_record":
                chosen["also_record"].append(column)
            elif has_system:
                code = codes.get(column) or column if kind == "flag" else None
                chosen["labels"].append({"column": column, "kind": kind, "system": system or None, "code": code})
        return chosen


class LabelMapForm(forms.Form):
    """The head of a label map; its entries are rows of their own (``read_entries``)."""

    name = forms.CharField(max_length=120)
    system = forms.ChoiceField(
        choices=[(system, SYSTEM_WORDS[system]) for system in (*SYSTEMS, "any")], label="Code system"
    )
    classes = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 6}), max_length=20_000,
        help_text="One class a line, in the order that models will use.",
    )  # fmt: skip

    def clean_classes(self) -> list[str]:
        names = [name.strip() for name in self.cleaned_data["classes"].splitlines() if name.strip()]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise forms.ValidationError(f"{', '.join(double)} is named twice.")
        if long := [name for name in names if len(name) > 80]:
            raise forms.ValidationError(f"{long[0][:40]}... is longer than 80 characters.")
        return names


class LabelMapFileForm(forms.Form):
    file = forms.FileField(
        label="CSV file", help_text="With the columns code, class and relation, as the portal exports it."
    )
    name = forms.CharField(
        max_length=120, help_text="The name of an existing map of the project makes its next version."
    )
    system = forms.ChoiceField(
        choices=[(system, SYSTEM_WORDS[system]) for system in (*SYSTEMS, "any")], label="Code system"
    )


class MapChoiceForm(FilterForm):
    """Choose one of the maps that can be used in the project."""

    map = RowField(LabelMap.objects.none(), empty_label=None, label="Label map")

    def __init__(self, *args, maps: Any, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["map"].queryset = maps


RELATION_CHOICES = [(relation, relation) for relation in RELATIONS]


def read_entries(data: Any) -> dict[str, dict[str, str]]:
    """Return the entries of the map editor's rows; rows without a code are left out."""
    rows = zip(data.getlist("code"), data.getlist("class"), data.getlist("relation"))
    return {
        code.strip(): {"class": name.strip() or None, "relation": relation}
        for code, name, relation in rows
        if code.strip()
    }
