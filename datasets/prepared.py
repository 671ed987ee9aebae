"""The packed store of prepared signals: int16 shards with a scale per record and lead, read by memory map.

Layout of a store's folder::

    manifest.json       recipe, shape, committed segments with SHA-256, removed rows; replaced whole, always last
    signals-00000.i16   little-endian int16 (rows, leads, samples), no header
    scales-00000.f32    little-endian float32 (rows, leads): millivolt (or unit) per step
    masks-00000.bits    bits (rows, leads, ceil(samples / 8)), 1 for recorded samples
    keys-00000.txt      one JSON string per row

What lies in a shard behind the last segment of the manifest is not there: an append that was cut off by a crash is
overwritten by the next one. Any number of processes may read while one writes; writers wait for each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from datasets.preprocess.recipe import Prepared, Recipe
from ecgportal.errors import Conflict, InvalidInput, NotFound

FORMAT = "ecg-portal-prepared"
FORMAT_VERSION = 1
SHARD_ROWS = 16384
_MAX_KEY = 200
# A lead without any signal still needs a step above 0.
_SMALLEST_STEP = np.float32(1e-12)
_KINDS = {"signals": "i16", "scales": "f32", "masks": "bits", "keys": "txt"}


@dataclass(frozen=True)
class Segment:
    """Rows that one append wrote into one shard. ``sha256`` covers their signals, scales, masks and keys."""

    shard: int
    start: int
    rows: int
    keys_start: int
    keys_bytes: int
    sha256: str


@dataclass
class _State:
    recipe: Recipe
    segments: list[Segment] = field(default_factory=list)
    removed: set[int] = field(default_factory=set)
    pending: set[int] = field(default_factory=set)


def quantise(signals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int16 steps ``(n, leads, samples)`` and the step sizes ``(n, leads)`` float32.

    Each lead's largest value becomes 32767 steps: nothing is clipped, and the error is at most half a step (beside the
    rounding of float32). InvalidInput when a value is not finite.
    """
    signals = np.asarray(signals, dtype=np.float32)
    largest = np.maximum(signals.max(axis=2), -signals.min(axis=2)) if signals.size else np.zeros(signals.shape[:2])
    if not np.isfinite(largest).all():
        raise InvalidInput("Prepared signals must be finite; a recipe's closing fill step sees to that.")
    step = np.maximum(largest / np.float32(32767), _SMALLEST_STEP).astype(np.float32)
    steps = np.rint(signals / step[:, :, None])
    return np.clip(steps, -32767, 32767, out=steps).astype("<i2"), step.astype("<f4")


class PreparedStore:
    """Prepared signals of one dataset under one recipe. Rows are numbered from 0 in the order of their arrival."""

    def __init__(self, folder: Path, state: _State, stamp: tuple[int, int, int]):
        self.folder = folder
        self._apply(state, stamp)

    @classmethod
    def create(cls, folder: str | os.PathLike[str], recipe: Recipe) -> PreparedStore:
        """Make an empty store; the folder must be empty or new. The recipe must give records of one length."""
        folder = Path(folder)
        spec = recipe.output_spec()
        if spec.leads is None or spec.fs_hz is None or spec.n_samples is None:
            raise InvalidInput(
                "This recipe gives records of different shape. It needs select_leads, resample, crop and expand "
                "before its records can be stored for training.",
                code="recipe_without_shape",
            )
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            if (folder / "manifest.json").exists():
                raise Conflict(f"There already is a prepared store in {folder.name}.", code="store_exists")
            _write_manifest(folder, _State(recipe))
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> PreparedStore:
        """Open a store; NotFound without one, InvalidInput when its manifest cannot be understood."""
        folder = Path(folder)
        return cls(folder, *_read_manifest(folder))

    def _apply(self, state: _State, stamp: tuple[int, int, int]) -> None:
        spec = state.recipe.output_spec()
        if spec.leads is None or spec.fs_hz is None or spec.n_samples is None:
            raise InvalidInput(f"The manifest of {self.folder.name} holds a recipe without a fixed shape.")
        self.recipe, self.leads, self.fs_hz, self.n_samples = state.recipe, spec.leads, spec.fs_hz, spec.n_samples
        self._state, self._stamp = state, stamp
        self._rows = sum(segment.rows for segment in state.segments)
        self._keys = _read_keys(self.folder, state.segments)
        gone = state.removed | state.pending
        self._index = {key: row for row, key in enumerate(self._keys) if row not in gone}
        self._gone = np.zeros(self._rows, dtype=bool)
        self._gone[sorted(gone)] = True
        self._maps: dict[tuple[str, int], np.ndarray] = {}

    @property
    def index(self) -> Mapping[str, int]:
        """Row by key, without removed rows."""
        return MappingProxyType(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def refresh(self) -> bool:
        """See what other processes have written since; True when there was something."""
        stamp = _stamp(self.folder)
        if stamp == self._stamp:
            return False
        self._apply(*_read_manifest(self.folder))
        return True

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Return those of the keys that the store does not hold, in their order."""
        return [key for key in keys if key not in self._index]

    def append(self, keys: Sequence[str], batch: Sequence[Prepared]) -> list[int]:
        """Add prepared records and return their rows. All or none of a batch that fits one shard is committed.

        Raises Conflict when a key is already there or twice in the batch, InvalidInput when a record has another shape.
        """
        keys = [str(key) for key in keys]
        self._check(keys, batch)
        if not keys:
            return []
        signals = np.stack([item.signal for item in batch])
        masks = np.packbits(np.stack([item.mask for item in batch]), axis=2)
        steps, scales = quantise(signals)
        with _lock(self.folder):
            self.refresh()
            self._finish_removal()
            double = sorted({key for key in keys if key in self._index}) or sorted(
                {key for key in keys if keys.count(key) > 1} if len(set(keys)) < len(keys) else ()
            )
            if double:
                raise Conflict(
                    f"{len(double)} of these records are prepared already, the first is {double[0]}. "
                    "Remove them first, or append only what missing() returns.",
                    code="already_prepared",
                )
            first = self._rows
            for start, end, shard in _chunks(first, len(keys)):
                parts = {"signals": steps[start:end], "scales": scales[start:end], "masks": masks[start:end]}
                self._state.segments.append(self._write(shard, keys[start:end], parts))
            _write_manifest(self.folder, self._state)
            self._apply(*_read_manifest(self.folder))
        return list(range(first, first + len(keys)))

    def _check(self, keys: Sequence[str], batch: Sequence[Prepared]) -> None:
        if len(keys) != len(batch):
            raise InvalidInput(f"{len(keys)} keys were given for {len(batch)} records.")
        for key in keys:
            if not 0 < len(key) <= _MAX_KEY:
                raise InvalidInput(f"A key must have 1 to {_MAX_KEY} characters, not {len(key)}.")
        shape = (len(self.leads), self.n_samples)
        for key, item in zip(keys, batch, strict=True):
            if item.signal.shape != shape or item.mask.shape != shape or item.leads != self.leads:
                raise InvalidInput(
                    f"The prepared record {key} has {item.signal.shape[0]} leads of {item.signal.shape[1]} samples; "
                    f"this store holds {shape[0]} leads ({', '.join(self.leads)}) of {shape[1]} samples. "
                    "Prepare it with the store's recipe."
                )

    def _write(self, shard: int, keys: Sequence[str], parts: Mapping[str, np.ndarray]) -> Segment:
        """Write one chunk behind the shard's committed rows and return its segment; nothing is committed yet."""
        own = [segment for segment in self._state.segments if segment.shard == shard]
        rows = sum(segment.rows for segment in own)
        keys_start = sum(segment.keys_bytes for segment in own)
        lines = "".join(json.dumps(key) + "\n" for key in keys).encode()
        digest = hashlib.sha256()
        for kind, array in parts.items():
            data = memoryview(np.ascontiguousarray(array)).cast("B")
            _put(self._path(kind, shard), rows * self._row_bytes(kind), data)
            digest.update(data)
        _put(self._path("keys", shard), keys_start, memoryview(lines))
        digest.update(lines)
        return Segment(shard, rows, len(keys), keys_start, len(lines), digest.hexdigest())

    def remove(self, key: str) -> None:
        """Take a record out: its signal, scales and mask are overwritten with zeros, its row stays unused for ever.

        A process that opened the store before may read zeros until it calls ``refresh``. Raises NotFound.
        """
        with _lock(self.folder):
            self.refresh()
            self._finish_removal()
            row = self._index.get(key)
            if row is None:
                raise NotFound(f"The prepared store holds no record {key}.")
            self._state.pending.add(row)
            _write_manifest(self.folder, self._state)
            self._finish_removal()
            self._apply(*_read_manifest(self.folder))

    def _finish_removal(self) -> None:
        """Overwrite rows whose removal was announced, also by a process that ended in the middle of it."""
        if not self._state.pending:
            return
        for row in sorted(self._state.pending):
            shard, at = divmod(row, SHARD_ROWS)
            for kind in ("signals", "scales", "masks"):
                size = self._row_bytes(kind)
                _put(self._path(kind, shard), at * size, memoryview(bytes(size)), cut=False)
            for position, segment in enumerate(self._state.segments):
                if segment.shard == shard and segment.start <= at < segment.start + segment.rows:
                    self._state.segments[position] = Segment(**asdict(segment) | {"sha256": self._digest(segment)})
        self._state.removed |= self._state.pending
        self._state.pending = set()
        _write_manifest(self.folder, self._state)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the signals of rows in the given order, float32 ``(n, leads, samples)``.

        Raises NotFound for a row that is out of range or removed.
        """
        rows = self._rows_of(indices)
        out = np.empty((len(rows), len(self.leads), self.n_samples), dtype=np.float32)
        for places, shard, own in _by_shard(rows):
            signals, scales = self._map("signals", shard), self._map("scales", shard)
            widths = np.asarray(scales[own])[:, :, None]
            for place, row, width in zip(places.tolist(), own.tolist(), widths, strict=True):
                np.multiply(signals[row], width, out=out[place])
        return out

    def read_masks(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the masks of rows, bool ``(n, leads, samples)``, True for recorded samples."""
        rows = self._rows_of(indices)
        out = np.empty((len(rows), len(self.leads), self.n_samples), dtype=bool)
        for places, shard, own in _by_shard(rows):
            out[places] = np.unpackbits(self._map("masks", shard)[own], axis=2, count=self.n_samples)
        return out

    def verify(self) -> list[Segment]:
        """Read everything and return the segments whose bytes are not those that were written."""
        return [segment for segment in self._state.segments if self._digest(segment) != segment.sha256]

    def _digest(self, segment: Segment) -> str:
        digest = hashlib.sha256()
        for kind in ("signals", "scales", "masks"):
            size = self._row_bytes(kind)
            _hash(self._path(kind, segment.shard), segment.start * size, segment.rows * size, digest)
        _hash(self._path("keys", segment.shard), segment.keys_start, segment.keys_bytes, digest)
        return digest.hexdigest()

    def _rows_of(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        if rows.size and (rows.min() < 0 or rows.max() >= self._rows):
            raise NotFound(f"The prepared store has rows 0 to {self._rows - 1}; row {rows.max()} was asked for.")
        if self._state.removed and self._gone[rows].any():
            raise NotFound(f"Row {int(rows[self._gone[rows]][0])} of the prepared store was removed.")
        return rows

    def _row_bytes(self, kind: str) -> int:
        per_lead = {"signals": 2 * self.n_samples, "scales": 4, "masks": -(-self.n_samples // 8)}[kind]
        return len(self.leads) * per_lead

    def _path(self, kind: str, shard: int) -> Path:
        return self.folder / f"{kind}-{shard:05d}.{_KINDS[kind]}"

    def _map(self, kind: str, shard: int) -> np.ndarray:
        found = self._maps.get((kind, shard))
        if found is None:
            rows = min(self._rows - shard * SHARD_ROWS, SHARD_ROWS)
            shape = {"signals": (self.n_samples,), "scales": (), "masks": (-(-self.n_samples // 8),)}[kind]
            dtype = {"signals": "<i2", "scales": "<f4", "masks": "u1"}[kind]
            mapped = np.memmap(self._path(kind, shard), dtype, "r", shape=(rows, len(self.leads), *shape))
            # A plain array view: indexing a memmap subclass costs several times as much.
            found = self._maps[kind, shard] = mapped.view(np.ndarray)
        return found


def _chunks(first: int, count: int) -> Iterator[tuple[int, int, int]]:
    """Cut ``count`` rows from row ``first`` on at the shards' ends: (start, end, shard), relative to ``first``."""
    start = 0
    while start < count:
        shard, at = divmod(first + start, SHARD_ROWS)
        end = min(count, start + SHARD_ROWS - at)
        yield start, end, shard
        start = end


def _by_shard(rows: np.ndarray) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    shards, own = np.divmod(rows, SHARD_ROWS)
    for shard in np.unique(shards):
        places = np.flatnonzero(shards == shard)
        yield places, int(shard), own[places]


def _put(path: Path, at: int, data: memoryview, cut: bool = True) -> None:
    """Write bytes at a position and to the disk; ``cut`` drops what lay behind (an append that was never committed)."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    with os.fdopen(descriptor, "r+b") as stream:
        if cut:
            stream.truncate(at)
        stream.seek(at)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _hash(path: Path, at: int, size: int, digest: Any) -> None:
    if not path.exists():
        return
    with path.open("rb") as stream:
        stream.seek(at)
        while size > 0 and (data := stream.read(min(size, 1 << 22))):
            digest.update(data)
            size -= len(data)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the store's write lock; waits for other writers, threads of this process included."""
    with (folder / ".lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)


def _stamp(folder: Path) -> tuple[int, int, int]:
    try:
        stat = (folder / "manifest.json").stat()
    except FileNotFoundError:
        raise NotFound(f"There is no prepared store in {folder.name}; prepare the dataset first.") from None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _write_manifest(folder: Path, state: _State) -> None:
    spec = state.recipe.output_spec()
    data = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "recipe": json.loads(state.recipe.to_json()),
        "recipe_digest": state.recipe.digest,
        "leads": spec.leads,
        "fs_hz": spec.fs_hz,
        "n_samples": spec.n_samples,
        "unit": spec.unit,
        "dtype": "<i2",
        "shard_rows": SHARD_ROWS,
        "rows": sum(segment.rows for segment in state.segments),
        "removed": sorted(state.removed),
        "pending_removal": sorted(state.pending),
        "segments": [asdict(segment) for segment in state.segments],
    }
    temporary = folder / "manifest.json.tmp"
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(data, stream, separators=(",", ":"))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, folder / "manifest.json")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_manifest(folder: Path) -> tuple[_State, tuple[int, int, int]]:
    stamp = _stamp(folder)
    try:
        data = json.loads((folder / "manifest.json").read_text("utf-8"))
        if data["format"] != FORMAT or data["version"] != FORMAT_VERSION or data["shard_rows"] != SHARD_ROWS:
            raise ValueError("it was written by another version of the portal")
        recipe = Recipe.from_json(data["recipe"])
        if recipe.digest != data["recipe_digest"]:
            raise ValueError("its recipe does not have the stated digest")
        segments = [Segment(**entry) for entry in data["segments"]]
        return _State(recipe, segments, set(data["removed"]), set(data["pending_removal"])), stamp
    except (ValueError, KeyError, TypeError, InvalidInput) as error:
        raise InvalidInput(
            f"The manifest of the prepared store {folder.name} cannot be used: {error}. Prepare the dataset again.",
            code="store_damaged",
        ) from error


def _read_keys(folder: Path, segments: Sequence[Segment]) -> list[str]:
    sizes: dict[int, int] = {}
    for segment in segments:
        sizes[segment.shard] = segment.keys_start + segment.keys_bytes
    keys: list[str] = []
    for shard, size in sorted(sizes.items()):
        try:
            with (folder / f"keys-{shard:05d}.txt").open("rb") as stream:
                keys += [json.loads(line) for line in stream.read(size).splitlines()]
        except (OSError, ValueError) as error:
            raise InvalidInput(
                f"The keys of shard {shard} of the prepared store {folder.name} cannot be read: {error}. "
                "Prepare the dataset again.",
                code="store_damaged",
            ) from error
    if len(keys) != sum(segment.rows for segment in segments):
        raise InvalidInput(
            f"The prepared store {folder.name} lacks keys of some rows. Prepare the dataset again.", code="store_damaged"
        )
    return keys
