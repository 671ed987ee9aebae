"""Which signals of a WFDB record are ECG leads, under which names and with which factor to millivolt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from datasets.ecg import LEADS_12, OTHER_LEADS
from datasets.formats._clinical import is_other_signal, lead_name, merely_numbered, millivolts_per, option_unit_mv
from datasets.formats._wfdb_header import SignalSpec
from datasets.formats.base import ReadOptions
from ecgportal.errors import NeedsAnswer, UnreadableFile

_KNOWN_LEADS = frozenset((*LEADS_12, *OTHER_LEADS))


@dataclass(frozen=True, slots=True)
class Channel:
    """An ECG signal of the record: its canonical name and its factor from file units to millivolt."""

    lead: str
    source: str
    factor_mv: float


UNCALIBRATED = "Guess: 200/mV. The header is uncalibrated; 200/mV is the value that the WFDB guide assumes then."


@lru_cache(maxsize=4096)
def _lead(name: str, unit: str) -> tuple[str, float | None] | None:
    """Return a signal's lead name and factor to millivolt (None: unit is no voltage); None when it is no ECG."""
    lead = lead_name(name) if name else ""
    factor = millivolts_per(unit)
    if lead in _KNOWN_LEADS:
        return lead, factor
    if factor is None or is_other_signal(name):
        return None
    return lead, factor


def _order_question(count: int) -> str:
    if count == 12:
        return f"Guess: {' '.join(LEADS_12)}. Twelve signals are in this order as a rule."
    return f"No guess: the header describes {count} signal{'s' if count > 1 else ''} without a name. Name them in its order."


@dataclass(frozen=True, slots=True)
class Choice:
    """The ECG signals among a record's signals, by signal number; the same for all records of a collection.

    by_number: lead of every signal, None where it is not kept. marks: ``(suffix, lead)`` of the annotation files that
    may lie beside the header. open: ``(lead, unit)`` of a lead whose unit is no voltage.
    """

    channels: dict[int, Channel]
    leads: tuple[str, ...]
    by_number: tuple[str | None, ...]
    dropped: tuple[str, ...]
    marks: tuple[tuple[str, str | None], ...]
    open: tuple[str, str] | None


@lru_cache(maxsize=512)
def _choose(
    signals: tuple[tuple[str, str], ...], absent: tuple[bool, ...], unit: str | None, order: tuple[str, ...] | None
) -> Choice:
    """Choose the ECG signals from ``(name, unit)`` of all signals; ``unit`` and ``order`` are the user's answers.

    absent: signals that the header lists, but that no file holds (format 0).
    """
    if order is not None and len(order) == len(signals) and not any(_is_known(name) for name, _ in signals):
        signals = tuple((name, unit_) for name, (_, unit_) in zip(order, signals, strict=True))
    channels: dict[int, Channel] = {}
    dropped: list[str] = []
    taken: set[str] = set()
    open_: tuple[str, str] | None = None
    for index, (name, stated) in enumerate(signals):
        found = None if absent[index] else _lead(name, stated)
        if found is None:
            dropped.append(name or f"signal {index}")
            continue
        lead, factor = found
        if factor is None:
            if unit is None:
                open_ = open_ or (lead, stated)
            factor = option_unit_mv(unit or "mV")
        lead = lead or f"signal {index}"
        if lead in taken:
            lead = next(f"{lead} ({i})" for i in range(2, len(signals) + 2) if f"{lead} ({i})" not in taken)
        taken.add(lead)
        channels[index] = Channel(lead, name, factor)
    by_number = tuple(channels[i].lead if i in channels else None for i in range(len(signals)))
    marks = (
        ("atr", None),
        *((name.lower(), lead) for (name, _), lead in zip(signals, by_number) if lead and name.isalnum()),
    )
    leads = tuple(channel.lead for channel in channels.values())
    return Choice(channels, leads, by_number, tuple(dropped), marks, open_)


def _is_known(name: str) -> bool:
    return bool(name) and (lead_name(name) in _KNOWN_LEADS or is_other_signal(name))


def choose_channels(
    name: str, layout: Sequence[SignalSpec], options: ReadOptions, *, in_segments: bool = False
) -> Choice:
    """Return the ECG signals of a header. NeedsAnswer where a unit is no voltage, or where no signal has a name.

    in_segments: the layout of a multi-segment record, whose signals of format 0 may be in its segments.
    """
    signals = tuple([(spec.name, spec.unit) for spec in layout])
    absent = tuple([spec.fmt == 0 and not in_segments for spec in layout])
    ecgs = [label for label, _ in signals if not is_other_signal(label)]
    if signals and options.lead_order is None and (not any(label for label, _ in signals) or merely_numbered(ecgs)):
        fields = {"lead_order": _order_question(len(signals))}
        if options.unit is None and any(spec.gain is None for spec in layout):
            fields["unit"] = UNCALIBRATED
        raise NeedsAnswer(f"{name} does not name the leads of its {len(signals)} signals.", fields=fields)
    choice = _choose(signals, absent, options.unit, options.lead_order)
    if choice.open is not None:
        lead, unit = choice.open
        raise NeedsAnswer(
            f"{name} gives lead {lead} in {unit!r}, which is not a voltage.",
            fields={
                "unit": f"Guess: mV. The header gives lead {lead} in {unit!r}; mV is usual. Give mV, uV or <number>/mV."
            },
        )
    if not choice.channels:
        raise UnreadableFile(
            f"{name} has no ECG lead; its signals are: {', '.join(choice.dropped[:20]) or 'none'}.", code="no_ecg_lead"
        )
    return choice
