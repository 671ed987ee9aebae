"""XML of devices, read without trust.

Nothing is declared by the document and nothing is fetched: a document type may be named (MUSE files name
``restecg.dtd``), but a document with an internal subset, an entity, an inclusion or more depth than any ECG
format has is refused while it is being read. Tags and attributes are given without their namespace.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from datasets.formats.base import Source
from ecgportal.errors import PortalError, TooLarge, UnreadableFile, UnsafeFile

MAX_XML_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 64
MAX_ELEMENTS = 200_000
MAX_ATTRIBUTES = 64
_CHUNK = 1 << 20
# A tag, comment or instruction is held by the parser until it ends; the longest are the samples of one lead.
MAX_TAG_BYTES = 4 << 20

# Encodings that device software writes. Others (EBCDIC, UTF-7) would hide the content from every check by bytes.
_ENCODINGS = frozenset(
    "utf-8 utf8 us-ascii ascii utf-16 utf-16le utf-16be iso-8859-1 iso8859-1 latin1 latin-1 iso-8859-2 iso-8859-5 "
    "iso-8859-7 iso-8859-9 iso-8859-15 windows-1250 windows-1251 windows-1252 windows-1253 windows-1254 gb2312 gbk "
    "gb18030 big5 shift_jis shift-jis euc-jp euc-kr".split()
)
_DECLARED = re.compile(r"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9._\-]{1,40})["']""")
_NAME = re.compile(r"[A-Za-z_][\w.\-]*(?::([A-Za-z_][\w.\-]*))?")


_LATIN = "ecg-latin"


def _as_latin(error: UnicodeError) -> tuple[str, int]:
    """Read bytes that are no UTF-8 as Windows-1252; none of them is markup."""
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error(_LATIN, _as_latin)


def _byte_order(head: bytes) -> str | None:
    """Return the Unicode encoding that the first bytes show, or None."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return encoding
    if head.startswith(b"<\x00"):
        return "utf-16-le"
    if head.startswith(b"\x00<"):
        return "utf-16-be"
    return None


def _decode_head(head: bytes) -> str:
    return head.decode(_byte_order(head) or "latin-1", errors="replace")


def root_name(head: bytes) -> str | None:
    """Return the local name of the root element as far as the first bytes show it, or None; never raises.

    Comments, processing instructions and the document type in front of it are passed over; where the document
    type runs past the first bytes, its name counts.
    """
    if head[:5] == b"%PDF-" or head[:4] in (b"\x89PNG", b"PK\x03\x04"):
        return None
    text = _decode_head(head).lstrip("\ufeff \t\r\n")
    at, doctype = 0, None
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if not text.startswith("<", at):
            return doctype
        if text.startswith("<!--", at):
            end, width = text.find("-->", at + 4), 3
        elif text.startswith("<?", at):
            end, width = text.find("?>", at + 2), 2
        elif text.startswith("<!DOCTYPE", at):
            found = _NAME.search(text, at + 9)
            doctype = (found[1] or found[0]) if found else None
            bracket, end, width = text.find("[", at), text.find(">", at), 1
            if 0 <= bracket < end:
                end, width = text.find("]>", bracket), 2
        else:
            found = _NAME.match(text, at + 1)
            return (found[1] or found[0]) if found else doctype
        if end < 0:
            return doctype
        at = end + width


def head_text(head: bytes) -> str:
    """Return the first bytes as text, for recognition only."""
    return _decode_head(head)


class _Guard:
    """Expat's events, counted and checked, into a tree."""

    def __init__(self, name: str):
        self.name = name
        self.depth = 0
        self.elements = 0
        self.builder = TreeBuilder()

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        self.elements += 1
        if self.depth > MAX_DEPTH or self.elements > MAX_ELEMENTS or len(attributes) > MAX_ATTRIBUTES:
            raise UnsafeFile(
                f"{self.name} nests its XML deeper than {MAX_DEPTH} levels or has more than {MAX_ELEMENTS} elements; "
                "no ECG format does. It was not read further.",
                code="unsafe_xml",
            )
        if attributes:
            if "http://www.w3.org/2001/XInclude" in attributes.values():
                raise UnsafeFile(
                    f"{self.name} asks for other files to be included (XInclude); nothing outside an upload is read.",
                    code="unsafe_xml",
                )
            attributes = {_local(key): value for key, value in attributes.items()}
        self.builder.start(_local(tag), attributes)

    def end(self, tag: str) -> None:
        self.depth -= 1
        self.builder.end(_local(tag))

    def doctype(self, name: str, system: str | None, public: str | None, internal: int) -> None:
        if internal:
            self.declared(name)

    def declared(self, *_: object) -> None:
        raise UnsafeFile(
            f"{self.name} declares its own document type or entities inside the file. Device exports do not; it was "
            "not read. Export the recording again from the device's software.",
            code="unsafe_xml",
        )

    def reference(self, *_: object) -> int:
        raise UnsafeFile(
            f"{self.name} refers to an entity that lies outside the file; nothing outside an upload is read.",
            code="unsafe_xml",
        )


def _local(name: str) -> str:
    return name.rsplit(":", 1)[-1]


def _encoding(name: str, head: bytes) -> str | None:
    """Return the codec to decode with, or None where the parser reads the bytes itself (UTF-8)."""
    found = _byte_order(head)
    declared = _DECLARED.match(_decode_head(head).lstrip("\ufeff"))
    stated = declared[1].lower() if declared else None
    if stated is not None and stated not in _ENCODINGS:
        raise UnsafeFile(
            f"{name} is XML in the encoding {stated!r}, which the portal does not read.", code="unsafe_xml"
        )
    if found is not None:
        return None if found == "utf-8-sig" else found
    if not head.lstrip(b" \t\r\n").startswith(b"<"):
        raise UnreadableFile(f"{name} is not XML in a known encoding. Export it again as UTF-8.", code="bad_xml")
    # A file in single bytes that calls itself UTF-16 was converted without its declaration.
    if stated is None or stated.startswith(("utf", "us-ascii", "ascii")):
        return None
    return stated


def _pieces(source: Source) -> Iterator[bytes]:
    """Yield the document as UTF-8 (or as it is where the parser can tell), in pieces."""
    with source.open() as stream:
        piece = stream.read(_CHUNK)
        encoding = _encoding(source.name, piece[:4096])
        narrow = encoding is None or not encoding.startswith("utf-16")
        if narrow:
            # Line ends that an export put before the declaration.
            piece = piece.lstrip(b" \t\r\n")
        # Names of people are written in Latin letters by some devices that declare UTF-8.
        decoder = codecs.getincrementaldecoder(encoding or "utf-8")("strict" if encoding else _LATIN)
        total = 0
        while piece:
            total += len(piece)
            if total > MAX_XML_BYTES:
                raise _too_large(source.name, total)
            following = stream.read(_CHUNK)
            if not following and narrow:
                # Blocks of fixed length are filled up behind the document.
                piece = piece.rstrip(b"\x00\x1a \t\r\n")
            yield decoder.decode(piece).encode("utf-8", "surrogatepass")
            piece = following
        yield decoder.decode(b"", True).encode("utf-8")


def _too_large(name: str, size: int) -> TooLarge:
    return TooLarge(
        f"{name} is XML of more than {min(size, MAX_XML_BYTES) // 2**20} MB; at most {MAX_XML_BYTES // 2**20} MB are read. "
        "Split the recording, or export it in a binary format."
    )


def parse_xml(source: Source) -> Element:
    """Return the root element of a device's XML file.

    Raises TooLarge beyond 64 MB, UnsafeFile (``unsafe_xml``) for entities, inclusions and excessive structure,
    UnreadableFile (``bad_xml``) for text that is not well-formed.
    """
    if source.size > MAX_XML_BYTES:
        raise _too_large(source.name, source.size)
    guard = _Guard(source.name)
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.buffer_size = 1 << 18
    parser.StartElementHandler = guard.start
    parser.EndElementHandler = guard.end
    parser.CharacterDataHandler = guard.builder.data
    parser.StartDoctypeDeclHandler = guard.doctype
    parser.EntityDeclHandler = guard.declared
    parser.UnparsedEntityDeclHandler = guard.declared
    parser.NotationDeclHandler = guard.declared
    parser.ExternalEntityRefHandler = guard.reference
    parser.SkippedEntityHandler = guard.reference
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    try:
        fed = 0
        for piece in _pieces(source):
            parser.Parse(piece, False)
            fed += len(piece)
            if fed - parser.CurrentByteIndex > MAX_TAG_BYTES:
                raise UnsafeFile(
                    f"{source.name} holds a single tag or comment of more than {MAX_TAG_BYTES // 2**20} MB; no ECG format does. "
                    "It was not read further.",
                    code="unsafe_xml",
                )
        parser.Parse(b"", True)
        return guard.builder.close()
    except PortalError:
        raise
    except (expat.ExpatError, UnicodeError, AssertionError, ValueError) as error:
        raise UnreadableFile(
            f"{source.name} is not well-formed XML ({str(error)[:120]}). It was cut off or edited; export it again.",
            code="bad_xml",
        ) from error


def text_of(element: Element | None, path: str) -> str | None:
    """Return the trimmed text at ``path``, or None when it is missing or empty."""
    if element is None:
        return None
    found = element.findtext(path)
    return (found or "").strip() or None
