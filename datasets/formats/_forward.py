"""A forward-only view of a tar file, held against limits while it is read."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import BinaryIO

_CHUNK = 1 << 20
# No header of a tar entry is longer, whatever it announces.
_MAX_READ = 4 << 20


class ForwardReader:
    """A forward-only reader for tarfile that counts what it inflates and refuses oversized entry headers."""

    def __init__(self, inner: BinaryIO | gzip.GzipFile, check_total: Callable[[int], None]):
        self._inner = inner
        self._check_total = check_total
        self._end = 0
        self._position = 0
        self._last = b""

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = 0) -> int:
        if whence != 0 or position < self._end - len(self._last):
            raise ValueError("the archive can only be read forwards")
        self._position = position
        return position

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_READ:
            raise ValueError("an entry's header is larger than any file name")
        while self._position > self._end:
            if not self._inflate(min(self._position - self._end, _CHUNK)):
                return b""
        old = self._last[len(self._last) - (self._end - self._position) :][:size] if self._position < self._end else b""
        data = old
        while len(data) < size:
            new = self._inflate(size - len(data))
            if not new:
                break
            data += new
        self._position += len(data)
        return data

    def _inflate(self, size: int) -> bytes:
        data = self._inner.read(size)
        self._end += len(data)
        self._check_total(self._end)
        # tarfile steps one byte back before each entry to see that the one before is whole.
        self._last = (self._last + data[-512:])[-512:]
        return data
