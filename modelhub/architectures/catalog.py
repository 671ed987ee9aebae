"""What is known about each network without building it, and without importing torch.

Web processes list networks but never load torch. The facts of a network are the literal arguments of the
``@architecture`` decorator in its own file; they are read from the source, so that one new file is all a new
network needs.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ecgportal.errors import NotFound

_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class ArchitectureFacts:
    """Static facts of one network.

    name: identifier used in files, settings and the API.
    paper: where the network is described.
    varies: which of ``n_leads``, ``n_samples``, ``fs_hz``, ``n_classes`` the network accepts freely.
    parameters: trainable parameters for 12 leads, 1000 samples, 5 classes.
    million_macs: million multiply-accumulates for one such ECG (convolutions and linear layers).
    dynamic_length: whether one set of weights accepts other lengths than it was built for.
    needs: what the network takes beside the signal (``age``, ``sex``), and nothing when empty.
    exports_onnx: whether an ONNX file of it is offered.
    advice: one sentence that helps to choose.
    """

    name: str
    title: str
    paper: str
    varies: tuple[str, ...]
    parameters: int
    million_macs: float
    dynamic_length: bool = True
    needs: tuple[str, ...] = ()
    exports_onnx: bool = True
    advice: str = ""


@cache
def catalog() -> dict[str, ArchitectureFacts]:
    """Return the facts of every network by name, in the order of the names."""
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
    try:
        return catalog()[name]
    except KeyError:
        raise NotFound(
            f"There is no network called {name!r}. Choose one of: {', '.join(catalog())}.", code="unknown_architecture"
        ) from None


def _walk() -> list[tuple[ArchitectureFacts, str]]:
    entries = []
    for path in sorted(_FOLDER.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "architecture":
                    values = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
                    entries.append((ArchitectureFacts(**values), path.stem))
    return entries
