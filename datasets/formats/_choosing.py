"""Which of a file's arrays are ECGs: told by shape first, then by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datasets.ecg import LEADS_12, canonical_lead
from ecgportal.errors import UnreadableFile

MAX_LEADS = 64


def is_signal_shape(shape: Sequence[int]) -> bool:
    """Tell whether an array can be the samples of one ECG: one axis for some leads, a longer one for the samples."""
    if len(shape) == 1:
        return shape[0] >= 100
    return len(shape) == 2 and 1 <= min(shape) <= MAX_LEADS and max(shape) >= 100


def squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without axes of length one, but with the first where it counts one ECG of leads and samples."""
    rest = tuple(n for n in shape[1:] if n != 1)
    if len(shape) > 2 and len(rest) == 2 and is_signal_shape(rest):
        return (shape[0], *rest)
    return tuple(n for n in shape if n != 1)


@dataclass(frozen=True)
class Picked:
    """The arrays of a file that are ECGs, by name.

    exams: the name of one array of many ECGs, its first axis counting them. single: arrays of one ECG each. rows: names
    of the arrays that hold one named lead each, by the name of the ECG they make up.
    """

    exams: str | None = None
    single: tuple[str, ...] = ()
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_USUAL = frozenset(
    "ecg ecgs ecg_data ecgdata tracing tracings signal signals sig data val values feats p_signal x waveform waveforms".split()
)
_NO_SIGNAL = re.compile(
    r"(t|time|times|timestamps?|time_?(s|ms|axis)|index|idx|y|labels?|targets?|ids?|(.*_)?(peaks?|rpeaks?|onsets?|offsets?|annotations?|beats?|rr|hr))$",
    re.IGNORECASE,
)


def last_of(path: str) -> str:
    """Return the last part of an array's name; parts are divided by ``/`` or ``.``."""
    return re.split(r"[/.]", path)[-1]


def lead_of(path: str) -> str:
    """Return the part of an array's name that can name its lead: the last, or the one before (``strip_II/instance_0``)."""
    parts = _parts(path)
    if len(parts) > 1 and canonical_lead(parts[-1]) is None and canonical_lead(parts[-2]) in LEADS_12:
        return parts[-2]
    return last_of(path)


def pick(name: str, arrays: Mapping[str, Any], *, is_collection: bool = False) -> Picked:
    """Choose the ECGs among a file's numeric arrays by shape, then by name. UnreadableFile when nothing tells.

    is_collection: arrays of different names are different ECGs (HDF5), not two forms of one.
    """
    numeric = {path: array for path, array in arrays.items() if array.dtype.kind in "iuf"}
    shapes = {path: squeezed(array.shape) for path, array in numeric.items()}
    many = {
        path: s
        for path, s in shapes.items()
        if len(s) == 3 and any(is_signal_shape((s[i], s[j])) for i, j in ((1, 2), (0, 1)))
    }
    if many:
        usual = [path for path in many if last_of(path).lower() in _USUAL]
        if len(usual or many) == 1:
            return Picked(exams=(usual or list(many))[0])
    flat = {path: s for path, s in shapes.items() if len(s) == 2 and is_signal_shape(s)}
    if flat:
        usual = [path for path in flat if last_of(path).lower() in _USUAL]
        chosen = usual or list(flat)
        twins = [path for path in flat if path not in chosen and flat[path] == flat[chosen[0]]]
        if is_collection or (len({last_of(path) for path in chosen}) == 1 and not twins):
            return Picked(single=tuple(chosen))
        raise _unclear(name, "several arrays that could be", arrays)
    lines = {path: s for path, s in shapes.items() if len(s) == 1 and is_signal_shape(s)}
    rows: dict[str, list[str]] = {}
    for path in lines:
        title = lead_of(path)
        if canonical_lead(title) is not None and not _NO_SIGNAL.match(title):
            rows.setdefault(path[: path.rfind(title)].rstrip("/."), []).append(path)
    if rows:
        return Picked(rows={key: tuple(found) for key, found in rows.items()})
    single = [path for path in lines if not _NO_SIGNAL.match(last_of(path))]
    usual = [path for path in single if last_of(path).lower() in _USUAL]
    if len(usual or single) == 1:
        return Picked(single=tuple(usual or single))
    tables = [path for path, s in shapes.items() if len(s) == 2]
    if len(tables) == 1:
        # What its axes are is asked for.
        return Picked(single=tuple(tables))
    raise _unclear(name, "several arrays that could be" if single else "no array that is", arrays)


def _unclear(name: str, what: str, arrays: Mapping[str, Any]) -> UnreadableFile:
    listed = ", ".join(f"{path} {array.shape}" for path, array in list(arrays.items())[:10]) or "nothing"
    return UnreadableFile(
        f"{name} holds {what} an ECG; it holds {listed}. Save one array (leads, samples) in the file.",
        code="not_an_ecg",
    )


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[/.]", path) if part)


class Beside:
    """What stands beside arrays in a file of groups or structs, by name.

    A statement holds for the arrays of its own group and below, the nearest first. A group without arrays (``meta``)
    speaks for all, unless another such group says something else.
    """

    def __init__(self, statements: Iterable[tuple[str, object]], holders: Iterable[str]):
        self._groups: dict[tuple[str, ...], dict[str, object]] = {}
        for path, value in statements:
            *group, key = _parts(path) or ("",)
            self._groups.setdefault(tuple(group), {}).setdefault(key, value)
        holding = {parts[:i] for parts in map(_parts, holders) for i in range(len(parts) + 1)}
        said: dict[str, dict[str, object]] = {}
        for parts, own in self._groups.items():
            if parts not in holding:
                for key, value in own.items():
                    said.setdefault(key, {})[repr(value)] = value
        self._far = {key: next(iter(values.values())) for key, values in said.items() if len(values) == 1}

    def of(self, path: str) -> dict[str, object]:
        """Return what holds for one array, the nearest statements first."""
        found: dict[str, object] = {}
        parts = _parts(path)
        # "ecg_fs" is the rate of "ecg".
        prefix = f"{parts[-1]}_".lower() if parts else ""
        for key, value in self._groups.get(parts[:-1], {}).items():
            if prefix and key.lower().startswith(prefix):
                found.setdefault(key[len(prefix) :], value)
        for depth in range(len(parts), -1, -1):
            for key, value in self._groups.get(parts[:depth], {}).items():
                found.setdefault(key, value)
        for key, value in self._far.items():
            found.setdefault(key, value)
        return found


def rate_by_time(arrays: Mapping[str, np.ndarray], samples: int, path: str) -> float | None:
    """Return the sampling rate that a vector of times in seconds states (``t`` or ``time``, as long as the signal).

    It stands in the signal's group or above, or is the only one of the file.
    """
    own = _parts(path)
    times_of = {p: a for p, a in arrays.items() if re.fullmatch(r"t|times?|time_?s", last_of(p), re.IGNORECASE)}
    near = [p for p in times_of if own[: len(_parts(p)) - 1] == _parts(p)[:-1]]
    for each in sorted(near, key=lambda p: -len(_parts(p))) or (list(times_of) if len(times_of) == 1 else []):
        array = times_of[each]
        if array.size == samples > 2:
            times = np.asarray(array, dtype=np.float64).reshape(-1)
            steps = np.diff(times)
            step = float((times[-1] - times[0]) / (samples - 1))
            if (
                np.isfinite(times).all()
                and step > 0
                and np.abs(steps - step).max() < 0.3 * step
                and 20 <= 1 / step <= 20_000
            ):
                rate = 1 / step
                return float(round(rate)) if abs(rate - round(rate)) < 2e-3 * rate else rate
    return None
