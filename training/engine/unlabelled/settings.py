"""The ways of learning without labels and their settings: validated with sentences and described for forms, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ecgportal.errors import InvalidInput
from training.engine.settings import described, problems_of, setting

#: Contrastive learning tells a record from the others of its batch.
FEWEST_TOGETHER = 4


@dataclass(frozen=True)
class Contrastive:
    """From each window of a record the next ones are to be told from those of other records (see ``contrastive``)."""

    window_s: float = setting(
        2.0,
        "Window (s)",
        "A record is cut into windows. Two seconds hold one to three beats.",
        minimum=0.25,
        maximum=30,
    )
    ahead: int = setting(
        2,
        "Windows ahead",
        "How many of the next windows are to be told from those of other records.",
        minimum=1,
        maximum=10,
    )

    def __post_init__(self) -> None:
        raise_for(problems_of(self))

    def check_fits(self, duration_s: float) -> None:
        """Raise InvalidInput when records of this length in s hold too few windows."""
        count = int(duration_s / self.window_s + 1e-9)
        if count < self.ahead + 1:
            held = f"hold {count} windows of {self.window_s:g} s; predicting {self.ahead} ahead needs {self.ahead + 1}"
            raise_for({"window_s": f"Records of {duration_s:g} s {held}. Choose shorter windows."})


@dataclass(frozen=True)
class Masked:
    """Spans of time and whole leads are hidden, and the hidden samples are to be reconstructed (see ``masked``)."""

    span_s: float = setting(
        0.5,
        "Hidden span (s)",
        "So long is one hidden piece of all leads. Half a second holds a QRS complex with its T wave, so that a beat must be "
        "told from those before and after it.",
        minimum=0.05,
        maximum=10,
    )
    hidden: float = setting(
        0.4, "Hidden share of time", "Less is too easy, more leaves too little to tell from.", minimum=0.05, maximum=0.9
    )
    hidden_leads: float = setting(
        0.3,
        "Hidden leads",
        "Chance of each lead to be hidden as a whole; half of the leads at least are seen.",
        minimum=0,
        maximum=0.9,
    )

    def __post_init__(self) -> None:
        raise_for(problems_of(self))

    def check_fits(self, duration_s: float) -> None:
        """Raise InvalidInput when records of this length in s hold too few spans."""
        if duration_s < 4 * self.span_s:
            sentence = (
                f"Records of {duration_s:g} s hold fewer than four spans of {self.span_s:g} s. Choose shorter spans."
            )
            raise_for({"span_s": sentence})


Method = Contrastive | Masked
METHODS: dict[str, type[Method]] = {"contrastive": Contrastive, "masked": Masked}
TITLES = {
    "contrastive": "Contrastive: tell the next windows from those of others",
    "masked": "Masked: reconstruct hidden spans and leads",
}
DEFAULT = "contrastive"


def method_from(values: Mapping[str, Any]) -> Method:
    """Build a method from JSON: ``method`` (``contrastive`` where it is left out) and its own settings.

    Raises InvalidInput that names each field that cannot be used, unknown ones in one error.
    """
    name = values.get("method", DEFAULT)
    if not isinstance(name, str) or name not in METHODS:
        raise_for({"method": f"Without labels a network learns by {' or '.join(METHODS)}, not {name!r}."})
    given = {key: value for key, value in values.items() if key != "method"}
    known = [f.name for f in fields(METHODS[name])]
    raise_for({key: f"'{name}' takes {', '.join(known)} only." for key in given if key not in known})
    return METHODS[name](**given)


def to_json(how: Method) -> dict[str, Any]:
    """Return what :func:`method_from` takes."""
    return {"method": name_of(how)} | asdict(how)


def name_of(how: Method) -> str:
    return next(name for name, kind in METHODS.items() if isinstance(how, kind))


def methods_schema() -> dict[str, dict[str, Any]]:
    """Return for each method the JSON schema of its settings, with title, default and reason per field."""
    return {name: described(kind)["properties"] for name, kind in METHODS.items()}


def raise_for(problems: Mapping[str, str]) -> None:
    """Raise InvalidInput with one sentence per field of ``pretraining``, if there is any."""
    if problems:
        sentences = {f"pretraining.{name}": sentence for name, sentence in problems.items()}
        raise InvalidInput(" ".join(problems.values()), code="bad_pretraining", fields=sentences)
