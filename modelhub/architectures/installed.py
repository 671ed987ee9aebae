"""Definitions of networks that an administrator put on this machine by hand, as Python files in a folder.

They are read only where ``PORTAL_ARCHITECTURES`` names folders (separated as in ``PATH``; a relative one lies below
``PORTAL_HOME``). Nothing that comes over the web ever reaches such a folder. Pages see what the source says, parsed
and not run; jobs run the very bytes whose SHA-256 was noted. A model of such a network names that digest, and is
refused where the file is not there or is another one.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import os
import stat
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ecgportal import home
from ecgportal.errors import InvalidInput
from modelhub.architectures.facts import ArchitectureFacts, facts_in

_MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Definition:
    """One file of an installed folder. networks: what it defines, none while ``problem`` says why it is not used."""

    path: Path
    sha256: str
    networks: tuple[ArchitectureFacts, ...]
    problem: str = ""

    @property
    def shown(self) -> str:
        """The digest in groups that a narrow page can break."""
        return " ".join(self.sha256[i : i + 8] for i in range(0, len(self.sha256), 8))


def folders() -> list[Path]:
    """Return the folders that the setting names; none when it is not set."""
    named = [part for part in os.environ.get("PORTAL_ARCHITECTURES", "").split(os.pathsep) if part.strip()]
    return [home.portal_home() / part.strip() for part in named]


def definitions(taken: Collection[str] = ()) -> list[Definition]:
    """Return the files of the installed folders in order; ``taken`` are names of networks that they may not use."""
    found: list[Definition] = []
    names = set(taken)
    for folder in folders():
        if not folder.is_dir():
            found.append(Definition(folder, "", (), "There is no such folder."))
            continue
        for path in sorted(folder.glob("*.py")):
            definition = _read(path)
            twice = sorted({facts.name for facts in definition.networks} & names)
            if twice:
                sentence = f"There is a network called {', '.join(twice)} already; give it another name."
                definition = replace(definition, networks=(), problem=sentence)
            names |= {facts.name for facts in definition.networks}
            found.append(definition)
    return found


def run_definition(path: Path, sha256: str) -> None:
    """Run an installed file as a module, so that it registers its networks; only jobs do this.

    InvalidInput (``definition_broken``) when the file changed since it was looked at, or does not run.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InvalidInput(f"{path.name} was changed a moment ago. Try again.", code="definition_broken")
    name = f"portal_installed_{sha256[:16]}"
    spec = importlib.util.spec_from_loader(name, _TheseBytes(path, data))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # an installed file may fail in any way; the sentence names it.
        del sys.modules[name]
        raise InvalidInput(
            f"The installed definition {path.name} does not run: {type(error).__name__}: {str(error)[:200]}. An "
            "administrator of this server has to mend it.",
            code="definition_broken",
        ) from error


class _TheseBytes(importlib.abc.SourceLoader):
    """Loads a module from bytes in memory: what runs is what was hashed, and no compiled copy is kept beside it."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._data = path, data

    def get_filename(self, fullname: str) -> str:
        return str(self._path)

    def get_data(self, path: str | bytes) -> bytes:
        if str(path) != str(self._path):
            raise OSError(f"{path!r} is not this module's source.")
        return self._data


def _read(path: Path) -> Definition:
    if problem := _unsafe_place(path):
        return Definition(path, "", (), problem)
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        found = _parsed(data)
    except (SyntaxError, ValueError, TypeError) as error:
        return Definition(path, sha256, (), f"It cannot be read: {_said(error)}.")
    problem = ""
    if not found:
        problem = "It marks no function with @architecture(...)."
    elif any(facts.definition for facts in found):
        problem = "It states its own digest; the portal notes that itself."
    elif len({facts.name for facts in found}) < len(found):
        problem = "It uses one name twice."
    return Definition(path, sha256, () if problem else tuple(replace(f, definition=sha256) for f in found), problem)


@lru_cache(maxsize=64)
def _parsed(data: bytes) -> tuple[ArchitectureFacts, ...]:
    return tuple(facts_in(data.decode("utf-8")))


def _said(error: Exception) -> str:
    return f"{error.msg} in line {error.lineno}" if isinstance(error, SyntaxError) else str(error)[:200]


def _unsafe_place(path: Path) -> str:
    """Return why a file may not be run where it lies, or nothing: only administrators of the machine may write it."""
    for place in (path, path.parent, path.resolve(), path.resolve().parent):
        found = place.stat()
        if stat.S_IMODE(found.st_mode) & 0o022:
            return f"{place.name} may be written by others; take that right away (chmod go-w)."
        if found.st_uid not in (0, os.geteuid()):
            return f"{place.name} belongs to another user than root or the portal's."
    if path.stat().st_size > _MAX_BYTES:
        return "It is larger than a definition can be."
    return ""
