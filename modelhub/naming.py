"""How people name a version in the shell: its id, the model's name with ``v`` and the number, or with ``@`` and an alias."""

from __future__ import annotations

import re
from typing import Any

from ecgportal.errors import InvalidInput

_ALIAS = re.compile(r"(?P<model>.+?)@(?P<alias>[a-z][a-z0-9_-]*)", re.IGNORECASE)
_NAME = re.compile(r"(?P<model>.+?)\s+v(?P<number>\d{1,9})", re.IGNORECASE)


def version_lookup(text: str) -> dict[str, Any]:
    """Return the lookup of ``Net v3`` or ``Net@champion``; empty for an id."""
    named = _ALIAS.fullmatch(text.strip())
    if named is not None:
        return {"model__name__iexact": named["model"], "aliases__name": named["alias"].lower()}
    match = _NAME.fullmatch(text.strip())
    if match is None:
        if re.fullmatch(r"[0-9a-fA-F-]{36}", text):
            return {}
        raise InvalidInput(
            f"{text} names no version.",
            fields={"version": "Give its id, or its name as in 'Net v3' or 'Net@champion'."},
        )
    return {"model__name__iexact": match["model"], "number": int(match["number"])}
