"""Load the portal's own ONNX files: every weight by its name into the registered network, exactly."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from ecgportal.errors import InvalidInput, UnsafeFile
from modelhub.architectures.base import EcgNetwork
from modelhub.architectures.catalog import require_definition
from modelhub.architectures.registry import build
from modelhub.contract import ModelContract
from modelhub.onnx.metadata import contract_in
from modelhub.onnx.safety import OnnxFacts, check_onnx
from modelhub.weights import load_state


@dataclass(frozen=True)
class OwnModel:
    """A file of a portal, loaded: the network with its weights (in eval mode) and its contract."""

    module: EcgNetwork
    contract: ModelContract
    facts: OnnxFacts


def is_own(facts: OnnxFacts) -> bool:
    """Return whether a checked file states a contract and a registered network, so that it loads by name."""
    contract = contract_in(facts.metadata)
    return contract is not None and contract.architecture is not None


def load_own(data: bytes, *, name: str = "The file") -> OwnModel:
    """Check and load a file that ``export_onnx`` wrote for a registered network.

    UnsafeFile when the check fails, InvalidInput when the file is not one of a portal or its weights do not fit.
    """
    model, facts = check_onnx(data, name=name)
    contract = contract_in(facts.metadata)
    if contract is None or contract.architecture is None:
        raise InvalidInput(
            f"{name} does not name a network of the portal; import it as a foreign file.", code="not_own_file"
        )
    require_definition(contract.architecture, contract.definition)
    module = build(
        contract.architecture,
        n_leads=contract.n_leads,
        n_samples=contract.n_samples,
        fs_hz=contract.fs_hz,
        n_classes=contract.n_classes,
        **contract.config,
    )
    load_state(module, named_tensors(model, set(module.state_dict())))
    return OwnModel(module.eval(), contract, facts)


def named_tensors(model: onnx.ModelProto, names: set[str]) -> dict[str, Tensor]:
    """Return the initializers with the given names as tensors; values that are not finite are refused."""
    found: dict[str, Tensor] = {}
    for tensor in model.graph.initializer:
        if tensor.name in names:
            value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise UnsafeFile(
                    f"The weights {tensor.name!r} hold values that are not finite.", code="weights_not_finite"
                )
            found[tensor.name] = value
    return found
