"""Forms of projects."""

from __future__ import annotations

from django import forms

from ecgportal.forms import FilterForm
from ecgportal.projects.models import Role

_ROLE_HELP = "A viewer reads, an editor also works with data and models, an owner also manages the project."


class ProjectForm(forms.Form):
    name = forms.CharField(max_length=120)
    description = forms.CharField(
        max_length=4000,
        required=False,
        widget=forms.Textarea(attrs={"rows": 5}),
        help_text="What the project is about, and where its data comes from.",
    )


class ProjectEditForm(ProjectForm):
    keeps_identifiers = forms.BooleanField(
        required=False,
        label="Keep patients' identifiers",
        help_text="Off: subjects get pseudonyms, and original files lose what names a person. On: identifiers are stored "
        "encrypted, and the files of further uploads are kept just as they were sent.",
    )


class ProjectFilterForm(FilterForm):
    search = forms.CharField(max_length=120, label="Name")
    show = forms.ChoiceField(choices=[("", "In use"), ("archived", "Archived"), ("all", "All")])


class MemberForm(forms.Form):
    username = forms.CharField(max_length=150, label="User name", widget=forms.TextInput(attrs={"autocomplete": "off"}))
    role = forms.ChoiceField(choices=Role.choices, help_text=_ROLE_HELP)
