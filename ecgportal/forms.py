"""What the forms of all rooms share."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django import forms
from django.http import QueryDict

from ecgportal.errors import PortalError
from ecgportal.projects import access


def count_of(text: str) -> int | None:
    """Return the whole number that a text of up to nine decimal digits is, else None."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


class _NamesRows:
    """A choice of rows. One that names a row of another project is refused as one that is not there, and noted there."""

    queryset: Any

    def clean(self, value: Any) -> Any:
        try:
            return super().clean(value)  # type: ignore[misc]
        except forms.ValidationError:
            access.note_asked(self.queryset.model, *(value if isinstance(value, list | tuple) else [value]))
            raise


class RowField(_NamesRows, forms.ModelChoiceField):
    """One row of ``queryset``, by its id."""


class RowsField(_NamesRows, forms.ModelMultipleChoiceField):
    """Some rows of ``queryset``, by their ids."""


def note_first_values(form: forms.BaseForm, address: QueryDict) -> None:
    """Look up the rows that a form begins with where an address names them, which nothing else does before it is sent."""
    for name, field in form.fields.items() if address else ():
        if isinstance(field, _NamesRows) and form.initial.get(name):
            with suppress(forms.ValidationError):
                field.clean(form.initial[name])


def take_error(form: forms.BaseForm, error: PortalError) -> None:
    """Show an error of a service beside the fields that it names, or above the form when it names none of them."""
    form.is_valid()
    known = {name: sentence for name, sentence in error.fields.items() if name in form.fields}
    for name, sentence in known.items():
        form.add_error(name, sentence)
    if not known:
        rest = " ".join(error.fields.values())
        form.add_error(None, f"{error.message} {rest}".strip())


class FilterForm(forms.Form):
    """A form of a list's filters, sent by GET. ``values`` holds what can be used; what cannot is shown as an error."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, auto_id="filter_%s", **kwargs)
        for field in self.fields.values():
            field.required = False

    @property
    def values(self) -> dict:
        self.is_valid()
        return {name: value for name, value in self.cleaned_data.items() if value not in (None, "")}
