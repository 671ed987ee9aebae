"""HDF5 files: the layouts of SPH (``ecg``) and CODE-15% (``tracings`` with ``exam_id``), and plain arrays in general."""

from __future__ import annotations

from datasets.formats import _hdf
from datasets.formats.base import Reader, ReadOptions, ReadResult, Source, reader

_MAGIC = b"\x89HDF\r\n\x1a\n"


def _sniff(head: bytes, name: str) -> bool:
    # The signature may stand behind a user block of 512, 1024 or 2048 bytes; MATLAB 7.3 files are another reader's.
    return not head.startswith(b"MATLAB 7.3") and any(head[at : at + 8] == _MAGIC for at in (0, 512, 1024, 2048))


def _read(source: Source, options: ReadOptions) -> ReadResult:
    return _hdf.read_hdf(source, options)


reader(Reader(name="hdf5", title="HDF5", suffixes=(".h5", ".hdf5", ".hdf"), sniff=_sniff, read=_read))
