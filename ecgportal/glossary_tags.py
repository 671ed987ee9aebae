"""Signs that lead from a heading or a figure to the help page: ``{% term "auroc" %}``, in every template."""

from __future__ import annotations

from django import template
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from ecgportal.glossary import NAMED, TERMS, Term

register = template.Library()


@register.simple_tag
def term(*anchors: str) -> SafeString:
    """Return a sign for each term; KeyError where the help page has no such term."""
    return format_html_join("", "{}", ((_sign(TERMS[anchor]),) for anchor in anchors))


@register.simple_tag
def term_of(name: str) -> SafeString:
    """Return the sign of what a report calls so; nothing where no term explains it."""
    found = NAMED.get(str(name))
    return _sign(found) if found else SafeString("")


@register.simple_tag
def terms(*anchors: str) -> SafeString:
    """Return a line with the names of terms, each a link that opens beside a form that is being filled in."""
    links = format_html_join(
        " ",
        '<a href="{}#{}" target="help">{}<span class="visually-hidden"> explained, in another tab</span></a>',
        ((reverse("help"), anchor, TERMS[anchor].title) for anchor in anchors),
    )
    return format_html('<p class="terms"><span class="term__mark" aria-hidden="true">?</span> {}</p>', links)


def _sign(found: Term) -> SafeString:
    return format_html(
        ' <a class="term" href="{}#{}"><span class="term__mark" aria-hidden="true">?</span><span class="visually-hidden">{} explained</span></a>',
        reverse("help"), found.anchor, found.title,
    )  # fmt: skip
