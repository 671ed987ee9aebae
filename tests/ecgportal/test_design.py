"""The design system keeps its promises: contrast in both themes, and pages that a strict content policy accepts.

Contrast is the ratio of WCAG 2.2 (success criteria 1.4.3 and 1.4.11), computed from the tokens in the style sheet.
Colour vision is simulated with the matrices of Machado, Oliveira and Fernandes 2009 (doi 10.1109/TVCG.2009.113), severity 1.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))
STATIC = ROOT / "ecgportal" / "static" / "portal"
CSS = re.sub(r"/\*.*?\*/", "", (STATIC / "css" / "portal.css").read_text(encoding="utf-8"), flags=re.DOTALL)
SCRIPTS = sorted((STATIC / "js").glob("*.js"))
TOKEN = re.compile(r"--([a-z0-9-]+):\s*light-dark\((#[0-9a-f]{6}),\s*(#[0-9a-f]{6})\)")
THEMES = ("light", "dark")
SOFT = ("success", "warning", "danger", "info")
PAPERS = (".ecg-paper", '.ecg-paper[data-paper="blue"]', '.ecg-paper[data-paper="grey"]')


def tokens(selector: str, theme: str) -> dict[str, str]:
    """Colours that the first rule with exactly this selector sets, in one theme."""
    rule = re.search(r"(?:^|\})\s*" + re.escape(selector) + r"\s*\{([^}]*)\}", CSS)
    assert rule, f"no rule for {selector}"
    return {name: pair[THEMES.index(theme)] for name, *pair in TOKEN.findall(rule.group(1))}


def linear(colour: str) -> np.ndarray:
    """Linear RGB of a hexadecimal sRGB colour."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    first, second = (float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)


def text_pairs() -> list[tuple[str, str]]:
    grounds = ("bg", "surface", "raised", "sunken", "neutral-soft", "accent-soft")
    pairs = [("text", ground) for ground in grounds]
    pairs += [("muted", ground) for ground in grounds]
    pairs += [
        (link, ground) for link in ("link", "accent-hover") for ground in ("bg", "surface", "raised", "neutral-soft")
    ]
    pairs += [("on-accent", "accent"), ("on-accent", "accent-hover"), ("on-danger", "danger")]
    for tone in SOFT:
        pairs += [
            (tone, f"{tone}-soft"),
            (tone, "surface"),
            (tone, "bg"),
            ("text", f"{tone}-soft"),
            ("link", f"{tone}-soft"),
        ]
    return pairs


def shape_pairs() -> list[tuple[str, str]]:
    grounds = ("bg", "surface", "sunken")
    pairs = [(shape, ground) for shape in ("control-border", "focus", "accent") for ground in grounds]
    return pairs + [(f"series-{i}", "surface") for i in range(1, 9)]


def test_contrast_formula_matches_known_ratios() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("theme", THEMES)
def test_text_has_a_contrast_of_4_5(theme: str) -> None:
    colours = tokens(":root", theme)
    low = {pair: contrast(*(colours[name] for name in pair)) for pair in text_pairs()}
    assert {pair: round(ratio, 2) for pair, ratio in low.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("theme", THEMES)
def test_controls_and_series_have_a_contrast_of_3(theme: str) -> None:
    colours = tokens(":root", theme)
    low = {pair: contrast(*(colours[name] for name in pair)) for pair in shape_pairs()}
    assert {pair: round(ratio, 2) for pair, ratio in low.items() if ratio < 3} == {}


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("selector", PAPERS)
def test_trace_stands_out_from_paper_and_grid(selector: str, theme: str) -> None:
    colours = tokens(".ecg-paper", theme) | tokens(selector, theme)
    for ground in ("paper", "paper-minor", "paper-major"):
        assert contrast(colours["paper-trace"], colours[ground]) >= 3, ground
    assert contrast(colours["paper-text"], colours["paper"]) >= 4.5
    assert 1 < contrast(colours["paper-minor"], colours["paper"]) < contrast(colours["paper-major"], colours["paper"])


VISION = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE Lab (D65) of a linear RGB colour."""
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = to_xyz @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", THEMES)
def test_neighbouring_series_differ_for_colour_blind_readers(theme: str, vision: str) -> None:
    colours = tokens(":root", theme)
    seen = [lab(VISION[vision] @ linear(colours[f"series-{i}"])) for i in range(1, 9)]
    distances = [float(np.linalg.norm(a - b)) for a, b in pairwise(seen)]
    assert min(distances) > 15, [round(distance) for distance in distances]


def test_every_colour_in_a_rule_is_a_token() -> None:
    outside = re.sub(TOKEN, "", CSS)
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b(?=[^{]*\})", outside) == []


def test_every_used_token_is_defined() -> None:
    used = set(re.findall(r"var\(--([a-z0-9-]+)", CSS))
    defined = set(re.findall(r"(?:^|[{;\s])--([a-z0-9-]+):", CSS))
    assert used - defined == set()


FORBIDDEN = {
    "inline script": re.compile(r"<script(?![^>]*\bsrc=)[^>]*>", re.IGNORECASE),
    "event handler attribute": re.compile(r"<[^>%]*\son[a-z]+\s*=", re.IGNORECASE),
    "htmx handler attribute": re.compile(r"\b(?:data-)?hx-on[:=-]", re.IGNORECASE),
    "evaluated htmx value": re.compile(
        r"\bhx-(?:headers|vals|trigger)=[\"'](?:js:|javascript:|[^\"']*\[)", re.IGNORECASE
    ),
    "script address": re.compile(r"[\"'\s=]javascript:", re.IGNORECASE),
    "style attribute or element": re.compile(r"<style\b|<[^>%]*\sstyle\s*=", re.IGNORECASE),
    "remote asset": re.compile(
        r"<(?:script|link|img|iframe|source|video|audio|object|embed|use|image)\b[^>]*\b(?:src|href|srcset|data)=[\"']?(?:https?:)?//",
        re.IGNORECASE,
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_templates_hold_nothing_a_strict_policy_refuses(what: str) -> None:
    assert TEMPLATES
    found = {
        str(path.relative_to(ROOT)): match.group(0)
        for path in TEMPLATES
        if (match := FORBIDDEN[what].search(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("inline script", "<script>x()</script>"),
        ("event handler attribute", '<a href="#" onclick="x()">'),
        ("htmx handler attribute", '<a hx-on:click="x()">'),
        ("evaluated htmx value", '<p hx-trigger="every 2s [visible]">'),
        ("script address", '<a href="javascript:x()">'),
        ("style attribute or element", '<p class="a" style="color: red">'),
        ("remote asset", '<script src="https://cdn.example/x.js"></script>'),
        ("remote asset", '<link rel="stylesheet" href="//cdn.example/x.css">'),
    ],
)
def test_the_search_finds_what_it_looks_for(what: str, text: str) -> None:
    assert FORBIDDEN[what].search(text)


def test_styles_and_scripts_stay_at_home() -> None:
    assert re.findall(r"@import|url\(|https?:", CSS) == []
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        assert (
            re.findall(r"\beval\(|new Function|\.innerHTML|insertAdjacentHTML|document\.write|https?://", text) == []
        ), path.name


def test_templates_refer_to_files_that_exist() -> None:
    missing = []
    for path in TEMPLATES:
        text = path.read_text(encoding="utf-8")
        missing += [
            f"{path.name}: {name}"
            for name in re.findall(r"\{%-?\s*(?:include|extends)\s+[\"']([^\"']+)", text)
            if not (ROOT / "templates" / name).is_file() and not list(ROOT.glob(f"*/templates/{name}"))
        ]
        missing += [
            f"{path.name}: {name}"
            for name in re.findall(r"\{%\s*static\s+[\"'](portal/[^\"']+)", text)
            if not (STATIC.parent / name).is_file()
        ]
    assert missing == []


def test_every_icon_that_is_asked_for_is_drawn() -> None:
    drawn = set(
        re.findall(r'name == "([a-z-]+)"', (ROOT / "templates/components/icon.html").read_text(encoding="utf-8"))
    )
    asked = {
        name
        for path in TEMPLATES
        for name in re.findall(
            r'icon\.html" with name="([a-z-]+)"|(?<![\w-])icon="([a-z-]+)"', path.read_text(encoding="utf-8")
        )
        for name in name
        if name
    }
    assert asked - drawn == set()


# What templates call a number of things. A number that a script reads stands alone in its attribute and keeps its digits.
COUNTED = re.compile(
    r"""(?<!=")\{\{ (?:\w+\.)*(?:count|\w+_count|n|n_\w+|records|subjects|parameters|taken|unmatched|measured|unmeasured|agrees)(?:\|[^}]*)? \}\}"""
    r"""|(?<!=")\{\{ [\w.]+\|length(?:\|[^}]*)? \}\}"""
)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT / "templates")))
def test_numbers_of_things_are_written_in_one_way(path):
    shown = COUNTED.findall(path.read_text(encoding="utf-8"))
    assert [one for one in shown if '|floatformat:"0g" }}' not in one and "pluralize" not in one] == []
