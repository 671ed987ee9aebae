"""The log files of the supervisor's children: kept small, their errors copied out."""

from __future__ import annotations

import logging
import re
import shutil
import time
import traceback
from pathlib import Path
from typing import Any

MAX_BYTES = 20_000_000

_ENTRY = re.compile(r"^\[?\d{4}-\d\d-\d\d[ T]|^\d\d:\d\d:\d\d ")
# What stands between the date and the level: a time with fractions, a zone.
_CLOCK_CHARACTERS = 12
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(: |$)")
# Errors of the database that tell the values of a row, by the names of their classes in any driver.
_QUOTING = frozenset(("DataError", "IntegrityError"))
_ERROR = re.compile(r"\b(ERROR|CRITICAL|FATAL|PANIC)\b")


def cap_size(path: Path, *, keep: bool = True, limit: int = MAX_BYTES) -> None:
    """Move what a log holds to ``<name>.1`` when it has grown past the limit.

    With ``keep`` the file itself stays (copied, then emptied), as a process has it open for
    appending; without, it is renamed.
    """
    if not path.is_file() or path.stat().st_size <= limit:
        return
    old = path.with_name(f"{path.name}.1")
    if keep:
        shutil.copyfile(path, old)
        with path.open("r+b") as stream:
            stream.truncate(0)
    else:
        path.replace(old)


class ReticentFormatter(logging.Formatter):
    """Shows where an error arose, but not the words of those that quote what they were given: it may be a patient's."""

    def formatException(self, ei: Any) -> str:
        parts: list[str] = []
        error, seen = ei[1], set[int]()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            frames = "".join(traceback.format_tb(error.__traceback__))
            parts.insert(0, f"Traceback (most recent call last):\n{frames}{_named(error)}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\n\nThe above exception led to the following one:\n\n".join(parts)


def _named(error: BaseException) -> str:
    kind = type(error)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(error, ValueError | LookupError) or _QUOTING.intersection(base.__name__ for base in kind.__mro__):
        return f"{name}: {getattr(error, 'sqlstate', None) or '(words left out)'}"
    return f"{name}: {error}" if str(error) else name


class ErrorTail:
    """Follows log files and gives out the gist of new entries of level ERROR and above.

    The gist is the entry's first line and, where a traceback follows, the exception that
    ends it; an entry that only repeats one of the last minute is left out.
    """

    repeat_after_s = 60.0

    def __init__(self) -> None:
        self._offsets: dict[str, int] = {}
        self._entries: dict[str, list[str]] = {}
        self._rest: dict[str, bytes] = {}
        self._paths: dict[str, Path] = {}
        self._told: dict[tuple[str, ...], float] = {}

    def follow(self, name: str, path: Path) -> None:
        """Follow the file from its present end."""
        if name not in self._paths:
            self._offsets[name] = path.stat().st_size if path.is_file() else 0
        self._paths[name] = path

    def new_errors(self) -> list[str]:
        """Return the gist of the errors since the last call, each line with the name of its process."""
        found: list[str] = []
        for name, path in self._paths.items():
            lines = self._new_lines(name, path)
            for line in lines:
                if _ENTRY.match(line) or (line.startswith("Traceback ") and name not in self._entries):
                    found += self._gist(name)
                    if _ERROR.search(line) or line.startswith("Traceback "):
                        self._entries[name] = [line]
                elif name in self._entries:
                    self._entries[name].append(line)
            if not lines:
                # Nothing was added since the last look: the entry is complete.
                found += self._gist(name)
        return found

    def _gist(self, name: str) -> list[str]:
        entry = self._entries.pop(name, [])
        if not entry:
            return []
        endings = [line for line in entry[1:] if _EXCEPTION.match(line)]
        gist = [f"{name}: {line}" for line in (entry[0], *endings[-1:])]
        key = (name, _ENTRY.sub("", entry[0])[_CLOCK_CHARACTERS:], *endings[-1:])
        now = time.monotonic()
        if now - self._told.get(key, -self.repeat_after_s) < self.repeat_after_s:
            return []
        self._told = {old: at for old, at in self._told.items() if now - at < self.repeat_after_s} | {key: now}
        return gist

    def _new_lines(self, name: str, path: Path) -> list[str]:
        try:
            size = path.stat().st_size
            if size == self._offsets[name]:
                return []
            if size < self._offsets[name]:
                self._offsets[name] = 0
            with path.open("rb") as stream:
                stream.seek(self._offsets[name])
                # Bounded, so that a flood of messages cannot stop the supervisor.
                data = stream.read(1_000_000)
        except OSError:
            return []
        self._offsets[name] += len(data)
        lines = (self._rest.get(name, b"") + data).split(b"\n")
        self._rest[name] = lines.pop()
        return [line.decode("utf-8", errors="replace") for line in lines]
