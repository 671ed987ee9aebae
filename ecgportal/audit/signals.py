"""Sign-in, failed sign-in, sign-out and the end of a request come from Django's own signals."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core.signals import request_finished
from django.dispatch import receiver

from ecgportal.audit import later
from ecgportal.audit.trail import record


@receiver(user_logged_in)
def _signed_in(sender: Any, user: Any, **kwargs: Any) -> None:
    record("session.signed_in", user, actor=user)


@receiver(user_logged_out)
def _signed_out(sender: Any, user: Any, **kwargs: Any) -> None:
    if user is not None:
        record("session.signed_out", user, actor=user)


@receiver(user_login_failed)
def _failed(sender: Any, credentials: dict[str, Any], **kwargs: Any) -> None:
    record("session.sign_in_failed", str(credentials.get("username", ""))[:150], outcome="failure")


request_finished.connect(later.finish, dispatch_uid="audit_later")
