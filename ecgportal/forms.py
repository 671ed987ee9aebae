"""What the forms of all rooms share."""

from __future__ import annotations

from django import forms

from ecgportal.errors import PortalError


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
