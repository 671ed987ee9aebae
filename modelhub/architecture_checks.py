"""The promises that every network keeps: the contract suite, one function for each.

The tests run them on the portal's own networks; ``manage.py check_architectures`` on those that an administrator
installed. A check raises CheckFailed with a sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.ecg import LEADS_12
from ecgportal.errors import InvalidInput
from modelhub.architectures.base import EcgNetwork
from modelhub.architectures.fast import FastForm, as_2d
from modelhub.architectures.registry import Architecture, build, mac_count, parameter_count
from modelhub.contract import ModelContract
from modelhub.onnx.export import export_onnx
from modelhub.weights import load_safetensors, save_safetensors

_CLASSES = 4
_STEPS, _ENOUGH = 200, 0.05


class CheckFailed(AssertionError):
    """A network does not keep a promise; the text says which."""


class Subject:
    """One network under test, small: few leads and samples where its facts say that they may vary."""

    def __init__(self, entry: Architecture) -> None:
        self.name, self.facts = entry.name, entry.facts
        self.n_leads = 3 if "n_leads" in self.facts.varies else 12
        self.n_samples = 200 if "n_samples" in self.facts.varies else 1000

    def fresh(self, *, seed: int = 7, **sizes: int) -> EcgNetwork:
        given = {"n_leads": self.n_leads, "n_samples": self.n_samples, "n_classes": _CLASSES} | sizes
        return build(self.name, fs_hz=100, seed=seed, **given)

    @cached_property
    def network(self) -> EcgNetwork:
        return self.fresh()

    def signals(self, n: int, **sizes: int) -> Tensor:
        return torch.from_numpy(beats(n, sizes.get("n_leads", self.n_leads), sizes.get("n_samples", self.n_samples)))


def beats(n: int, n_leads: int = 12, n_samples: int = 1000, fs_hz: float = 100, seed: int = 0) -> np.ndarray:
    """Return ECG-like signals in millivolt: narrow peaks at 50..100 per minute, slow waves, a little noise."""
    generator = np.random.default_rng(seed)
    time_s = np.arange(n_samples) / fs_hz
    out = np.empty((n, n_leads, n_samples), dtype=np.float32)
    for record in range(n):
        period_s = generator.uniform(0.6, 1.2)
        phase = (time_s + generator.uniform(0, 1)) % period_s
        shape = np.exp(-(((phase - 0.3) / 0.02) ** 2)) + 0.25 * np.exp(-(((phase - 0.5) / 0.06) ** 2))
        gains = generator.uniform(-1, 1.5, (n_leads, 1))
        out[record] = gains * shape + generator.normal(0, 0.02, (n_leads, n_samples))
    return out


def parameters(subject: Subject) -> None:
    """It has as many parameters as it states (12 leads, 1000 samples, 5 classes)."""
    with torch.device("meta"):
        module = build(subject.name, n_leads=12, n_samples=1000, fs_hz=100, n_classes=5)
    count = parameter_count(module)
    _demand(count == subject.facts.parameters, f"it states {subject.facts.parameters:,} parameters and has {count:,}")


def arithmetic(subject: Subject) -> None:
    """It needs as many multiply-accumulates as it states, within 0.05 million."""
    module = build(subject.name, n_leads=12, n_samples=1000, fs_hz=100, n_classes=5)
    million = mac_count(module, 12, 1000) / 1e6
    stated = subject.facts.million_macs
    _demand(
        abs(million - stated) <= 0.051, f"it states {stated:g} million multiply-accumulates and needs {million:.2f}"
    )


def output_shape(subject: Subject) -> None:
    """It answers one row of classes for each record, in batches of 1, 2 and 7."""
    module = subject.network.eval()
    for batch in (1, 2, 7):
        found = tuple(module(subject.signals(batch)).shape)
        _demand(found == (batch, _CLASSES), f"{batch} records give an output of shape {found}")


def sizes(subject: Subject) -> None:
    """Leads, samples and classes are arguments as far as it says so."""
    tried: list[dict[str, int]] = []
    if "n_leads" in subject.facts.varies:
        tried += [{"n_leads": 1}, {"n_leads": 8}]
    if "n_samples" in subject.facts.varies:
        tried += [{"n_samples": 350}, {"n_samples": 500}]
    if "n_classes" in subject.facts.varies:
        tried.append({"n_classes": 2})
    for given in tried:
        with torch.no_grad():
            answer = subject.fresh(**given).eval()(subject.signals(2, **given))
        _demand(answer.shape == (2, given.get("n_classes", _CLASSES)), f"{given} gives the shape {tuple(answer.shape)}")
        _demand(bool(torch.isfinite(answer).all()), f"{given} gives answers that are not finite")


def other_lengths(subject: Subject) -> None:
    """One set of weights takes other lengths, or refuses them with the length that it takes, as it says."""
    module, longer = subject.network.eval(), subject.n_samples + 51
    signals = subject.signals(2, n_samples=longer)
    if subject.facts.dynamic_length:
        _demand(module(signals).shape == (2, _CLASSES), f"{longer} samples do not give one row for each record")
        return
    try:
        module(signals)
    except InvalidInput as error:
        _demand(f"{subject.n_samples} samples" in error.message, "the refusal does not name the length that it takes")
    else:
        raise CheckFailed(f"it says that it takes one length, but answers for {longer} samples")


def gradients(subject: Subject) -> None:
    """The gradient reaches every parameter but those named idle, and is finite."""
    module = subject.fresh().train()
    module(subject.signals(4)).square().sum().backward()
    without = {key for key, value in module.named_parameters() if value.grad is None}
    idle = {key for key, _ in module.named_parameters() if key in module.idle_tensors()}
    _demand(without == idle, f"no gradient reaches {', '.join(sorted(without ^ idle)[:3])}")
    finite = all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
    _demand(finite, "a gradient is not finite")


def batch_independence(subject: Subject) -> None:
    """In prediction a record's answer does not depend on the rest of its batch."""
    module, signals = subject.network.eval(), subject.signals(5)
    with torch.no_grad():
        together = module(signals)
        alone = torch.cat([module(signals[i : i + 1]) for i in range(5)])
    difference = float((together - alone).abs().max())
    _demand(difference < 1e-5, f"alone and together differ by {difference:.2g}")


def flat_leads(subject: Subject) -> None:
    """A lead of zeros and a constant input give finite answers, in training, too."""
    zeroed = beats(2, subject.n_leads, subject.n_samples)
    zeroed[:, 1 % subject.n_leads] = 0
    constant = np.full_like(zeroed, 0.3)
    module = subject.network
    for signals in (zeroed, constant, np.zeros_like(constant)):
        for mode in (True, False):
            module.train(mode)
            _demand(bool(torch.isfinite(module(torch.from_numpy(signals))).all()), "its answers are not finite")


def seed(subject: Subject) -> None:
    """The same seed gives the same weights bit for bit, and the caller's random state stays as it was."""
    before = torch.random.get_rng_state()
    first, second, other = subject.fresh(seed=7), subject.fresh(seed=7), subject.fresh(seed=8)
    _demand(torch.equal(before, torch.random.get_rng_state()), "building it changes the random state")
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    _demand(all(torch.equal(a, b) for a, b in pairs), "one seed gives two sets of weights")
    differ = any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    _demand(differ, "two seeds give the same weights")


def safetensors(subject: Subject) -> None:
    """Weights saved as safetensors reload to identical answers."""
    module, fresh = subject.network.eval(), subject.fresh(seed=99).eval()
    load_safetensors(fresh, save_safetensors(module))
    with torch.no_grad():
        same = torch.equal(module(subject.signals(2)), fresh(subject.signals(2)))
    _demand(same, "the reloaded network answers differently")


def onnx(subject: Subject) -> None:
    """Its ONNX file answers as torch does, below 1e-4 at two batch sizes, where it offers one."""
    if not subject.facts.exports_onnx:
        return
    contract = ModelContract(
        leads=LEADS_12[: subject.n_leads], fs_hz=100.0, n_samples=subject.n_samples, classes=("a", "b", "c", "d"), task="multilabel",
        architecture=subject.name, definition=subject.facts.definition or None, needs=subject.facts.needs,
    )  # fmt: skip
    export_onnx(subject.network, contract, check_signals=beats(5, subject.n_leads, subject.n_samples))


def learning(subject: Subject) -> None:
    """It learns 32 records by heart: a loss below 0.05 in 200 steps."""
    # Few samples where it may be, because this takes most of the time of all.
    n_samples = 100 if "n_samples" in subject.facts.varies else subject.n_samples
    loss = lowest_loss(subject, n_leads=min(2, subject.n_leads), n_samples=n_samples)
    _demand(loss < _ENOUGH, f"the loss is {loss:.3f} after {_STEPS} steps")


def lowest_loss(subject: Subject, *, n_leads: int, n_samples: int) -> float:
    """Train on 32 records for at most 200 steps and return the loss reached."""
    signals = torch.from_numpy(beats(32, n_leads, n_samples, seed=5))
    fresh = subject.fresh(n_leads=n_leads, n_samples=n_samples, n_classes=1, seed=1)
    fresh.prepare(signals)
    module = as_2d(fresh)
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    target = (torch.arange(32) % 2).float()[:, None]
    slow: list[Any] = module.slow_parameters() if hasattr(module, "slow_parameters") else []  # type: ignore[operator]
    fast = [p for p in module.parameters() if not any(p is other for other in slow)]
    optimiser = torch.optim.Adam([{"params": fast, "lr": 3e-3}, {"params": slow, "lr": 1e-3}])
    loss = torch.tensor(9.0)
    module.train()
    for _ in range(_STEPS):
        optimiser.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(module(signals), target)
        loss.backward()
        optimiser.step()
        if loss < _ENOUGH:
            break
    return float(loss.detach())


def fast_form(subject: Subject) -> None:
    """The form with two axes has equal answers, gradients and names of weights, where it has one."""
    module = subject.fresh().eval()
    fast = as_2d(module)
    _demand(isinstance(fast, FastForm) == module.has_2d_form, "has_2d_form does not say what is the case")
    if not isinstance(fast, FastForm):
        return
    # In float64: rounding at the kink of a ReLU would turn single gradients over.
    module.double()
    fast.double()
    # Running statistics of a fresh network are 0 and 1; move them so that the comparison means something.
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.8, 1.2)
    fast.load_state_dict_1d(module.state_dict())
    fast.eval()
    signals = subject.signals(3).double()
    expected = module(signals).detach()
    difference = (expected - fast(signals)).abs().max()
    _demand(bool(difference < 1e-4 * max(1.0, float(expected.abs().max()))), "it answers differently with two axes")
    module(signals).sum().backward()
    fast(signals).sum().backward()
    theirs = dict(fast.net.named_parameters())
    for key, value in module.named_parameters():
        if value.grad is not None:
            scale, other = max(1.0, float(value.grad.abs().max())), theirs[key].grad
            _demand(other is not None, f"no gradient reaches {key} with two axes")
            assert other is not None
            difference = (value.grad - other.reshape(value.shape)).abs().max()
            _demand(bool(difference < 1e-4 * scale), f"the gradient of {key} differs with two axes")
    state = fast.state_dict_1d()
    _demand(list(state) == list(module.state_dict()), "the names of weights differ with two axes")
    same = all(torch.equal(state[key], value) for key, value in module.state_dict().items())
    _demand(same, "the weights differ after a way through the form with two axes")


def fixed_steps(subject: Subject) -> None:
    """In training it draws by chance with torch alone, unless it says otherwise (``has_fixed_steps``)."""
    module = subject.fresh().train()
    if not module.has_fixed_steps:
        return
    signals, answers = subject.signals(4), []
    for _ in range(3):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            answers.append(module(signals))
    _demand(
        all(torch.equal(answers[0], other) for other in answers[1:]),
        "with torch's seed set it answers differently each time, so a step cannot be recorded on an accelerator; "
        "draw by torch alone, or set has_fixed_steps = False",
    )


def head(subject: Subject) -> None:
    """Its head can be named and replaced, and the rest keeps its names."""
    module = subject.fresh()
    names = {key for key, _ in module.named_parameters()}
    in_head = {id(p) for layer in module.head_modules() for p in layer.parameters()}
    every = {id(p) for p in module.parameters()}
    # The features that a model is computed from learn nothing.
    _demand(bool(in_head) and (in_head < every or subject.facts.computed), "its head is empty or is all of it")
    module.replace_head(9)
    _demand(module.n_classes == 9, "n_classes is not that of the new head")
    _demand(module.eval()(subject.signals(2)).shape == (2, 9), "the new head does not answer for nine classes")
    _demand(names == {key for key, _ in module.named_parameters()}, "the new head changes the names of weights")
    fast = as_2d(subject.fresh())
    fast.replace_head(6)  # type: ignore[operator]
    _demand(fast.eval()(subject.signals(2)).shape == (2, 6), "its head cannot be replaced in the form with two axes")


#: Every promise by name, in the order in which they are tried.
CHECKS: dict[str, Callable[[Subject], None]] = {
    check.__name__: check
    for check in (
        parameters, arithmetic, output_shape, sizes, other_lengths, gradients, batch_independence, flat_leads, seed, safetensors, onnx,
        fast_form, fixed_steps, head, learning,
    )
}  # fmt: skip


def promise(name: str) -> str:
    """Return the sentence that a check stands for."""
    return (CHECKS[name].__doc__ or "").splitlines()[0]


def _demand(holds: bool, sentence: str) -> None:
    if not holds:
        raise CheckFailed(sentence)
