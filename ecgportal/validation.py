"""What a table's own rules say of a row before it is stored, as an error for people."""

from __future__ import annotations

from collections.abc import Collection

from django.core.exceptions import ValidationError
from django.db import models

from ecgportal.errors import InvalidInput


def require_valid(row: models.Model, sentence: str, exclude: Collection[str] = ()) -> None:
    """Raise InvalidInput with ``sentence`` and ``{field: sentence}`` when a row cannot be stored as it is.

    exclude: fields that are not looked at.
    """
    try:
        row.full_clean(exclude=exclude)
    except ValidationError as error:
        raise InvalidInput(
            sentence, fields={name: " ".join(messages) for name, messages in error.message_dict.items()}
        ) from error
