"""What the cells of a label table say: codes, likelihoods, numbers."""

from __future__ import annotations

import ast
import re

NOTHING = frozenset(("", "nan", "none", "null", "n/a", "na", "-", "[]", "{}", "unknown"))
_WEIGHTED = re.compile(r"([^:\s]+)\s*:\s*(\d+(?:\.\d+)?)%?$")


def codes_in(cell: str) -> list[tuple[str, float | None]]:
    """Return the codes of a cell with their likelihoods as written: one code, several, a list or a dict literal."""
    text = cell.strip()
    if text.casefold() in NOTHING:
        return []
    if text[0] in "{[(" and text[-1] in "}])" and len(text) < 100_000:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            value = None
        if isinstance(value, dict):
            return [(_tidy(k), number_in(v)) for k, v in value.items() if _tidy(k)]
        if isinstance(value, list | tuple | set):
            return [(_tidy(v), None) for v in value if _tidy(v)]
    parts = _split(text)
    found: list[tuple[str, float | None]] = []
    for part in parts:
        weighted = _WEIGHTED.match(part)
        if weighted is not None:
            found.append((weighted[1], float(weighted[2])))
        elif part.casefold() not in NOTHING:
            found.append((part, None))
    return found


def _split(text: str) -> list[str]:
    if "\n" in text:
        parts = text.splitlines()
    elif ";" in text or "|" in text:
        parts = re.split(r"[;|]", text)
    elif "," in text:
        parts = text.split(",")
        # A comma between codes separates them; inside words ("Atrial flutter, typical") it belongs to the name.
        if any(re.search(r"\S\s+\S", part.strip()) for part in parts):
            parts = [text]
    else:
        parts = [text]
    return [tidy for part in parts if (tidy := _tidy(part))]


def _tidy(value: object) -> str:
    return " ".join(str(value).split()).strip(" .;")[:200]


# Names of a column that says which record a row is of, without blanks and signs, the surest first; the last few may mean other things.
RECORD_NAMES = (
    "filename", "filenamehr", "filenamelr", "file", "recordname", "recordid", "record", "recording", "ecgid", "examid",
    "studyid", "ecg", "path", "filepath", "traceid", "uuid",
)  # fmt: skip
DOUBTFUL_RECORD_NAMES = ("name", "id", "column1")


def key_of(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def number_in(value: object) -> float | None:
    try:
        number = float(str(value).strip().replace(",", ".").removesuffix("%"))
    except ValueError:
        return None
    return number if abs(number) < 1e12 else None
