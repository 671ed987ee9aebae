"""What a known collection of ECGs is: how its folder is recognised, which files hold records, and what its tables say.

A collection is one module of this package that calls :func:`collection` once. Nothing here knows the database; the tables
are turned into label tables that :mod:`datasets.labels.table` reads, with every column's meaning stated.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

_MOST_NAMES = 4000
_MAX_FIELD = 10_000_000

Row = dict[str, str]


class Folder:
    """A folder of the server, looked at without leaving it: links are not followed, hidden names are not seen."""

    def __init__(self, path: Path):
        self.path = path

    def names(self, pattern: str = "*", most: int = _MOST_NAMES) -> list[str]:
        """Return the first ``most`` names in the folder itself that fit a glob pattern, in order."""
        found = []
        for entry in self.path.glob(pattern):
            if not entry.name.startswith(".") and not entry.is_symlink():
                found.append(entry.name)
                if len(found) == most:
                    break
        return sorted(found)

    def has(self, name: str) -> bool:
        """Tell whether a file or folder of this relative name is there."""
        path = self.path / name
        return path.exists() and not path.is_symlink()

    def sub(self, name: str) -> Folder:
        return Folder(self.path / name)


@dataclass(frozen=True)
class Table:
    """A label table that a collection brings along, read row by row.

    names: relative names under which it is published; the first that is there is read. mapping: what its columns mean, as
    :meth:`datasets.labels.table.ColumnMapping.to_dict` gives it. columns: the columns that are kept; others are never
    stored. row: changes one row, or leaves it out (None).
    """

    names: tuple[str, ...]
    columns: tuple[str, ...]
    mapping: Mapping[str, Any]
    row: Callable[[Row], Row | None] | None = None

    def find(self, folder: Path) -> str | None:
        """Return the relative name under which the table lies in ``folder``, or None."""
        return next((name for name in self.names if (folder / name).is_file()), None)

    def rows(self, path: Path) -> Iterator[Row]:
        """Yield the rows with the kept columns, as the table says them after ``row``. Missing columns are left out."""
        csv.field_size_limit(_MAX_FIELD)
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
            for told in csv.DictReader(stream):
                row: Row | None = {name: told.get(name) or "" for name in self.columns if name in told}
                if self.row is not None:
                    row = self.row(row)
                if row is not None:
                    yield row


@dataclass(frozen=True)
class Collection:
    """A registered collection.

    about: one sentence. recognises: tells by names in a folder whether the collection lies there. holds: tells by its relative
    POSIX name whether a file belongs to a record; ``folder`` is the collection's. options: what the publishers say about
    rate, unit and leads, for files that are silent. site_of: the site of a record by its file's relative name.
    label_map: the built-in map that fits best. physionet: ``slug/version`` where it can be downloaded from, and
    ``fetches``: which of the files listed there are needed.
    """

    name: str
    title: str
    about: str
    licence: str
    home: str
    label_map: str
    recognises: Callable[[Folder], bool]
    holds: Callable[[Folder, str], bool]
    tables: tuple[Table, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    site_of: Callable[[str], str] | None = None
    physionet: str | None = None
    fetches: Callable[[str], bool] | None = None


COLLECTIONS: dict[str, Collection] = {}


def collection(entry: Collection) -> Collection:
    """Register a collection; a second one of the same name is a programming error."""
    if entry.name in COLLECTIONS:
        raise RuntimeError(f"Two collections are called {entry.name!r}.")
    COLLECTIONS[entry.name] = entry
    return entry


def has_suffix(*suffixes: str) -> Callable[[Folder, str], bool]:
    """Return a ``holds`` that takes every file of these endings."""
    return lambda folder, name: name.lower().endswith(suffixes)


def stem(name: str) -> str:
    return PurePosixPath(name).stem


def all_named(folder: Folder, pattern: str, form: str) -> bool:
    """Tell whether there are names of a glob pattern and the stems of all of them are of one form (a regular expression)."""
    names = folder.names(pattern)
    return bool(names) and all(re.fullmatch(form, stem(name)) for name in names)
