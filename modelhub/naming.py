"""How people name a version in the shell: its id, or the model's name with ``v`` and the number."""

from __future__ import annotations

import re
from typing import Any

from ecgportal.errors import InvalidInput

_NAME = re.compile(r"(?P<model>.+?)\s+v(?P<number>\d{1,9})", re.IGNORECASE)


def version_lookup(text: str) -> dict[str, Any]:
    """Return the lookup of ``Net v3``; empty for an id."""
    match = _NAME.fullmatch(text.strip())
    if match is None:
        if re.fullmatch(r"[0-9a-fA-F-]{36}", text):
            return {}
        raise InvalidInput(f"{text} names no version.", fields={"version": "Give its id, or its name as in 'Net v3'."})
    return {"model__name__iexact": match["model"], "number": int(match["number"])}
