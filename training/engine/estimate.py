"""What a run will cost: size, arithmetic, memory and time of a network on this machine, measured by a short probe."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelhub.architectures.registry import operation_count
from training.engine.batches import Stepper, first_forward
from training.engine.device import resolve_device
from training.engine.lr_finder import STEPS
from training.engine.memory import kept_memory
from training.engine.network import Form, freeze_for, rate_factors, train_mode
from training.engine.optim import build_optimiser
from training.engine.seeding import deterministic, kept_random_state
from training.engine.settings import FitSettings
from training.engine.stages import plan

# Records per step of the probe on a processor, where the time of a record hardly depends on the batch.
PROBE_RECORDS = 8


@dataclass(frozen=True)
class Estimate:
    """The cost of a run.

    parameters, trained_parameters: numbers of all weights and of those that the last stage trains.
    macs: multiply-accumulates of convolutions and matrix products for one record's forward pass.
    memory_bytes: weights, gradients, optimiser state, running average and what a batch keeps for the backward pass;
        the libraries' own needs come on top. model_bytes: the weights alone, as stored.
    records_per_s: training speed. epoch_s: one epoch with its validation. run_s: all epochs and, where the settings ask
        for it, the learning-rate finder; early stopping can only make it less. Stages are weighed by their epochs.
    device: what was measured on. All times are None when the probe was not wanted.
    """

    parameters: int
    trained_parameters: int
    macs: int
    memory_bytes: int
    model_bytes: int
    records_per_s: float | None
    epoch_s: float | None
    run_s: float | None
    device: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def estimate(
    module: nn.Module,
    settings: FitSettings,
    *,
    n_leads: int,
    n_samples: int,
    n_train: int,
    n_validation: int = 0,
    device: str = "auto",
    probe: bool = True,
) -> Estimate:
    """Estimate the cost of training ``module`` with ``settings`` on ``n_train`` records of one shape.

    ``module`` and the random state are left as they were. The probe runs two training steps and a forward pass of
    ``PROBE_RECORDS`` records per stage (a whole batch on an accelerator); about a second for InceptionTime on one core.

    Raises TrainingFailed (``network_does_not_fit``) when the network does not take signals of this shape.
    """
    place = resolve_device(device)
    with kept_random_state(), deterministic(settings.threads, place), kept_memory():
        x = torch.randn(2, n_leads, n_samples, generator=torch.Generator().manual_seed(0)) * 0.2
        module = copy.deepcopy(module).cpu().eval()
        first_forward(module, x)
        macs = operation_count(module, x[:1])
        form = Form(module, place, (n_leads, n_samples))
        batch = min(settings.batch_for(n_train), max(1, n_train))
        stages = plan(settings).stages
        kept, seconds = 0, 0.0
        for stage, epochs in stages:
            kept = max(kept, _training_bytes(form.net, x.to(place), stage, batch, settings))
            if probe:
                step_s, forward_s = _probe(form.net, x, stage, batch, settings, place)
                seconds += epochs * (n_train * step_s + n_validation * forward_s)
        trained = sum(p.numel() for p in form.net.parameters() if p.requires_grad)
        weights = sum(t.numel() * t.element_size() for t in module.state_dict().values())
        memory = kept + weights * (2 if settings.ema_decay > 0 else 1)
    per_epoch = seconds / settings.epochs if probe else None
    finder = STEPS * batch * (seconds / settings.epochs / max(1, n_train)) if settings.learning_rate is None else 0.0
    return Estimate(
        parameters=sum(p.numel() for p in module.parameters()), trained_parameters=trained, macs=macs, memory_bytes=memory,
        model_bytes=weights, records_per_s=n_train / per_epoch if per_epoch and n_train else None, epoch_s=per_epoch,
        run_s=seconds + finder if probe else None, device=str(place),
    )  # fmt: skip


def _training_bytes(net: nn.Module, x: Tensor, stage: str, batch: int, settings: FitSettings) -> int:
    """Return gradients, optimiser state and what ``batch`` records keep for the backward pass, in bytes."""
    train_mode(net, freeze_for(net, stage))
    own = {p.data_ptr() for p in net.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # Held until the count is done, so that no storage is freed and counted under another's address.
        outputs = net(x)
    activations = sum(seen.values()) * batch // len(x)
    del outputs
    trained = sum(p.numel() * p.element_size() for p in net.parameters() if p.requires_grad)
    moments = 1 if settings.optimiser == "sgd" else 2
    return activations + batch * x[0].numel() * x.element_size() + trained * (1 + moments)


def _probe(
    net: nn.Module, x: Tensor, stage: str, batch: int, settings: FitSettings, place: torch.device
) -> tuple[float, float]:
    """Return seconds per record of a training step and of a forward pass."""
    records = max(2, min(batch, PROBE_RECORDS) if place.type == "cpu" else batch)
    signals = x[:1].expand(records, -1, -1).contiguous().to(place)
    kept = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
    train_mode(net, freeze_for(net, stage))
    optimiser = build_optimiser(net, settings, 1e-8, rate_factors(net, stage, settings.trunk_rate_factor))
    autocast = settings.mixed_precision and place.type == "cuda" and torch.cuda.is_bf16_supported()
    stepper = Stepper(net, lambda o, _: o.float().square().mean(), autocast=autocast, piece=batch, note=lambda _: None)
    targets = torch.zeros(records, 1, device=place)

    def step() -> None:
        stepper.gradients(signals, targets)
        optimiser.step()

    def forward() -> None:
        with torch.inference_mode(), torch.autocast(place.type, torch.bfloat16, enabled=autocast):
            net(signals)

    step()
    step_s = _timed(step, place)
    net.eval()
    forward_s = _timed(forward, place)
    optimiser.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            tensor.copy_(kept[name])
    return step_s / records, forward_s / records


def _timed(work: Any, place: torch.device) -> float:
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    begun = time.perf_counter()
    work()
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    return time.perf_counter() - begun
