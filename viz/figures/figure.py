"""What every figure of the portal is, the registry of figures, and typed arrays for Plotly.

A figure is a Plotly dictionary with a title, a text summary and a data table, so that it
can be read without seeing it and downloaded as CSV.
"""

from __future__ import annotations

import base64
import csv
import importlib
import io
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_KINDS = {"f4": np.float32, "f8": np.float64, "i2": np.int16, "i4": np.int32, "u1": np.uint8}


@dataclass(frozen=True)
class Figure:
    """A figure ready for the page.

    plotly: ``{"data": [...], "layout": {...}}``; title: also in the layout; summary: sentences
    that say what the figure shows; table: rows of cells, the first row the headings with units.
    """

    plotly: dict[str, Any]
    title: str
    summary: str
    table: list[list[Any]] = field(default_factory=list)

    def csv(self) -> str:
        """Return the table as CSV (RFC 4180). Cells that a spreadsheet would run as a formula get a leading quote."""
        out = io.StringIO()
        writer = csv.writer(out)
        for row in self.table:
            writer.writerow([_harmless(cell) for cell in row])
        return out.getvalue()


_REGISTRY: dict[str, Callable[..., Figure]] = {}


def figure(name: str) -> Callable[[Callable[..., Figure]], Callable[..., Figure]]:
    """Register a function that makes a :class:`Figure` under a name."""

    def register(make: Callable[..., Figure]) -> Callable[..., Figure]:
        if _REGISTRY.get(name, make).__qualname__ != make.__qualname__:
            raise ValueError(f"Two figures are named {name}.")
        _REGISTRY[name] = make
        return make

    return register


def registered() -> dict[str, Callable[..., Figure]]:
    """Return every registered figure function by name, in name order."""
    import viz.figures as package

    for module in sorted(one.name for one in pkgutil.iter_modules(package.__path__)):
        importlib.import_module(f"{package.__name__}.{module}")
    return dict(sorted(_REGISTRY.items()))


def typed(values: Any, kind: str = "f4") -> dict[str, str]:
    """Pack numbers as Plotly's typed array: 4 bytes a value instead of 8 to 18 characters. NaN is a gap."""
    array = np.ascontiguousarray(values, dtype=_KINDS[kind])
    packed = {"dtype": kind, "bdata": base64.b64encode(array.tobytes()).decode("ascii")}
    if array.ndim > 1:
        packed["shape"] = ", ".join(str(n) for n in array.shape)
    return packed


def untyped(values: Any) -> np.ndarray:
    """Read a typed array or a plain list of a figure back as an array."""
    if not isinstance(values, dict):
        return np.asarray([np.nan if one is None else one for one in values], dtype=np.float64)
    array = np.frombuffer(base64.b64decode(values["bdata"]), dtype=_KINDS[values["dtype"]])
    return array.reshape([int(n) for n in values["shape"].split(",")]) if "shape" in values else array


def _harmless(cell: Any) -> Any:
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + cell
    if isinstance(cell, float):
        return "" if cell != cell else repr(cell)
    return "" if cell is None else cell
