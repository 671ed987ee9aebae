"""Users and their API tokens."""

from __future__ import annotations

import uuid

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models.functions import Lower

from ecgportal.base_models import UUIDModel


class User(AbstractUser):
    """A person who signs in. ``is_superuser`` marks the platform's administrators; they manage users, the
    catalogue and exchanges, and see no project's data unless they are its member."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)

    class Meta:
        ordering = ["username"]
        constraints = [
            models.UniqueConstraint(Lower("username"), name="user_name_unique", violation_error_message="There is a user with this name already."),
            models.UniqueConstraint(
                Lower("email"), condition=~models.Q(email=""), name="user_email_unique",
                violation_error_message="There is a user with this e-mail address already.",
            ),
        ]  # fmt: skip

    @property
    def is_administrator(self) -> bool:
        return self.is_active and self.is_superuser


class ApiToken(UUIDModel):
    """A key for scripts; only its digest is stored."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=80)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    last_used_at = models.DateTimeField(null=True, editable=False)
    expires_at = models.DateTimeField()

    class Meta:
        ordering = ["-created_at", "id"]
        indexes = [models.Index(fields=["user", "-created_at"], name="token_of_user")]

    def __str__(self) -> str:
        return self.name
