"""The metadata that ONNX files of the portal carry, and the keys of ExChanGeAI files.

ExChanGeAI (https://github.com/imi-ms/exchangeai) reads ``target_keys`` (a Python list literal of class names),
``standardizer`` (``None``, ``minMax``, ``meanStd``), ``scale`` (``milliVolt``, ``mikroVolt``) and ``sampling_rate``.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping

from ecgportal.errors import InvalidInput, UnsafeFile
from modelhub.contract import MAX_CLASS_NAME, MAX_CLASSES, ModelContract

CONTRACT_KEY = "ecg_portal.contract"
ARCHITECTURE_KEY = "ecg_portal.architecture"
CONFIG_KEY = "ecg_portal.config"

STANDARDIZERS = ("None", "minMax", "meanStd")
SCALES = ("milliVolt", "mikroVolt")
# ExChanGeAI knows two standardizers, both over the whole record; each of our kinds is written as the nearest one.
_NEAREST = {
    "none": "None",
    "min_max": "minMax",
    "lead_zscore": "meanStd",
    "record_zscore": "meanStd",
    "mean_std": "meanStd",
}
MAX_TARGET_KEYS_CHARS = 100_000


def metadata_of(contract: ModelContract) -> dict[str, str]:
    """Return the metadata properties to write into an ONNX file."""
    values = {
        CONTRACT_KEY: contract.to_json(),
        "target_keys": repr(list(contract.classes)),
        "standardizer": _NEAREST[contract.normalisation],
        "scale": "mikroVolt" if contract.unit == "uV" else "milliVolt",
        "sampling_rate": f"{contract.fs_hz:g}",
    }
    if contract.architecture:
        values[ARCHITECTURE_KEY] = contract.architecture
        values[CONFIG_KEY] = json.dumps(contract.config, sort_keys=True, allow_nan=False)
    return values


def first_values(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return key -> value. A key that comes twice with different values is refused; equal repeats are harmless."""
    found: dict[str, str] = {}
    for key, value in pairs:
        if found.setdefault(key, value) != value:
            raise UnsafeFile(
                f"The file's metadata names {key[:80]!r} twice with different values. Export the model again.",
                code="ambiguous_metadata",
            )
    return found


def parse_target_keys(text: str, n_outputs: int | None = None) -> tuple[str, ...]:
    """Read the class names of an ExChanGeAI file: a literal list of strings, never evaluated.

    UnsafeFile when the text is not such a list, is too long, repeats a name, or differs from ``n_outputs``.
    """
    shown = text[:80]
    if len(text) > MAX_TARGET_KEYS_CHARS:
        raise UnsafeFile(
            f"The metadata target_keys has {len(text)} characters; at most {MAX_TARGET_KEYS_CHARS} are read.",
            code="bad_target_keys",
        )
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise UnsafeFile(
            f"The metadata target_keys is not a list of class names; it reads {shown!r}. It was not evaluated.",
            code="bad_target_keys",
        ) from None
    if not isinstance(value, (list, tuple)) or not all(isinstance(n, (str, int)) for n in value):
        raise UnsafeFile(
            f"The metadata target_keys must be a list of class names; it reads {shown!r}.", code="bad_target_keys"
        )
    names = tuple(str(name) for name in value)
    if not names or len(names) > MAX_CLASSES or any(not n.strip() or len(n) > MAX_CLASS_NAME for n in names):
        raise UnsafeFile(
            f"The metadata target_keys must hold 1 to {MAX_CLASSES} names of 1 to {MAX_CLASS_NAME} characters.",
            code="bad_target_keys",
        )
    if len(set(names)) != len(names):
        raise UnsafeFile("The metadata target_keys names a class twice.", code="bad_target_keys")
    if n_outputs is not None and len(names) != n_outputs:
        raise UnsafeFile(
            f"The metadata target_keys names {len(names)} classes, but the model has {n_outputs} outputs. "
            "Name the classes when importing the file.",
            code="class_count_differs",
        )
    return names


def contract_in(values: Mapping[str, str]) -> ModelContract | None:
    """Return the portal's own contract from a file's metadata, or None when the file carries none."""
    text = values.get(CONTRACT_KEY)
    if text is None:
        return None
    try:
        return ModelContract.from_json(text)
    except InvalidInput as error:
        raise UnsafeFile(
            f"The file carries a contract that cannot be used. {error.message}", code="bad_contract"
        ) from error
