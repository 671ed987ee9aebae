"""Codes of findings and formats as people read them, for templates."""

from __future__ import annotations

from django import template

from datasets.formats import registry
from datasets.forms import SYSTEM_WORDS
from datasets.labels import builtin

register = template.Library()


register.filter("words", builtin.words_of)
register.filter("short", builtin.short_of)
register.filter("format_title", registry.title_of)
register.filter("system_words", lambda system: "name" if system == "name" else SYSTEM_WORDS.get(system, system))
