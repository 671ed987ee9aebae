"""How a network that a training starts from is made, in plain values and bytes, so that another process can make it again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelhub.architectures.catalog import require_definition
from modelhub.contract import ModelContract

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Maker:
    """Makes the layers of a network; the weights come from elsewhere.

    architecture, contract: of what is trained. onnx, base: of a network from outside its stored file and contract, from which
    the layers are converted as they were at first.
    """

    architecture: str
    contract: ModelContract
    onnx: bytes | None = field(default=None, repr=False)
    base: ModelContract | None = None
    new_head: bool = False

    def __call__(self) -> nn.Module:
        contract = self.contract
        if self.onnx is not None and self.base is not None:
            from modelhub.onnx.foreign import trainable_module

            module = trainable_module(self.onnx, self.base)
            if self.new_head:
                module.replace_head(contract.n_outputs)
            return module
        from modelhub.architectures.registry import build

        require_definition(contract.architecture, contract.definition)
        return build(
            self.architecture, n_leads=contract.n_leads, n_samples=contract.n_samples, fs_hz=contract.fs_hz,
            n_classes=contract.n_outputs, **contract.config,
        )  # fmt: skip
