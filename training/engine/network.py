"""The network as the loop sees it: its fast form, its head and trunk, and what is frozen."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ecgportal.errors import TrainingFailed
from training.engine.device import fetched

State = dict[str, Tensor]
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d)


class Form:
    """A copy of a network in the form that is fastest on the device, with the way back to the given one.

    On a processor convolutions over one axis run about twice as fast as two-dimensional ones of height one
    in channels-last order; weights then differ by that axis only, so shapes map by reshaping. The network
    handed in is never changed.
    """

    def __init__(self, module: nn.Module, device: torch.device, shape: tuple[int, int], *, fast: bool = True):
        self.shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
        self.net, self.prefix = copy.deepcopy(module), ""
        if device.type in ("cpu", "cuda") and fast:
            lifted = _as_2d(self.net, device)
            if lifted is not None and _same_outputs(self.net, lifted, shape):
                self.net, self.prefix = lifted, "net."
        self.net.to(device)

    @property
    def is_2d(self) -> bool:
        return bool(self.prefix)

    def state_1d(self, net: nn.Module | None = None) -> State:
        """Return weights and buffers by the given network's names and shapes, as new tensors on the processor."""
        own = (net or self.net).state_dict()
        found = fetched([own[self.prefix + name] for name in self.shapes])
        return {
            name: tensor.clone().reshape(shape)
            for (name, shape), tensor in zip(self.shapes.items(), found, strict=True)
        }

    def load_1d(self, state: Mapping[str, Tensor], net: nn.Module | None = None) -> None:
        """Load what :meth:`state_1d` gave; the memory layout stays as it is."""
        own = (net or self.net).state_dict()
        with torch.no_grad():
            for name in self.shapes:
                tensor = own[self.prefix + name]
                tensor.copy_(state[name].reshape(tensor.shape))


def _as_2d(module: nn.Module, device: torch.device) -> nn.Module | None:
    """Return the two-dimensional form, None where the network has none."""
    if not getattr(module, "has_2d_form", False):
        return None
    from modelhub.architectures.fast import FastForm, as_2d

    fast = as_2d(module, on_processor=device.type == "cpu")  # type: ignore[arg-type]
    return fast if isinstance(fast, FastForm) else None


def _same_outputs(slow: nn.Module, fast: nn.Module, shape: tuple[int, int]) -> bool:
    """Compare both forms on two fixed signals in eval mode; modes are restored."""
    x = torch.sin(torch.arange(2 * shape[0] * shape[1], dtype=torch.float32) * 0.37).reshape(2, *shape)
    modes = slow.training, fast.training
    with torch.no_grad():
        a, b = slow.eval()(x), fast.eval()(x)
    slow.train(modes[0])
    fast.train(modes[1])
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=1e-3, atol=1e-4))


def head_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers that turn features into classes.

    They are the network's own ``head_modules()``; for a foreign network the last layer with weights.
    """
    own = getattr(module, "head_modules", None)
    layers: list[nn.Module] = list(own()) if callable(own) else []
    if not layers:
        layers += [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))][-1:]
    if not layers:
        raise TrainingFailed(
            "This network has no layer that could be its head; train all layers instead.", code="no_head"
        )
    return layers


def parameter_names(module: nn.Module, layers: list[nn.Module]) -> set[str]:
    """Return the names, within ``module``, of all parameters of these layers."""
    inside = {id(p) for layer in layers for p in layer.parameters()}
    return {name for name, p in module.named_parameters() if id(p) in inside}


def freeze_for(net: nn.Module, stage: str) -> list[nn.Module] | None:
    """Freeze everything but the head in stage ``head``; return the layers that then train, None for all.

    Parameters that were frozen when the network came in stay frozen in every stage.
    """
    for p in net.parameters():
        if not hasattr(p, "_frozen_from_start"):
            p._frozen_from_start = not p.requires_grad  # type: ignore[attr-defined]
    layers = head_layers(net) if stage == "head" else None
    head = parameter_names(net, layers) if layers is not None else None
    for name, p in net.named_parameters():
        p.requires_grad_(not p._frozen_from_start and (head is None or name in head))  # type: ignore[attr-defined]
    return layers


def rate_factors(net: nn.Module, stage: str, trunk_factor: float) -> dict[str, float]:
    """Return the rate factor by parameter: the trunk's in stage ``full``, everything's in ``full_after_head``.

    After a stage with the head alone the head has converged on the trunk as it was, and both then move in
    small steps (Kumar et al. 2022, arXiv 2202.10054).
    """
    if stage == "full_after_head":
        return {name: trunk_factor for name, _ in net.named_parameters()}
    if stage == "full":
        head = parameter_names(net, head_layers(net))
        return {name: trunk_factor for name, _ in net.named_parameters() if name not in head}
    return {}


def no_decay_names(module: nn.Module) -> set[str]:
    """Return the parameters that weight decay must leave alone: norms, biases, vectors, and what the network names."""
    inside_norms = {id(p) for m in module.modules() if isinstance(m, _NORMS) for p in m.parameters()}
    own = set(getattr(module, "no_decay", ()) or ())
    return {
        name
        for name, p in module.named_parameters()
        if p.ndim < 2 or id(p) in inside_norms or name.endswith("bias") or name in own or name.rsplit(".", 1)[-1] in own
    }


def train_mode(net: nn.Module, only: list[nn.Module] | None) -> None:
    """Put the network in training mode; with ``only`` given, everything outside those layers in eval mode.

    In eval mode batch normalisation does not move its running statistics, so a frozen trunk stays the same
    function, bit for bit.
    """
    net.train(only is None)
    for layer in only or []:
        layer.train()


def in_target_units(state: State, form: Form, centre: np.ndarray, spread: np.ndarray) -> State:
    """Fold the targets' mean and deviation into the head, so that the network answers in the targets' unit."""
    inside = head_layers(form.net)[-1].modules()
    layer = [m for m in inside if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))][-1:]
    if not layer:
        raise _cannot_answer_in_units()
    prefix = next(name for name, m in form.net.named_modules() if m is layer[0]).removeprefix(form.prefix)
    weight, bias = state.get(f"{prefix}.weight"), state.get(f"{prefix}.bias")
    if weight is None or bias is None or len(bias) != len(centre):
        raise _cannot_answer_in_units()
    wide = torch.as_tensor(spread, dtype=weight.dtype).reshape(-1, *[1] * (weight.ndim - 1))
    return state | {
        f"{prefix}.weight": weight * wide,
        f"{prefix}.bias": bias * wide.flatten() + torch.as_tensor(centre, dtype=weight.dtype),
    }


def out_of_target_units(state: State, form: Form, centre: np.ndarray, spread: np.ndarray) -> State:
    """Take the targets' mean and deviation out of a head that answers in their unit: what :func:`in_target_units` undoes."""
    return in_target_units(state, form, -centre / spread, 1 / spread)


def check_target_units(module: nn.Module, form: Form, x: Tensor, centre: np.ndarray, spread: np.ndarray) -> None:
    """Raise TrainingFailed when :func:`in_target_units` is not exact for this network (an activation after its head, say).

    module: the network as handed in, on the processor; x: some records, ``(records, leads, samples)``.
    """
    trial = copy.deepcopy(module).eval()
    with torch.no_grad():
        wanted = trial(x) * torch.as_tensor(spread, dtype=x.dtype) + torch.as_tensor(centre, dtype=x.dtype)
        trial.load_state_dict(in_target_units(trial.state_dict(), form, centre, spread))
        if not torch.allclose(trial(x), wanted, rtol=1e-3, atol=1e-3 * float(np.max(spread))):
            raise _cannot_answer_in_units()


def _cannot_answer_in_units() -> TrainingFailed:
    return TrainingFailed(
        "This network does not end in a linear layer with a bias, which a regression needs to answer in the target's "
        "unit. Choose another network.",
        code="network_does_not_fit",
    )


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 over names, shapes, types and bytes of all tensors, in name order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Average:
    """Exponential moving average of weights and buffers (EMA), with a warm-up so that early steps do not weigh on it."""

    def __init__(self, net: nn.Module, decay: float):
        self.net, self.decay, self.steps = copy.deepcopy(net).requires_grad_(False), decay, 0
        mine, theirs = self.net.state_dict(), net.state_dict()
        smooth = [name for name, tensor in theirs.items() if tensor.is_floating_point() or tensor.is_complex()]
        others = [name for name in theirs if name not in smooth]
        # The tensors stay the same ones throughout a training; to look them up takes longer than to average them.
        self._smooth = [mine[name] for name in smooth], [theirs[name] for name in smooth]
        self._others = [mine[name] for name in others], [theirs[name] for name in others]

    def update(self) -> None:
        """Take in what the network is now."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(*self._smooth, 1 - decay)
            if self._others[0]:
                torch._foreach_copy_(*self._others)
