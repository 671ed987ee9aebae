"""Forms of accounts."""

from __future__ import annotations

from django import forms
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.contrib.auth.password_validation import password_validators_help_texts

from ecgportal.accounts.models import User
from ecgportal.forms import FilterForm


def password_rules() -> str:
    return " ".join(password_validators_help_texts())


class SignInForm(AuthenticationForm):
    error_messages = {
        "invalid_login": "The user name or the password is wrong, or the user is not active.",
        "inactive": "The user name or the password is wrong, or the user is not active.",
    }

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["username"].label = "User name"


class TokenForm(forms.Form):
    name = forms.CharField(
        max_length=80, help_text="What the token is for, such as the name of the script or the machine."
    )
    days = forms.IntegerField(min_value=1, max_value=366, initial=90, label="Valid for (days)")


class OwnPasswordForm(PasswordChangeForm):
    """Only the old password and the repetition are checked here; the rules are the service's."""

    def __init__(self, user: User, *args, **kwargs):
        super().__init__(user, *args, **kwargs)
        # Focus begins at the top of the page, with the way to its content.
        self.fields["old_password"].widget.attrs.pop("autofocus", None)
        self.fields["new_password1"].help_text = password_rules()
        self.fields["new_password2"].help_text = ""


class UserFilterForm(FilterForm):
    search = forms.CharField(max_length=150, label="User name or e-mail")
    state = forms.ChoiceField(
        choices=[("", "All"), ("active", "Active"), ("inactive", "Not active"), ("administrator", "Administrators")],
        label="Show",
    )


class UserCreateForm(forms.Form):
    username = forms.CharField(
        max_length=150,
        label="User name",
        help_text="Letters, digits and @ . + - _ only.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    email = forms.EmailField(required=False, label="E-mail")
    password = forms.CharField(widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}, render_value=False))
    is_administrator = forms.BooleanField(
        required=False,
        label="Administrator",
        help_text="Manages users and reads the whole audit trail; sees no project's data unless a member of it.",
    )

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields[
            "password"
        ].help_text = f"{password_rules()} Tell it to the person in a safe way; it can be changed after signing in."


class UserEditForm(forms.Form):
    email = forms.EmailField(required=False, label="E-mail")
    is_active = forms.BooleanField(
        required=False,
        label="Active",
        help_text="Somebody who is not active cannot sign in; the API tokens are revoked at once.",
    )
    is_administrator = forms.BooleanField(
        required=False, label="Administrator", help_text="Manages users and reads the whole audit trail."
    )


class PasswordResetForm(forms.Form):
    password = forms.CharField(
        label="New password", widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}, render_value=False)
    )

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["password"].help_text = password_rules()
