"""The XML parser: what it refuses, and what it must still read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.formats._xml import MAX_XML_BYTES, parse_xml, root_name
from datasets.formats.base import BytesSource
from ecgportal.errors import PortalError, TooLarge, UnreadableFile, UnsafeFile


def parse(data: bytes):
    return parse_xml(BytesSource("x.xml", data))


LAUGHS = (
    b'<!DOCTYPE a [<!ENTITY a0 "ha">'
    + b"".join(b'<!ENTITY a%d "&a%d;&a%d;&a%d;&a%d;&a%d;&a%d;">' % (i, *[i - 1] * 6) for i in range(1, 30))
    + b"]><a>&a29;</a>"
)
HOSTILE = {
    "external entity": b'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><a>&e;</a>',
    "billion laughs": LAUGHS,
    "quadratic": b'<!DOCTYPE a [<!ENTITY e "' + b"x" * 50_000 + b'">]><a>' + b"&e;" * 1000 + b"</a>",
    "parameter entity": b'<!DOCTYPE a [<!ENTITY % p SYSTEM "http://example.org/x.dtd"> %p;]><a/>',
    "undeclared entity of an outside type": b'<!DOCTYPE a SYSTEM "http://example.org/x.dtd"><a>&e;</a>',
    "inclusion": b'<a xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="/etc/passwd" parse="text"/></a>',
    "notation": b'<!DOCTYPE a [<!NOTATION n SYSTEM "x">]><a/>',
    "laughs in UTF-16": LAUGHS.decode().encode("utf-16"),
    "laughs in UTF-16 without mark": LAUGHS.decode().encode("utf-16-le"),
    "declared EBCDIC": b'<?xml version="1.0" encoding="cp037"?><a/>',
    "UTF-7": b'<?xml version="1.0" encoding="utf-7"?><a/>',
    "nested": b"<a>" * 1_000_000,
    "wide": b"<a>" + b"<b/>" * 201_000,
    "a tag without end": b"<a " + b'k="' + b"x" * 7_000_000,
    "a comment without end": b"<a><!--" + b"x" * 7_000_000,
    "attributes": b"<a " + b" ".join(b'k%d="1"' % i for i in range(5000)) + b"/>",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_xml_is_refused(name):
    with pytest.raises(UnsafeFile) as caught:
        parse(HOSTILE[name])
    assert caught.value.code == "unsafe_xml"
    assert "x.xml" in caught.value.message


def test_ebcdic_bytes_are_refused():
    with pytest.raises(UnreadableFile):
        parse('<?xml version="1.0" encoding="cp037"?><RestingECG/>'.encode("cp037"))


def test_a_200_mb_text_is_refused_by_its_size_alone():
    class Huge:
        name, size = "x.xml", 200 * 1024 * 1024

        def open(self):
            raise AssertionError("It must not be opened.")

    with pytest.raises(TooLarge):
        parse_xml(Huge())


def test_a_stream_longer_than_it_says_is_stopped():
    class Liar(BytesSource):
        size = 10

    with pytest.raises(TooLarge):
        parse_xml(Liar("x.xml", b"<a>" + b" " * (MAX_XML_BYTES + 10)))


def test_a_long_text_and_a_long_attribute_are_read():
    root = parse(b'<a data="' + b"A" * 2_000_000 + b'">' + b"1 " * 6_000_000 + b"</a>")
    assert len(root.get("data")) == 2_000_000 and len(root.text) == 12_000_000


def test_a_bare_document_type_is_read_and_not_resolved():
    root = parse(b'<!DOCTYPE RestingECG SYSTEM "restecg.dtd"><RestingECG><a>1</a></RestingECG>')
    assert (root.tag, root.findtext("a")) == ("RestingECG", "1")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "iso-8859-1", "windows-1252"])
def test_encodings_of_devices_are_read(encoding):
    declared = "utf-16" if encoding.startswith("utf-16") else encoding.removesuffix("-sig")
    text = f'<?xml version="1.0" encoding="{declared}"?><p:a xmlns:p="urn:x" p:k="é">Größe µV</p:a>'
    root = parse(text.encode(encoding))
    assert (root.tag, root.get("k"), root.text) == ("a", "é", "Größe µV")


def test_latin_letters_in_a_file_that_declares_utf_8():
    root = parse('<?xml version="1.0" encoding="UTF-8"?><a k="Zürich">Müller µV</a>'.encode("latin-1"))
    assert (root.get("k"), root.text) == ("Zürich", "Müller µV")
    # A letter that the end of a piece of 1 MB cuts in two is one letter.
    assert parse(b"<a>" + b"x" * (2**20 - 4) + "µ".encode() + b"</a>").text.endswith("xµ")


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1"])
def test_blank_lines_before_the_declaration_and_filling_behind_the_document(encoding):
    text = f'\r\n <?xml version="1.0" encoding="{encoding}"?><a>é</a>'.encode(encoding)
    assert parse(text + b"\x00" * 300).text == "é"
    assert root_name(text) == "a"


def test_chinese_encodings_are_read():
    assert parse('<?xml version="1.0" encoding="GB2312"?><a>心电图</a>'.encode("gb2312")).text == "心电图"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"<RestingECG>", "RestingECG"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- <no> --><n:AnnotatedECG x="', "AnnotatedECG"),
        (b'<!DOCTYPE RestingECG SYSTEM "restecg.dtd">\n<RestingECG', "RestingECG"),
        (b'<!DOCTYPE a [<!ENTITY b "<c>">]><a/>', "a"),
        (b'<!DOCTYPE a [<!ENTITY b "', "a"),
        ("<a/>".encode("utf-16"), "a"),
        (b"%PDF-1.7 <RestingECG>", None),
        (b"\x89PNG\r\n<RestingECG>", None),
        (b"PK\x03\x04<RestingECG>", None),
        (b"", None),
        (b"I,II,III\n<", None),
    ],
)
def test_the_root_is_found_by_the_first_bytes(head, expected):
    assert root_name(head) == expected


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_the_root_search_never_raises(head):
    assert root_name(head) is None or isinstance(root_name(b"<" + head), str | None)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_tree_or_an_answer(tail):
    try:
        parse(b"<a>" + tail)
    except PortalError as error:
        assert error.message


def test_cut_off_xml_is_refused_with_the_place():
    with pytest.raises(UnreadableFile, match="line 1"):
        parse(b"<a><b>text")
