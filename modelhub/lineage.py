"""Where a version comes from and what came from it, as one reader may see it, placed for a drawing: one column per
generation.

A parent is the version that was fine-tuned, the entry of the catalogue that was copied, or, for what came from another
portal, the file with the digest that its manifest names. Versions of projects that the reader is not a member of are
shown as far as the catalogue shows them; ancestors beyond that as a step without a name, children not at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from django.urls import reverse

from ecgportal.projects import access
from modelhub import catalogue
from modelhub.models import CatalogueEntry, ModelVersion

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 220, 78, 56, 16
MOST_ANCESTORS, MOST_CHILDREN = 6, 8
TUNED, COPIED = "fine-tuned", "copied"


@dataclass(frozen=True)
class Kin:
    """A member of a family, as the reader sees it. how: what made it of the member before (``fine-tuned``, ``copied``,
    empty for the oldest known one). version: None where the reader may not know which it is. is_mine: whether the reader
    is a member of its project."""

    name: str
    lines: tuple[str, ...]
    url: str
    how: str
    version: ModelVersion | None
    sha256: str
    is_mine: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """The same as plain values for REST; what the reader may not know is None."""
        version = self.version
        known = version if self.is_mine else None
        run: Any = getattr(known, "training_run", None)
        return {
            "version": version.pk if version else None, "name": self.name, "how": self.how, "sha256": self.sha256,
            "origin": known.origin if known else None, "training_run": run.pk if run is not None else None,
            "dataset": known.facts.get("dataset") if known else None, "created_at": version.created_at if version else None,
        }  # fmt: skip


@dataclass(frozen=True)
class Family:
    """ancestors: at most six, the oldest first; children: at most eight."""

    ancestors: list[Kin]
    own: Kin
    children: list[Kin]

    @property
    def facts(self) -> dict[str, list[dict[str, Any]]]:
        rows = {"ancestors": self.ancestors, "self": [self.own], "children": self.children}
        return {name: [kin.facts for kin in found] for name, found in rows.items()}


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
        return [(self.x + 12, self.y + 24 + 20 * i, _short(line, 26 if i else 23)) for i, line in enumerate(self.lines)]


@dataclass(frozen=True)
class Graph:
    """nodes: boxes of ``box`` size; edges: ``(x1, y1, x2, y2)`` from parent to child; summary: the same in sentences."""

    width: int
    height: int
    nodes: list[Node]
    edges: list[tuple[int, int, int, int]]
    summary: str
    box: tuple[int, int] = (_WIDTH, _HEIGHT)


def family(version: ModelVersion, user: Any) -> Family:
    """Return the family of a version that the reader may see."""
    chain: list[tuple[ModelVersion | None, str, str]] = [(version, "", version.sha256)]
    while len(chain) <= MOST_ANCESTORS and chain[0][0] is not None:
        parent, how, sha256 = _parent(chain[0][0])
        if not how:
            break
        chain[0] = (chain[0][0], how, chain[0][2])
        chain.insert(0, (parent, "", sha256))
    tuned = version.children.select_related("model__project").order_by("created_at")[:MOST_CHILDREN]
    entry = getattr(version, "catalogue_entry", None)
    copies = (
        ModelVersion.objects.filter(checks__catalogue__entry=str(entry.pk)) if entry else ModelVersion.objects.none()
    )
    copies = access.visible(copies.select_related("model__project"), user).order_by("created_at")[:MOST_CHILDREN]
    rows = [(row, TUNED, row.sha256) for row in tuned] + [(row, COPIED, row.sha256) for row in copies]
    sight = _Sight(user, [row for row, _, _ in (*chain, *rows) if row is not None])
    seen = [sight.of(*step) for step in chain]
    children = [sight.of(*step) for step in rows if step[0] is not None and sight.knows(step[0])]
    return Family(seen[:-1], seen[-1], children[:MOST_CHILDREN])


def _parent(version: ModelVersion) -> tuple[ModelVersion | None, str, str]:
    """Return the version before, what was done to it, and its digest; an empty word when nothing is before."""
    rows = ModelVersion.objects.select_related("model__project")
    if version.parent_id:
        parent = rows.get(pk=version.parent_id)
        return parent, TUNED, parent.sha256
    if entry := (version.checks.get("catalogue") or {}).get("entry"):
        source = rows.filter(catalogue_entry=entry).first()
        return source, COPIED, source.sha256 if source else version.sha256
    sha256 = version.facts.get("parent_sha256")
    if isinstance(sha256, str) and sha256:
        here = rows.filter(model__project=version.model.project_id, sha256=sha256).exclude(pk=version.pk)
        return here.order_by("created_at").first(), TUNED, sha256
    return None, "", ""


class _Sight:
    """What a reader may know of some versions: all of those of their projects, and what the catalogue shows of others."""

    def __init__(self, user: Any, versions: Iterable[ModelVersion]) -> None:
        ids = [version.pk for version in versions]
        rows = ModelVersion.objects.filter(pk__in=ids)
        self._mine = set(access.visible(rows, user).values_list("pk", flat=True))
        shown = catalogue.visible(user).filter(version__in=ids)
        self._shown: dict[Any, CatalogueEntry] = {entry.version_id: entry for entry in shown}

    def knows(self, version: ModelVersion) -> bool:
        return version.pk in self._mine or version.pk in self._shown

    def of(self, version: ModelVersion | None, how: str, sha256: str) -> Kin:
        if version is not None and version.pk in self._mine:
            run: Any = getattr(version, "training_run", None)
            second = f"Run: {run.name}" if run is not None else version.get_origin_display().capitalize()
            lines = (str(version), second, _data_of(version))
            url = reverse("modelhub:version", kwargs={"pk": version.pk})
            return Kin(str(version), lines, url, how, version, sha256, is_mine=True)
        entry = self._shown.get(version.pk) if version is not None else None
        if version is not None and entry is not None:
            judged = (entry.shown.get("facts", {}).get("metrics") or {}).get("data")
            lines = (str(version), "In the catalogue", f"Judged on: {judged}" if judged else "Not judged when proposed")
            return Kin(str(version), lines, reverse("catalogue_entry", kwargs={"pk": entry.pk}), how, version, sha256)
        where = "Of another project" if version is not None else "Not on this portal"
        lines = ("A version without a name", where, f"SHA-256 {sha256[:12]}…")
        return Kin(f"the file {sha256[:12]}…", lines, "", how, None, sha256)


def _data_of(version: ModelVersion) -> str:
    if dataset := version.facts.get("dataset"):
        return f"Data: {dataset}"
    train = (version.facts.get("records") or {}).get("train")
    return f"Data: {train:,} records" if isinstance(train, int) else "Data: not known here"


def lineage(version: ModelVersion, user: Any) -> Graph:
    """Return the family of a version, placed."""
    found = family(version, user)
    chain, children = [*found.ancestors, found.own], found.children
    rows = max(1, len(children))
    height = rows * _HEIGHT + (rows - 1) * _GAP_Y
    middle = (height - _HEIGHT) // 2
    nodes, edges = [], []
    for column, kin in enumerate(chain):
        nodes.append(_node(kin, column * (_WIDTH + _GAP_X), middle, kin is found.own))
        if column:
            edges.append(_edge(nodes[-2], nodes[-1]))
    own, column = nodes[-1], len(chain)
    for place, kin in enumerate(children):
        nodes.append(_node(kin, column * (_WIDTH + _GAP_X), place * (_HEIGHT + _GAP_Y), False))
        edges.append(_edge(own, nodes[-1]))
    columns = len(chain) + bool(children)
    width = columns * _WIDTH + (columns - 1) * _GAP_X
    return Graph(width, height, nodes, edges, _summary(chain, children))


def _summary(chain: list[Kin], children: list[Kin]) -> str:
    first = f"{chain[0].name} is the oldest known." if len(chain) > 1 else "It was not made from another version."
    steps = [*pairwise(chain), *((chain[-1], child) for child in children)]
    sentences = (f"{a.name} was {b.how} {'to' if b.how == TUNED else 'as'} {b.name}." for a, b in steps)
    text = " ".join([first, *sentences])
    return text[:1].upper() + text[1:]


def _node(kin: Kin, x: int, y: int, is_self: bool) -> Node:
    return Node(x, y, kin.lines, kin.url, is_self)


def _edge(parent: Node, child: Node) -> tuple[int, int, int, int]:
    return parent.x + _WIDTH, parent.y + _HEIGHT // 2, child.x, child.y + _HEIGHT // 2


def _short(text: str, most: int) -> str:
    """Return a text that fits into a box, whose first line is bold; the number of a version stays readable."""
    if len(text) <= most:
        return text
    head, space, number = text.rpartition(" v")
    end = space + number if head and number.isdigit() else ""
    return text[: most - 1 - len(end)].rstrip() + "…" + end
