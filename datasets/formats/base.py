"""What a reader of a file format is, and what it is handed.

A reader is one module of this package that calls :func:`reader` once. It is found by the
file's content (``sniff``), reads from streams, and returns canonical records.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple, Protocol

from datasets.ecg import Record
from ecgportal.errors import TooLarge

HEAD_BYTES = 4096
MAX_FILE_BYTES = 512 * 1024 * 1024
# 24 h of 12 leads at 250 Hz is 259 million values; beyond this a file is refused before memory is taken.
MAX_VALUES = 300_000_000


class Source(Protocol):
    """One file of an upload, with its neighbours. Names are relative POSIX paths inside the upload."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    def open(self) -> BinaryIO:
        """Open the bytes for reading, seekable."""

    def companion(self, name: str) -> Source | None:
        """Return the file ``name`` that lies beside this one in the same upload, or None.

        ``name`` is a bare file name. Anything with a path part, an absolute path or a URL gives None,
        so a header can never reach outside its upload.
        """


@dataclass(frozen=True)
class BytesSource:
    """A source held in memory, with its neighbours by bare file name."""

    name: str
    data: bytes = field(repr=False)
    neighbours: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        return len(self.data)

    def open(self) -> BinaryIO:
        return io.BytesIO(self.data)

    def companion(self, name: str) -> Source | None:
        if name not in self.neighbours or name != PurePosixPath(name).name:
            return None
        folder = PurePosixPath(self.name).parent
        return BytesSource(str(folder / name), self.neighbours[name], self.neighbours)


@dataclass(frozen=True)
class ReadOptions:
    """The user's answers for files that do not say it themselves; a file's own statement wins.

    fs_hz: samples per second. unit: one of ``mV``, ``uV``, ``V``, ``nV``, or ``<number>/mV`` (digits per millivolt).
    lead_order: names of the rows or columns in file order.
    """

    fs_hz: float | None = None
    unit: str | None = None
    lead_order: tuple[str, ...] | None = None


class Part(NamedTuple):
    """What of a file was read: its bytes from ``start`` to ``end``; of a FLAC file these samples of every channel."""

    start: int
    end: int
    is_flac: bool = False


@dataclass(frozen=True)
class ReadResult:
    """What one file gave.

    records: ``(key, record)`` pairs; the key names the record inside its file's collection (the file's stem
    for a file with one record). A file of very many records gives a sequence that reads each one when it is asked for:
    iterate over it, and keep no more than are needed at once. companions: names (as in ``Source.name``) of other files that were read with it.
    parts: what was read of those companions of which another file says where their samples lie.
    """

    records: Sequence[tuple[str, Record]]
    companions: tuple[str, ...] = ()
    parts: Mapping[str, Sequence[Part]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reader:
    """A registered format. ``sniff(head, name)`` gets the first 4096 bytes; it must not raise."""

    name: str
    title: str
    suffixes: tuple[str, ...]
    sniff: Callable[[bytes, str], bool]
    read: Callable[[Source, ReadOptions], ReadResult]
    tried_on_real_files: bool = True


READERS: dict[str, Reader] = {}


def reader(entry: Reader) -> Reader:
    """Register a reader; a second one of the same name is a programming error."""
    if entry.name in READERS:
        raise RuntimeError(f"Two readers are called {entry.name!r}.")
    READERS[entry.name] = entry
    return entry


def read_bytes(source: Source, limit: int = MAX_FILE_BYTES) -> bytes:
    """Return all bytes of a source; TooLarge beyond ``limit``."""
    if source.size > limit:
        raise TooLarge(
            f"{source.name} is {source.size / 1e6:.0f} MB; a single file may have at most {limit / 1e6:.0f} MB. "
            "Split the recording or raise the limit on the server."
        )
    with source.open() as stream:
        return stream.read(limit)
