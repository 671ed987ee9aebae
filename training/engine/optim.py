"""Optimisers and their parameter groups."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from modelhub.runtime.pieces import free_cached_memory, is_out_of_memory
from training.engine.network import no_decay_names
from training.engine.settings import FitSettings


def _without_compiler(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Return the optimiser without its provisions for ``torch.compile``: they import the compiler, a second at each start."""
    plain = {name: inspect.unwrap(getattr(kind, name)) for name in ("add_param_group", "state_dict", "zero_grad")}
    return type(kind.__name__, (kind,), plain | {"step": torch.no_grad()(inspect.unwrap(kind.step))})


AdamW, Adam, NAdam, SGD = (
    _without_compiler(kind) for kind in (torch.optim.AdamW, torch.optim.Adam, torch.optim.NAdam, torch.optim.SGD)
)
OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": AdamW,
    "adam": Adam,
    "nadam": lambda groups, **kw: NAdam(groups, decoupled_weight_decay=True, **kw),
    "sgd": lambda groups, **kw: SGD(groups, momentum=0.9, nesterov=True, **kw),
}


def build_optimiser(
    net: nn.Module, settings: FitSettings, learning_rate: float, factors: dict[str, float]
) -> torch.optim.Optimizer:
    """Build the optimiser over the parameters that need a gradient.

    factors: rate factor by parameter name (1 where not named). Each group keeps its peak in ``peak``.
    Norms, biases and vectors get no decay.
    """
    plain = no_decay_names(net)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, p in net.named_parameters():
        if p.requires_grad:
            groups.setdefault((factors.get(name, 1.0), name not in plain), []).append(p)
    listed: list[dict[str, Any]] = [
        {
            "params": members, "lr": learning_rate * factor, "peak": learning_rate * factor,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (factor, decays), members in sorted(groups.items(), key=lambda item: item[0])
    ]  # fmt: skip
    return OPTIMISERS[settings.optimiser](listed, lr=learning_rate)


def step(optimiser: torch.optim.Optimizer, note: Callable[[str], None]) -> None:
    """Do one step. In its first an optimiser makes its state, up to twice the weights' size; when memory runs out there,
    what had changed is put back and the step is done one tensor after the other, with the same result.

    note: told so. Memory that is still too small is reported as it is; the weights are then of no use.
    """
    if optimiser.state:
        optimiser.step()
        return
    parameters = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    # In the main memory, so that an accelerator's is left alone.
    before = [p.detach().to("cpu", copy=True) for p in parameters]
    try:
        optimiser.step()
        return
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    optimiser.state.clear()
    free_cached_memory()
    gradients = [p.grad for p in parameters]
    with torch.no_grad():
        for p, weights in zip(parameters, before, strict=True):
            p.copy_(weights)
            p.grad = None
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient
        optimiser.step()
        p.grad = None
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient
    note("Memory ran out in the optimiser's first step; it was done one tensor after the other, with the same result.")


def set_rate(optimiser: torch.optim.Optimizer, factor: float) -> float:
    """Set every group's rate to its peak times ``factor``; return the highest."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor
    return max(group["lr"] for group in optimiser.param_groups)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Split the optimiser's state into tensors by ``<parameter>/<key>`` and plain values."""
    tensors, plain = {}, {}
    for index, values in optimiser.state_dict()["state"].items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}/{key}"] = value.detach()
            else:
                plain[f"{index}/{key}"] = value
    return tensors, plain


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], plain: dict[str, Any]) -> None:
    """Put back what :func:`optimiser_tensors` gave, in the memory layout of the parameters."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        index, key = name.split("/", 1)
        p = parameters[int(index)]
        if tensor.shape == p.shape:
            # Same strides as the parameter, so that the same kernels run as without the interruption.
            tensor = torch.empty_like(p, dtype=tensor.dtype, memory_format=torch.preserve_format).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor.detach()
    for name, value in plain.items():
        index, key = name.split("/", 1)
        state.setdefault(int(index), {})[key] = value
    for number, values in state.items():
        optimiser.state[parameters[number]] = values
