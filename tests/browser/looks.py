"""What every page must satisfy, measured in the browser."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Frame, Page, TimeoutError

_WIDER = """() => {
  const root = document.documentElement, width = root.clientWidth;
  if (root.scrollWidth <= width) return [];
  const wide = [...document.querySelectorAll("body *")].filter((each) => each.getBoundingClientRect().right > width + 1);
  return [`${root.scrollWidth} px in ${width}`, ...wide.slice(0, 4).map((each) => each.outerHTML.slice(0, 120))];
}"""
# The figure's own ground is light or dark with the page's theme.
_GROUND = """(theme) => [...document.querySelectorAll(".js-plotly-plot")].every((each) => {
  if (!each._fullLayout) return true;
  const probe = document.createElement("i");
  probe.style.color = each._fullLayout.paper_bgcolor;
  document.body.append(probe);
  const [r, g, b] = getComputedStyle(probe).color.match(/[\\d.]+/g).map(Number);
  probe.remove();
  return (r + g + b < 384) === (theme === "dark");
})"""
_CONTRAST = "color-contrast"
_FITS = "() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"
# After a key was pressed, focus given by script shows as focus from the keyboard.
_UNSEEN_FOCUS = """() => {
  const unseen = [];
  const all = document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']");
  for (const each of all) {
    if (each.disabled || !each.checkVisibility({ visibilityProperty: true }) || each.closest(".js-plotly-plot")) continue;
    each.focus({ preventScroll: true });
    if (document.activeElement !== each) continue;
    const style = getComputedStyle(each);
    // A link in a picture is framed by the line of its shape.
    const shape = each.querySelector(":scope > rect, :scope > path");
    const framed = shape && getComputedStyle(shape).stroke !== "none" && parseFloat(getComputedStyle(shape).strokeWidth) >= 2;
    const outlined = framed || (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2);
    if (!outlined && style.boxShadow === "none") unseen.push(each.outerHTML.slice(0, 140));
  }
  document.activeElement.blur();
  return unseen;
}"""


@cache
def _axe_script() -> str:
    return Axe().axe_script


def settle(page: Page) -> None:
    """Wait until the page, its late parts and the figures in its frames stand."""
    page.wait_for_load_state("load")
    page.wait_for_function("() => !document.querySelector('[hx-trigger=load]:not(.htmx-settling):has(> p > a)')")
    for frame in dash_frames(page):
        frame.locator(".js-plotly-plot .main-svg").first.wait_for()
        frame.wait_for_function("() => document.querySelector('#told')?.textContent.length > 5")
    if page.locator("#swagger-ui").count():
        page.locator("#swagger-ui .info").wait_for()


def show(page: Page, width: int, theme: str) -> None:
    """Give the page another width and the other theme, and wait until the figures have followed."""
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # type: ignore[arg-type]
    for frame in dash_frames(page):
        frame.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)
        frame.wait_for_function(_GROUND, arg=theme)
        with suppress(TimeoutError):
            # Figures follow their frame after a moment; ``overflow`` tells of those that do not.
            frame.wait_for_function(_FITS, timeout=5_000)


def dash_frames(page: Page) -> list[Frame]:
    """Return the frames of interactive figures."""
    return [handle.content_frame() for handle in page.query_selector_all("iframe")]  # type: ignore[misc]


def overflow(page: Page) -> list[str]:
    """Return what makes the page or a frame in it scroll sideways."""
    found = [f"wider than the screen: {line}" for line in page.evaluate(_WIDER)]
    for frame in dash_frames(page):
        found += [f"wider than its frame: {line}" for line in frame.evaluate(_WIDER)]
    return found


def headings(page: Page) -> list[str]:
    count = page.locator("h1").count()
    return [] if count == 1 else [f"{count} h1"]


def accessibility(page: Page, *, contrast: str = "too") -> list[str]:
    """Return axe's violations in the page and in its frames.

    contrast: ``too``, ``only`` or ``not``. This rule takes as long as all others together.
    """
    options: dict[str, Any] = {"resultTypes": ["violations"], "preload": False}
    if contrast == "only":
        options["runOnly"] = [_CONTRAST]
    elif contrast == "not":
        options["rules"] = {_CONTRAST: {"enabled": False}}
    for each in (page.main_frame, *dash_frames(page)):
        if not each.evaluate("'axe' in window"):
            each.evaluate(_axe_script())
    found = []
    for violation in page.evaluate("async (options) => (await axe.run(document, options)).violations", options):
        nodes = [f"{node['html'][:160]} ({_why(node)})" for node in violation["nodes"][:3]]
        found.append(f"axe: {violation['id']}: {' | '.join(nodes)}")
    return found


def _why(node: dict[str, Any]) -> str:
    return " ".join(str(node.get("failureSummary", "")).split())[:220]


def keyboard(page: Page) -> list[str]:
    """Return what is wrong with the skip link and with the look of the focus."""
    found = []
    if not page.evaluate("document.activeElement === document.body"):
        return ["the focus does not begin at the top"]
    page.keyboard.press("Tab")
    if page.evaluate("document.activeElement.className") != "skip-link":
        found.append("the first Tab does not reach the skip link")
    else:
        if not page.evaluate("document.activeElement.getBoundingClientRect().top >= 0"):
            found.append("the skip link stays out of sight")
        page.keyboard.press("Enter")
        if page.evaluate("document.activeElement.id") != "main":
            found.append("the skip link does not lead to the content")
    page.keyboard.press("Tab")
    found += [f"focus is not visible: {line}" for line in page.evaluate(_UNSEEN_FOCUS)]
    for frame in dash_frames(page):
        found += [f"focus is not visible in the frame: {line}" for line in frame.evaluate(_UNSEEN_FOCUS)]
    return found


def picture(page: Page, name: str) -> None:
    """Keep a picture in the folder that ``PORTAL_TEST_PICTURES`` names, if it names one."""
    if folder := os.environ.get("PORTAL_TEST_PICTURES"):
        path = Path(folder) / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=path, full_page=True)
