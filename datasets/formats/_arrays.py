"""Plain arrays of samples: which axis holds the leads, and what must be asked because arrays do not say it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from datasets.ecg import LEADS_12, Record, RecordMeta
from datasets.formats._clinical import check_leads, check_size, lead_name, millivolts_per, number, option_unit_mv
from datasets.formats.base import ReadOptions
from ecgportal.errors import InvalidInput, NeedsAnswer, UnreadableFile

MAX_LEADS = 64
_EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
_RATES = {5000: 500, 1000: 100, 2500: 250, 10000: 1000, 4096: 400, 2048: 200}
_RATE_KEY = re.compile(
    r"(curr[_ ]?)?(fs|freq|frequency|sfreq|samp(le|ling)?[_ ]?(rate|freq|frequency)|rate)([_ ]?\(?hz\)?)?$",
    re.IGNORECASE,
)
_UNIT_KEY = re.compile(r"(unit|units|signal_units?)$", re.IGNORECASE)
_LEADS_KEY = re.compile(r"(leads?|lead_?names?|sig_?names?|channels?|channel_?names?|lead_?order)$", re.IGNORECASE)


@dataclass(frozen=True)
class Told:
    """What a file says about its array. unit_mv: millivolt per value. fs_guess, unit_guess: ``(value, reason)``."""

    fs_hz: float | None = None
    unit_mv: float | None = None
    leads: tuple[str, ...] | None = None
    fs_guess: tuple[str, str] | None = None
    unit_guess: tuple[str, str] | None = None
    meta: RecordMeta = field(default_factory=RecordMeta)


def told_by(statements: dict[str, object]) -> Told:
    """Return what named values beside an array say: rate, unit, lead names (attributes, scalars, lists of words)."""
    fs_hz, unit_mv, leads = None, None, None
    # A converter's current rate comes before the rate of the original file.
    for key in sorted(statements, key=lambda k: not k.lower().startswith("curr")):
        value = statements[key]
        if fs_hz is None and _RATE_KEY.match(key):
            rate = number(value)
            fs_hz = rate if rate is not None and 1 <= rate <= 100_000 else None
        elif unit_mv is None and _UNIT_KEY.match(key) and isinstance(value, str):
            unit_mv = millivolts_per(value)
        elif leads is None and _LEADS_KEY.match(key):
            words = re.split(r"[,;\s]+", value) if isinstance(value, str) else value
            if isinstance(words, list | tuple) and words and all(isinstance(word, str) for word in words):
                leads = tuple(lead_name(word) for word in words)
    return Told(fs_hz, unit_mv, leads)


def is_signal_shape(shape: Sequence[int]) -> bool:
    """Tell whether an array can be the samples of one ECG: one axis for some leads, a longer one for the samples."""
    if len(shape) == 1:
        return shape[0] >= 100
    return len(shape) == 2 and 1 <= min(shape) <= MAX_LEADS and max(shape) >= 100


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
    if unit_mv is None and options.unit is not None:
        unit_mv = option_unit_mv(options.unit)
    if unit_mv is None:
        fields["unit"] = _unit_question(rows if rows is not None else array, told)
    if fields:
        raise NeedsAnswer(f"{name} does not say its {', '.join(_WORDS[key] for key in fields)}.", fields=fields)
    assert rows is not None and leads is not None and fs_hz is not None and unit_mv is not None
    check_leads(name, leads)
    signal = rows.astype(np.float64 if unit_mv != 1.0 else np.float32)
    if np.isinf(signal).any():
        raise UnreadableFile(f"{name} holds infinite values. The file is damaged.", code="not_a_number")
    if unit_mv != 1.0:
        np.multiply(signal, unit_mv, out=signal)
    if not np.isfinite(signal).any():
        raise UnreadableFile(f"{name} holds no sample, only gaps.", code="no_signal")
    return Record(signal, fs_hz, leads, meta=told.meta)


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
        return f"Guess: {told.unit_guess[0]}. {told.unit_guess[1]}"
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
