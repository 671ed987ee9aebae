"""Figures drawn at the server, in the form that ``components/figure.html`` shows: picture, words, table, downloads."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from django.http import HttpResponse
from django.utils.safestring import SafeString

from ecgportal.errors import InvalidInput
from viz.figures.figure import Figure
from viz.figures.render import figure_svg

_TYPES = {"csv": "text/csv; charset=utf-8", "svg": "image/svg+xml"}
# The page shows the beginning of a long table, the CSV file holds all.
_MOST_ROWS = 400
# What a screen of 390 px leaves to a figure.
_NARROW_PX = 330


def drawn(
    figure: Figure, name: str, downloads: Mapping[str, str] = MappingProxyType({}), *, kind: str = "plot", width: float = 720, height: float | None = None
) -> dict[str, Any]:  # fmt: skip
    """Return the context of one figure. name: its id on the page; downloads: address by ``csv`` and ``svg``; without
    any, the files lie in the page itself.

    kind: ``plot``, ``counts`` or ``matrix``, which says how narrow it may become before it scrolls.
    """
    head, *rows = figure.table or [[]]
    cut = len(rows) > _MOST_ROWS
    return {
        "id": name, "title": figure.title, "kind": kind, "body": at_every_width(figure, width, height),
        "summary": figure.summary, "png": name, "wide": is_wide(figure) or kind == "matrix",
        "table": {
            "columns": head, "rows": [[_cell(cell) for cell in row] for row in rows[:_MOST_ROWS]],
            "caption": f"The first {_MOST_ROWS} of {len(rows)} rows; the CSV file holds all." if cut else "",
        } if rows else None,
        "downloads": [{"label": label.upper(), "url": url, "name": ""} for label, url in downloads.items()] or _inline(figure, name),
    }  # fmt: skip


def is_wide(figure: Figure) -> bool:
    """Tell whether a figure needs the whole width of a page."""
    return bool(figure.plotly["layout"].get("meta", {}).get("wide"))


def at_every_width(figure: Figure, width: float, height: float | None = None) -> SafeString:
    """Return a figure drawn twice, for wide screens and for telephones; the style sheet shows the one that fits.

    Many panels side by side have no narrow form; they are moved sideways.
    """
    wide = figure_svg(figure, width, height)
    if is_wide(figure):
        return SafeString(wide)
    narrow = figure_svg(figure, _NARROW_PX)
    return SafeString(
        wide.replace("<svg", '<svg class="is-wide"', 1) + narrow.replace("<svg", '<svg class="is-narrow"', 1)
    )


def _inline(figure: Figure, name: str) -> list[dict[str, str]]:
    def link(kind: str, text: str) -> dict[str, str]:
        packed = b64encode(text.encode()).decode("ascii")
        return {
            "label": kind.upper(),
            "name": f"{name}.{kind}",
            "url": f"data:{_TYPES[kind].split(';')[0]};base64,{packed}",
        }

    return [link("csv", figure.csv()), link("svg", figure_svg(figure))]


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else value


def file_of(figure: Figure, name: str, kind: str) -> HttpResponse:
    """Return a figure as a file: ``csv`` its table, ``svg`` its picture. InvalidInput for another kind."""
    if kind not in _TYPES:
        raise InvalidInput(
            f"A figure cannot be had as {kind[:20]!r}.", fields={"format": f"Choose one of {', '.join(_TYPES)}."}
        )
    text = figure.csv() if kind == "csv" else figure_svg(figure)
    disposition = f'attachment; filename="{name}.{kind}"'
    return HttpResponse(text, content_type=_TYPES[kind], headers={"Content-Disposition": disposition})
