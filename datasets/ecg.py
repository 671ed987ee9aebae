"""The ECG record as every part of the portal knows it, and the dictionary of lead names.

A record's signal is float32 millivolt with shape ``(leads, samples)``; missing samples
are NaN, never zero. Lead names are canonical (``I II III aVR aVL aVF V1..V6``) where the
name is known.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from ecgportal.errors import InvalidInput

LEADS_12: tuple[str, ...] = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
LIMB_LEADS: tuple[str, ...] = LEADS_12[:6]
OTHER_LEADS: tuple[str, ...] = (
    "V7",
    "V8",
    "V9",
    "V3R",
    "V4R",
    "V5R",
    "V6R",
    "V7R",
    "X",
    "Y",
    "Z",
    "MLII",
    "MLI",
    "MLIII",
    "ES",
    "AS",
    "AI",
    "-aVR",
)

OLDEST_YEARS = 130
# What a file calls a channel that is no known lead may be any text; so much of it is kept.
LONGEST_LEAD = 20
_LONGEST_NAME = 200

_KNOWN = {name.upper(): name for name in (*LEADS_12, *OTHER_LEADS)}
_ALIASES = {
    "DI": "I", "DII": "II", "DIII": "III", "D1": "I", "D2": "II", "D3": "III", "L1": "I", "L2": "II", "L3": "III",
    "AVR": "aVR", "AVL": "aVL", "AVF": "aVF", "LEAD1": "I", "LEAD2": "II", "LEAD3": "III",
    "DAVR": "aVR", "DAVL": "aVL", "DAVF": "aVF",
    "VX": "X", "VY": "Y", "VZ": "Z", "C1": "V1", "C2": "V2", "C3": "V3", "C4": "V4", "C5": "V5", "C6": "V6",
}  # fmt: skip
# Decomposed, as names are when they are compared.
_HANGUL_LEAD = unicodedata.normalize("NFD", "유도")
_PREFIXES = (
    "MDC_ECG_LEAD_", "MDC_ECG_ELEC_POTL_", "NOM_ECG_LEAD_", "SCPECG_", "SCP_ECG_", "LEAD", "ECG", "EKG", "FRANK", "EASI",
    "ABLEITUNG", "DERIVATION", "DERIVAZIONE", "DERIVACION", "DERIVACAO", "ODPROWADZENIE", "AFLEIDING", "AVLEDNING",
    "SVOD", "STRIP", "ОТВЕДЕНИЕ", "导联", "導程", "誘導", _HANGUL_LEAD,
)  # fmt: skip
_SUFFIXES = ("导联", "導聯", "導程", "誘導", _HANGUL_LEAD, " ОТВЕДЕНИЕ", " LEAD", " ECG", " EKG")
_SEPARATORS = re.compile(r"[\s_\-:.]+")
# Signs of a lead that was stored upside down, as -aVR is in the Cabrera order.
_DASHES = str.maketrans({"−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "－": "-"})
_TURNED = re.compile(
    r"^\s*\(?-\)?\s*(?=\w)|(?<=\s)-(?=\w)|-\s*$|\(\s*(-|NEG\w*|INV\w*|REV\w*)\s*\)|(?<![^\W_])(NEG|INV|REV)\w*\s*$|(?<=AVR)NEG$|"
    r"^(NEG|INV|REV)\w*[\s_]+(?=\w)"
)


@lru_cache(maxsize=16_384)
def canonical_lead(name: str) -> str | None:
    """Return the canonical name of a lead, or None when the name is not an ECG lead's.

    Accepts vendor spellings: case, blanks, NUL padding, ``Lead I``, ``ECG V1``,
    ``MDC_ECG_LEAD_AVR``, ``aVR (augmented)``, ``DII``, ``C1``. A channel that is only numbered
    (``Channel 1``, ``ECG_2``) is no lead: nobody knows which electrode it was. A lead named as stored upside down is
    ``-aVR`` or none (``-V1``), never the upright one; so is the difference of two leads (``I-II``).
    """
    if len(name) > _LONGEST_NAME:
        return None
    # NFKC: Roman numerals and wide letters of East Asian devices.
    text = unicodedata.normalize("NFKC", name).replace("\x00", " ").translate(_DASHES).strip().upper()
    if (turned := _TURNED.sub("", text)) != text:
        return "-aVR" if _upright(turned) == "aVR" else None
    return _upright(text)


def _upright(text: str) -> str | None:
    """Return the lead that an upper-case name means, whatever its sign."""
    text = re.sub(r"[\(\[].*?[\)\]]", "", text).strip()
    if (numbered := _SEPARATORS.sub("", text)) in _ALIASES:
        return _ALIASES[numbered]
    text = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    # A prefix may itself be followed by another one ("ECG Lead I").
    for _ in range(3):
        for prefix in _PREFIXES:
            if text.startswith(prefix) and len(text) > len(prefix):
                text = text[len(prefix) :].strip(" _-:.")
    for suffix in _SUFFIXES:
        text = text.removesuffix(suffix)
    words = [word for word in _SEPARATORS.split(text) if word]
    if sum(word in _KNOWN for word in words) > 1:
        return None
    text = "".join(words).removeprefix("+").removesuffix("+")
    return _KNOWN.get(text) or _ALIASES.get(text)


@dataclass(frozen=True)
class SourceLabel:
    """A label as the source states it: code in a named system, with its likelihood in [0, 1] or None.

    ``system`` is one of ``snomed``, ``scp``, ``icd10``, ``aha``, ``name``.
    """

    code: str
    system: str
    likelihood: float | None = None


@dataclass(frozen=True)
class RecordMeta:
    """What a file says beside the signal. ``None`` means that the file does not say it.

    ``subject`` is the source's subject key, ``printed`` the measurements the device printed
    (``heart_rate_bpm``, ``pr_ms``, ``qrs_ms``, ``qt_ms``, ``qtc_ms``, ``rr_ms``), ``annotations``
    a tuple of ``(time_s, symbol, lead or None, note)``, ``notes`` sentences about what reading changed.
    """

    subject: str | None = None
    age: float | None = None
    sex: str | None = None
    labels: tuple[SourceLabel, ...] = ()
    printed: dict[str, float] = field(default_factory=dict)
    annotations: tuple[tuple[float, str, str | None, str], ...] = ()
    dropped_channels: tuple[str, ...] = ()
    device: str | None = None
    recorded_at: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.age is not None and not 0 <= self.age <= OLDEST_YEARS:
            # A typing error or a mark for "unknown" is no age.
            object.__setattr__(self, "age", None)


@dataclass(frozen=True, eq=False)
class Record:
    """One ECG.

    signal: float32 millivolt ``(len(leads), samples)``, NaN where nothing was recorded.
    fs_hz: samples per second, > 0.
    leads: canonical names in the signal's row order, without repeats.
    computed: names of the leads that were computed from others, not recorded.
    """

    signal: np.ndarray
    fs_hz: float
    leads: tuple[str, ...]
    computed: tuple[str, ...] = ()
    meta: RecordMeta = field(default_factory=RecordMeta)

    def __post_init__(self) -> None:
        signal = np.ascontiguousarray(self.signal, dtype=np.float32)
        object.__setattr__(self, "signal", signal)
        object.__setattr__(self, "leads", tuple(self.leads))
        if signal.ndim != 2 or signal.shape[0] != len(self.leads) or signal.shape[1] == 0:
            raise InvalidInput(
                f"A record needs one row of samples per lead; got shape {signal.shape} for {len(self.leads)} leads."
            )
        if len(set(self.leads)) != len(self.leads):
            raise InvalidInput(f"A lead is named twice: {', '.join(self.leads)}.")
        if not (np.isfinite(self.fs_hz) and self.fs_hz > 0):
            raise InvalidInput(f"The sampling rate must be a positive number of hertz, not {self.fs_hz}.")

    @property
    def n_samples(self) -> int:
        return int(self.signal.shape[1])

    @property
    def duration_s(self) -> float:
        return self.n_samples / self.fs_hz

    def lead(self, name: str) -> np.ndarray:
        """Return one lead's samples, shape ``(samples,)``; KeyError when it is not there."""
        try:
            return self.signal[self.leads.index(name)]
        except ValueError:
            raise KeyError(name) from None


def derive_limb_leads(record: Record) -> Record:
    """Add those of the six limb leads that are missing, computed from two of I, II and III.

    Einthoven: III = II - I. Goldberger: aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2.
    With fewer than two of the three the record is returned as it is.
    """
    missing = [name for name in LIMB_LEADS if name not in record.leads]
    if not missing or sum(name in record.leads for name in ("I", "II", "III")) < 2:
        return record
    i = record.lead("I") if "I" in record.leads else record.lead("II") - record.lead("III")
    ii = record.lead("II") if "II" in record.leads else record.lead("I") + record.lead("III")
    formulas = {"I": i, "II": ii, "III": ii - i, "aVR": -(i + ii) / 2, "aVL": i - ii / 2, "aVF": ii - i / 2}
    rows = [record.signal] + [formulas[name][None] for name in missing]
    return replace(
        record,
        signal=np.concatenate(rows),
        leads=(*record.leads, *missing),
        computed=(*record.computed, *missing),
    )


def order_leads(record: Record) -> Record:
    """Put the twelve standard leads first, in their order; other leads keep theirs behind them."""
    order = [name for name in LEADS_12 if name in record.leads]
    order += [name for name in record.leads if name not in LEADS_12]
    if tuple(order) == record.leads:
        return record
    rows = [record.leads.index(name) for name in order]
    return replace(record, signal=record.signal[rows], leads=tuple(order))


def turn_upright(record: Record) -> Record:
    """Return the record with a lead that was stored as -aVR turned over to aVR, which is said in its notes.

    A record that holds aVR, too, is returned as it is.
    """
    if "-aVR" not in record.leads or "aVR" in record.leads:
        return record
    signal = record.signal.copy()
    row = record.leads.index("-aVR")
    np.negative(signal[row], out=signal[row])
    note = "The file holds -aVR; it was turned over to aVR."
    return replace(
        record,
        signal=signal,
        leads=tuple("aVR" if name == "-aVR" else name for name in record.leads),
        meta=replace(record.meta, notes=(*record.meta.notes, note)),
    )


def name_leads(record: Record, hidden: Callable[[str], bool] = lambda name: False) -> Record:
    """Return the record with names of leads that can be stored: printable, all different, at most ``LONGEST_LEAD`` characters.

    hidden: tells of a name that is no lead's whether it must not be told; it becomes ``channel N``, as an empty one does.
    """
    names: dict[str, str] = {}
    for number, lead in enumerate(record.leads, start=1):
        text = lead
        if canonical_lead(lead) != lead:
            text = " ".join(lead.replace("\x00", " ").encode("utf-8", "replace").decode().split())
            text = f"channel {number}" if not text or hidden(lead) else text[:LONGEST_LEAD].rstrip()
        if text in names.values():
            ends = (f" ({count})" for count in range(2, len(record.leads) + 2))
            text = next(name for end in ends if (name := text[: LONGEST_LEAD - len(end)] + end) not in names.values())
        names[lead] = text
    if all(lead == name for lead, name in names.items()):
        return record
    marks = tuple((at, sign, lead and names.get(lead, lead), note) for at, sign, lead, note in record.meta.annotations)
    return replace(
        record,
        leads=tuple(names.values()),
        computed=tuple(names.get(lead, lead) for lead in record.computed),
        meta=replace(record.meta, annotations=marks),
    )


def normalise(record: Record) -> Record:
    """Return the canonical form: -aVR turned over, limb leads derived, standard order."""
    return order_leads(derive_limb_leads(turn_upright(record)))
