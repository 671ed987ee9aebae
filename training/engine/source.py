"""Where signals come from, and how batches of them reach the network."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from ecgportal.errors import TrainingFailed
from training.engine.device import moved
from training.engine.seeding import derive


@runtime_checkable
class SignalSource(Protocol):
    """Records of one shape that can be read by number.

    A source may also have ``persons``, float32 ``(records, features)``: what is known of each record's person, for networks
    that take it beside the signal (``n_person_features``).
    """

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return float32 ``(len(indices), leads, samples)`` in mV, in the order asked for."""


class ArraySource:
    """Records in memory: ``(records, leads, samples)``."""

    def __init__(self, signals: np.ndarray):
        self.signals = signals

    def __len__(self) -> int:
        return len(self.signals)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return np.asarray(self.signals[np.asarray(indices, dtype=np.intp)], np.float32)


def persons_of(source: SignalSource) -> np.ndarray | None:
    """Return what a source knows of its records' persons, ``(records, features)``, or None."""
    found = getattr(source, "persons", None)
    return None if found is None else np.asarray(found, np.float32)


class Subset:
    """Some records of another source, in a given order."""

    def __init__(self, source: SignalSource, indices: Sequence[int] | np.ndarray):
        self.source = source
        self.indices = np.asarray(indices, dtype=np.intp)
        persons = persons_of(source)
        self.persons = None if persons is None else persons[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return self.source.read(self.indices[np.asarray(indices, dtype=np.intp)])


class Joined:
    """The records of several sources of one shape, one source after the other."""

    def __init__(self, sources: Sequence[SignalSource]):
        self.sources = tuple(sources)
        self.starts = np.cumsum([0, *(len(source) for source in self.sources)])
        persons = [found for source in self.sources if (found := persons_of(source)) is not None]
        self.persons = np.concatenate(persons) if persons and len(persons) == len(self.sources) else None

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        rows = np.asarray(indices, dtype=np.intp)
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        whole: np.ndarray | None = None
        for number in np.unique(owner):
            mine = owner == number
            signals = self.sources[number].read(rows[mine] - self.starts[number])
            if whole is None:
                whole = np.empty((len(rows), *signals.shape[1:]), np.float32)
            whole[mine] = signals
        return self.sources[0].read(rows) if whole is None else whole


class Scattered:
    """Records that lie in several sources in any order. places: ``(records, 2)``, number of the source and of the record in
    it; persons: what is known of the records' persons, ``(records, features)``."""

    def __init__(self, sources: Sequence[SignalSource], places: np.ndarray, persons: np.ndarray | None = None):
        self.sources, self.places, self.persons = tuple(sources), places, persons

    def __len__(self) -> int:
        return len(self.places)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted = self.places[np.asarray(indices, dtype=np.intp)]
        if not len(wanted):
            return self.sources[0].read([])
        found: np.ndarray | None = None
        for number in np.unique(wanted[:, 0]):
            mine = wanted[:, 0] == number
            signals = self.sources[number].read(wanted[mine, 1])
            if found is None:
                found = np.empty((len(wanted), *signals.shape[1:]), np.float32)
            found[mine] = signals
        assert found is not None
        return found


class Feed:
    """Reads batches onto a device, ahead of their use, and counts missing samples.

    Missing samples (NaN, infinite) become 0 mV; ``gaps`` says in how many records.
    On an accelerator all signals are kept there when they take less than ``resident_share`` of
    its free memory; else batches come through pinned memory, copied while the batch before is computed.

    net: the network that is fed; where it takes features of the person, ``beside`` has them.
    """

    def __init__(
        self, source: SignalSource, device: torch.device, net: nn.Module | None = None, *, resident_share: float = 0.4
    ):  # fmt: skip
        self.source, self.device = source, device
        self.persons = persons_of(source) if getattr(net, "n_person_features", 0) else None
        self._persons = None if self.persons is None else moved(self.persons, device)
        self._gaps: set[int] = set()
        self._empty: set[int] = set()
        self._resident = self._load(resident_share) if device.type == "cuda" else None

    def gaps(self, rows: np.ndarray, part: str = "") -> list[str]:
        """Return sentences on missing samples among those of these records that were read so far. part: what they are called."""
        found = []
        for missing, what in (
            (self._gaps - self._empty, "missing samples, which were read as 0 mV"),
            (self._empty, "no sample at all; nothing but 0 mV was read"),
        ):
            n = len(missing.intersection(rows.tolist()))
            if n:
                found.append(f"{n} {part}record{' holds' if n == 1 else 's hold'} {what}.")
        return found

    def check_not_empty(self, rows: np.ndarray) -> None:
        """Raise TrainingFailed when these records were read and none of them holds a sample."""
        if len(rows) and self._empty.issuperset(rows.tolist()):
            raise TrainingFailed(
                "None of the records to learn from holds a sample: all of their values are missing. Look at the records, and "
                "at the recipe that prepares them.",
                code="signals_empty",
            )

    def beside(self, rows: np.ndarray) -> tuple[torch.Tensor, ...]:
        """Return what the network takes beside the signals of these records; empty where it takes signals alone."""
        return () if self._persons is None else (self._persons[moved(rows, self.device)],)

    def batches(self, orders: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """Yield ``(records, leads, samples)`` for each array of record numbers, reading up to two batches ahead."""
        if self._resident is not None:
            for rows in orders:
                yield self._resident[moved(rows, self.device)]
            return
        ready: queue.Queue[torch.Tensor | BaseException | None] = queue.Queue(maxsize=2)
        ended = threading.Event()

        def offer(item: torch.Tensor | BaseException | None) -> None:
            while not ended.is_set():
                try:
                    return ready.put(item, timeout=0.2)
                except queue.Full:
                    continue

        def read() -> None:
            try:
                for rows in orders:
                    if ended.is_set():
                        return
                    batch = torch.from_numpy(self._read(rows))
                    offer(batch.pin_memory() if self.device.type == "cuda" else batch)
                offer(None)
            except BaseException as error:
                offer(error)

        thread = threading.Thread(target=read, name="signal-reader", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item.to(self.device, non_blocking=True)
        finally:
            ended.set()
            thread.join()

    def _read(self, rows: np.ndarray) -> np.ndarray:
        try:
            signals = np.ascontiguousarray(self.source.read(rows), dtype=np.float32)
        except (OSError, KeyError, IndexError, ValueError) as error:
            raise TrainingFailed(
                f"The prepared signals could not be read ({error}). They may have been deleted during the run; "
                "prepare the dataset again and start the run anew.",
                code="signals_gone",
            ) from error
        if signals.ndim != 3 or len(signals) != len(rows):
            raise TrainingFailed(
                f"The signals have shape {signals.shape}; ({len(rows)}, leads, samples) was expected.",
                code="signals_shape",
            )
        finite = np.isfinite(signals)
        if not finite.all():
            numbers = np.asarray(rows)
            self._gaps.update(numbers[~finite.all(axis=(1, 2))].tolist())
            self._empty.update(numbers[~finite.any(axis=(1, 2))].tolist())
            signals = np.where(finite, signals, np.float32(0))
        return signals

    def _load(self, share: float) -> torch.Tensor | None:
        if not len(self.source):
            return None
        one = self._read(np.array([0]))
        free, _ = torch.cuda.mem_get_info(self.device)
        if one.nbytes * len(self.source) > share * free:
            return None
        try:
            whole = torch.empty((len(self.source), *one.shape[1:]), device=self.device)
        except torch.OutOfMemoryError:
            # Another process has taken the room meanwhile.
            return None
        for start in range(0, len(self.source), 1024):
            rows = np.arange(start, min(start + 1024, len(self.source)))
            whole[start : start + len(rows)] = torch.from_numpy(self._read(rows)).to(self.device)
        return whole


def largest_batch(batch_size: int) -> int:
    """Return how many records a batch of :func:`epoch_order` has at most."""
    return 3 if batch_size == 2 else batch_size


def epoch_order(usable: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the shuffled record numbers of one epoch, cut into batches of nearly equal size.

    Equal sizes, because a last batch of one or two records gives batch normalisation a bad estimate; of an odd number of
    records in batches of two, one batch has three (``largest_batch``).
    """
    order = np.random.default_rng(derive(seed, "order", epoch)).permutation(usable)
    count = max(1, -(-len(order) // batch_size))
    if batch_size > 1:
        count = max(1, min(count, len(order) // 2))
    return [np.asarray(part) for part in np.array_split(order, count)]
