"""The one tree of errors.

Every error carries a sentence for a person (what happened, where, why, what to do
next) and a ``code`` in snake_case for programs. The HTTP status is part of the error,
so pages, the API and the shell answer the same trouble in the same way.
"""

from __future__ import annotations


class PortalError(Exception):
    """Root of all errors that a user can meet.

    Parameters
    ----------
    message: a full sentence for a person.
    code: overrides the class's code where a finer one helps a program.
    fields: ``{field name: sentence}`` for errors that belong to form fields.
    """

    code = "portal_error"
    status = 400

    def __init__(self, message: str, *, code: str | None = None, fields: dict[str, str] | None = None):
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.fields = fields or {}


class InvalidInput(PortalError):
    """A value that was sent cannot be used as it is."""

    code = "invalid_input"
    status = 422


class NotFound(PortalError):
    """The thing is not there, or not visible to the one who asks."""

    code = "not_found"
    status = 404


class NotAllowed(PortalError):
    """The thing is visible, but the role does not allow the action."""

    code = "not_allowed"
    status = 403


class Conflict(PortalError):
    """The state of the thing does not allow the change now."""

    code = "conflict"
    status = 409


class TooLarge(PortalError):
    """A size or count limit was passed."""

    code = "too_large"
    status = 413


class TooManyRequests(PortalError):
    """The same thing was tried too often; the message says when to try again."""

    code = "too_many_requests"
    status = 429


class UnreadableFile(PortalError):
    """A file could not be read as an ECG; the message names the file and the reason."""

    code = "unreadable_file"
    status = 415


class NeedsAnswer(UnreadableFile):
    """A file does not say its rate, unit or lead order; the user must.

    ``fields`` names each missing option (``fs_hz``, ``unit``, ``lead_order``) with a
    sentence that offers a guess and the reason for it.
    """

    code = "needs_answer"
    status = 422


class UnsafeFile(PortalError):
    """A file was refused because loading it could harm the machine."""

    code = "unsafe_file"
    status = 415


class ParityError(PortalError):
    """Two forms of one model do not give the same output."""

    code = "parity_failed"
    status = 422


class RemoteError(PortalError):
    """Another server did not answer as it should."""

    code = "remote_failed"
    status = 502


class StorageFailed(PortalError):
    """The bucket in which the portal's files lie does not answer, refuses, or lost something.

    Codes: ``storage_unreachable``, ``storage_refused``, ``storage_no_bucket``, ``storage_failed``, ``storage_damaged``.
    """

    code = "storage_unreachable"
    status = 503


class JobCancelled(PortalError):
    """Raised inside a job when its cancel flag was seen."""

    code = "cancelled"
    status = 409


class TrainingFailed(PortalError):
    """Training cannot start or cannot go on; the message says why and what to change."""

    code = "training_failed"
    status = 422
