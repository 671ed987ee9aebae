"""Signing in and out, my tokens and password, and the users for administrators."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.views import LoginView as DjangoLoginView
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views import View

from ecgportal.accounts import services
from ecgportal.accounts.forms import (
    OwnPasswordForm,
    PasswordResetForm,
    SignInForm,
    TokenForm,
    UserCreateForm,
    UserEditForm,
    UserFilterForm,
)  # fmt: skip
from ecgportal.accounts.models import ApiToken, User
from ecgportal.accounts.throttle import check_sign_in
from ecgportal.errors import NotFound, PortalError, TooManyRequests
from ecgportal.forms import take_error
from ecgportal.projects.access import note_hidden
from ecgportal.views import AdministratorView, paginate


class LoginView(DjangoLoginView):
    """Sign in by name and password; too many failures are answered with 429 before a password is looked at."""

    form_class = SignInForm
    redirect_authenticated_user = True

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            check_sign_in(request.POST.get("username", ""))
        except TooManyRequests as error:
            # An unbound form: a bound one would look at the password.
            form = self.form_class(request, initial={"username": request.POST.get("username", "")})
            return self.render_to_response(self.get_context_data(form=form, refused=error.message), status=error.status)
        return super().post(request, *args, **kwargs)


class TokensView(View):
    """My API tokens. The key of a new one is shown by the answer that creates it, and never again."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return self._page(request, TokenForm())

    def post(self, request: HttpRequest) -> HttpResponse:
        form = TokenForm(request.POST)
        if not form.is_valid():
            return self._page(request, form, status=422)
        token, key = services.token_create(
            user=request.user, name=form.cleaned_data["name"], days=form.cleaned_data["days"]
        )
        response = self._page(request, TokenForm(), new_token=token, key=key)
        response["Cache-Control"] = "no-store"
        return response

    def _page(self, request: HttpRequest, form: TokenForm, status: int = 200, **context: Any) -> HttpResponse:
        tokens = ApiToken.objects.filter(user=request.user)
        context |= {"form": form, "page_obj": paginate(request, tokens), "nav_active": "tokens"}
        return render(request, "accounts/tokens.html", context, status=status)


class TokenDeleteView(View):
    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        token = ApiToken.objects.filter(pk=pk, user=request.user).first()
        if token is None:
            note_hidden(ApiToken, request.user, pk=pk)
            raise NotFound("You have no such token.")
        services.token_delete(actor=request.user, token=token)
        messages.success(request, f"The token {token.name} is revoked. What used it can no longer sign in.")
        return redirect("accounts:tokens")


def _revoked(count: int) -> str:
    """Say how many API tokens a new password has ended."""
    if not count:
        return "There was no API token to revoke."
    return "1 API token is revoked." if count == 1 else f"{count} API tokens are revoked."


class PasswordView(View):
    """Change my own password; other sessions and all API tokens of mine end."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return self._page(request, OwnPasswordForm(request.user))

    def post(self, request: HttpRequest) -> HttpResponse:
        form = OwnPasswordForm(request.user, request.POST)
        if form.is_valid():
            password = form.cleaned_data["new_password1"]
            revoked = services.password_change(actor=request.user, user=request.user, password=password)
            update_session_auth_hash(request, request.user)
            messages.success(request, f"Your password is changed. Other browsers are signed out. {_revoked(revoked)}")
            return redirect("accounts:password")
        return self._page(request, form, status=422)

    def _page(self, request: HttpRequest, form: OwnPasswordForm, status: int = 200) -> HttpResponse:
        return render(request, "accounts/password.html", {"form": form, "nav_active": "password"}, status=status)


def _found(params: Any) -> tuple[UserFilterForm, QuerySet[User]]:
    form = UserFilterForm(params)
    users = User.objects.order_by("username")
    if text := form.values.get("search"):
        users = users.filter(Q(username__icontains=text) | Q(email__icontains=text))
    narrow = {"active": {"is_active": True}, "inactive": {"is_active": False}, "administrator": {"is_superuser": True}}
    return form, users.filter(**narrow.get(form.values.get("state", ""), {}))


class UsersView(AdministratorView):
    nav_active = "users"
    template = "accounts/users.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        form, users = _found(request.GET)
        return self.page(filters=form, page_obj=paginate(request, users))


class UserCreateView(AdministratorView):
    nav_active = "users"
    template = "accounts/user_create.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        return self.page(form=UserCreateForm())

    def post(self, request: HttpRequest) -> HttpResponse:
        form = UserCreateForm(request.POST)
        if form.is_valid():
            try:
                user = services.user_create(actor=request.user, **form.cleaned_data)
            except PortalError as error:
                take_error(form, error)
            else:
                messages.success(
                    request,
                    f"{user.username} can sign in now. Make the person a member of a project on its members page.",
                )
                return redirect("accounts:users")
        return self.page(form=form, status=422)


class UserView(AdministratorView):
    """One user: active or not, administrator or not, and a new password."""

    nav_active = "users"
    template = "accounts/user.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        user = self._user(pk)
        return self._page(user, self._edit_form(user), PasswordResetForm())

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        user = self._user(pk)
        if "password" in request.POST:
            return self._set_password(user, PasswordResetForm(request.POST))
        form = UserEditForm(request.POST)
        if form.is_valid():
            try:
                services.user_update(actor=request.user, user=user, **form.cleaned_data)
            except PortalError as error:
                take_error(form, error)
            else:
                messages.success(request, f"{user.username} is saved.")
                return redirect("accounts:users")
        return self._page(user, form, PasswordResetForm(), status=422)

    def _set_password(self, user: User, form: PasswordResetForm) -> HttpResponse:
        if form.is_valid():
            try:
                password = form.cleaned_data["password"]
                revoked = services.password_change(actor=self.request.user, user=user, password=password)
            except PortalError as error:
                take_error(form, error)
            else:
                if user.pk == self.request.user.pk:
                    update_session_auth_hash(self.request, user)
                messages.success(
                    self.request,
                    f"The password of {user.username} is changed; browsers where {user.username} was signed in are signed out. "
                    f"{_revoked(revoked)}",
                )
                return redirect("accounts:users")
        return self._page(user, self._edit_form(user), form, status=422)

    def _user(self, pk: uuid.UUID) -> User:
        user = User.objects.filter(pk=pk).first()
        if user is None:
            raise NotFound("There is no such user.")
        return user

    def _edit_form(self, user: User) -> UserEditForm:
        return UserEditForm(
            initial={"email": user.email, "is_active": user.is_active, "is_administrator": user.is_superuser}
        )

    def _page(
        self, user: User, form: UserEditForm, password_form: PasswordResetForm, status: int = 200
    ) -> HttpResponse:
        return self.page(person=user, form=form, password_form=password_form, status=status)
