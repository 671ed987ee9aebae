"""The conditions that the simulator knows, their codes, and which of them go together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from datasets.ecg import SourceLabel
from ecgportal.errors import InvalidInput


@dataclass(frozen=True)
class Condition:
    """One simulated condition.

    At most one condition of each ``family`` can be in a record. ``snomed`` and ``scp`` are the codes that state it;
    ``share`` is its part of a simulated dataset, ``ages`` the range in years from which its patients come.
    """

    name: str
    title: str
    family: str
    snomed: tuple[str, ...]
    scp: tuple[str, ...]
    share: float = 0.0
    ages: tuple[int, int] = (18, 88)


_ALL = (
    Condition("SNR", "Sinus rhythm", "rhythm", ("426783006",), ("SR",), 0.30),
    Condition("SB", "Sinus bradycardia", "rhythm", ("426177001",), ("SBRAD",), 0.07),
    Condition("STACH", "Sinus tachycardia", "rhythm", ("427084000",), ("STACH",), 0.06),
    Condition("SA", "Sinus arrhythmia", "rhythm", ("427393009",), ("SARRH",), 0.03, (18, 45)),
    Condition("AF", "Atrial fibrillation", "rhythm", ("164889003",), ("AFIB",), 0.08, (50, 92)),
    Condition("AFL", "Atrial flutter", "rhythm", ("164890007",), ("AFLT",), 0.02, (50, 90)),
    Condition("PACE", "Ventricular pacing", "rhythm", ("10370003",), ("PACE",), 0.02, (55, 94)),
    Condition("IAVB", "First-degree AV block", "av", ("270492004",), ("1AVB",), 0.05, (40, 90)),
    Condition("RBBB", "Complete right bundle branch block", "conduction", ("713427006",), ("CRBBB",), 0.05, (40, 90)),
    Condition("IRBBB", "Incomplete right bundle branch block", "conduction", ("713426002",), ("IRBBB",), 0.03),
    Condition("LBBB", "Complete left bundle branch block", "conduction", ("733534002",), ("CLBBB",), 0.05, (50, 92)),
    Condition("LAFB", "Left anterior fascicular block", "conduction", ("445118002",), ("LAFB",), 0.03, (40, 90)),
    Condition("LVH", "Left ventricular hypertrophy", "hypertrophy", ("164873001",), ("LVH", "VCLVH"), 0.07, (40, 88)),
    Condition("PVC", "Premature ventricular complexes", "ventricular", ("427172004",), ("PVC",), 0.05, (30, 90)),
    Condition("PAC", "Premature atrial complexes", "atrial", ("284470004",), ("PAC",), 0.03, (30, 90)),
    Condition("STE_ANT", "Anterior ST elevation", "st", ("164931005", "54329005"), ("ASMI", "STE_"), 0.04, (35, 88)),
    Condition("STE_INF", "Inferior ST elevation", "st", ("164931005", "57054005"), ("IMI", "STE_"), 0.04, (35, 88)),
    Condition("STD", "ST depression", "st", ("429622005",), ("ISC_", "STD_"), 0.02, (45, 90)),
    Condition("OLD_ASMI", "Old anteroseptal infarction", "st", ("164867002",), ("ASMI", "QWAVE"), 0.02, (45, 90)),
    Condition("OLD_IMI", "Old inferior infarction", "st", ("164867002",), ("IMI", "QWAVE"), 0.02, (45, 90)),
)
CONDITIONS: dict[str, Condition] = {entry.name: entry for entry in _ALL}

# Pairs of conditions that a simulated dataset mixes in beside the single ones.
COMBINATIONS: dict[tuple[str, ...], float] = {
    ("RBBB", "IAVB"): 0.01,
    ("RBBB", "AF"): 0.01,
    ("LBBB", "IAVB"): 0.01,
    ("AF", "PVC"): 0.01,
    ("LVH", "SB"): 0.01,
}

_EXCLUDES = {
    "AF": {"IAVB", "PAC"},
    "AFL": {"IAVB", "PAC"},
    "PACE": {"IAVB", "PAC", "RBBB", "IRBBB", "LBBB", "LAFB", "LVH", "STE_ANT", "STE_INF", "STD", "OLD_ASMI", "OLD_IMI"},
    "LBBB": {"LVH", "STE_ANT", "STE_INF", "STD", "OLD_ASMI", "OLD_IMI"},
    "LAFB": {"OLD_IMI"},
    "LVH": {"OLD_ASMI"},
}
_NORMAL_RHYTHMS = {"SNR", "SB", "STACH", "SA"}


def check(conditions: str | Iterable[str]) -> tuple[str, ...]:
    """Return the conditions in the order of ``CONDITIONS``, with SNR where no rhythm is named.

    InvalidInput when one is unknown or two cannot be in one record.
    """
    names = {conditions} if isinstance(conditions, str) else set(conditions)
    unknown = sorted(names - CONDITIONS.keys())
    if unknown:
        raise InvalidInput(
            f"The simulator has no condition {', '.join(unknown)}. It knows {', '.join(CONDITIONS)}.",
            code="unknown_condition",
        )
    if not any(CONDITIONS[name].family == "rhythm" for name in names):
        names.add("SNR")
    ordered = tuple(name for name in CONDITIONS if name in names)
    for index, first in enumerate(ordered):
        for second in ordered[index + 1 :]:
            same = CONDITIONS[first].family == CONDITIONS[second].family
            if same or second in _EXCLUDES.get(first, ()) or first in _EXCLUDES.get(second, ()):
                raise InvalidInput(
                    f"{CONDITIONS[first].title} and {CONDITIONS[second].title} cannot be simulated in one record.",
                    code="conditions_conflict",
                )
    return ordered


def labels(conditions: tuple[str, ...]) -> tuple[SourceLabel, ...]:
    """Return the SNOMED CT and SCP-ECG statements of checked conditions.

    A sinus rhythm without any other finding is also a normal ECG (SCP ``NORM``), as PTB-XL states it.
    """
    found: dict[tuple[str, str], SourceLabel] = {}
    if len(conditions) == 1 and conditions[0] in _NORMAL_RHYTHMS:
        found["scp", "NORM"] = SourceLabel("NORM", "scp", 1.0)
    for name in conditions:
        entry = CONDITIONS[name]
        for system, codes in (("scp", entry.scp), ("snomed", entry.snomed)):
            for code in codes:
                found[system, code] = SourceLabel(code, system, 1.0)
    return tuple(found.values())
