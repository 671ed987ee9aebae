"""What each process of ``test_team`` runs: some trainings with the same arguments, and prints their results as JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.training.fitting import Recorder
from tests.training.test_ensemble import GROUPS, ensemble
from tests.training.test_pretrain import hearts
from tests.training.tiny import FS_HZ, TinyNet, tiny_parts, tiny_settings
from training.engine.fit import fit
from training.engine.pretrain import PretrainResult, pretrain
from training.engine.result import FitResult
from training.engine.team import joined
from training.engine.unlabelled.settings import Contrastive
from training.problems.registry import get_problem


def without_dropout(net: nn.Module) -> nn.Module:
    """Switch dropout off: an accelerator draws it in another way than a processor."""
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return net


def still_tiny() -> nn.Module:
    return TinyNet(seed=9)


def another_network() -> nn.Module:
    return TinyNet(n_classes=5)


def train(kind: str, callbacks: Sequence[Any] = (), folder: Path | None = None) -> FitResult:
    """Train the tiny network or ensemble, of which some labels are unknown, for four epochs at a rate that is found."""
    train, targets, validation, val_targets = tiny_parts()
    targets[::3, 1] = np.nan
    module = ensemble(2) if kind == "ensemble" else TinyNet()
    return fit(
        module, train, targets, validation, val_targets, get_problem("multilabel"),
        tiny_settings(epochs=4, learning_rate=None), fs_hz=FS_HZ, groups=GROUPS if kind == "ensemble" else None,
        callbacks=callbacks, checkpoint_dir=folder,
    )  # fmt: skip


class Dying(TinyNet):
    """Ends the second process in its second epoch as ``kill -9`` does, once for each file."""

    def __init__(self, file: Path):
        super().__init__()
        self.file, self.calls = file, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        if self.calls == 5 and os.environ.get("RANK") == "1" and not self.file.exists():
            self.file.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


class Stuck(TinyNet):
    """Stays in a batch of its second epoch for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        if self.calls == 5:
            time.sleep(3600)
        return super().forward(x)


class Short(TinyNet):
    """Runs out of memory once: in the second process after its first batch normalisation, or in ``every`` one before it."""

    def __init__(self, every: bool):
        super().__init__()
        self.every, self.left = every, 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and self.left and (self.every or os.environ.get("RANK") == "1"):
            self.left = 0
            if not self.every:
                self.trunk[:2](x)
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


def short_of_memory(where: str, rank: int) -> nn.Module:
    """Return a network whose memory runs out once: in the ``forward`` or ``backward`` pass of the second process, between
    exchanges, or in ``every`` process before the first exchange."""
    net, left = TinyNet(), [1]

    def run_out(*_: object) -> None:
        if left and (where == "every" or rank == 1):
            left.pop()
            raise torch.OutOfMemoryError("out of memory")

    def in_forward(layer: nn.Module, _inputs: object) -> None:
        if layer.training:
            run_out()

    def in_backward(layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        if layer.training:
            output.register_hook(run_out)

    if where == "backward":
        net.trunk[2].register_forward_hook(in_backward)
    else:
        net.trunk[0 if where == "every" else 4].register_forward_pre_hook(in_forward)
    return net


def train_short_of_memory(where: str, rank: int) -> FitResult:
    train, targets, validation, val_targets = tiny_parts()
    return fit(
        short_of_memory(where, rank), train, targets, validation, val_targets, get_problem("multilabel"),
        tiny_settings(epochs=2), fs_hz=FS_HZ,
    )  # fmt: skip


def facts(result: FitResult) -> dict[str, Any]:
    return {
        "reason": result.stopped_reason, "resumed": result.resumed_epoch, "epochs": result.epochs, "rate": result.learning_rate,
        "loss": [row["train_loss"] for row in result.history], "outputs": result.validation_outputs.tolist(),
        "hash": result.weights_hash, "notes": list(result.notes), "state": {name: tensor.tolist() for name, tensor in result.best_state.items()},
    }  # fmt: skip


def learn() -> PretrainResult:
    """Learn without labels for two epochs."""
    return pretrain(
        TinyNet(), hearts(32), tiny_settings(epochs=2), fs_hz=100.0, how=Contrastive(window_s=1.2),
        held_back=hearts(16, seed=9),
    )  # fmt: skip


def unlabelled_facts(result: PretrainResult) -> dict[str, Any]:
    return {
        "loss": [row["train_loss"] for row in result.history], "judged": [row["val_loss"] for row in result.history],
        "hash": result.weights_hash,
    }  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with joined("gloo") as team:
        recorder, stopper = Recorder(), Recorder(stop_at=8, reason="interrupted")
        answers = {
            "one": facts(train("one", [recorder])),
            "ensemble": facts(train("ensemble")),
            "stopped": facts(train("one", [stopper], folder)),
            "resumed": facts(train("one", [], folder)),
            "unlabelled": unlabelled_facts(learn()),
            **{where: facts(train_short_of_memory(where, team.rank)) for where in ("every", "forward", "backward")},
        }
        told = {"rows": len(recorder.rows), "ended": recorder.ended, "size": team.size}
        (folder / f"rank-{team.rank}.json").write_text(json.dumps(answers | {"told": told}))


if __name__ == "__main__":
    main()
