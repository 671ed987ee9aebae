"""Small pieces of SVG text: escaping, numbers, elements, compact paths. No scripts, no style attributes."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
# XML 1.0 forbids these even when escaped.
_CONTROL = {code: None for code in range(32) if code not in (9, 10, 13)} | {0xFFFE: None, 0xFFFF: None}


def clean(text: object, limit: int | None = None) -> str:
    """Return text without characters that XML forbids, shortened with an ellipsis to ``limit`` characters."""
    out = str(text).translate(_CONTROL).encode("utf-8", "ignore").decode("utf-8").strip()
    return out if limit is None or len(out) <= limit else out[: max(1, limit - 1)].rstrip() + "…"


def num(value: float) -> str:
    """Write a number with at most two decimals and no trailing zeros."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def el(name: str, body: str = "", **attributes: Any) -> str:
    """Return an element. ``body`` is markup; attribute values are escaped, ``_`` in names becomes ``-``."""
    pairs = []
    for key, value in attributes.items():
        if value is None:
            continue
        text = num(value) if isinstance(value, (int, float)) else escape(clean(value), quote=True)
        pairs.append(f' {"class" if key == "class_" else key.replace("_", "-")}="{text}"')
    inside = f">{body}</{name}>" if body else "/>"
    return f"<{name}{''.join(pairs)}{inside}"


def text(x: float, y: float, words: object, size: float, fill: str, *, limit: int | None = None, **more: Any) -> str:
    return el("text", escape(clean(words, limit), quote=False) or " ", x=x, y=y, font_size=size, fill=fill, **more)


def polyline_path(x: np.ndarray, y: np.ndarray, unit: float) -> str:
    """Return path data through the points in whole steps of ``unit``; NaN in ``y`` breaks the line.

    Positions are rounded before they are differenced, so no error adds up along the line.
    """
    finite = np.isfinite(y)
    if not finite.any():
        return ""
    px = np.rint(x / unit).astype(np.int64)
    py = np.rint(np.where(finite, y, 0.0) / unit).astype(np.int64)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], finite, [False])).astype(np.int8)))
    parts = []
    for first, stop in zip(edges[::2], edges[1::2], strict=True):
        dx, dy = np.diff(px[first:stop]), np.diff(py[first:stop])
        moved = (dx != 0) | (dy != 0)
        steps = " ".join(f"{a} {b}" for a, b in zip(dx[moved].tolist(), dy[moved].tolist(), strict=True))
        # A lone sample becomes a dot: a line of no length with round caps.
        parts.append(f"M{px[first]} {py[first]}l{steps or '0 0'}".replace(" -", "-"))
    return "".join(parts)


def read_path(data: str, unit: float) -> list[np.ndarray]:
    """Read path data of :func:`polyline_path` back: one array ``(points, 2)`` per unbroken line, in mm."""
    import re

    lines = []
    for part in data.split("M")[1:]:
        start, steps = part.split("l")
        first = [int(n) for n in re.findall(r"-?\d+", start)]
        rest = np.array([int(n) for n in re.findall(r"-?\d+", steps)], dtype=np.int64).reshape(-1, 2)
        lines.append(np.vstack([first, np.cumsum(rest, axis=0) + first]) * unit)
    return lines
