"""What is known about each network without building it, and without importing torch.

Web processes list networks but never load torch. The facts of a network are the literal arguments of the
``@architecture`` decorator in its own file; they are read from the source, so that one new file is all a new
network needs. Files that an administrator installed on this machine (``installed.py``) are read in the same way.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ecgportal.errors import Conflict, NotFound
from modelhub.architectures.facts import ArchitectureFacts as ArchitectureFacts
from modelhub.architectures.facts import facts_in
from modelhub.architectures.installed import definitions

_FOLDER = Path(__file__).resolve().parent


def catalog() -> dict[str, ArchitectureFacts]:
    """Return the facts of every network by name, in the order of the names."""
    found = dict(built_in())
    for definition in definitions(tuple(found)):
        found |= {facts.name: facts for facts in definition.networks}
    return dict(sorted(found.items()))


@cache
def built_in() -> dict[str, ArchitectureFacts]:
    """Return the facts of the portal's own networks by name, in the order of the names."""
    found: dict[str, ArchitectureFacts] = {}
    for facts, _ in _walk():
        if facts.name in found:
            raise ValueError(f"Two networks are called {facts.name!r}.")
        found[facts.name] = facts
    return dict(sorted(found.items()))


@cache
def modules() -> tuple[str, ...]:
    """Return the modules of this package that define networks, in name order."""
    return tuple(dict.fromkeys(module for _, module in _walk()))


def facts_of(name: str) -> ArchitectureFacts:
    """Return the facts of one network; NotFound (``unknown_architecture``) names those that exist."""
    known = catalog()
    if name not in known:
        raise NotFound(
            f"There is no network called {name!r}. Choose one of: {', '.join(known)}.", code="unknown_architecture"
        )
    return known[name]


def is_computed(name: str, mode: str) -> bool:
    """Tell whether a run of a network in this mode is computed in one pass, without epochs."""
    facts = catalog().get(name)
    return facts is not None and facts.computed and mode == "scratch"


def definition_of(name: str | None) -> str | None:
    """Return the SHA-256 of the installed file that defines a network; None for the portal's own and unknown ones."""
    facts = catalog().get(name or "")
    return facts.definition or None if facts is not None else None


def require_definition(name: str | None, stated: str | None) -> None:
    """Raise Conflict (``definition_missing``, ``definition_differs``) unless this portal has the definition of a network
    that a model states. stated: the digest in the model's contract, None for the portal's own networks."""
    here = definition_of(name)
    if here == stated:
        return
    if stated is None:
        raise Conflict(
            f"The model does not state by which definition its network {name} was made; the one of this portal was "
            "installed by an administrator. Export the model again where it was trained.",
            code="definition_differs",
        )
    if here is None:
        raise Conflict(
            f"The network {name} is not one of this portal: its definition (SHA-256 {stated[:16]}) has to be installed by "
            "an administrator of this server before the model can be used.",
            code="definition_missing",
        )
    raise Conflict(
        f"The model was made with another definition of {name} (SHA-256 {stated[:16]}) than the one that is installed here "
        f"({here[:16]}). Ask an administrator of this server to install the one that fits.",
        code="definition_differs",
    )


def _walk() -> list[tuple[ArchitectureFacts, str]]:
    return [
        (facts, path.stem)
        for path in sorted(_FOLDER.glob("*.py"))
        for facts in facts_in(path.read_text(encoding="utf-8"))
    ]
