"""Which record a row of a label table speaks of."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,5}$")
_RATE = re.compile(r"_(hr|lr)$")


class Keyed(Protocol):
    """A row that names a record."""

    @property
    def row_number(self) -> int: ...
    @property
    def record_key(self) -> str: ...
    @property
    def also_keys(self) -> tuple[str, ...]: ...


@dataclass
class Match:
    """matched: the records of each row (several: one ECG at several rates). problems: a sentence by row number for rows
    that fit none or too many. unlabelled: records that no row speaks of."""

    matched: dict[int, tuple[str, ...]] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    unlabelled: tuple[str, ...] = ()


def _exact(key: str) -> str:
    return key.strip()


def _path(key: str) -> str:
    text = key.strip().replace("\\", "/").removeprefix("./").casefold()
    return _SUFFIX.sub("", text)


def _stem(key: str) -> str:
    return _path(key).rpartition("/")[2]


def _ecg(key: str) -> str:
    return _RATE.sub("", _stem(key))


def _number(key: str) -> str:
    stem = re.sub(r"\.0$", "", _ecg(key))
    return stem.lstrip("0") or "0" if stem.isdecimal() else ""


def _last_number(key: str) -> str:
    found = re.search(r"(?<!\d)0*(\d{3,})$", _ecg(key))
    return found[1] if found else ""


# From the strictest to the most tolerant way to compare: how the row's key and the record's key are brought into one
# form, and whether several records of one form are one ECG (its copies at two rates) or different ones.
_WAYS: tuple[tuple[Callable[[str], str], Callable[[str], str], bool], ...] = (
    (_exact, _exact, False),
    (_path, _path, False),
    (_stem, _stem, False),
    (_ecg, _ecg, True),
    (_number, _number, True),
    (_number, _last_number, False),
)


def match_keys(record_keys: Iterable[str], rows: Sequence[Keyed]) -> Match:
    """Match table rows to records by the names in them.

    Tolerated: capitals, folders, file endings, ``_hr`` / ``_lr``, leading zeros (``ecg_id`` 1 is ``00001_hr``), and a
    collection's prefix before a number (exam 270272 is ``code_15_270272``). A row that fits several different records
    equally well is reported and labels none of them.
    """
    keys = list(dict.fromkeys(record_keys))
    index: list[dict[str, list[str]]] = []
    for _, of_record, _ in _WAYS:
        forms: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            if form := of_record(key):
                forms[form].append(key)
        index.append(forms)
    match = Match()
    spoken_of: set[str] = set()
    for row in rows:
        found, clash = _find(row, index)
        if found:
            match.matched[row.row_number] = found
            spoken_of.update(found)
        elif clash:
            shown = ", ".join(clash[:4]) + (", ..." if len(clash) > 4 else "")
            match.problems[row.row_number] = (
                f"{row.record_key[:80]!r} fits {len(clash)} records ({shown}); write the folder too, so that it fits one."
            )
        elif not row.record_key.strip() and not row.also_keys:
            match.problems[row.row_number] = "The row names no record."
        else:
            match.problems[row.row_number] = f"No record is called {row.record_key[:80]!r}."
    match.unlabelled = tuple(key for key in keys if key not in spoken_of)
    return match


def _find(row: Keyed, index: list[dict[str, list[str]]]) -> tuple[tuple[str, ...], list[str]]:
    """Return the records of a row, or the records between which it cannot be decided."""
    names = [name for name in (row.record_key, *row.also_keys) if name.strip()]
    found: list[str] = []
    clash: list[str] = []
    for (of_row, _, same_ecg), forms in zip(_WAYS, index):
        for name in names:
            form = of_row(name)
            fits = forms.get(form, []) if form else []
            if len(fits) > 1 and not (same_ecg and _copies(fits)):
                clash = clash or fits
                continue
            found += [key for key in fits if key not in found]
        if found:
            return tuple(found), []
        if clash:
            return (), clash
    return (), []


def _copies(keys: Sequence[str]) -> bool:
    """Tell whether records are one ECG at several rates: they differ in ``_hr`` and ``_lr`` only."""
    return len({_ecg(key) for key in keys}) == 1 and len({_stem(key) for key in keys}) == len(keys)
