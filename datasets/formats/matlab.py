"""MATLAB files: arrays and structs of level 4 and 5, and level 7.3, which is HDF5."""

from __future__ import annotations

from typing import Any

import numpy as np

from datasets.ecg import LEADS_12, Record, RecordMeta
from datasets.formats import _hdf
from datasets.formats._arrays import Told, is_signal_shape, record_of, told_by
from datasets.formats._clinical import number, sex, stem
from datasets.formats._matfile import is_level4, is_level5, read_matfile
from datasets.formats.base import Reader, ReadOptions, ReadResult, Source, read_bytes, reader
from ecgportal.errors import UnreadableFile

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
    variables = read_matfile(read_bytes(source), source.name)
    return ReadResult(((stem(source.name), _record(source.name, variables, options)),))


def _record(name: str, variables: dict[str, Any], options: ReadOptions) -> Record:
    """Choose the array that is the ECG, and what the values beside it say."""
    beside: dict[str, object] = {}
    arrays: dict[str, np.ndarray] = {}
    for key, value in _flat(variables):
        if isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and is_signal_shape(_squeezed(value).shape):
            arrays[key] = _squeezed(value)
        elif isinstance(value, np.ndarray) and value.size == 1:
            beside[key.rpartition(".")[2]] = value.item()
        elif isinstance(value, str | list):
            beside[key.rpartition(".")[2]] = value
    if len(arrays) > 1:
        named = {key: a for key, a in arrays.items() if key.rpartition(".")[2].lower() in _USUAL}
        arrays = named if len(named) == 1 else arrays
    if len(arrays) != 1:
        listed = (
            ", ".join(f"{key} {a.shape}" for key, a in list(arrays.items())[:10])
            or ", ".join(list(variables)[:10])
            or "nothing"
        )
        raise UnreadableFile(
            f"{name} holds {'several arrays that could be' if arrays else 'no array that is'} an ECG: {listed}. "
            "Save one array (leads, samples) in the file.",
            code="not_an_ecg",
        )
    ((key, array),) = arrays.items()
    told = told_by(beside)
    age = number(beside.get("age"))
    word = beside.get("sex") or beside.get("gender")
    meta = RecordMeta(
        age=age if age is not None and 0 <= age <= 130 else None, sex=sex(word if isinstance(word, str) else None)
    )
    guesses = _guesses(key, array, beside)
    return record_of(name, array, Told(told.fs_hz, told.unit_mv, told.leads, *guesses, meta), options)


_USUAL = frozenset(("val", "data", "ecg", "signal", "signals", "feats", "tracing", "tracings", "x"))


def _guesses(
    key: str, array: np.ndarray, beside: dict[str, object]
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


def _squeezed(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1) if array.ndim == 2 and 1 in array.shape else array


def _flat(variables: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in variables.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


reader(Reader(name="matlab", title="MATLAB array", suffixes=(".mat",), sniff=_sniff, read=_read))
