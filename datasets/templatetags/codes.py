"""Codes of findings and formats as people read them, for templates."""

from __future__ import annotations

from django import template

from datasets.formats import registry
from datasets.labels import builtin

register = template.Library()


register.filter("words", builtin.words_of)
register.filter("short", builtin.short_of)
register.filter("format_title", registry.title_of)
