"""Find the reader of a file by its content."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from datasets import formats
from datasets.formats._foreign import refusal
from datasets.formats.base import HEAD_BYTES, READERS, Reader, ReadOptions, ReadResult, Source
from ecgportal.errors import UnreadableFile

_NOT_READERS = {"base", "registry", "archive"}


@cache
def readers() -> dict[str, Reader]:
    """Return every registered reader by name. The package's modules are imported at the first call."""
    for module in sorted(info.name for info in pkgutil.iter_modules(formats.__path__)):
        if module not in _NOT_READERS and not module.startswith("_"):
            importlib.import_module(f"{formats.__name__}.{module}")
    return dict(READERS)


def title_of(name: str) -> str:
    """Return how people call a format; its own name where no reader of it is known any more."""
    entry = readers().get(name)
    return entry.title if entry is not None else name


def sniff(source: Source) -> Reader | None:
    """Return the one reader that recognises the file, or None.

    Raises UnreadableFile (``ambiguous_format``) when several do: a wrong guess would spoil data silently.
    """
    with source.open() as stream:
        head = stream.read(HEAD_BYTES)
    found = [entry for entry in readers().values() if entry.sniff(head, source.name)]
    if len(found) > 1:
        names = ", ".join(entry.title for entry in found)
        raise UnreadableFile(
            f"{source.name} looks like several formats at once ({names}). Convert it to one of them.",
            code="ambiguous_format",
        )
    return found[0] if found else None


def unknown(source: Source) -> UnreadableFile:
    """Return the error for a file that no reader knows: what it is, where that shows, and what to do."""
    with source.open() as stream:
        head = stream.read(HEAD_BYTES)
    return refusal(head, source.name, ", ".join(entry.title for entry in readers().values()))


def read(source: Source, options: ReadOptions | None = None) -> tuple[Reader, ReadResult]:
    """Read one file. UnreadableFile (``not_an_ecg``, ``format_not_read``, ``archive_kind``) when no reader knows it."""
    entry = sniff(source)
    if entry is None:
        raise unknown(source)
    return entry, entry.read(source, options or ReadOptions())
