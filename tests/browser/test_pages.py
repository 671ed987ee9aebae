"""Every page of the URLconf in a browser: two widths, two themes, no complaint, no foreign request, readable by all."""

from __future__ import annotations

from typing import Any

import pytest
from django.urls import reverse
from playwright.sync_api import Page

from tests.browser import looks
from tests.browser.world import World
from tests.route_table import required, routes

# Parts that a page loads after itself.
FRAGMENTS = {"jobs:fragment", "training:live", "training:search", "training:curve", "training:rate"}
# The reader of the API's description comes with its own looks; it must only work and ask nobody else.
NOT_OURS = {"docs"}
# Width, theme, and what of accessibility is looked at: colours depend on the theme, nearly all else on the width.
VARIANTS = ((1280, "light", "too"), (1280, "dark", ""), (390, "dark", "only"), (390, "light", "not"))


def page_routes(world: World) -> dict[str, str]:
    """Return the address of each route that answers GET in a browser, by name."""
    found, own = {}, world.addresses()
    for route in routes():
        for method, kind, _, _ in required(route):
            if method != "get" or kind.startswith("api") or kind == "dash" or route.name in PUBLIC_CALLS:
                continue
            if route.parameters == ("project",):
                found[route.name] = reverse(route.name, kwargs={"project": world.project.pk})
            elif route.parameters:
                if hasattr(getattr(route.callback, "view_class", None), "get"):
                    found[route.name] = own.get(route.name, "")
            elif "api/v1" not in route.pattern or route.name == "docs":
                found[route.name] = own.get(route.name, "/" + route.pattern)
    return found


# Answered by GET, but no page: the health of the portal, the end of a session, WebDAV with a sign-in of its own.
PUBLIC_CALLS = {"healthz", "accounts:logout", "token", "accounts:token_delete", "dav"}


@pytest.fixture
def world(site: str, few_threads: None, dav_server: Any) -> World:
    return World(dav_server)


def test_every_page_at_every_width_in_every_theme(world, sign_in, recorder):
    addresses = page_routes(world)
    wrong: list[str] = []
    pages = {}
    context = sign_in(world.user)
    for name, address in addresses.items():
        if not address:
            wrong.append(f"{name}: tests/browser/world.py has no row for this page")
            continue
        answer = context.request.get(address)
        text = answer.headers.get("content-type", "").startswith(
            "text/html"
        ) and "attachment" not in answer.headers.get("content-disposition", "")
        if answer.status != 200:
            wrong.append(f"{name}: {answer.status}")
        elif text:
            pages[name] = address
    fragments = FRAGMENTS & set(pages)
    assert fragments == FRAGMENTS
    pages = {name: address for name, address in pages.items() if name not in FRAGMENTS} | world.further()
    assert len(pages) > 45
    page = context.new_page()
    for name, address in pages.items():
        page.goto(address)
        looks.settle(page)
        found = [] if name in NOT_OURS else _looked_at(page, name)
        wrong += [f"{name}: {line}" for line in [*found, *recorder.take()]]
    assert not wrong, f"{len(wrong)} findings\n" + "\n".join(wrong)


def _looked_at(page: Page, name: str) -> list[str]:
    """Return what is wrong with a page at both widths in both themes, without loading it again."""
    found = looks.headings(page)
    for width, theme, contrast in VARIANTS:
        looks.show(page, width, theme)
        lines = looks.overflow(page)
        looks.picture(page, f"{name} {width} {theme}")
        if contrast:
            lines += looks.accessibility(page, contrast=contrast)
        if (width, theme) == VARIANTS[0][:2]:
            lines += looks.keyboard(page)
        found += [f"{width} px, {theme}: {line}" for line in lines]
    looks.show(page, *VARIANTS[0][:2])
    return found
