"""The terms: one source, an anchor for each, a sign for each, no sign that leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.urls import reverse

from ecgportal.glossary import GROUPS, NAMED, TERMS
from ecgportal.glossary_tags import term, term_of
from tests import factories
from training import reports, result_figures

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
_TAG = re.compile(r"{% terms? ([^%]*)%}")


def asked() -> dict[str, set[str]]:
    """Return the templates that bear a sign, by the term."""
    found: dict[str, set[str]] = {}
    for path in TEMPLATES.rglob("*.html"):
        for tag in _TAG.findall(path.read_text(encoding="utf-8")):
            for anchor in re.findall(r'"([^"]*)"', tag):
                found.setdefault(anchor, set()).add(path.name)
    return found


def test_every_sign_has_a_term_and_every_term_a_sign() -> None:
    signs = set(asked()) | {each.anchor for each in NAMED.values()}
    assert signs - set(TERMS) == set(), "signs that lead nowhere"
    assert set(TERMS) - signs == set(), "terms that no page leads to"


def test_terms_are_told_once_and_in_sentences() -> None:
    terms = [each for _, _, group in GROUPS for each in group]
    assert len({each.anchor for each in terms}) == len({each.title for each in terms}) == len(terms)
    names = [name for each in terms for name in each.names]
    assert len(names) == len(set(names))
    for each in terms:
        assert re.fullmatch(r"[a-z0-9-]+", each.anchor) and each.text.endswith(".") and len(each.text) < 420, (
            each.anchor
        )


def test_the_figures_and_metrics_of_an_evaluation_are_explained() -> None:
    assert set(reports.OVERALL) <= set(NAMED)
    assert set(result_figures.FIGURES) <= set(NAMED)
    assert "#auroc" in term_of("roc") and term_of("learning-curve") == ""
    with pytest.raises(KeyError):
        term("nothing")


@pytest.mark.django_db
def test_the_page_holds_every_anchor_once(client) -> None:
    assert client.get(reverse("help")).status_code == 302
    client.force_login(factories.make_user())
    text = client.get(reverse("help")).content.decode()
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids)) and set(TERMS) <= set(ids)
    assert f'href="{reverse("help")}" aria-current="page"' in text
    assert "<script" not in text.partition("</head>")[2]
