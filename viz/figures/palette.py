"""Colours: ECG papers in light and dark, and a palette that colour-blind readers can tell apart.

Series colours are those of Okabe and Ito (jfly.uni-koeln.de/color, 2008).
"""

from __future__ import annotations

from dataclasses import dataclass

OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
# On a dark ground black gives way to white, and the dark blue to a lighter one.
OKABE_ITO_DARK = ("#56b4e9", "#e69f00", "#2fc79c", "#e59cc6", "#ff8a4a", "#4d9fd6", "#ffffff", "#f0e442")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
# Light to dark in one hue; read by lightness alone.
SEQUENTIAL = ((0.0, "#f7fbff"), (0.25, "#c6dbef"), (0.5, "#6baed6"), (0.75, "#2171b5"), (1.0, "#08306b"))
SEQUENTIAL_DARK = ((0.0, "#14181d"), (0.25, "#163a5f"), (0.5, "#1f6aa5"), (0.75, "#56b4e9"), (1.0, "#d7efff"))


@dataclass(frozen=True)
class Paper:
    ground: str
    minor: str
    major: str
    trace: str
    ink: str
    quiet: str
    mark: str


@dataclass(frozen=True)
class Theme:
    """Colours of an ordinary figure."""

    ground: str
    ink: str
    quiet: str
    grid: str
    series: tuple[str, ...]
    sequential: tuple[tuple[float, str], ...]


PAPERS: dict[tuple[str, bool], Paper] = {
    ("pink", False): Paper("#fff8f6", "#f9d9d3", "#eda79c", "#111111", "#1b1b1b", "#555555", "#004f87"),
    ("blue", False): Paper("#f8fbff", "#d8e6f5", "#9fc0e3", "#0b1626", "#1b1b1b", "#4d5866", "#a03c00"),
    ("grey", False): Paper("#ffffff", "#e6e6e6", "#bdbdbd", "#000000", "#111111", "#555555", "#004f87"),
    ("pink", True): Paper("#17110f", "#2b1d1a", "#533029", "#f4f1ee", "#f1ece8", "#b9aca6", "#7cc8f5"),
    ("blue", True): Paper("#0d141c", "#182635", "#27476a", "#eef4fa", "#e8eef5", "#a3b1c0", "#ffb54d"),
    ("grey", True): Paper("#121212", "#242424", "#414141", "#f2f2f2", "#eeeeee", "#ababab", "#7cc8f5"),
}


def paper(name: str, dark: bool) -> Paper:
    return PAPERS[(name, dark)]


def theme(dark: bool) -> Theme:
    if dark:
        return Theme("#14181d", "#e8eef2", "#a9b4bd", "#303a44", OKABE_ITO_DARK, SEQUENTIAL_DARK)
    return Theme("#ffffff", "#1a1a1a", "#565f66", "#dfe3e6", OKABE_ITO, SEQUENTIAL)


def contrast(a: str, b: str) -> float:
    """Return the WCAG 2.2 contrast ratio (1 to 21) of two ``#rrggbb`` colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
