"""The files of a prepared store: manifest, keys, lock, and writes that reach the disk."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datasets.preprocess.recipe import Recipe
from ecgportal.errors import InvalidInput, NotFound

FORMAT = "ecg-portal-prepared"
FORMAT_VERSION = 1
Stamp = tuple[int, int, int]


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
class State:
    """What a manifest states. ``pending``: rows whose removal was announced but perhaps not carried out."""

    recipe: Recipe
    segments: list[Segment] = field(default_factory=list)
    removed: set[int] = field(default_factory=set)
    pending: set[int] = field(default_factory=set)


def put(path: Path, at: int, data: memoryview, cut: bool = True) -> None:
    """Write bytes at a position and force them to the disk; ``cut`` drops what lay behind (an append that was never committed)."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    with os.fdopen(descriptor, "r+b") as stream:
        if cut:
            stream.truncate(at)
        stream.seek(at)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def add_to(path: Path, at: int, size: int, digest: Any) -> None:
    """Add a part of a file to a digest; what is not there adds nothing."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        stream.seek(at)
        while size > 0 and (data := stream.read(min(size, 1 << 22))):
            digest.update(data)
            size -= len(data)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the store's write lock; waits for other writers, threads of this process included."""
    with (folder / ".lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)


def stamp_of(folder: Path) -> Stamp:
    """Return what changes whenever the manifest is replaced; NotFound without a manifest."""
    try:
        stat = (folder / "manifest.json").stat()
    except FileNotFoundError:
        raise NotFound(f"There is no prepared store in {folder.name}; prepare the dataset first.") from None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def write_manifest(folder: Path, state: State, shard_rows: int) -> None:
    """Replace the manifest as a whole; what it states counts from then on."""
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
        "shard_rows": shard_rows,
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


def read_manifest(folder: Path, shard_rows: int) -> tuple[State, Stamp]:
    """Return the committed state; InvalidInput (``store_damaged``) when the manifest cannot be used."""
    stamp = stamp_of(folder)
    try:
        data = json.loads((folder / "manifest.json").read_text("utf-8"))
        if data["format"] != FORMAT or data["version"] != FORMAT_VERSION or data["shard_rows"] != shard_rows:
            raise ValueError("it was written by another version of the portal")
        recipe = Recipe.from_json(data["recipe"])
        if recipe.digest != data["recipe_digest"]:
            raise ValueError("its recipe does not have the stated digest")
        segments = [Segment(**entry) for entry in data["segments"]]
        return State(recipe, segments, set(data["removed"]), set(data["pending_removal"])), stamp
    except (ValueError, KeyError, TypeError, InvalidInput) as error:
        raise InvalidInput(
            f"The manifest of the prepared store {folder.name} cannot be used: {error}. Prepare the dataset again.",
            code="store_damaged",
        ) from error


def read_keys(folder: Path, segments: Sequence[Segment]) -> list[str]:
    """Return the keys of the rows of the given segments, in their order."""
    keys: list[str] = []
    for segment in segments:
        try:
            with (folder / f"keys-{segment.shard:05d}.txt").open("rb") as stream:
                stream.seek(segment.keys_start)
                lines = stream.read(segment.keys_bytes).splitlines()
            if len(lines) != segment.rows:
                raise ValueError(f"{segment.rows} keys were expected and {len(lines)} found")
            keys += [json.loads(line) for line in lines]
        except (OSError, ValueError) as error:
            raise InvalidInput(
                f"The keys of shard {segment.shard} of the prepared store {folder.name} cannot be read: {error}. "
                "Prepare the dataset again.",
                code="store_damaged",
            ) from error
    return keys
