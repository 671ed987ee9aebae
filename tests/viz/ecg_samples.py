"""Records with a different, recognisable signal in every lead, and readers of what was drawn."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import numpy as np

from datasets.ecg import LEADS_12, Record
from viz.figures.ecg12 import PATH_UNIT_MM
from viz.figures.figure import untyped
from viz.figures.svg import read_path

NS = "{http://www.w3.org/2000/svg}"


def distinct(
    leads: tuple[str, ...] = LEADS_12, fs_hz: float = 500.0, duration_s: float = 10.0, scale_mv: float = 0.3
) -> Record:
    """Every lead is its own sine with its own offset, so that a swapped lead cannot pass."""
    t = np.arange(round(duration_s * fs_hz)) / fs_hz
    rows = [scale_mv * np.sin(2 * np.pi * (0.7 + 0.31 * k) * t + k) + 0.05 * k - 0.2 for k in range(len(leads))]
    return Record(np.array(rows), fs_hz, leads)


def drawn_traces(markup: str) -> list[tuple[str, int, list[np.ndarray]]]:
    """Return (lead, row, lines in mm) of every trace in an SVG picture, in drawing order."""
    root = ElementTree.fromstring(markup)
    return [
        (one.get("data-lead", ""), int(one.get("data-row", "-1")), read_path(one.get("d", ""), PATH_UNIT_MM))
        for one in root.iter(f"{NS}path")
        if one.get("class") == "ecg-trace"
    ]


def places(trace: dict[str, Any]) -> np.ndarray:
    """Return the x positions of an interactive trace in mm, given one by one or by the first and the step."""
    if "x" in trace:
        return untyped(trace["x"])
    return trace["x0"] + trace["dx"] * np.arange(untyped(trace["y"]).size)


def words(markup: str) -> list[str]:
    return [one.text or "" for one in ElementTree.fromstring(markup).iter(f"{NS}text")]
