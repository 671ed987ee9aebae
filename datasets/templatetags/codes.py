"""Codes of findings as people read them, for templates."""

from __future__ import annotations

from django import template

from datasets.formats import registry
from datasets.labels import builtin

register = template.Library()


def format_title(name: str) -> str:
    """Return how a format is called; its own name where no reader of it is known any more."""
    reader = registry.readers().get(name)
    return reader.title if reader is not None else name


register.filter("words", builtin.words_of)
register.filter("short", builtin.short_of)
register.filter("format_title", format_title)
