"""Check the layout of a safetensors file without creating a tensor. Needs no torch."""

from __future__ import annotations

import json
import math
from typing import Any

from ecgportal.errors import UnsafeFile

MAX_HEADER_BYTES = 4_000_000
MAX_TENSORS = 20_000
_SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


def check_safetensors(data: bytes) -> dict[str, str]:
    """Check the layout of a safetensors file without creating a tensor; return its metadata."""
    if len(data) < 8:
        raise _unsafe("it is shorter than its own header")
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise _unsafe(f"its header claims {length} bytes; at most {MAX_HEADER_BYTES} are read")
    if 8 + length > len(data):
        raise _unsafe("its header passes the end of the file")
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise _unsafe(f"its header is not valid JSON ({error})") from error
    if not isinstance(header, dict):
        raise _unsafe("its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _unsafe("its metadata is not a list of texts")
    if len(header) > MAX_TENSORS:
        raise _unsafe(f"it names {len(header)} tensors; at most {MAX_TENSORS} are read")
    spans = sorted(_span(name, entry) for name, entry in header.items())
    position = 0
    for start, end, name in spans:
        if start != position:
            word = "overlaps another one" if start < position else "leaves a gap before it"
            raise _unsafe(f"the tensor {name[:80]!r} {word}")
        position = end
    if position != len(data) - 8 - length:
        raise _unsafe("the tensors do not fill the file exactly")
    return metadata


def _span(name: str, entry: Any) -> tuple[int, int, str]:
    try:
        kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise _unsafe(f"the entry of the tensor {name[:80]!r} is incomplete") from None
    whole = (
        all(type(value) is int and value >= 0 for value in (*shape, start, end)) if isinstance(shape, list) else False
    )
    if not whole:
        raise _unsafe(f"the tensor {name[:80]!r} has a shape or offset that is not a whole number")
    if kind not in _SIZES:
        raise _unsafe(f"the tensor {name[:80]!r} has the type {str(kind)[:20]!r}, which is not read")
    if end - start != math.prod(shape) * _SIZES[kind]:
        raise _unsafe(f"the tensor {name[:80]!r} claims {math.prod(shape)} values in {end - start} bytes")
    return start, end, name


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _unsafe(reason: str) -> UnsafeFile:
    return UnsafeFile(f"The safetensors file was refused: {reason}.", code="bad_safetensors")
