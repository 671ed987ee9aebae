"""Every collection that the portal knows, and the one that lies in a folder."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from datasets import collections
from datasets.collections.base import COLLECTIONS, Collection, Folder

_NOT_COLLECTIONS = {"base", "registry", "download"}


@cache
def known() -> dict[str, Collection]:
    """Return every registered collection by name, in the order of their titles."""
    for module in sorted(info.name for info in pkgutil.iter_modules(collections.__path__)):
        if module not in _NOT_COLLECTIONS and not module.startswith("_"):
            importlib.import_module(f"{collections.__name__}.{module}")
    return dict(sorted(COLLECTIONS.items(), key=lambda pair: pair[1].title.casefold()))


def recognise(folder: Folder) -> list[Collection]:
    """Return the collections whose layout the folder has; more than one only where a folder mixes them."""
    return [entry for entry in known().values() if entry.recognises(folder)]
