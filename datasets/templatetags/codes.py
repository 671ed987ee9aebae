"""Codes of findings as people read them, for templates."""

from __future__ import annotations

from django import template

from datasets.labels import builtin

register = template.Library()
register.filter("words", builtin.words_of)
register.filter("short", builtin.short_of)
