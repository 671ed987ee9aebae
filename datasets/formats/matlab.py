"""MATLAB files: arrays and structs of level 4 and 5, and level 7.3, which is HDF5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from datasets.ecg import LEADS_12
from datasets.formats import _hdf
from datasets.formats._arrays import MAX_BESIDE, Told, records_of
from datasets.formats._matfile import is_level4, is_level5, read_matfile
from datasets.formats.base import Reader, ReadOptions, ReadResult, Source, read_bytes, reader

_LEVEL73 = b"MATLAB 7.3 MAT-file"


def _sniff(head: bytes, name: str) -> bool:
    if head.startswith(_LEVEL73):
        return True
    return is_level5(head) or (name.lower().endswith(".mat") and is_level4(head))


def _read(source: Source, options: ReadOptions) -> ReadResult:
    with source.open() as stream:
        head = stream.read(128)
    if head.startswith(_LEVEL73):
        return _hdf.read_hdf(source, options)
    arrays: dict[str, np.ndarray] = {}
    beside: dict[str, object] = {}
    for key, value in _flat(read_matfile(read_bytes(source), source.name)):
        if isinstance(value, np.ndarray) and value.size == 1:
            beside[key] = value.item()
        elif isinstance(value, np.ndarray):
            arrays[key] = value
            if value.size <= MAX_BESIDE and value.dtype.kind in "iuf":
                # A gain or an offset for each lead.
                beside.setdefault(key, value.reshape(-1).tolist())
        elif isinstance(value, str | list):
            beside[key] = value
    return records_of(source.name, arrays, beside, options, _known_collections)


def _known_collections(key: str, array: np.ndarray, told: Told, beside: Mapping[str, object]) -> Told:
    """Add the guesses of rate and unit for the layouts of known collections."""
    fs_guess, unit_guess = _guesses(key, array, beside)
    return replace(told, fs_guess=fs_guess, unit_guess=unit_guess)


def _guesses(
    key: str, array: np.ndarray, beside: Mapping[str, object]
) -> tuple[tuple[str, str] | None, tuple[str, str] | None]:
    """Return the guesses of rate and unit for the layouts of known collections."""
    if key.lower() == "ecg.data" and {"sex", "age"} <= beside.keys() and len(LEADS_12) in array.shape:
        return (
            ("500", "The struct ECG with sex, age and data is that of CPSC 2018, which was recorded at 500 Hz."),
            ("mV", "The struct ECG with sex, age and data is that of CPSC 2018, which is in mV."),
        )
    if key == "val" and array.dtype.kind == "i":
        reason = "An integer matrix 'val' is a signal file of the PhysioNet/CinC Challenges; upload its header (.hea) beside it for certainty."
        return ("500", reason), ("1000/mV", reason)
    return None, None


def _flat(variables: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return all values by path. Of an array of structs and of a cell of matrices each entry has its number in the path."""
    found: list[tuple[str, Any]] = []
    for key, value in variables.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            for number, entry in enumerate(value, start=1):
                found += _flat(entry, f"{prefix}{key}.{number:06d}.")
        elif isinstance(value, list) and any(
            isinstance(entry, np.ndarray) and entry.size > MAX_BESIDE for entry in value
        ):
            found += [(f"{prefix}{number:06d}.{key}", entry) for number, entry in enumerate(value, start=1)]
        else:
            found.append((f"{prefix}{key}", value))
    return found


reader(Reader(name="matlab", title="MATLAB array", suffixes=(".mat",), sniff=_sniff, read=_read))
