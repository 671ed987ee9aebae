"""Weights in and out: safetensors always; PyTorch state dictionaries only inside a restricted process."""

from __future__ import annotations

import json
import math
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ecgportal.errors import InvalidInput, UnsafeFile
from modelhub.architectures.base import EcgNetwork

MAX_HEADER_BYTES = 4_000_000
MAX_TENSORS = 20_000
_SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


def save_safetensors(module: nn.Module, metadata: dict[str, str] | None = None) -> bytes:
    """Return a safetensors file of the module's state. The same state gives the same bytes."""
    state = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    return safetensors.torch.save(state, metadata)


def read_safetensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file after checking every claim of its header.

    UnsafeFile for a header beyond 4 MB, offsets that overlap, leave gaps or pass the end, sizes that do not fit the
    shapes, unknown types, and for values that are not finite.
    """
    check_safetensors(data)
    state = safetensors.torch.load(data)
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UnsafeFile(
                f"The weights {name!r} hold values that are not finite numbers. Export the model again.",
                code="weights_not_finite",
            )
    return state


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


def load_safetensors(module: nn.Module, data: bytes) -> None:
    """Load a safetensors file into a module; names, shapes and types must match exactly."""
    load_state(module, read_safetensors(data))


def load_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load tensors into a module; InvalidInput (``weights_do_not_fit``) lists what differs."""
    own = module.state_dict()
    idle = module.idle_tensors() if isinstance(module, EcgNetwork) else frozenset()
    missing = sorted(set(own) - set(state) - idle - {n for n in own if n.endswith("num_batches_tracked")})
    strange = sorted(set(state) - set(own))
    shapes = [n for n in own if n in state and own[n].shape != state[n].shape]
    if missing or strange or shapes:
        parts = [f"{len(missing)} are missing, such as {missing[0]}"] if missing else []
        parts += [f"{len(strange)} are not known, such as {strange[0][:80]!r}"] if strange else []
        for name in shapes[:1]:
            parts.append(f"{name} has shape {tuple(state[name].shape)} instead of {tuple(own[name].shape)}")
        raise InvalidInput(
            f"The weights do not fit the network {type(module).__name__}: {'; '.join(parts)}. "
            "Check the architecture, its settings and the number of classes.",
            code="weights_do_not_fit",
        )
    module.load_state_dict(own | state, strict=True)


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
