"""Weights in and out: safetensors always; PyTorch state dictionaries only inside a restricted process."""

from __future__ import annotations

import safetensors.torch
import torch
from torch import Tensor, nn

from ecgportal.errors import InvalidInput, UnsafeFile
from modelhub.architectures.base import EcgNetwork
from modelhub.safetensors_check import check_safetensors


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
