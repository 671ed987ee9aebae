"""Documents of prose, tables and drawn figures as PDF (A4, selectable text, vector figures).

Pure: blocks in, bytes out. Nothing is fetched: pictures are SVG text that the portal drew itself.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import SubElement, register_namespace, tostring

from defusedxml import ElementTree

from ecgportal.errors import InvalidInput

_SVG_NAMESPACE = "http://www.w3.org/2000/svg"
_SVG = f"{{{_SVG_NAMESPACE}}}"
# Written with a prefix, definitions are not found by svglib.
register_namespace("", _SVG_NAMESPACE)
_MARGIN_MM = 18.0
_WIDTH_MM = 210.0 - 2 * _MARGIN_MM
_TALLEST_MM = 230.0
_INK, _QUIET, _RULE, _SHADE = "#1a1a1a", "#565f66", "#c9d0d6", "#f1f4f6"
# About a page of a narrow cell; a row of a table cannot be broken over pages.
_MOST_LETTERS = 2500


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is a section, 2 a part of one."""

    text: str
    level: int = 1


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text; blank lines start a new paragraph. ``quiet`` sets it small and grey."""

    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of plain text under a head (which may be empty). Numbers are set to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Picture:
    """A figure as SVG text with its caption. ``width_mm`` is its width on paper; None: as wide as the page allows."""

    svg: str
    caption: str = ""
    width_mm: float | None = None


Block = Heading | Text | Table | Picture


def render(title: str, blocks: Sequence[Block], footer: str = "Research use. Not a medical device.") -> bytes:
    """Return the document as PDF bytes. Every page carries the footer and its number.

    Raises
    ------
    InvalidInput: a picture is not SVG (``picture_unreadable``).
    """
    from reportlab.lib.units import mm
    from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer

    styles = _styles()
    story: list[Any] = [Paragraph(_words(title), styles["title"])]
    for block in blocks:
        story += _flowables(block, styles)
        story.append(Spacer(1, 2 * mm))
    out = io.BytesIO()
    document = SimpleDocTemplate(
        out,
        pagesize=(210 * mm, 297 * mm),
        leftMargin=_MARGIN_MM * mm,
        rightMargin=_MARGIN_MM * mm,
        topMargin=16 * mm,
        bottomMargin=18 * mm,
        title=_plain(title),
        author="ECG Portal",
        # Equal content gives equal bytes, apart from the date of making.
        invariant=1,
    )

    def foot(canvas: Any, page: Any) -> None:
        canvas.setFont(_font(), 7.5)
        canvas.setFillColor(_QUIET)
        canvas.drawString(_MARGIN_MM * mm, 10 * mm, _plain(footer))
        canvas.drawRightString((210 - _MARGIN_MM) * mm, 10 * mm, f"Page {page.page}")

    document.build(story, onFirstPage=foot, onLaterPages=foot)
    return out.getvalue()


def drawing(svg: str, width_mm: float | None = None) -> Any:
    """Return SVG text as a reportlab drawing, scaled to ``width_mm`` where given.

    Raises
    ------
    InvalidInput: it is not SVG (``picture_unreadable``).
    """
    from reportlab.lib.units import mm
    from svglib.svglib import svg2rlg

    _font()
    try:
        flat = _without_inner_svg(svg)
    except ElementTree.ParseError:
        flat = b""
    found = svg2rlg(io.BytesIO(flat), resolve_entities=False) if flat else None
    if found is None or found.width <= 0 or found.height <= 0:
        raise InvalidInput("A figure of the document could not be drawn.", code="picture_unreadable")
    if width_mm is not None:
        factor = width_mm * mm / found.width
        found.scale(factor, factor)
        found.width, found.height = found.width * factor, found.height * factor
    return found


def _without_inner_svg(svg: str) -> bytes:
    """Return SVG text in which every inner svg element has become a group that is moved, scaled and clipped alike.

    svglib scales inner elements a second time from pixels to points, and does not clip them.
    """
    root = ElementTree.fromstring(svg, forbid_dtd=True)
    inner = [one for one in root.iter(f"{_SVG}svg") if one is not root]
    for number, one in enumerate(inner):
        x, y, width, height = (float(one.attrib.pop(name, 0)) for name in ("x", "y", "width", "height"))
        left, top, across, down = (
            float(part) for part in one.attrib.pop("viewBox", f"0 0 {width} {height}").replace(",", " ").split()
        )
        one.tag = f"{_SVG}g"
        one.set("transform", f"translate({x} {y}) scale({width / across} {height / down}) translate({-left} {-top})")
        one.set("clip-path", f"url(#inner{number})")
        clip = SubElement(SubElement(root, f"{_SVG}defs"), f"{_SVG}clipPath", {"id": f"inner{number}"})
        box = {"x": left, "y": top, "width": across, "height": down}
        SubElement(clip, f"{_SVG}rect", {name: str(value) for name, value in box.items()})
        # Definitions stand before what uses them.
        root.insert(0, root[-1])
        del root[-1]
    return tostring(root)


def _flowables(block: Block, styles: dict[str, Any]) -> list[Any]:
    from reportlab.lib.units import mm
    from reportlab.platypus import KeepTogether, Paragraph

    if isinstance(block, Heading):
        return [Paragraph(_words(block.text), styles["h1" if block.level == 1 else "h2"])]
    if isinstance(block, Text):
        style = styles["quiet" if block.quiet else "text"]
        return [Paragraph(_words(part), style) for part in block.text.split("\n\n") if part.strip()]
    if isinstance(block, Table):
        return [_table(block, styles)] if block.rows else []
    shape = drawing(block.svg)
    width_mm = min(block.width_mm or _WIDTH_MM, _WIDTH_MM, _TALLEST_MM * shape.width / shape.height)
    factor = width_mm * mm / shape.width
    shape.scale(factor, factor)
    shape.width, shape.height = shape.width * factor, shape.height * factor
    caption = [Paragraph(_words(block.caption), styles["quiet"])] if block.caption else []
    return [KeepTogether([shape, *caption])]


def _table(block: Table, styles: dict[str, Any]) -> Any:
    from reportlab.lib.units import mm
    from reportlab.platypus import LongTable, Paragraph, TableStyle

    columns = max(len(row) for row in [block.head, *block.rows])
    heads: list[object] = [*block.head, *[""] * (columns - len(block.head))]
    filled: list[list[object]] = [[*row, *[""] * (columns - len(row))] for row in block.rows]
    numeric = [all(_is_number(row[k]) for row in filled) for k in range(columns)]

    def line(cells: Sequence[object], head: bool) -> list[Any]:
        padded = [*cells, *[""] * (columns - len(cells))]
        kinds = [("head" if head else "cell") + ("_right" if right else "") for right in numeric]
        return [Paragraph(_words(cell), styles[kind]) for cell, kind in zip(padded, kinds, strict=True)]

    # Columns share the page by the longest word or line they hold, within limits.
    lengths = [min(60, max(6, *(len(str(row[k])) for row in [heads, *filled]))) for k in range(columns)]
    widths = [_WIDTH_MM * mm * length / sum(lengths) for length in lengths]
    rows = ([line(block.head, True)] if any(block.head) else []) + [line(row, False) for row in filled]
    look = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LINEBELOW", (0, 0), (-1, -1), 0.4, _RULE),
        ("TOPPADDING", (0, 0), (-1, -1), 2),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2.5),
        ("LEFTPADDING", (0, 0), (-1, -1), 3),
        ("RIGHTPADDING", (0, 0), (-1, -1), 3),
    ]
    if any(block.head):
        look.append(("BACKGROUND", (0, 0), (-1, 0), _SHADE))
    return LongTable(rows, colWidths=widths, repeatRows=1 if any(block.head) else 0, style=TableStyle(look))


def _is_number(value: object) -> bool:
    text = str(value).strip().rstrip("%").replace(",", "").strip()
    try:
        float(text)
    except ValueError:
        return not text
    return True


def _plain(value: object) -> str:
    """Return text that a PDF can hold: what XML forbids is dropped, what no page can hold is cut."""
    text = "".join(c for c in str(value) if c in "\n\t" or (ord(c) >= 32 and not 0xD800 <= ord(c) <= 0xDFFF)).strip()
    return text if len(text) <= _MOST_LETTERS else text[: _MOST_LETTERS - 1] + "…"


def _words(value: object) -> str:
    """Return plain text as the paragraph markup that shows it; a line break stays one."""
    return escape(_plain(value), quote=False).replace("\n", "<br/>")


@cache
def _font() -> str:
    """Register the fonts of documents and figures, once; return the name of the upright one.

    DejaVu Sans (it comes with matplotlib) has Latin, Greek and Cyrillic letters; without it the PDF's own
    Helvetica is taken, which has Latin letters only.
    """
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont
    from svglib.fonts import register_font

    spec = importlib.util.find_spec("matplotlib")
    folders = [Path(place) / "mpl-data/fonts/ttf" for place in (spec.submodule_search_locations or [])] if spec else []
    folder = next((one for one in folders if (one / "DejaVuSans.ttf").is_file()), None)
    if folder is None:
        return "Helvetica"
    faces = {
        ("normal", "normal"): ("DejaVuSans", "DejaVuSans.ttf"),
        ("bold", "normal"): ("DejaVuSans-Bold", "DejaVuSans-Bold.ttf"),
        ("normal", "italic"): ("DejaVuSans-Oblique", "DejaVuSans-Oblique.ttf"),
        ("bold", "italic"): ("DejaVuSans-BoldOblique", "DejaVuSans-BoldOblique.ttf"),
    }
    for (weight, slant), (name, file) in faces.items():
        pdfmetrics.registerFont(TTFont(name, str(folder / file)))
        for family in ("Helvetica", "Arial", "Liberation Sans", "sans-serif", "monospace"):
            register_font(family, weight=weight, style=slant, rlgFontName=name)
    pdfmetrics.registerFontFamily(
        "DejaVuSans",
        normal="DejaVuSans",
        bold="DejaVuSans-Bold",
        italic="DejaVuSans-Oblique",
        boldItalic="DejaVuSans-BoldOblique",
    )
    return "DejaVuSans"


def _styles() -> dict[str, Any]:
    from reportlab.lib.enums import TA_RIGHT
    from reportlab.lib.styles import ParagraphStyle

    plain = _font()
    bold = f"{plain}-Bold"
    base = ParagraphStyle("text", fontName=plain, fontSize=9, leading=12.5, textColor=_INK, spaceAfter=3)
    cell = ParagraphStyle("cell", parent=base, fontSize=8, leading=10, spaceAfter=0, splitLongWords=1)
    head = ParagraphStyle("head", parent=cell, fontName=bold)
    return {
        "text": base,
        "quiet": ParagraphStyle("quiet", parent=base, fontSize=8, leading=10.5, textColor=_QUIET),
        "title": ParagraphStyle("title", parent=base, fontName=bold, fontSize=16, leading=20, spaceAfter=8),
        "h1": ParagraphStyle("h1", parent=base, fontName=bold, fontSize=12, leading=15, spaceBefore=8, keepWithNext=1),
        "h2": ParagraphStyle("h2", parent=base, fontName=bold, fontSize=10, leading=13, spaceBefore=4, keepWithNext=1),
        "cell": cell,
        "head": head,
        "cell_right": ParagraphStyle("cell_right", parent=cell, alignment=TA_RIGHT),
        "head_right": ParagraphStyle("head_right", parent=head, alignment=TA_RIGHT),
    }
