"""Documents as PDF: what is written can be read back, whatever it holds."""

from __future__ import annotations

import io

import pytest
from pypdf import PdfReader

from ecgportal.errors import InvalidInput
from ecgportal.pdf import Heading, Picture, Table, Text, render
from viz.figures import curves
from viz.figures.render import figure_svg


def _text(document: bytes) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(document)).pages)


def test_every_block_is_in_the_document():
    figure = curves.roc([curves.scored("roc", "AFIB", [0, 1, 0, 1], [0.1, 0.9, 0.4, 0.6])])
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
