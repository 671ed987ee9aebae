"""Plain arrays of samples: which axis holds the leads, what names beside them say, and what must be asked.

Arrays do not say what they are; names beside them are believed, everything else is asked for with a guess.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np

from datasets.ecg import LEADS_12, Record, RecordMeta
from datasets.formats._choosing import (
    MAX_LEADS,
    Beside,
    is_signal_shape,
    last_of,
    lead_of,
    pick,
    rate_by_time,
    squeezed,
)
from datasets.formats._clinical import (
    check_leads,
    check_size,
    known_lead,
    lead_name,
    millivolts_per,
    number,
    option_unit_mv,
    sex,
    stem,
)
from datasets.formats.base import ReadOptions, ReadResult
from ecgportal.errors import InvalidInput, NeedsAnswer, UnreadableFile

# Arrays of at most so many values say something about others.
MAX_BESIDE = 64
_EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
_RATES = {5000: 500, 1000: 100, 2500: 250, 10000: 1000, 4096: 400, 2048: 200}
_RATE_KEY = re.compile(
    r"(curr[_ ]?)?(fs|freq|frequency|sfreq|samp(le|ling)?[_ ]?(rate|freq|frequency)|rate)([_ ]?\(?hz\)?)?$",
    re.IGNORECASE,
)
# Names under which converters keep a number that turns digits into a voltage, in one direction or the other.
_GAIN_KEY = re.compile(
    r"(adc[_ ]?gain|gain|adu(_?per_?mv)?|(digits|units)_?per_?mv|resolution|lsb|scale|scale_?factor)$", re.IGNORECASE
)
_OFFSET_KEY = re.compile(r"(adc[_ ]?)?(base|baseline|offset|zero|add_offset|dc_?offset|adc[_ ]?zero)s?$", re.IGNORECASE)
_UNIT_KEY = re.compile(r"(unit|units|signal_units?)$", re.IGNORECASE)
_LEADS_KEY = re.compile(
    r"(leads?|lead_?names?|sig(nal)?_?names?|channels?|ch(an|annel)?_?names?|lead_?order|electrodes?|derivations?)$",
    re.IGNORECASE,
)
_AGE_KEY = re.compile(r"(patient_?)?age(_?(at_?\w+|years?|y))?$", re.IGNORECASE)
_SEX_KEY = re.compile(r"(patient_?)?(sex|gender)$", re.IGNORECASE)
_SUBJECT_KEY = re.compile(r"(patient|subject)(_?(id|key|no|number))?$", re.IGNORECASE)
_LABELS_KEY = re.compile(r"(labels?|names?|columns?)$", re.IGNORECASE)


@dataclass(frozen=True)
class Told:
    """What a file says about its array.

    unit_mv: millivolt per value; units_mv: for each lead, where they differ. gain: name and value of a factor between digits and voltage, whose direction is open (NaN where each
    lead has its own). offset: name and values of what is beside whole numbers to be taken off or added.
    fs_guess, unit_guess: ``(value, reason)``.
    """

    fs_hz: float | None = None
    unit_mv: float | None = None
    leads: tuple[str, ...] | None = None
    units_mv: tuple[float, ...] | None = None
    gain: tuple[str, float] | None = None
    offset: tuple[str, tuple[float, ...]] | None = None
    fs_guess: tuple[str, str] | None = None
    unit_guess: tuple[str, str] | None = None
    meta: RecordMeta = field(default_factory=RecordMeta)


def told_by(statements: dict[str, object]) -> Told:
    """Return what named values beside an array say: rate, unit, lead names (attributes, scalars, lists of words)."""
    fs_hz, unit_mv, leads, gain, offset = None, None, None, None, None
    units_mv: tuple[float, ...] | None = None
    age, gender, subject = None, None, None
    # A converter's current rate comes before the rate of the original file.
    for key in sorted(statements, key=lambda k: not k.lower().startswith("curr")):
        value = statements[key]
        if fs_hz is None and _RATE_KEY.match(key):
            rate = number(re.sub(r"\s*hz$", "", value, flags=re.IGNORECASE) if isinstance(value, str) else value)
            fs_hz = rate if rate is not None and 1 <= rate <= 100_000 else None
        elif unit_mv is None and _UNIT_KEY.match(key):
            # One unit for all leads, or a list that names the same one for each.
            units = {value} if isinstance(value, str) else set(value) if isinstance(value, list | tuple) else set()
            if len(units) > 1 and isinstance(value, list | tuple):
                each = [millivolts_per(unit) if isinstance(unit, str) else None for unit in value]
                known = tuple(factor for factor in each if factor is not None)
                units_mv = known if len(known) == len(each) else None
            unit = units.pop() if len(units) == 1 else None
            unit_mv = millivolts_per(unit) if isinstance(unit, str) else None
        elif leads is None and _LEADS_KEY.match(key):
            words = re.split(r"[,;\s]+", value) if isinstance(value, str) else value
            if isinstance(words, list | tuple) and words and all(isinstance(word, str) for word in words):
                leads = tuple(lead_name(word) for word in words)
        elif leads is None and _LABELS_KEY.match(key) and isinstance(value, list | tuple) and len(value) > 1:
            # The labels of an array may be those of its beats: only leads are believed.
            if all(isinstance(word, str) and known_lead(word) is not None for word in value):
                leads = tuple(lead_name(word) for word in value)
        elif gain is None and _GAIN_KEY.match(key) and (factors := set(_numbers(value)) - {0.0, 1.0}):
            gain = (key, factors.pop() if len(factors) == 1 else math.nan)
        elif offset is None and _OFFSET_KEY.match(key) and any(values := _numbers(value)):
            offset = (key, values)
        elif age is None and _AGE_KEY.match(key):
            age = None if isinstance(value, list | tuple) else number(value)
        elif gender is None and _SEX_KEY.match(key) and isinstance(value, str):
            # What a number means differs from collection to collection.
            gender = sex(value) if not value.strip().isdecimal() else None
        elif subject is None and _SUBJECT_KEY.match(key) and isinstance(value, str | int):
            subject = str(value).strip()[:64] or None
    return Told(fs_hz, unit_mv, leads, units_mv, gain, offset, meta=RecordMeta(subject=subject, age=age, sex=gender))


def _numbers(value: object) -> tuple[float, ...]:
    """Return a number or a list of numbers as such; nothing for anything else."""
    found = [number(v) for v in (value if isinstance(value, list | tuple) else (value,))]
    return tuple(v for v in found if v is not None) if None not in found else ()


def stacked(name: str, rows: Sequence[tuple[str, np.ndarray]], told: Told) -> tuple[np.ndarray, Told]:
    """Put arrays of one named lead each together, ``(leads, samples)``."""
    lengths = {row.size for _, row in rows}
    if len(lengths) != 1:
        counts = ", ".join(f"{lead} {row.size}" for lead, row in rows[:12])
        raise UnreadableFile(f"{name} holds leads of different lengths: {counts}. Save them alike.", code="bad_shape")
    return np.stack([row.reshape(-1) for _, row in rows]), replace(
        told, leads=tuple(lead_name(lead) for lead, _ in rows)
    )


class Exams(Sequence[tuple[str, Record]]):
    """The records of one array of many exams, made when they are asked for.

    A part of CODE-15% holds 20,000 exams, 4 GB as float32: more than should ever be in memory at once. ``opened`` gives
    a function from the number of an exam to its array.
    """

    def __init__(
        self, name: str, keys: list[str], told: Told, options: ReadOptions,
        opened: Callable[[], AbstractContextManager[Callable[[int], np.ndarray]]],
    ):  # fmt: skip
        self._name = name
        self._keys = keys
        self._told = told
        self._options = options
        self._opened = opened

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> tuple[str, Record]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, Record]]: ...
    def __getitem__(self, index: int | slice) -> tuple[str, Record] | list[tuple[str, Record]]:
        if isinstance(index, slice):
            return list(self._read(range(*index.indices(len(self)))))
        position = range(len(self))[index]
        return next(self._read(range(position, position + 1)))

    def __iter__(self) -> Iterator[tuple[str, Record]]:
        return self._read(range(len(self)))

    def _read(self, indices: range) -> Iterator[tuple[str, Record]]:
        with self._opened() as exam:
            for index in indices:
                key = self._keys[index]
                array, note = _unpadded(exam(index))
                record = record_of(f"{self._name} ({key})", array, self._told, self._options)
                yield (
                    key,
                    replace(record, meta=replace(record.meta, notes=(*record.meta.notes, note))) if note else record,
                )


def exam_axis(shape: tuple[int, int, int], options: ReadOptions) -> int:
    """Return which axis counts the exams: the first, unless only the last one leaves a usual number of leads."""
    usual = {12, 8, len(options.lead_order or ())}

    def fits(other: tuple[int, int]) -> bool:
        return is_signal_shape(other) and min(other) in usual

    return 2 if not fits(shape[1:]) and fits(shape[:2]) else 0


def keys_of(name: str, ids: Sequence[Any] | None, count: int) -> list[str]:
    """Return the keys of ``count`` exams: their own where each has one of its own, else their numbers."""
    if ids is not None and len(ids) == count:
        keys = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in ids]
        if len(set(keys)) == count:
            return keys
    return [stem(name)] if count == 1 else [f"{index:06d}" for index in range(count)]


def records_of(
    name: str,
    arrays: Mapping[str, np.ndarray],
    beside: Mapping[str, object],
    options: ReadOptions,
    known: Callable[[str, np.ndarray, Told, Mapping[str, object]], Told] | None = None,
) -> ReadResult:
    """Return the ECGs among arrays in memory.

    beside: what scalars, texts and lists beside them say, by their path. known: adds to what is told of an array what its
    place in a known collection's layout tells.
    """
    picked = pick(name, arrays)
    known_beside = Beside(beside.items(), (path for path, array in arrays.items() if array.size > MAX_BESIDE))
    key = stem(name)
    if picked.exams is not None:
        exams = arrays[picked.exams]
        exams = exams.reshape(squeezed(exams.shape))
        if exam_axis(exams.shape, options) == 2:
            exams = np.moveaxis(exams, 2, 0)
        check_size(name, 1, exams.size)
        ids = next((a.reshape(-1).tolist() for path, a in arrays.items() if last_of(path).lower() in IDS), None)
        around = known_beside.of(picked.exams)
        told = told_by(around)
        if known is not None:
            told = known(picked.exams, exams[0], told, around)
        found = Exams(name, keys_of(name, ids, len(exams)), told, options, lambda: nullcontext(exams.__getitem__))
        # The first record shows at once whether anything has to be asked.
        next(iter(found))
        return ReadResult(found)
    records = []
    for path in picked.single:
        array = arrays[path].reshape(squeezed(arrays[path].shape))
        around = known_beside.of(path)
        own = told_by(around)
        own = replace(own, fs_hz=own.fs_hz or rate_by_time(arrays, max(array.shape), path))
        if known is not None:
            own = known(path, array, own, around)
        many = len(picked.single) > 1
        label = re.sub(r"\W", "_", path) if many else key
        records.append((label, record_of(f"{name} ({path})" if many else name, array, own, options)))
    for path, leads in picked.rows.items():
        told = told_by(known_beside.of(leads[0]))
        array, own = stacked(name, [(lead_of(lead), arrays[lead]) for lead in leads], told)
        own = replace(own, fs_hz=own.fs_hz or rate_by_time(arrays, array.shape[1], leads[0]))
        records.append(
            (re.sub(r"\W", "_", path) if len(picked.rows) > 1 else key, record_of(name, array, own, options))
        )
    return ReadResult(tuple(records))


IDS = ("exam_id", "exam_ids", "id", "ids", "record_id", "ecg_id", "study_id", "file_name", "record", "records", "names")


def _unpadded(exam: np.ndarray) -> tuple[np.ndarray, str]:
    """Cut the zeros that fixed-length collections (CODE-15%) put before and behind shorter ECGs."""
    axis = 0 if exam.shape[0] > exam.shape[1] else 1
    recorded = np.flatnonzero(np.any(exam != 0, axis=1 - axis))
    if not recorded.size:
        return exam, ""
    first, last = int(recorded[0]), int(recorded[-1]) + 1
    cut = exam.shape[axis] - (last - first)
    if cut < 50:
        return exam, ""
    note = f"{cut} samples of zero padding ({first} before, {exam.shape[axis] - last} behind the ECG) were cut off."
    return (exam[first:last] if axis == 0 else exam[:, first:last]), note


def record_of(name: str, array: np.ndarray, told: Told, options: ReadOptions) -> Record:
    """Return one array as a record, in millivolt.

    The file's own statements win over the user's answers. NeedsAnswer names everything that is still open at once,
    each with a guess and its reason where there is one. Infinite values are refused.
    """
    if array.dtype.kind not in "iuf" or array.ndim not in (1, 2) or array.size == 0:
        raise UnreadableFile(
            f"{name} holds an array of type {array.dtype} and shape {array.shape}; an ECG is a numeric array (leads, samples).",
            code="not_an_ecg",
        )
    check_size(name, 1, array.size)
    array, told = _unpacked(array, told)
    leads = told.leads or (tuple(lead_name(lead) for lead in options.lead_order) if options.lead_order else None)
    fields: dict[str, str] = {}
    rows = _leads_first(array, leads, fields)
    if rows is not None and leads is None:
        fields["lead_order"] = _lead_question(rows)
    elif rows is not None and leads is not None and len(leads) != len(rows):
        if told.leads is None:
            raise InvalidInput(
                f"{name} has {len(rows)} leads, but {len(leads)} names were given.",
                fields={"lead_order": f"Give {len(rows)} names."},
            )
        raise UnreadableFile(
            f"{name} names {len(leads)} leads, but its array has shape {array.shape}.", code="bad_shape"
        )
    fs_hz = told.fs_hz or options.fs_hz
    if fs_hz is None:
        fields["fs_hz"] = _rate_question(max(array.shape), told)
    unit_mv = told.unit_mv
    if told.gain is not None and _are_digits(array):
        # Whether "gain" multiplies or divides is not agreed on, and a stated unit may be that of the digits' product.
        by_gain = _by_gain(*told.gain)
        unit_mv, told = None, replace(told, unit_guess=by_gain if by_gain[0] else told.unit_guess or by_gain)
    elif told.units_mv is not None and rows is not None:
        if len(told.units_mv) != len(rows):
            raise UnreadableFile(
                f"{name} gives {len(told.units_mv)} units for an array of shape {array.shape}.", code="bad_shape"
            )
        rows, unit_mv = rows.astype(np.float64) * np.array(told.units_mv)[:, None], 1.0
    if unit_mv is None and options.unit is not None:
        unit_mv = option_unit_mv(options.unit)
    if unit_mv is None:
        fields["unit"] = _unit_question(rows if rows is not None else array, told)
    if fields:
        raise NeedsAnswer(f"{name} does not say its {', '.join(_WORDS[key] for key in fields)}.", fields=fields)
    assert rows is not None and leads is not None and fs_hz is not None and unit_mv is not None
    check_leads(name, leads)
    if told.offset is not None and _are_digits(array):
        rows, told = _without_offset(rows, told, *told.offset)
    with np.errstate(over="ignore"):
        signal = (rows.astype(np.float64) * unit_mv if unit_mv != 1.0 else rows).astype(np.float32)
    if np.isinf(signal).any():
        raise UnreadableFile(f"{name} holds infinite values. The file is damaged.", code="not_a_number")
    if not np.isfinite(signal).any():
        raise UnreadableFile(f"{name} holds no sample, only gaps.", code="no_signal")
    return Record(signal, fs_hz, leads, meta=told.meta)


def _unpacked(array: np.ndarray, told: Told) -> tuple[np.ndarray, Told]:
    """Return packed whole numbers as the values that they stand for, as the CF conventions of netCDF lay it down:
    ``stored * scale_factor + add_offset`` in the stated unit."""
    if told.gain is None or told.gain[0] != "scale_factor" or told.unit_mv is None or array.dtype.kind not in "iu":
        return array, told
    scale, offset = told.gain[1], 0.0
    if math.isnan(scale):
        return array, told
    if told.offset is not None:
        if told.offset[0] != "add_offset" or len(told.offset[1]) != 1:
            return array, told
        offset = told.offset[1][0]
    return array * scale + offset, replace(told, gain=None, offset=None)


def _are_digits(array: np.ndarray) -> bool:
    """Tell whether the values are whole numbers, as converters from analogue to digital give them."""
    if array.dtype.kind in "iu":
        return True
    part = array.reshape(-1)[:20_000]
    part = part[np.isfinite(part)]
    return bool(part.size and (part == np.rint(part)).all() and np.ptp(part) > 20)


def _without_offset(rows: np.ndarray, told: Told, key: str, values: tuple[float, ...]) -> tuple[np.ndarray, Told]:
    """Take off the digits of zero volt as WFDB names them beside a gain; say where another kind of offset was left."""
    shown = ", ".join(f"{value:g}" for value in values[:12])
    if key.lower().startswith("base") and told.gain is not None and len(values) in (1, len(rows)):
        rows = rows.astype(np.float64) - np.array(values)[:, None]
        note = f"The digits of zero volt that the file names ({key} = {shown}) were taken off."
    else:
        note = f"The file names {key} = {shown} beside whole numbers; it was neither taken off nor added."
    return rows, replace(told, meta=replace(told.meta, notes=(*told.meta.notes, note)))


def _by_gain(key: str, value: float) -> tuple[str, str]:
    if math.isnan(value):
        return (
            "",
            f"the samples are whole numbers and the file names another {key} for each lead. Export them in millivolt.",
        )
    if value > 1 and re.search(r"gain|per_?mv|adu", key, re.IGNORECASE):
        return (
            f"{value:g}/mV",
            f"The samples are whole numbers and the file names {key} = {value:g}: so many digits are one millivolt as a rule.",
        )
    return (
        "",
        f"the samples are whole numbers and the file names {key} = {value:g}, but not what it means. Give <number>/mV, the digits of one millivolt.",
    )


_WORDS = {"fs_hz": "sampling rate", "unit": "unit", "lead_order": "lead order"}


def _leads_first(array: np.ndarray, leads: tuple[str, ...] | None, fields: dict[str, str]) -> np.ndarray | None:
    """Return the array as ``(leads, samples)``; None, with a question, when both axes could hold the leads."""
    if array.ndim == 1:
        return array[None]
    if leads is not None:
        fits = [axis for axis in (0, 1) if array.shape[axis] == len(leads)]
        if len(fits) == 1:
            return array if fits[0] == 0 else array.T
        if not fits:
            return array if array.shape[0] <= array.shape[1] else array.T
        return array
    short, long = sorted(array.shape)
    if short <= MAX_LEADS and long >= 4 * short:
        return array if array.shape[0] == short else array.T
    fields["lead_order"] = (
        f"No guess: in an array of shape {array.shape} either axis could hold the leads. Give the names of the leads in file order."
    )
    return None


def _lead_question(rows: np.ndarray) -> str:
    count = len(rows)
    if count == 12:
        return f"Guess: {' '.join(LEADS_12)}. {_einthoven(rows)}"
    if count == 8:
        return f"Guess: {' '.join(_EIGHT)}. Eight stored leads are these as a rule; the other four are computed."
    return f"No guess: the file has {count} unnamed lead{'s' if count > 1 else ''}. Give their names in file order."


def _einthoven(rows: np.ndarray) -> str:
    part = np.nan_to_num(rows[:3, :10_000].astype(np.float64))
    part -= part.mean(axis=1, keepdims=True)
    rest = float(np.sqrt(np.mean((part[2] - part[1] + part[0]) ** 2)))
    size = float(np.sqrt(np.mean(part[2] ** 2)))
    if size > 0 and rest < 0.1 * size:
        return "The third row is the second minus the first, as III = II - I."
    return "It is the usual order, but the third row is not the second minus the first (III = II - I does not hold): check it."


def _rate_question(samples: int, told: Told) -> str:
    if told.fs_guess is not None:
        return f"Guess: {told.fs_guess[0]}. {told.fs_guess[1]}"
    rate = _RATES.get(samples)
    if rate is not None:
        return f"Guess: {rate}. {samples} samples are {samples / rate:.4g} s then, a usual length."
    if samples % 500 == 0 and samples <= 60_000:
        return f"Guess: 500. {samples} samples are {samples / 500:.4g} s then; 500 Hz is the most common rate."
    return f"No guess: {samples} samples do not tell the rate."


def _unit_question(rows: np.ndarray, told: Told) -> str:
    if told.unit_guess is not None:
        return f"{f'Guess: {told.unit_guess[0]}.' if told.unit_guess[0] else 'No guess:'} {told.unit_guess[1]}"
    part = rows if rows.ndim == 2 else rows[None]
    part = part[:, :20_000].astype(np.float64)
    part = part[np.isfinite(part).any(axis=1)]
    if not part.size:
        return "No guess: the array holds no sample."
    spread = np.nanmax(part, axis=1) - np.nanmin(part, axis=1)
    size = float(np.median(spread))
    for unit, factor in (("mV", 1.0), ("uV", 1e-3), ("V", 1e3), ("nV", 1e-6)):
        if 0.2 <= size * factor <= 12:
            return f"Guess: {unit}. The leads span {size:.4g} from lowest to highest, which is {size * factor:.3g} mV then."
    return f"No guess: the leads span {size:.4g} from lowest to highest. Give mV, uV, V, nV or <number>/mV."
