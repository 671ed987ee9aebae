"""How the form and the page of a run say the settings: a word for each choice, units, and what an empty value means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from training.engine.settings import settings_schema

WORDS: dict[str, dict[Any, str]] = {
    "optimiser": {"adamw": "AdamW", "adam": "Adam", "nadam": "NAdam", "sgd": "SGD with momentum"},
    "schedule": {"one_cycle": "one cycle (rises, then falls)", "cosine": "cosine (falls after a short rise)", "constant": "constant"},
    "class_weights": {"none": "none", "sqrt": "root of the inverse frequency", "balanced": "inverse frequency"},
    "companion": {"auto": "automatic", "always": "always", "never": "never"},
    "monitor": {"auto": "automatic", "loss": "validation loss"},
    "mixed_precision": {True: "yes", False: "no"},
}  # fmt: skip
UNITS = {
    "batch_size": "records", "head_epochs": "epochs", "smoothing": "epochs", "patience": "epochs", "noise_mv": "mV", "shift_s": "s",
    "wander_mv": "mV", "hum_mv": "mV",
}  # fmt: skip
#: What an empty value means.
EMPTY = {
    "learning_rate": "found before the start", "head_epochs": "a quarter of the epochs", "clip_norm": "no limit",
    "members": "by the portal", "batch_size": "by the number of records", "patience": "never stop early", "threads": "by PyTorch",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One setting in words. used: what the run took where the portal chose, else empty. default: empty where it is in force."""

    title: str
    value: str
    used: str = ""
    default: str = ""


def said(name: str, value: Any) -> str:
    """Return a setting's value in words, with its unit."""
    if value is None:
        return EMPTY.get(name, "none")
    if name in WORDS:
        # What chooses the epoch may be any metric of the task.
        return WORDS[name].get(value, str(value).replace("_", " "))
    number = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{number} {UNITS[name]}" if name in UNITS else number


def choices(name: str, values: list[Any]) -> list[tuple[Any, str]]:
    """Return what a form offers for a setting."""
    return [(value, said(name, value).capitalize() if name != "optimiser" else said(name, value)) for value in values]


def rows(settings: Mapping[str, Any], used: Mapping[str, Any]) -> list[Row]:
    """Return the settings of a run in words, those first that differ from the default. used: what a run took for settings
    that were left to the portal, by their names; of the augmentation how much of its signals stood for 1 mV, where they have no unit."""
    known = settings_schema()["properties"]
    found = []
    for name, entry in known.items():
        if name not in settings or name == "mode":
            continue
        value, default = settings[name], entry.get("default")
        if name == "augmentation":
            told, usual = changes(value), changes({})
            taken = (
                f"1 mV taken as {used[name]:g} of the prepared signals, by their spread"
                if used.get(name) and "mV" in told
                else ""
            )
        else:
            told, usual = said(name, value), said(name, default)
            taken = _short(name, used[name]) if value is None and used.get(name) is not None else ""
        found.append(Row(entry["title"], told, taken, "" if told == usual else usual))
    return sorted(found, key=lambda row: not row.default)


def _short(name: str, value: Any) -> str:
    """Return a value that was found and not chosen: two digits say enough."""
    return said(name, float(f"{value:.2g}") if isinstance(value, float) else value)


def tried(values: Mapping[str, Any], names: Iterable[str] | None = None) -> str:
    """Return settings in one line, those that a training of a search tried or the named ones. An augmentation is a word, or its parts."""
    known = settings_schema()["properties"]
    told = []
    for name in (name for name in known if name in values and (names is None or name in names)):
        value = values[name]
        word = changes(value) if isinstance(value, Mapping) else said(name, value)
        told.append(f"{known[name]['title'].lower()} {word}")
    return ", ".join(told)


def titles(names: Iterable[str]) -> list[str]:
    """Return what settings are called within a sentence."""
    known = settings_schema()["properties"]
    return [known[name]["title"].lower() for name in names]


def changes(values: Mapping[str, Any]) -> str:
    """Return the random changes that are on; those that are not named are as usual."""
    known = settings_schema()["properties"]["augmentation"]["properties"]
    full = {name: (values or {}).get(name, entry["default"]) for name, entry in known.items()}
    on = [f"{known[name]['title'].lower()} {said(name, float(value))}" for name, value in full.items() if value]
    return ", ".join(on) or "none"
