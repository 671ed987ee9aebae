"""What the database says when two people change the same thing at the same moment, in words for the one who came second."""

from __future__ import annotations

import logging

from django.apps import apps
from django.core.exceptions import ObjectDoesNotExist
from django.db import DatabaseError, IntegrityError, OperationalError
from django.db.models import UniqueConstraint

from ecgportal.errors import Conflict, InvalidInput, NotFound, PortalError

# PostgreSQL, appendix A: unique_violation and foreign_key_violation.
_NOT_UNIQUE, _NOT_THERE = "23505", "23503"
# serialization_failure and deadlock_detected: the database has taken back one of two changes that wait for each other.
_CROSSED = ("40001", "40P01")


logger = logging.getLogger(__name__)


def told(error: Exception) -> PortalError | None:
    """Return the refusal that an error of the database stands for; None for one that is a fault of the portal."""
    refusal = _refusal(error)
    if refusal is not None:
        logger.warning("taken for a change that came first", exc_info=error)
    return refusal


def _refusal(error: Exception) -> PortalError | None:
    # Django's own, without one of the database behind it: what was to be changed has no row any more.
    is_without_row = type(error) is DatabaseError and error.__cause__ is None
    if is_without_row or isinstance(error, ObjectDoesNotExist):
        return NotFound("It is not there any more; somebody has deleted it in the meantime.")
    if not isinstance(error, IntegrityError | OperationalError):
        return None
    cause = error.__cause__
    state, diagnosis = getattr(cause, "sqlstate", None), getattr(cause, "diag", None)
    if state in _CROSSED:
        return Conflict("Somebody is changing the same at this moment. Try again.", code="busy")
    if state == _NOT_UNIQUE:
        return InvalidInput(_sentence(getattr(diagnosis, "constraint_name", None)))
    if state == _NOT_THERE:
        return Conflict(
            "Something that belongs to this was deleted or begun in the meantime. Load the page again.",
            code="changed_meanwhile",
        )
    return None


def _sentence(name: str | None) -> str:
    """Return what the constraint of this name says."""
    for model in apps.get_models():
        for constraint in model._meta.constraints:
            if isinstance(constraint, UniqueConstraint) and constraint.name == name:
                default = constraint.violation_error_message == constraint.default_violation_error_message
                if not default:
                    return str(constraint.violation_error_message)
                return f"The same {model._meta.verbose_name} was saved in the meantime. Load the page again."
    return "The same was saved in the meantime. Load the page again."
