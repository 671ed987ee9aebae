"""Which letters the bytes of a text file are."""

from __future__ import annotations

import re

from datasets.formats.base import HEAD_BYTES

# Encodings of one or two bytes that a table may be saved in, with words that only stand in one that is read right.
_OLD_ENCODINGS = (
    ("gb18030", "导联|時間|时间|毫伏|微伏|毫秒|心电|[ⅠⅡⅢ]"), ("cp932", "誘導|時間|時刻|心電|ミリ秒|電圧|[ⅠⅡⅢ]"), ("big5", "導程|導聯|時間|心電|毫伏|微伏|毫秒"),
    ("euc_jp", "誘導|時間|時刻|心電|ミリ秒|電圧"), ("cp949", "유도|시간|심전|전압"), ("cp1251", "(?i:отведени|время|частота|экг)"),
    ("koi8_r", "(?i:отведени|время|частота|экг)"),
)  # fmt: skip
# The Japanese word for a lead in EUC-JP happens to be UTF-8, too.
_EUC_LEAD = "誘導".encode("euc_jp").decode("utf-8")


def decode(data: bytes, *, whole: bool = True) -> str | None:
    """Return the text of a file or, with ``whole`` False, of its beginning; None when it holds NUL bytes as no text does.

    UTF-8, UTF-16 with a byte order mark or with Latin letters, an East Asian or Cyrillic encoding that its words show, else
    Windows-1252.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data[: len(data) // 2 * 2].decode("utf-16", "replace")
    elif b"\x00" in data:
        order = _utf_16_order(data[:2000])
        if order is None:
            return None
        text = data[: len(data) // 2 * 2].decode(order, "replace")
    else:
        try:
            text = data.decode("utf-8-sig")
            if _EUC_LEAD in text[:HEAD_BYTES]:
                text = data.decode("euc_jp", "replace")
        except UnicodeDecodeError as error:
            # A letter that the end of the beginning cuts in two is no reason to doubt the encoding.
            cut = not whole and error.start >= len(data) - 4
            text = data[: error.start].decode("utf-8-sig") if cut else data.decode(_old_encoding(data), "replace")
    return None if "\x00" in text else text


def _old_encoding(data: bytes) -> str:
    """Return the encoding of a text that is no UTF-8, by the words that it gives its first lines; else Windows-1252.

    Only the names of columns and what stands above a table are words, and it is them that a wrong encoding would spoil.
    """
    # Whole lines, so that no letter is cut in two.
    head = data[:HEAD_BYTES]
    head = head[: head.rfind(b"\n") + 1] or head
    for encoding, words in _OLD_ENCODINGS:
        try:
            text = head.decode(encoding)
        except UnicodeDecodeError:
            continue
        if re.search(words, text):
            return encoding
    return "cp1252"


def _utf_16_order(head: bytes) -> str | None:
    """Return the byte order of UTF-16 without a mark: digits, signs and Latin letters have a NUL for their other half."""
    even, odd = head[0::2], head[1::2]
    if not even.count(0) and odd.count(0) > 0.9 * len(odd):
        return "utf-16-le"
    if not odd.count(0) and even.count(0) > 0.9 * len(even):
        return "utf-16-be"
    return None
