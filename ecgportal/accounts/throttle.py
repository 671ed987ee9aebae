"""Slow down guessing of passwords, for the page and the API alike.

The audit trail holds every failed sign-in, so the count is the same for all processes and survives a restart.
"""

from __future__ import annotations

import unicodedata
from datetime import timedelta

from django.utils import timezone

from ecgportal.audit.context import current
from ecgportal.audit.models import AuditEvent
from ecgportal.errors import TooManyRequests

WINDOW = timedelta(minutes=10)
MAX_PER_NAME = 10
MAX_PER_ADDRESS = 50


def check_sign_in(username: str) -> None:
    """Raise TooManyRequests when this name or the address of the current request failed too often within ``WINDOW``.

    Call it before the password is looked at. The answer does not depend on whether the name exists.
    """
    # A failed sign-in is recorded under the name that the form makes of what was sent.
    username = unicodedata.normalize("NFKC", username.replace("\x00", "")).strip()
    failed = AuditEvent.objects.filter(action="session.sign_in_failed", at__gte=timezone.now() - WINDOW)
    address = current().address
    too_often = failed.filter(object_label__iexact=username[:150])[:MAX_PER_NAME].count() >= MAX_PER_NAME
    if not too_often and address:
        too_often = failed.filter(address=address)[:MAX_PER_ADDRESS].count() >= MAX_PER_ADDRESS
    if too_often:
        minutes = int(WINDOW.total_seconds() // 60)
        raise TooManyRequests(
            f"There were too many failed sign-ins. Wait {minutes} minutes and try again.", code="too_many_sign_ins"
        )
