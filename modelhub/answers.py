"""What people say about a model file that does not say it itself: the fields of a form or a request, as plain values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from datasets.ecg import LEADS_12
from ecgportal.errors import InvalidInput
from modelhub.contract import TASKS
from modelhub.onnx.metadata import SCALES, STANDARDIZERS

#: Names that may be answered, with the sentence that helps.
ANSWERS: dict[str, str] = {
    "classes": "The outputs in order, separated by commas.",
    "task": f"One of {', '.join(TASKS)}.",
    "leads": "The rows of the input in order, separated by commas.",
    "fs_hz": "The sampling rate of the input in hertz.",
    "n_samples": "The length of the input in samples.",
    "unit": "mV or uV: the unit in which the network takes its input.",
    "standardizer": f"One of {', '.join(STANDARDIZERS)}: how each record is standardised.",
    "architecture": "The network that weights belong to.",
}
_STRUCTURED = {"config": dict, "recipe": dict, "thresholds": dict}
#: All names that are read.
NAMES = (*ANSWERS, *_STRUCTURED, "contract", "scale")


def read_answers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answers among the values of a form or request; InvalidInput names each one that cannot be read.

    ``contract``, a JSON object, counts as well; fields of their own go before it. ``scale`` (``milliVolt``,
    ``mikroVolt``) is another way to say the unit.
    """
    found: dict[str, Any] = {}
    problems: dict[str, str] = {}
    contract = values.get("contract")
    if contract not in (None, ""):
        found.update(_contract(contract, problems))
    for name in ANSWERS:
        value = values.get(name)
        if value is None or value == "" or value == []:
            continue
        try:
            found[name] = _READERS.get(name, _word)(value)
        except ValueError:
            problems[name] = ANSWERS[name]
    for name, kind in _STRUCTURED.items():
        value = values.get(name)
        if value not in (None, ""):
            try:
                found[name] = _json(value, kind)
            except ValueError:
                problems[name] = "A JSON object."
    scale = values.get("scale")
    if scale in SCALES and "unit" not in found:
        found["unit"] = "uV" if scale == "mikroVolt" else "mV"
    _check_words(found, problems)
    if problems:
        raise InvalidInput("What was said about the model cannot be read.", code="bad_answers", fields=problems)
    return found


def _contract(value: Any, problems: dict[str, str]) -> dict[str, Any]:
    try:
        return dict(_json(value, dict))
    except ValueError:
        problems["contract"] = "A JSON object with what the file leaves open, for example its classes."
        return {}


def _json(value: Any, kind: type) -> Any:
    parsed = json.loads(value) if isinstance(value, (str, bytes)) else value
    if not isinstance(parsed, kind):
        raise ValueError
    return parsed


def _names(value: Any) -> list[str]:
    if isinstance(value, str):
        text = value.strip()
        value = (
            json.loads(text) if text.startswith("[") else [part.strip() for part in text.replace("\n", ",").split(",")]
        )
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise ValueError
    return [name.strip() for name in value if name.strip()]


def _leads(value: Any) -> list[str]:
    known = {name.lower(): name for name in LEADS_12}
    return [known.get(name.lower(), name) for name in _names(value)]


def _rate(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not (math.isfinite(number) and number > 0):
        raise ValueError
    return number


def _count(value: Any) -> int:
    number = float(value)
    if isinstance(value, bool) or not number.is_integer() or number < 1:
        raise ValueError
    return int(number)


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value.strip()


_READERS: dict[str, Any] = {"classes": _names, "leads": _leads, "fs_hz": _rate, "n_samples": _count}


def _check_words(found: Mapping[str, Any], problems: dict[str, str]) -> None:
    for name, allowed in (("task", TASKS), ("unit", ("mV", "uV", "1")), ("standardizer", STANDARDIZERS)):
        if name in found and name not in problems and found[name] not in allowed:
            problems[name] = ANSWERS[name]
