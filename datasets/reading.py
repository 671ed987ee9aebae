"""Read the files of an upload to rows that only have to be stored.

No database is known here, so this runs in processes of its own (:mod:`datasets.reading_pool`). All that passes between
the processes is JSON; signals go into a spool file, float32 mV little-endian, row by row.

An *answer* is what became of a file: ``{"kind": "taken" | "refused" | "split" | "unpacked", "name", ...}``. ``taken`` carries
``format``, ``many`` (the file holds several records), ``records``, ``originals`` and ``companions``; a file of many
records may give several of them. ``split`` says how many records a collection holds, so that its parts are read apart.
``unpacked`` says which files came out of an archive and where they lie.
"""

from __future__ import annotations

import hashlib
import math
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from io import FileIO
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datasets import ecg
from datasets.fingerprint import fingerprint
from datasets.formats import archive, registry
from datasets.formats.archive import FileSource
from datasets.formats.base import Reader, ReadOptions, ReadResult
from datasets.formats.wfdb import is_signal_file_name
from datasets.identity import Identity, Named, called_like_persons, terms_of
from datasets.quality import assess
from datasets.scrubbing import AS_SENT, NOT_KEPT, SCRUBBED, scrub
from ecgportal.errors import NeedsAnswer, PortalError, UnreadableFile

Answer = dict[str, Any]
Report = Callable[[str, str], None]
# Bytes of the small files of one record, read once for the reader, the digest and the scrubbing.
Held = dict[Path, bytes]

PART = 64
SPLIT_FROM = 512
SPLIT_PART = 256
_MAX_ANNOTATIONS = 20_000
_TABLE_SUFFIXES = {".csv", ".tsv", ".xlsx", ".json"}
_CHUNK = 1 << 20
_HEAD = 16 << 20


@dataclass
class FileTask:
    """A file to read. part: the range of records to read.

    originals: what was found out about its bytes when it was split, so that they are not read again. may_split: a collection of
    many records is only counted. into: the folder that the file is unpacked into, as an archive; members: those of a zip's
    (place in its directory, name) that are wanted, None for all of an archive.
    """

    name: str
    part: tuple[int, int] | None = None
    originals: list[dict[str, Any]] | None = None
    may_split: bool = False
    into: str | None = None
    members: list[tuple[int, str]] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FileTask:
        part, members = value["part"], value["members"]
        return cls(
            value["name"], tuple(part) if part else None, value["originals"], value["may_split"], value["into"],
            None if members is None else [(place, name) for place, name in members],
        )  # fmt: skip


class Unpacker:
    """Unpacks shares of archives; the zip it was last asked for stays open, as its directory may be long."""

    def __init__(self) -> None:
        self._open: archive.ZipPart | None = None

    def unpack(self, task: FileTask, path: Path) -> Answer:
        assert task.into is not None
        into = Path(task.into)
        if task.members is None:
            result = archive.unpack(path, task.name, into)
        else:
            if self._open is None or self._open.source != path:
                self.close()
                self._open = archive.ZipPart(path, task.name)
            result = self._open.unpack(task.members, into)
        files = [(name, member.name) for name, member in result.files]
        return {"kind": "unpacked", "name": task.name, "files": files, "refused": result.refused}

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


class Spool:
    """The signals of one task in one file. Unbuffered, so that what was announced is there if the process dies."""

    def __init__(self, path: Path):
        self.path = path
        self._stream: FileIO | None = None
        self._end = 0

    def add(self, signal: np.ndarray) -> int:
        """Append ``(leads, samples)`` and return its byte offset."""
        if self._stream is None:
            self._stream = self.path.open("wb", buffering=0)
        offset, data = self._end, memoryview(np.ascontiguousarray(signal, dtype="<f4")).cast("B")
        while len(data):
            written = self._stream.write(data)
            self._end += written
            data = data[written:]
        return offset

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def read_file(
    task: FileTask, index: Mapping[str, Path], options: ReadOptions, spool: Spool, report: Report, identity: Identity | None = None,
    unpacker: Unpacker | None = None,
) -> Iterator[Answer]:  # fmt: skip
    """Yield the answers of one file. ``report(file name, trace)`` hears of errors that no reader should raise."""
    name = task.name
    if task.into is not None:
        try:
            yield (unpacker or Unpacker()).unpack(task, index[name])
        except PortalError as error:
            yield refused(name, error.code, error.message)
        return
    if unpacker is not None:
        # An archive that is removed meanwhile takes room as long as it is open.
        unpacker.close()
    try:
        with warnings.catch_warnings():
            # Readers warn with the values they meet, which may be a person's.
            warnings.simplefilter("ignore")
            yield from _read(task, index, options, spool, identity)
    except PortalError as error:
        message, asks = error.message, error.fields if isinstance(error, NeedsAnswer) else {}
        if asks:
            message = f"{message} {' '.join(asks.values())}".strip()
        shown: dict[str, str] = {}
        if identity is not None and not identity.keeps:
            with index[name].open("rb") as stream:
                head = stream.read(_HEAD)
            terms = terms_of(None, head)
            # A sentence may quote what a column or an array is called; as a whole, for its words may be those of the sentence.
            named, shown = Named([*terms, *called_like_persons(head)]), _shown(identity, [name], terms)
            message, asks = named.mask(message), {field: named.mask(text) for field, text in asks.items()}
        yield {**refused(name, error.code, message, asks), "shown": shown}
    except MemoryError:
        yield refused(
            name,
            "out_of_memory",
            f"{name} needs more memory than a file may take on this machine. Split the recording.",
        )
    except Exception as error:
        report(name, _trace(error))
        yield refused(
            name, "reader_failed",
            f"{name} broke the reader of its format. It was left out; please report the file's format and device.",
        )  # fmt: skip


def _trace(error: Exception) -> str:
    """Return where an error arose and its kind, without its words: they may quote the file."""
    frames = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)[-8:]]
    return f"{type(error).__name__} at {' > '.join(frames)}"


def _shown(identity: Identity | None, names: Iterable[str], terms: Iterable[str]) -> dict[str, str]:
    """Return those names of files that are not shown as they are, with what is shown for them."""
    if identity is None:
        return {}
    found = {name: identity.names.shown(name, terms) for name in names}
    return {name: shown for name, shown in found.items() if shown != name}


def refused(name: str, code: str, message: str, asks: Mapping[str, str] | None = None) -> Answer:
    return {"kind": "refused", "name": name, "code": code, "message": plain(message), "asks": plain(dict(asks or {}))}


def _terms(format_name: str | None, path: Path, held: Held | None = None) -> list[str]:
    if held is not None and (data := held.get(path)) is not None:
        return terms_of(format_name, data)
    with path.open("rb") as stream:
        return terms_of(format_name, stream.read(_HEAD))


def _read(
    task: FileTask, index: Mapping[str, Path], options: ReadOptions, spool: Spool, identity: Identity | None
) -> Iterator[Answer]:
    name = task.name
    held: Held = {}
    entry, result = _open(name, index, options, held)
    count = len(result.records)
    terms = _terms(entry.name, index[name], held) if identity is not None and not identity.keeps else []
    shown = _shown(identity, (name, *result.companions), terms)
    if task.may_split and task.part is None and count >= SPLIT_FROM:
        originals = _originals(name, result, index, entry.name, identity, spool, held, shown)
        yield {"kind": "split", "name": name, "count": count, "originals": originals}
        return
    originals = (
        task.originals
        if task.originals is not None
        else _originals(name, result, index, entry.name, identity, spool, held, shown)
    )
    wanted = result.records if task.part is None else result.records[task.part[0] : task.part[1]]
    hidden = Named(terms).of_channel if identity is not None and not identity.keeps else _nothing
    records = iter(wanted)
    done = 0
    while part := list(islice(records, PART)):
        done += len(part)
        yield {
            "kind": "taken", "name": name, "format": entry.name, "many": count > 1, "originals": originals,
            "companions": list(result.companions), "shown": shown,
            "records": [
                _cleaned(row_of(key, ecg.name_leads(record, hidden), spool), identity, terms, originals)
                for key, record in part
            ],
        }  # fmt: skip


def _nothing(name: str) -> bool:
    return False


def _open(name: str, index: Mapping[str, Path], options: ReadOptions, held: Held) -> tuple[Reader, ReadResult]:
    if is_signal_file_name(name) and index.get(f"{PurePosixPath(name).with_suffix('.hea')}") is not None:
        header = PurePosixPath(name).with_suffix(".hea").name
        raise UnreadableFile(
            f"{name} was not taken because its header {header} could not be read; see there.", code="header_refused"
        )
    path = index.get(name)
    assert path is not None
    source = FileSource(name, path, index, held)
    entry = registry.sniff(source)
    if entry is None:
        raise _unknown(source)
    return entry, entry.read(source, options)


def _unknown(source: FileSource) -> UnreadableFile:
    name = source.name
    if is_signal_file_name(name):
        header = PurePosixPath(name).with_suffix(".hea").name
        return UnreadableFile(
            f"{name} is a signal file without its header. Upload it together with {header}.", code="header_missing"
        )
    if PurePosixPath(name).suffix.lower() in _TABLE_SUFFIXES and source.size:
        return UnreadableFile(
            f"{name} holds no ECG that can be read. If it is a table of labels, upload it on the dataset's Labels page; "
            "ECGs are read from CSV tables, one column a lead, and from FHIR Observations (JSON, NDJSON or XML).",
            code="not_an_ecg",
        )
    return registry.unknown(source)


def _cleaned(
    row: dict[str, Any], identity: Identity | None, terms: list[str], originals: list[dict[str, Any]]
) -> dict[str, Any]:
    if identity is not None:
        identity.clean(row, terms)
        row["key"] = identity.names.shown(row["key"], terms, has_ending=False)
        states = {original["state"] for original in originals}
        row["meta"]["original"] = next((state for state in (NOT_KEPT, SCRUBBED) if state in states), AS_SENT)
    return row


def _originals(
    name: str,
    result: ReadResult,
    index: Mapping[str, Path],
    format_name: str,
    identity: Identity | None,
    spool: Spool,
    held: Held,
    shown: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Return each file that was read: sha256 of what was sent, and where what may be kept of it lies (path None: nothing).

    shown: names that are not kept as they are; a header that names its signal files by them is changed alike.
    """
    found = []
    for other in dict.fromkeys((name, *result.companions)):
        path = index[other]
        data = held.get(path)
        sha256, size = _digest(path) if data is None else (hashlib.sha256(data).hexdigest(), len(data))
        original = {
            "name": other,
            "sent_sha256": sha256,
            "path": str(path),
            "sha256": sha256,
            "size": size,
            "state": AS_SENT,
        }
        if identity is not None and not identity.keeps:
            original["state"], clean = scrub(format_name, other, path, data, result.parts.get(other, ()))
            if shown and original["state"] != NOT_KEPT and other.lower().endswith(".hea"):
                original["state"], clean = SCRUBBED, _renamed(path.read_bytes() if clean is None else clean, shown)
            if original["state"] == NOT_KEPT:
                original["path"] = None
            elif clean is not None:
                place = spool.path.with_name(f"clean-{sha256}")
                place.write_bytes(clean)
                original |= {"path": str(place), "sha256": hashlib.sha256(clean).hexdigest(), "size": len(clean)}
        found.append(original)
    return found


def _renamed(header: bytes, shown: Mapping[str, str]) -> bytes:
    """Return a header in which files are named as they are shown."""
    stems = {PurePosixPath(name).stem: PurePosixPath(other).stem for name, other in shown.items()}
    for stem in sorted(stems, key=len, reverse=True):
        header = header.replace(stem.encode(), stems[stem].encode())
    return header


def _digest(path: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def row_of(key: str, record: ecg.Record, spool: Spool) -> dict[str, Any]:
    """Return everything about one record as JSON types; its signal goes into the spool."""
    record = ecg.normalise(record)
    meta, quality = record.meta, assess(record)
    row = {
        "key": plain(key), "fs_hz": float(record.fs_hz), "n_samples": record.n_samples, "leads": plain(record.leads),
        "computed": plain(record.computed), "age": plain(meta.age), "sex": meta.sex, "subject": plain(meta.subject), "recorded_at": meta.recorded_at,
        "labels": [[label.system, plain(label.code), label.likelihood] for label in meta.labels],
        "quality": quality.to_json(), "score": quality.score, "fingerprint": fingerprint(record) or "",
        "meta": plain({
            "printed": meta.printed, "annotations": [list(row) for row in meta.annotations[:_MAX_ANNOTATIONS]],
            "dropped_channels": list(meta.dropped_channels), "device": meta.device, "notes": list(meta.notes),
        }),
        "offset": spool.add(record.signal),
    }  # fmt: skip
    return row


def plain(value: Any) -> Any:
    """Return JSON types that a database takes: no NUL or lone surrogate in texts, None for what is not finite."""
    if isinstance(value, str):
        return value.replace("\x00", "").encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
