"""What the rooms tell on a project's first page. Each room registers a function when it is ready."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ecgportal.projects.models import Project


@dataclass(frozen=True)
class Figure:
    """One number with the page behind it. ``step``, its text and address: what an editor does while the number is 0."""

    label: str
    value: int
    url: str
    order: int
    step: str = ""
    step_text: str = ""
    step_url: str = ""


PARTS: list[Callable[[Project], Iterable[Figure]]] = []


def register(part: Callable[[Project], Iterable[Figure]]) -> Callable[[Project], Iterable[Figure]]:
    """Register the decorated function; it answers in one or two queries."""
    PARTS.append(part)
    return part


def figures(project: Project) -> list[Figure]:
    """Return all rooms' figures in order."""
    return sorted((figure for part in PARTS for figure in part(project)), key=lambda figure: figure.order)


def next_step(shown: list[Figure]) -> Figure | None:
    """Return the first figure that is still 0 and offers a step."""
    return next((figure for figure in shown if not figure.value and figure.step), None)
