"""From a stored version to something that runs or trains, and from a trained network to the files of a version."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from datasets.preprocess.base import Step
from datasets.preprocess.crop import Crop
from datasets.preprocess.expand import Expand
from datasets.preprocess.normalise import Normalise
from datasets.preprocess.recipe import Recipe
from datasets.preprocess.resample import Resample
from datasets.preprocess.select_leads import SelectLeads
from ecgportal import storage
from ecgportal.errors import InvalidInput
from modelhub.architectures.catalog import catalog, require_definition
from modelhub.contract import ModelContract, statements_for_file
from modelhub.runtime_words import several_heads

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from modelhub.models import ModelVersion
    from modelhub.onnx.making import Maker
    from modelhub.runtime.predictor import Predictor


# At most so many records go through a network in torch at once.
_TOGETHER = 64


@dataclass(frozen=True)
class Files:
    """The files of a version. ``main`` is the ONNX file, or safetensors for a trunk or a network that ONNX cannot hold."""

    main: bytes = field(repr=False)
    weights: bytes | None = field(repr=False)
    parameters: int
    checks: dict[str, Any]


def recipe_of(contract: ModelContract) -> dict[str, Any]:
    """Return the recipe that makes a model's input: its own, or the plain one that its contract implies.

    Prediction, fine-tuning and samples all take it from here, so that a model always sees the same kind of input.
    """
    if contract.recipe:
        return contract.recipe
    steps: tuple[Step, ...] = (
        SelectLeads(contract.leads), Resample(contract.fs_hz), Crop(contract.duration_s, "centre"), Expand(contract.duration_s, "zero"),
    )  # fmt: skip
    if contract.unit == "uV":
        steps += (Normalise("mean_std", mean=(0.0,), std=(0.001,), floor_mv=0.001),)
    elif contract.normalisation in ("lead_zscore", "record_zscore", "min_max"):
        steps += (Normalise(contract.normalisation),)
    elif contract.normalisation == "mean_std":
        raise InvalidInput(
            "The contract names a normalisation by mean and deviation but not its numbers; give the recipe.",
            code="bad_contract",
        )
    return json.loads(Recipe(steps).to_json())


def start_module(
    architecture: str, contract: ModelContract, base: ModelVersion | None, seed: int, note: Callable[[str], None] | None = None
) -> nn.Module:  # fmt: skip
    """Return the network a training starts from: fresh, or a version's with the head that ``head_of`` names.

    ``contract.config["members"]`` above 1 asks for an ensemble; of a base that is one network, each member is a copy. A network
    that came as a file is taken as it is. note: is told, in a sentence, when a head could not be reordered and is new.
    """
    from modelhub.architectures.registry import build

    if base is None:
        return build(
            architecture,
            n_leads=contract.n_leads,
            n_samples=contract.n_samples,
            fs_hz=contract.fs_hz,
            n_classes=contract.n_outputs,
            seed=seed,
            **contract.config,
        )
    import torch

    module = module_of(base)
    if base.architecture in catalog():
        from modelhub.architectures.ensemble import as_ensemble

        module = as_ensemble(module, contract.config.get("members", 1))
    head = head_of(base, contract)
    if head == "reordered" and not module.reorder_head([base.classes.index(name) for name in contract.classes]):  # type: ignore[operator]
        head = "new"
        if note is not None:
            note(
                f"The classes are those of {base} in another order, but its class layer cannot be told. Its head is new."
            )
    if head == "new":
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            module.replace_head(contract.n_outputs)  # type: ignore[operator]
    return module


def maker(architecture: str, contract: ModelContract, base: ModelVersion | None) -> Maker:
    """Return how the layers of what :func:`start_module` returns are made, for processes that know no database."""
    from modelhub.onnx.making import Maker

    if base is None or base.architecture in catalog():
        return Maker(architecture, contract)
    return Maker(
        architecture, contract, onnx=storage.read_blob(base.sha256), base=ModelContract.from_dict(base.contract),
        new_head=head_of(base, contract) == "new",
    )  # fmt: skip


def answers_in_units(contract: ModelContract, base: ModelVersion | None) -> bool:
    """Whether what :func:`start_module` returns answers in the unit of a regression's targets, having learned them before."""
    return base is not None and base.task == contract.task == "regression" and head_of(base, contract) == "kept"


def head_of(base: ModelVersion, contract: ModelContract) -> Literal["kept", "reordered", "new"]:
    """Return what becomes of a base model's head: it is of use for the same classes, in whatever order, told the same way."""
    old = ModelContract.from_dict(base.contract)
    if old.is_trunk or old.activation != contract.activation or set(old.classes) != set(contract.classes):
        return "new"
    return "kept" if old.classes == contract.classes else "reordered"


def fixed_head(version: ModelVersion) -> str | None:
    """Return why a version can be trained with its own classes only; None where it takes others, or that is not known."""
    if version.architecture in catalog():
        return None
    joined = version.facts.get("networks", 1)
    return version.checks.get("fixed_head") or (several_heads(joined) if joined > 1 else None)


def networks_in(version: ModelVersion) -> int:
    """Return of how many networks a version is made when it is loaded. What came as a file is one, whatever its file joins."""
    return version.contract.get("config", {}).get("members", 1) if version.architecture in catalog() else 1


def members_of(version: ModelVersion, base: ModelVersion | None, count: int) -> list[nn.Module]:
    """Return the ``count`` networks of a version that were trained apart, one for each fold.

    base: what they were fine-tuned from. The main file of networks that came as a file joins them to one graph; the weights tell
    them apart.
    """
    from modelhub.architectures.ensemble import Ensemble
    from modelhub.weights import load_safetensors

    if version.architecture in catalog() or base is None:
        return list(module_of(version).members)  # type: ignore[arg-type]
    one = start_module(version.architecture, ModelContract.from_dict(version.contract), base, seed=0)
    joined = Ensemble.of(one, count)  # type: ignore[arg-type]
    load_safetensors(joined, storage.read_blob(version.weights_sha256))
    return list(joined.members)


def module_of(version: ModelVersion) -> nn.Module:
    """Return a version's network with its weights, ready to be trained on."""
    from modelhub.architectures.registry import build
    from modelhub.weights import load_safetensors

    contract = ModelContract.from_dict(version.contract)
    require_definition(contract.architecture, contract.definition)
    if contract.architecture is None or contract.architecture not in catalog():
        from modelhub.onnx.foreign import trainable_module

        return trainable_module(storage.read_blob(version.sha256), contract)
    if not version.weights_sha256:
        from modelhub.onnx.load import load_own

        return load_own(storage.read_blob(version.sha256)).module
    module = build(
        contract.architecture,
        n_leads=contract.n_leads,
        n_samples=contract.n_samples,
        fs_hz=contract.fs_hz,
        n_classes=contract.n_outputs,
        **contract.config,
    )
    load_safetensors(module, storage.read_blob(version.weights_sha256))
    return module


def with_state(module: nn.Module, state: dict[str, Any]) -> nn.Module:
    """Load trained weights into the network and put it in eval mode."""
    from modelhub.weights import load_state

    load_state(module, state)
    return module.eval()


def export(
    module: nn.Module, contract: ModelContract, check_signals: np.ndarray | None = None, prose: Mapping[str, str] | None = None,
) -> Files:  # fmt: skip
    """Return the files of a version; ParityError when onnxruntime does not answer as torch does. prose: licence and
    intended use, which the files then state."""
    from modelhub.architectures.registry import parameter_count
    from modelhub.onnx.export import export_checked
    from modelhub.weights import save_safetensors

    said = {
        "architecture": contract.architecture or "",
        "contract": contract.to_json(),
        **statements_for_file(prose or {}),
    }
    weights = save_safetensors(module, said)
    facts = catalog().get(contract.architecture or "")
    if contract.is_trunk or (facts is not None and not facts.exports_onnx):
        return Files(weights, weights, parameter_count(module), {"format": "safetensors"})
    onnx, difference = export_checked(module, contract, check_signals=check_signals, prose=prose)
    checks = {"format": "onnx", "parity_max_difference": difference}
    if facts is None and (sentence := _fixed_head_of(module)):
        checks["fixed_head"] = sentence
    return Files(onnx, weights, parameter_count(module), checks)


def _fixed_head_of(module: nn.Module) -> str | None:
    """Return why the file of a network from outside can be trained with its own classes only."""
    from modelhub.architectures.ensemble import Ensemble
    from modelhub.onnx.network import ForeignNetwork

    if isinstance(module, Ensemble):
        return several_heads(len(module.members))
    return module.fixed_head() if isinstance(module, ForeignNetwork) else None


class TorchPredictor:
    """Runs a version whose network ONNX cannot hold."""

    def __init__(self, module: nn.Module, contract: ModelContract):
        from modelhub.runtime.pieces import Pieces

        self.module, self.contract, self.pieces = module.eval(), contract, Pieces(_TOGETHER)

    def predict(self, batch: np.ndarray, person: np.ndarray | None = None) -> np.ndarray:
        """Return float32 ``(n, classes)`` for float32 ``(n, leads, samples)``; no such network takes a person."""
        import numpy as np
        import torch

        from modelhub.runtime.predictor import activate

        self.contract.check_batch(batch)
        with torch.inference_mode():
            parts = self.pieces.of(lambda part: self.module(torch.from_numpy(part)).numpy(), batch)
            return activate(
                np.concatenate(parts or [np.zeros((0, self.contract.n_classes), np.float32)]), self.contract
            )

    def predict_with_features(self, batch: np.ndarray, person: np.ndarray | None = None) -> tuple[np.ndarray, None]:
        """Return the answers; no features are kept of such a network."""
        return self.predict(batch, person), None


def predictor(version: ModelVersion, *, features: bool = False) -> Predictor:
    """Return what answers batches of prepared signals for a version; with ``features`` also what lies behind them."""
    contract = ModelContract.from_dict(version.contract)
    if contract.is_trunk:
        raise InvalidInput(f"{version} has no classes, so it cannot answer. Fine-tune it first.", code="no_classes")
    if version.checks.get("format", "onnx") == "safetensors":
        return TorchPredictor(module_of(version), contract)
    if not version.sha256:
        raise InvalidInput(f"{version} has no file that can be run.")
    from modelhub.runtime.predictor import load_predictor

    return load_predictor(storage.read_blob(version.sha256), contract, features=features)
