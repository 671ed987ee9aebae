"""Write users and tokens."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from ecgportal.accounts.models import ApiToken, User
from ecgportal.audit.trail import record
from ecgportal.errors import InvalidInput
from ecgportal.validation import require_valid


def check_password_strength(password: str, user: User) -> None:
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise InvalidInput("The password is too weak.", fields={"password": " ".join(error.messages)}) from error


@transaction.atomic
def user_create(*, actor: Any, username: str, password: str, email: str = "", is_administrator: bool = False) -> User:
    """Create a user who can sign in. InvalidInput names the field that cannot be taken."""
    user = User(username=username, email=email, is_superuser=is_administrator, is_staff=is_administrator)
    check_password_strength(password, user)
    user.set_password(password)
    require_valid(user, "The user cannot be created.")
    user.save(force_insert=True)
    record("user.created", user, actor=actor, changes={"is_administrator": is_administrator})
    return user


@transaction.atomic
def user_update(
    *,
    actor: Any,
    user: User,
    is_active: bool | None = None,
    email: str | None = None,
    is_administrator: bool | None = None,
) -> User:
    """Change a user. The last active administrator stays one."""
    user = User.objects.select_for_update().get(pk=user.pk)
    changes: dict[str, Any] = {}
    for name, value in (("is_active", is_active), ("email", email), ("is_superuser", is_administrator)):
        if value is not None and getattr(user, name) != value:
            changes[name] = [getattr(user, name), value]
            setattr(user, name, value)
    if not changes:
        return user
    others = User.objects.select_for_update().filter(is_active=True, is_superuser=True).exclude(pk=user.pk)
    if not user.is_administrator and not others.exists():
        raise InvalidInput("This is the last administrator; make someone else one first.")
    require_valid(user, "The user cannot be changed.")
    user.save()
    if not user.is_active:
        changes["tokens_revoked"], _ = user.api_tokens.all().delete()
    record("user.changed", user, actor=actor, changes=changes)
    return user


@transaction.atomic
def password_change(*, actor: Any, user: User, password: str) -> int:
    """Set a password, the user's own or a new one by an administrator; returns how many API tokens were revoked.

    Whatever the former password signed in ends: Django's sessions by their hash of the password (the caller keeps its own by
    ``update_session_auth_hash``), API tokens, which open REST and WebDAV, here.
    """
    check_password_strength(password, user)
    User.objects.select_for_update().get(pk=user.pk)
    user.set_password(password)
    user.save(update_fields=["password"])
    revoked, _ = user.api_tokens.all().delete()
    record("user.password_changed", user, actor=actor, changes={"tokens_revoked": revoked})
    return revoked


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@transaction.atomic
def token_create(*, user: User, name: str, days: int | None = None) -> tuple[ApiToken, str]:
    """Create a token; returns the row and the key, which is shown this once."""
    key = secrets.token_urlsafe(32)
    expires_at = timezone.now() + timedelta(days=days or settings.API_TOKEN_DAYS)
    token = ApiToken.objects.create(user=user, name=name[:80] or "token", digest=digest_of(key), expires_at=expires_at)
    record("token.created", token, actor=user)
    return token, key


@transaction.atomic
def token_delete(*, actor: User, token: ApiToken) -> None:
    record("token.deleted", token, actor=actor)
    token.delete()
