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

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from datasets import prepared_files as files
from datasets.prepared_files import Segment
from datasets.preprocess.recipe import Prepared, Recipe
from ecgportal.errors import Conflict, InvalidInput, NotFound

SHARD_ROWS = 16384
_MAX_KEY = 200
# A lead without any signal still needs a step above 0.
_SMALLEST_STEP = np.float32(1e-12)
_KINDS = {"signals": "i16", "scales": "f32", "masks": "bits", "keys": "txt"}


def quantise(signals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int16 steps ``(n, leads, samples)`` and the step sizes ``(n, leads)`` float32.

    Each lead's largest value becomes 32767 steps: nothing is clipped, and the error is at most half a step (beside the
    rounding of float32). InvalidInput when a value is not finite.
    """
    signals = np.asarray(signals, dtype=np.float32)
    steps = np.empty(signals.shape, dtype="<i2")
    sizes = np.empty(signals.shape[:2], dtype="<f4")
    # Record by record the working set stays in the processor's cache.
    for signal, step, size in zip(signals, steps, sizes, strict=True):
        largest = np.maximum(signal.max(axis=1), -signal.min(axis=1))
        if not np.isfinite(largest).all():
            raise InvalidInput("Prepared signals must be finite; a recipe's closing fill step sees to that.")
        # One unit in the last place more, so that rounding cannot reach 32768.
        np.maximum(np.nextafter(largest / np.float32(32767), np.float32(np.inf)), _SMALLEST_STEP, out=size)
        scaled = signal / size[:, None]
        step[...] = np.rint(scaled, out=scaled)
    return steps, sizes


class PreparedStore:
    """Prepared signals of one dataset under one recipe. Rows are numbered from 0 in the order of their arrival."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._keys: list[str] = []
        self._index: dict[str, int] = {}
        self._segments_seen = 0
        self._load()

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
        with files.lock(folder):
            if (folder / "manifest.json").exists():
                raise Conflict(f"There already is a prepared store in {folder.name}.", code="store_exists")
            files.write_manifest(folder, files.State(recipe), SHARD_ROWS)
        return cls(folder)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> PreparedStore:
        """Open a store; NotFound without one, InvalidInput when its manifest cannot be understood."""
        return cls(Path(folder))

    def __reduce__(self) -> tuple[Callable[[Path], PreparedStore], tuple[Path]]:
        """Another process opens the store anew."""
        return PreparedStore.open, (self.folder,)

    def _load(self) -> None:
        """Take over the committed state; only keys that were not seen yet are read."""
        state, self._stamp = files.read_manifest(self.folder, SHARD_ROWS)
        spec = state.recipe.output_spec()
        if spec.leads is None or spec.fs_hz is None or spec.n_samples is None:
            raise InvalidInput(f"The manifest of {self.folder.name} holds a recipe without a fixed shape.")
        self.recipe, self.leads, self.fs_hz, self.n_samples = state.recipe, spec.leads, spec.fs_hz, spec.n_samples
        self._state = state
        gone = state.removed | state.pending
        new = files.read_keys(self.folder, state.segments[self._segments_seen :])
        for row, key in enumerate(new, start=len(self._keys)):
            if row not in gone:
                self._index[key] = row
        self._keys += new
        self._segments_seen = len(state.segments)
        self._rows = len(self._keys)
        self._gone = np.zeros(self._rows, dtype=bool)
        self._gone[sorted(gone)] = True
        for row in gone:
            if self._index.get(self._keys[row]) == row:
                del self._index[self._keys[row]]
        self._maps: dict[tuple[str, int], np.ndarray] = {}

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock and the newest state; whatever happens inside, what was committed counts afterwards."""
        with files.lock(self.folder):
            self.refresh()
            try:
                self._finish_removal()
                yield
            finally:
                self._load()

    def _commit(self) -> None:
        files.write_manifest(self.folder, self._state, SHARD_ROWS)

    @property
    def index(self) -> Mapping[str, int]:
        """Row by key, without removed rows."""
        return MappingProxyType(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def refresh(self) -> bool:
        """See what other processes have written since; True when there was something."""
        if files.stamp_of(self.folder) == self._stamp:
            return False
        self._load()
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
        with self._writing():
            seen: set[str] = set()
            double = [key for key in keys if key in self._index or key in seen or seen.add(key)]  # type: ignore[func-returns-value]
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
            self._commit()
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
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            files.put(self._path(kind, shard), rows * self._row_bytes(kind), data)
            digest.update(data)
        files.put(self._path("keys", shard), keys_start, memoryview(lines))
        digest.update(lines)
        return Segment(shard, rows, len(keys), keys_start, len(lines), digest.hexdigest())

    def remove(self, key: str) -> None:
        """Take a record out: its signal, scales and mask are overwritten with zeros, its row stays unused for ever.

        A process that opened the store before may read zeros until it calls ``refresh``. Raises NotFound.
        """
        with self._writing():
            row = self._index.get(key)
            if row is None:
                raise NotFound(f"The prepared store holds no record {key}.")
            self._state.pending.add(row)
            self._commit()
            self._finish_removal()

    def _finish_removal(self) -> None:
        """Overwrite rows whose removal was announced, also by a process that ended in the middle of it."""
        if not self._state.pending:
            return
        for row in sorted(self._state.pending):
            shard, at = divmod(row, SHARD_ROWS)
            for kind in ("signals", "scales", "masks"):
                size = self._row_bytes(kind)
                files.put(self._path(kind, shard), at * size, memoryview(bytes(size)), cut=False)
            for position, segment in enumerate(self._state.segments):
                if segment.shard == shard and segment.start <= at < segment.start + segment.rows:
                    self._state.segments[position] = replace(segment, sha256=self._digest(segment))
        self._state.removed |= self._state.pending
        self._state.pending = set()
        self._commit()

    def read(self, indices: Sequence[int] | np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the signals of rows in the given order, float32 ``(n, leads, samples)``.

        ``out`` is written and returned when given, which spares the allocation. Raises NotFound for a row that is out
        of range or removed.
        """
        rows = self._rows_of(indices)
        shape = (len(rows), len(self.leads), self.n_samples)
        if out is None:
            out = np.empty(shape, dtype=np.float32)
        elif out.shape != shape or out.dtype != np.float32:
            raise InvalidInput(f"The array to read into must be float32 of shape {shape}, not {out.dtype} {out.shape}.")
        for places, shard, own in _by_shard(rows):
            signals, widths = self._map("signals", shard), self._map("scales", shard)[own][:, :, None]
            for place, row, width in zip(places.tolist(), own.tolist(), widths, strict=True):
                target = out[place]
                target[...] = signals[row]
                target *= width
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
            files.add_to(self._path(kind, segment.shard), segment.start * size, segment.rows * size, digest)
        files.add_to(self._path("keys", segment.shard), segment.keys_start, segment.keys_bytes, digest)
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
