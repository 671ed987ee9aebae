"""What a viewer chose: layout, speed, gain, paper and display filters, as one frozen value."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields

from datasets.ecg import LEADS_12
from ecgportal.errors import InvalidInput
from viz.figures.filters import Filters

SPEEDS_MM_S = (12.5, 25.0, 50.0)
GAINS_MM_MV = (2.5, 5.0, 10.0, 20.0)
PAPERS = ("pink", "blue", "grey")


# Display filters that viewers choose by name.
BANDS: dict[str, tuple[str, Filters]] = {
    "none": ("None (as recorded)", Filters()),
    "diagnostic": ("0.05–150 Hz", Filters(high_pass_hz=0.05, low_pass_hz=150.0)),
    "wander": ("0.5–150 Hz", Filters(high_pass_hz=0.5, low_pass_hz=150.0)),
    "mains50": ("0.5–150 Hz, 50 Hz notch", Filters(high_pass_hz=0.5, low_pass_hz=150.0, notch_hz=50.0)),
    "mains60": ("0.5–150 Hz, 60 Hz notch", Filters(high_pass_hz=0.5, low_pass_hz=150.0, notch_hz=60.0)),
    "monitor": ("0.5–40 Hz (monitoring)", Filters(high_pass_hz=0.5, low_pass_hz=40.0)),
}
WINDOWS_S = (5.0, 10.0, 20.0, 30.0, 60.0)


@dataclass(frozen=True)
class Layout:
    """Leads per row, ``-aVR`` for an inverted one, and rhythm strips below (``""``: the view's rhythm lead).

    Without rows every recorded lead has one of its own.
    """

    title: str
    rows: tuple[tuple[str, ...], ...]
    strips: tuple[str, ...] = ()


_THREE_BY_FOUR = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
_CHEST = LEADS_12[6:]
# Limb leads in anatomical order with aVR inverted (Lindow 2019, doi 10.1186/s12872-018-0979-x).
_CABRERA = ("aVL", "I", "-aVR", "II", "aVF", "III")

LAYOUTS: dict[str, Layout] = {
    "3x4+rhythm": Layout("3 × 4 and rhythm strip", _THREE_BY_FOUR, ("",)),
    "3x4": Layout("3 × 4", _THREE_BY_FOUR),
    "3x4+3": Layout("3 × 4 and three rhythm strips (II, V1, V5)", _THREE_BY_FOUR, ("II", "V1", "V5")),
    "6x2": Layout("6 × 2", tuple(zip(LEADS_12[:6], _CHEST, strict=True))),
    "6x2+rhythm": Layout("6 × 2 and rhythm strip", tuple(zip(LEADS_12[:6], _CHEST, strict=True)), ("",)),
    "12x1": Layout("12 × 1", tuple((name,) for name in LEADS_12)),
    "cabrera": Layout("Cabrera 6 × 2 (−aVR)", tuple(zip(_CABRERA, _CHEST, strict=True))),
    "recorded": Layout("One row for each recorded lead", ()),
}
# With fewer of the twelve leads than so many a page of twelve would be empty for the most part.
_FEW_LEADS = 3


def usual_layout(leads: Collection[str]) -> str:
    """Return the layout in which a record with these leads is shown first."""
    return "3x4+rhythm" if sum(name in LEADS_12 for name in leads) >= _FEW_LEADS else "recorded"


@dataclass(frozen=True)
class View:
    """How a record is shown. Speeds in mm/s, gains in mm/mV, times in s; checked when made.

    ``window_s`` is the length of time on the page (1 to 60 s); ``start_s`` its start in the
    record; ``centred`` shifts every trace to its own median (said on the page).
    """

    layout: str = "3x4+rhythm"
    speed_mm_s: float = 25.0
    gain_mm_mv: float = 10.0
    rhythm_lead: str = "II"
    paper: str = "pink"
    dark: bool = False
    filters: Filters = field(default_factory=Filters)
    start_s: float = 0.0
    window_s: float = 10.0
    centred: bool = False

    def __post_init__(self) -> None:
        _one_of("layout", "layout", self.layout, tuple(LAYOUTS))
        _one_of("speed_mm_s", "paper speed in mm/s", self.speed_mm_s, SPEEDS_MM_S)
        _one_of("gain_mm_mv", "gain in mm/mV", self.gain_mm_mv, GAINS_MM_MV)
        _one_of("paper", "paper", self.paper, PAPERS)
        # Leads outside the dictionary keep the name that their file gives, so any short name may be asked for.
        if not (0 < len(self.rhythm_lead) <= 32 and self.rhythm_lead.isprintable()):
            raise _refused("rhythm_lead", "The rhythm strip needs the name of a lead, such as II.")
        if not (math.isfinite(self.start_s) and self.start_s >= 0):
            raise _refused("start_s", f"A view starts at 0 s or later, not at {self.start_s} s.")
        if not (math.isfinite(self.window_s) and 1 <= self.window_s <= 60):
            raise _refused("window_s", f"A page shows 1 to 60 s, not {self.window_s} s.")


_KEYS = {
    "layout": "layout", "speed": "speed_mm_s", "gain": "gain_mm_mv", "rhythm": "rhythm_lead", "paper": "paper",
    "dark": "dark", "start": "start_s", "window": "window_s", "centred": "centred",
}  # fmt: skip
_FILTER_KEYS = {"hp": "high_pass_hz", "lp": "low_pass_hz", "notch": "notch_hz"}


def from_query(query: Mapping[str, str], default: View | None = None) -> View:
    """Read a view from an address's query; what it does not name comes from ``default``. Unknown keys are ignored.

    The display filter is named by ``band`` (a key of ``BANDS``) or stage by stage by ``hp``, ``lp`` and ``notch`` (Hz).
    """
    base = default or View()
    known: dict[str, object] = {one.name: getattr(base, one.name) for one in fields(View)}
    for key, name in _KEYS.items():
        if (text := query.get(key)) is None:
            continue
        if name in ("layout", "rhythm_lead", "paper"):
            # A plus sign in a query string that was not escaped arrives as a blank.
            known[name] = text.replace(" ", "+") if name == "layout" else text
        elif name in ("dark", "centred"):
            known[name] = text.lower() in ("1", "true", "on", "yes")
        else:
            known[name] = _number(key, text)
    if (band := query.get("band")) is not None:
        _one_of("band", "display filter", band, tuple(BANDS))
    filters = base.filters if band is None else BANDS[band][1]
    stages = {name: getattr(filters, name) for name in _FILTER_KEYS.values()}
    for key, name in _FILTER_KEYS.items():
        if (text := query.get(key)) is not None:
            stages[name] = None if text.lower() in ("", "0", "off", "none") else _number(key, text)
    known["filters"] = Filters(**stages)
    return View(**known)  # type: ignore[arg-type]


def to_query(view: View) -> dict[str, str]:
    """Return the query that gives this view, naming only what differs from the default."""
    base, out = View(), {}
    for key, name in _KEYS.items():
        value = getattr(view, name)
        if value == getattr(base, name):
            continue
        out[key] = str(int(value)) if isinstance(value, bool) else value if isinstance(value, str) else f"{value!r}"
    for key, name in _FILTER_KEYS.items():
        if (value := getattr(view.filters, name)) is not None:
            out[key] = f"{value:g}"
    return out


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _refused(
            _KEYS.get(key) or _FILTER_KEYS[key], f"The view's {key} must be a number, not {text[:40]!r}."
        ) from None


def _one_of(name: str, noun: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        offered = ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in allowed)
        raise _refused(name, f"The {noun} {str(value)[:40]!r} is not offered; choose one of {offered}.")


def _refused(name: str, sentence: str) -> InvalidInput:
    return InvalidInput(sentence, fields={name: sentence})
