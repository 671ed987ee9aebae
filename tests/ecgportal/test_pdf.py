"""Documents as PDF: what is written can be read back, whatever it holds."""

from __future__ import annotations

import io

import pytest
from pypdf import PdfReader

from ecgportal.errors import InvalidInput
from ecgportal.pdf import Heading, Picture, Table, Text, drawing, render
from viz.figures import curves
from viz.figures.render import figure_svg


def _text(document: bytes) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(document)).pages)


def test_every_block_is_in_the_document():
    figure = curves.roc([curves.Curve("AFIB", [0, 0, 1], [0, 1, 1], area=1.0)])
    document = render(
        "Report of a model",
        [
            Heading("Results"),
            Text("First paragraph.\n\nSecond paragraph, 5 µV and α < β & more."),
            Table(["Class", "AUROC"], [["NORM", 0.873], ["Vorhofflimmern (ärztlich)", "0.91"]]),
            Picture(figure_svg(figure), "ROC curves"),
        ],
        footer="Research use.",
    )
    text = _text(document)
    for words in (
        "Report of a model", "Results", "Second paragraph, 5 µV and α < β & more.", "NORM", "0.873",
        "Vorhofflimmern (ärztlich)", "ROC curves", "Research use.", "Page 1",
    ):  # fmt: skip
        assert words in text
    assert PdfReader(io.BytesIO(document)).metadata.title == "Report of a model"


def test_markup_in_content_is_shown_as_text():
    text = _text(
        render(
            "<b>x</b>", [Text("<script>alert(1)</script>"), Table(["<i>"], [["&amp; <img src='file:///etc/passwd'>"]])]
        )
    )
    assert "<b>x</b>" in text
    assert "<script>alert(1)</script>" in text
    assert "&amp; <img src='file:///etc/passwd'>" in text


def test_long_tables_go_over_pages_with_their_head():
    document = render("Long", [Table(["record", "p"], [[f"record {k}", k / 500] for k in range(500)])])
    pages = PdfReader(io.BytesIO(document)).pages
    assert len(pages) > 5
    assert all("record\n" in page.extract_text() for page in pages)
    assert "record 499" in _text(document)


def test_nothing_odd_breaks_a_document():
    odd = "a\x00b\ud800c" + "x" * 5000
    assert "a" in _text(render(odd, [Text(odd), Table([], [[odd], []]), Table(["h"], []), Text("")]))


def test_equal_content_gives_equal_bytes():
    assert render("Same", [Text("words")]) == render("Same", [Text("words")])


def test_a_picture_that_is_none_is_refused():
    with pytest.raises(InvalidInput) as error:
        render("x", [Picture("no svg")])
    assert error.value.code == "picture_unreadable"


def test_what_lies_in_an_inner_picture_keeps_its_place_and_is_clipped(caplog):
    inner = (
        '<svg x="100" y="50" width="50" height="50" viewBox="0 0 100 100"><path d="M0 0L100 100" stroke="#f00"/></svg>'
    )
    shape = drawing(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="200" height="200" viewBox="0 0 200 200">{inner}</svg>'
    )
    low_x, low_y, high_x, high_y = shape.getBounds()
    clips = [one for one in _all(shape) if type(one).__name__ == "ClippingPath"]
    assert len(clips) == 1 and "clipping path" not in caplog.text
    points_of_px = 0.75
    assert (low_x, high_x) == pytest.approx((100 * points_of_px, 150 * points_of_px))
    assert (low_y, high_y) == pytest.approx((100 * points_of_px, 150 * points_of_px))


def _all(shape):
    yield shape
    for part in getattr(shape, "contents", []):
        yield from _all(part)
