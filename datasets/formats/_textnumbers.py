"""The numbers of a table in a text file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from datasets.formats._textcells import CLOCK, GAPS, cells_of
from datasets.formats._textlayout import Layout
from ecgportal.errors import UnreadableFile

_CHUNK_LINES = 4000
_HALF = re.compile(r"\b([AaPp])[Mm]\b")
_DAY_S = 86_400.0


@dataclass(frozen=True)
class Table:
    """The numbers of a table, float64 ``(rows, columns)``, empty cells NaN; ``names`` of the rows where they have some.

    is_coarse: the times of day have no fractions, so that several rows share one.
    """

    values: np.ndarray
    names: tuple[str, ...] = ()
    is_coarse: bool = False


def read_table(name: str, lines: Sequence[str], layout: Layout) -> Table:
    """Return the numbers below the header. UnreadableFile names the line that is none, or shorter than the others."""
    names: list[str] = []
    clock = _Clock()
    parts = list(_chunks(name, lines, layout, names, clock))
    values = np.concatenate(parts) if parts else np.empty((0, layout.width))
    if np.isinf(values).any():
        raise UnreadableFile(f"{name} holds infinite values. The file is damaged.", code="not_a_number")
    return Table(values, tuple(names), layout.moment is not None and not clock.has_fractions)


def _chunks(name: str, lines: Sequence[str], layout: Layout, names: list[str], clock: _Clock) -> Iterator[np.ndarray]:
    size = max(1, min(_CHUNK_LINES, 2_000_000 // layout.width))
    for first in range(layout.start, len(lines), size):
        cells: list[str] = []
        for offset, line in enumerate(lines[first : first + size]):
            if line.strip():
                row = cells_of(line, layout.delimiter)
                if layout.named:
                    names.append(row[0].strip())
                    row = row[1:]
                if len(row) != layout.width:
                    raise _ragged(name, len(row), first + offset, len(lines), layout)
                for text in layout.texts:
                    row[text] = "nan"
                if layout.moment is not None:
                    row[layout.moment] = clock.seconds(name, row[layout.moment], first + offset)
                cells += row
        if not cells:
            continue
        if layout.comma:
            if any("." in cell and "," not in cell for cell in _without(cells, layout)) and any(
                "," in c for c in cells
            ):
                raise UnreadableFile(
                    f"{name} writes decimals with commas and with points (near line {first + 1}). Export it with one of them.",
                    code="mixed_decimals",
                )
            cells = [cell.replace(",", ".") for cell in cells]
        yield _floats(name, cells, first, layout).reshape(-1, layout.width)


def _without(cells: list[str], layout: Layout) -> Iterator[str]:
    """Yield the cells that were written as numbers in the file."""
    return (cell for at, cell in enumerate(cells) if at % layout.width != layout.moment)


def _ragged(name: str, count: int, line: int, total: int, layout: Layout) -> UnreadableFile:
    if count < layout.width and line == total - 1:
        return UnreadableFile(
            f"{name} ends in the middle of line {line + 1}. The upload was cut short; upload it again.",
            code="truncated",
        )
    return UnreadableFile(
        f"{name} has {count} values in line {line + 1}, but {layout.width} in the lines before.", code="ragged_table"
    )


class _Clock:
    """Times of day as seconds from the first one's midnight on; a time before the last one lies on the next day."""

    def __init__(self) -> None:
        self.has_fractions = False
        self._last = 0.0
        self._days = 0

    def seconds(self, name: str, cell: str, line: int) -> str:
        """Return a time of day as seconds since the midnight before the first one; UnreadableFile where it is none."""
        found = CLOCK.search(cell)
        if found is None:
            raise UnreadableFile(
                f"{name} holds {cell.strip()[:40]!r} in line {line + 1}, where a time of day is due.", code="bad_time"
            )
        whole, second, third, fraction = found.groups()
        at: float = 3600 * int(whole) + 60 * int(second) + int(third) if third else 60 * int(whole) + int(second)
        if fraction:
            self.has_fractions = True
            at += float("0." + fraction[1:])
        if half := _HALF.search(cell):
            at += _DAY_S / 2 * ((half[1] in "Pp") - (int(whole) == 12))
        # Only midnight takes a clock back by nearly a day; anything else is an error of its own.
        if at < self._last - _DAY_S / 2:
            self._days += 1
        self._last = at
        return repr(at + self._days * _DAY_S)


def _floats(name: str, cells: list[str], first: int, layout: Layout) -> np.ndarray:
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        pass
    values = np.empty(len(cells))
    for index, cell in enumerate(cells):
        text = cell.strip()
        try:
            values[index] = math.nan if text.lower() in GAPS else float(text)
        except ValueError:
            line, column = first + index // layout.width + 1, index % layout.width + 1
            raise UnreadableFile(
                f"{name} holds {text[:40]!r} where a number is due (about line {line}, column {column}).",
                code="not_a_number",
            ) from None
    return values
