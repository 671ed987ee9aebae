"""Look for what could name a patient in text that is about to leave or enter the portal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_LABELLED = re.compile(
    r"\b(mrn|medical[ _-]?record|patient[ _-]?(?:id|name|no|number|key)|date[ _-]?of[ _-]?birth|dob|birth[ _-]?date"
    r"|social[ _-]?security|ssn|nhs[ _-]?(?:no|number)|accession(?:[ _-]?(?:no|number))?|case[ _-]?number)"
    r"\b[\"']?\s*[:=#]\s*[\"']?([^\s\"',;]{2,60})",
    re.IGNORECASE,
)
_SOCIAL = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])")
# Seven to twelve digits that stand alone: not inside a decimal, a DOI, an address, a hash or a longer word.
_NUMBER = re.compile(r"(?<![\w./:+-])\d{7,12}(?![\w./]|[-:]\d|\.\d)")
_BLANK = {"none", "null", "unknown", "n/a", "not", "-", "stated", "removed"}


def find_identifiers(text: str) -> list[str]:
    """Return what looks like a patient's identifier in ``text``, described without repeating its value."""
    found = []
    for match in _LABELLED.finditer(text):
        if match.group(2).lower() not in _BLANK:
            found.append(f"a value behind {match.group(1)!r}")
    if _SOCIAL.search(text):
        found.append("a number of the form 000-00-0000")
    count = len(_NUMBER.findall(text))
    if count:
        found.append(f"{count} number{'s' if count > 1 else ''} of 7 to 12 digits")
    return found


def texts_of(value: Any) -> Iterator[str]:
    """Walk JSON-like data and give every text in it; a key and its text come as one line, so that labels count."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            if isinstance(entry, (str, int)) and not isinstance(entry, bool):
                # A bare number is a count unless its key says otherwise.
                yield f"{key}: {entry}" if isinstance(entry, str) or _LABELLED.match(f"{key}: {entry}") else str(key)
            else:
                yield str(key)
                yield from texts_of(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from texts_of(entry)
