"""Where a version comes from and what came from it, placed for a drawing: one column per generation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from django.urls import reverse

from modelhub.models import ModelVersion

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 220, 78, 56, 16
MOST_ANCESTORS, MOST_CHILDREN = 6, 8


@dataclass(frozen=True)
class Node:
    """A box with up to three lines. ``url`` is empty where the reader cannot go."""

    x: int
    y: int
    lines: tuple[str, ...]
    url: str
    is_self: bool

    @property
    def texts(self) -> list[tuple[int, int, str]]:
        """Return ``(x, y, text)`` of each line."""
        return [(self.x + 12, self.y + 24 + 20 * i, _short(line)) for i, line in enumerate(self.lines)]


@dataclass(frozen=True)
class Graph:
    """nodes: boxes of ``box`` size; edges: ``(x1, y1, x2, y2)`` from parent to child; summary: the same in a sentence."""

    width: int
    height: int
    nodes: list[Node]
    edges: list[tuple[int, int, int, int]]
    summary: str
    box: tuple[int, int] = (_WIDTH, _HEIGHT)


def family(version: ModelVersion) -> tuple[list[ModelVersion], list[ModelVersion]]:
    """Return the ancestors of a version (at most six, the oldest first) with itself last, and its children (at most eight)."""
    chain = [version]
    while len(chain) <= MOST_ANCESTORS and chain[0].parent_id:
        chain.insert(0, ModelVersion.objects.select_related("model", "parent").get(pk=chain[0].parent_id))
    return chain, list(version.children.select_related("model").order_by("created_at")[:MOST_CHILDREN])


def lineage(version: ModelVersion) -> Graph:
    """Return the family of a version, placed."""
    chain, children = family(version)
    rows = max(1, len(children))
    height = rows * _HEIGHT + (rows - 1) * _GAP_Y
    middle = (height - _HEIGHT) // 2
    nodes, edges = [], []
    for column, row in enumerate(chain):
        nodes.append(_node(row, column * (_WIDTH + _GAP_X), middle, row is version))
        if column:
            edges.append(_edge(nodes[-2], nodes[-1]))
    own, column = nodes[-1], len(chain)
    for place, row in enumerate(children):
        nodes.append(_node(row, column * (_WIDTH + _GAP_X), place * (_HEIGHT + _GAP_Y), False))
        edges.append(_edge(own, nodes[-1]))
    columns = len(chain) + bool(children)
    parts = [f"{chain[0]} is the oldest known." if len(chain) > 1 else "It was not fine-tuned from another version."]
    parts += [f"{a} was fine-tuned to {b}." for a, b in pairwise(chain)]
    parts += [f"{version} was fine-tuned to {child}." for child in children]
    return Graph(columns * _WIDTH + (columns - 1) * _GAP_X, height, nodes, edges, " ".join(parts))


def _node(version: ModelVersion, x: int, y: int, is_self: bool) -> Node:
    run: Any = getattr(version, "training_run", None)
    second = f"Run: {run.name}" if run is not None else version.get_origin_display().capitalize()
    dataset = version.facts.get("dataset")
    lines = (str(version), second, f"Data: {dataset}" if dataset else "Data: not known here")
    return Node(x, y, lines, reverse("modelhub:version", kwargs={"pk": version.pk}), is_self)


def _edge(parent: Node, child: Node) -> tuple[int, int, int, int]:
    return parent.x + _WIDTH, parent.y + _HEIGHT // 2, child.x, child.y + _HEIGHT // 2


def _short(text: str, most: int = 26) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
