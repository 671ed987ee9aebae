"""Weights without a graph: which registered network they belong to, and what has to be said before they can be used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from datasets.ecg import LEADS_12
from ecgportal.errors import InvalidInput
from modelhub.architectures.base import EcgNetwork
from modelhub.architectures.catalog import catalog, definition_of, require_definition
from modelhub.architectures.registry import build
from modelhub.contract import PRETRAINING, ModelContract
from modelhub.weights import load_state

_LEADS, _CLASSES, _SAMPLES = 12, 7, 1000
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class FromWeights:
    """A network with its weights, or, while ``questions`` are open, what is known so far."""

    module: nn.Module | None = field(repr=False)
    contract: ModelContract | None
    questions: dict[str, str]
    known: dict[str, Any]
    n_outputs: int


def from_weights(state: Mapping[str, Tensor], answers: Mapping[str, Any], architecture: str | None) -> FromWeights:
    """Put weights into the registered network that they belong to.

    answers: fields of a contract as people give them. architecture: what the file itself says. InvalidInput
    (``weights_do_not_fit``) when the named network has other tensors, or when no registered network has these.
    """
    named = answers.get("architecture") or architecture
    if answers.get("definition"):
        require_definition(named, answers["definition"])
    name, n_leads, n_classes = _find(state, named, answers)
    known: dict[str, Any] = {"architecture": name}
    if definition := definition_of(name):
        known["definition"] = definition
    if catalog()[name].needs:
        known["needs"] = list(catalog()[name].needs)
    questions: dict[str, str] = {}
    classes = list(answers.get("classes") or [])
    is_trunk = answers.get("task") == PRETRAINING
    if len(classes) != n_classes and not is_trunk:
        said = f"{len(classes)} classes are named; the" if classes else "The"
        questions["classes"] = f"{said} weights have {n_classes} outputs. Name them in order."
    leads = list(answers.get("leads") or (LEADS_12 if n_leads == len(LEADS_12) else []))
    if len(leads) != n_leads:
        questions["leads"] = f"The weights take {n_leads} leads. Name them in the order of the input."
    for key, sentence in (
        ("fs_hz", "Weights do not say for which sampling rate they were trained."),
        ("n_samples", "Weights do not say for which length, in samples, they were trained."),
        ("task", "Say whether the classes exclude one another (multiclass) or not (multilabel)."),
    ):
        if answers.get(key) is None:
            questions[key] = sentence
        else:
            known[key] = answers[key]
    known |= {"leads": leads} if "leads" not in questions else {}
    known |= {"classes": classes} if "classes" not in questions else {}
    if questions:
        return FromWeights(None, None, questions, known, n_classes)
    optional = {
        key: answers[key] for key in ("unit", "config", "recipe", "thresholds", "normalisation") if key in answers
    }
    contract = ModelContract.from_dict(known | optional)
    module = _built(name, n_leads, contract.n_samples, contract.fs_hz, n_classes, contract.config)
    load_state(module, dict(state))
    return FromWeights(module.eval(), contract, {}, known, n_classes)


def _find(state: Mapping[str, Tensor], named: str | None, answers: Mapping[str, Any]) -> tuple[str, int, int]:
    """Return the network's name and the leads and outputs that the shapes tell."""
    if named is not None and named not in catalog():
        raise InvalidInput(
            f"There is no network called {named!r} here.",
            code="unknown_architecture",
            fields={"architecture": f"Choose one of {', '.join(catalog())}."},
        )
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    config = answers.get("config") or {}
    for name in [named] if named else list(catalog()):
        sizes = _sizes(name, shapes, answers.get("n_samples") or _SAMPLES, config if named else {})
        if sizes is not None:
            return name, *sizes
    if named:
        # Loading says which tensors differ.
        n_leads, n_classes = len(answers.get("leads") or LEADS_12), len(answers.get("classes") or [""])
        module = _built(named, n_leads, answers.get("n_samples") or _SAMPLES, 100.0, n_classes, config)
        load_state(module, dict(state))
        return named, n_leads, n_classes
    raise InvalidInput(
        f"These {len(state)} tensors are not those of a registered network ({', '.join(catalog())}). Export the model as "
        "ONNX, or ask an administrator to install its architecture.",
        code="unknown_architecture",
    )


def _sizes(name: str, shapes: Shapes, n_samples: int, config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return leads and classes for which the network has exactly these shapes, or None."""
    base = _shapes(name, _LEADS, _CLASSES, n_samples, config)
    idle = _idle(name)
    if _missing(base, shapes, idle):
        return None
    more_leads = _shapes(name, _LEADS + 1, _CLASSES, n_samples, config)
    more_classes = _shapes(name, _LEADS, _CLASSES + 1, n_samples, config)
    n_leads = _solve(base, more_leads, shapes, _LEADS)
    n_classes = _solve(base, more_classes, shapes, _CLASSES)
    if n_leads is None or n_classes is None:
        return None
    wanted = _shapes(name, n_leads, n_classes, n_samples, config)
    fits = all(wanted[key] == shapes[key] for key in wanted if key in shapes)
    return (n_leads, n_classes) if fits else None


def _missing(base: Shapes, shapes: Shapes, idle: Iterable[str]) -> bool:
    free = {name for name in base if name.endswith("num_batches_tracked")} | set(idle)
    return bool(set(shapes) - set(base) or set(base) - set(shapes) - free)


def _solve(base: Shapes, more: Shapes, given: Shapes, start: int) -> int | None:
    """Return the number for which the tensors have the given sizes, from how sizes grow by one more; None if unclear."""
    for name, shape in base.items():
        if name not in given or len(given[name]) != len(shape):
            continue
        for size, larger, found in zip(shape, more[name], given[name], strict=True):
            if larger != size:
                number, rest = divmod(found - size, larger - size)
                return start + number if rest == 0 and start + number > 0 else None
    return None


def _shapes(name: str, n_leads: int, n_classes: int, n_samples: int, config: Mapping[str, Any]) -> Shapes:
    with torch.device("meta"):
        module = _built(name, n_leads, n_samples, 100.0, n_classes, config)
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def _idle(name: str) -> frozenset[str]:
    with torch.device("meta"):
        return _built(name, _LEADS, _SAMPLES, 100.0, _CLASSES, {}).idle_tensors()


def _built(
    name: str, n_leads: int, n_samples: int, fs_hz: float, n_classes: int, config: Mapping[str, Any]
) -> EcgNetwork:
    return build(name, n_leads=n_leads, n_samples=n_samples, fs_hz=fs_hz, n_classes=n_classes, **config)
