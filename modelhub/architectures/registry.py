"""Networks by name. This module imports torch: only jobs import it; pages use ``catalog``."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ecgportal.errors import InvalidInput
from modelhub.architectures import catalog, installed
from modelhub.architectures.base import EcgNetwork
from modelhub.architectures.catalog import ArchitectureFacts
from modelhub.architectures.companion import Accompanied
from modelhub.architectures.ensemble import Ensemble
from modelhub.contract import MOST_NETWORKS

_COMMON = ("n_leads", "n_samples", "fs_hz", "n_classes")
_BUILDERS: dict[str, Architecture] = {}
# Where the decorator puts what it sees; an installed file gets a register of its own while it runs.
_REGISTERS = [_BUILDERS]


@dataclass(frozen=True)
class Architecture:
    """A registered network: its facts and the function that builds it."""

    facts: ArchitectureFacts
    build: Callable[..., EcgNetwork]

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def title(self) -> str:
        return self.facts.title

    @property
    def options(self) -> dict[str, Any]:
        """The network's own settings with their defaults."""
        parameters = inspect.signature(self.build).parameters
        return {name: p.default for name, p in parameters.items() if name not in _COMMON}


def architecture(**facts: Any) -> Callable[[Callable[..., EcgNetwork]], Callable[..., EcgNetwork]]:
    """Register a build function. The arguments are the fields of ``ArchitectureFacts`` and must be literals."""
    known = ArchitectureFacts(**facts)

    def mark(function: Callable[..., EcgNetwork]) -> Callable[..., EcgNetwork]:
        register = _REGISTERS[-1]
        if known.name in register:
            raise ValueError(f"Two networks are called {known.name!r}.")
        register[known.name] = Architecture(known, function)
        return function

    return mark


@cache
def architectures() -> dict[str, Architecture]:
    """Return every network of the portal itself by name."""
    for module in catalog.modules():
        importlib.import_module(f"modelhub.architectures.{module}")
    return dict(sorted(_BUILDERS.items()))


def find_architecture(name: str) -> Architecture:
    """Return a network of the portal, or one that an administrator installed; NotFound names those that exist."""
    own = architectures().get(name)
    if own is not None:
        return own
    digest = catalog.facts_of(name).definition
    path = next(row.path for row in installed.definitions(tuple(architectures())) if row.sha256 == digest)
    networks = _run(path, digest)
    if name not in networks:
        raise InvalidInput(f"{path.name} does not register {name} when it runs.", code="definition_broken")
    return Architecture(replace(networks[name].facts, definition=digest), networks[name].build)


@cache
def _run(path: Path, digest: str) -> dict[str, Architecture]:
    architectures()
    _REGISTERS.append({})
    try:
        installed.run_definition(path, digest)
    finally:
        found = _REGISTERS.pop()
    return found


def build(
    name: str,
    *,
    n_leads: int,
    n_samples: int,
    fs_hz: float,
    n_classes: int,
    seed: int | None = None,
    members: int = 1,
    companion: bool = False,
    **config: Any,
) -> EcgNetwork:
    """Build a network with fresh weights; with ``members`` above 1 an ensemble of so many, each with its own weights; with
    ``companion`` a linear model of fixed features beside it, which says nothing yet.

    The same seed gives the same weights bit for bit on the CPU; the caller's random state is not touched when a seed
    is given. NotFound for an unknown name, InvalidInput for settings the network does not have or sizes it refuses.
    """
    entry = find_architecture(name)
    unknown = sorted(set(config) - set(entry.options))
    if unknown:
        offered = ", ".join(entry.options) or "none"
        raise InvalidInput(f"{entry.title} has no setting {', '.join(unknown)}; it has: {offered}.", code="bad_config")
    for label, value in (("leads", n_leads), ("samples", n_samples), ("classes", n_classes)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidInput(f"{entry.title} needs a positive whole number of {label}, not {value!r}.")
    if not (math.isfinite(fs_hz) and fs_hz > 0):
        raise InvalidInput(f"{entry.title} needs a positive sampling rate in hertz, not {fs_hz!r}.")
    if sentence := entry.facts.misfit(n_leads=n_leads, n_samples=n_samples, fs_hz=fs_hz):
        raise InvalidInput(f"{sentence} Choose another length or another network.", code="network_does_not_fit")
    sizes = {"n_leads": n_leads, "n_samples": n_samples, "fs_hz": fs_hz, "n_classes": n_classes}
    if isinstance(members, bool) or not isinstance(members, int):
        raise InvalidInput(f"The number of members must be a whole number, not {members!r}.", code="bad_config")

    def fresh() -> EcgNetwork:
        own = [entry.build(**sizes, **config) for _ in range(min(members, MOST_NETWORKS + 1))]
        network = own[0] if members == 1 else Ensemble(own)
        return Accompanied(network, fs_hz=fs_hz) if companion else network

    if seed is None:
        return fresh()
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return fresh()


def parameter_count(module: nn.Module) -> int:
    """Return the number of trainable parameters; shared tensors count once, complex numbers as two."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in module.parameters() if p.requires_grad)


def operation_count(module: nn.Module, x: torch.Tensor) -> int:
    """Return multiply-accumulates of convolutions and matrix products of any network for a forward pass of ``x``, by PyTorch's
    own count of what it calls; recurrent layers count as nothing."""
    from torch.utils.flop_counter import FlopCounterMode

    learning = [p for p in module.parameters() if p.requires_grad]
    try:
        # The counter follows gradients through every layer, and stumbles over one that is given a weight as its input.
        module.requires_grad_(False)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(x)
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
    return counter.get_total_flops() // 2


def mac_count(module: nn.Module, n_leads: int, n_samples: int) -> int:
    """Return multiply-accumulates of convolutions and linear layers for one ECG of the given size; a layer that computes in
    another way states its own (``own_macs``)."""
    total = 0

    def count(layer: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv1d):
            kernel = layer.kernel_size[0] * layer.in_channels // layer.groups
            total += kernel * layer.out_channels * output.shape[-1]
        elif isinstance(layer, nn.Linear):
            total += layer.in_features * output.numel()
        else:
            total += getattr(layer, "own_macs", 0)

    handles = [layer.register_forward_hook(count) for layer in module.modules()]
    was_training = module.training
    device = next(module.parameters()).device
    try:
        module.eval()
        with torch.no_grad():
            module(torch.zeros(1, n_leads, n_samples, device=device))
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    return total
