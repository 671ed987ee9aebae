"""Foreign networks of many kinds: written by torch's exporter as other groups would, imported, compared, trained on, and
written again. Run with ``python -m tests.proofs.foreign_networks [KIND ...]``; it ends with status 1 if a kind fails.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from modelhub.architecture_checks import beats
from modelhub.onnx.export import export_onnx
from modelhub.onnx.foreign import import_foreign, trainable_module

ANSWERS = {
    "fs_hz": 100.0,
    "leads": ("I", "II", "V2"),
    "classes": ("a", "b", "c", "d"),
    "task": "multilabel",
    "n_samples": 200,
}


class Pooled(nn.Module):
    """A body that keeps ``(batch, channels, time)``, the mean over time, and a linear head."""

    def __init__(self, *body: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(*body), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(-1))


class Steps(nn.Module):
    """A body that takes ``(batch, time, features)``; the first of its answers where it gives several."""

    def __init__(self, body: nn.Module, width: int, reduce: int = 10) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Conv1d(3, 8, reduce, reduce), body, nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.embed(x).transpose(1, 2))
        return self.head((y[0] if isinstance(y, tuple) else y).mean(1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x)[0]


class Squeeze(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(8, 2), nn.Linear(2, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean(-1)))))[..., None]


class Residual(nn.Module):
    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Images(nn.Module):
    """Leads as the height of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = (
            nn.Conv2d(1, 4, (3, 9), padding=(1, 4)),
            nn.Conv2d(4, 8, (3, 9), stride=(1, 2)),
            nn.Linear(8, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.two(torch.relu(self.one(x[:, None])))).mean((2, 3)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.head = nn.Conv1d(3, 8, 4, 2, 1), nn.ConvTranspose1d(8, 8, 4, 2, 1), nn.Linear(11, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([torch.relu(self.up(torch.relu(self.down(x)))), x], 1)
        return self.head(nn.functional.interpolate(y, scale_factor=0.5, mode="nearest").mean(-1))


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(3, 4, 9, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 48, 16), nn.Tanh(), nn.Linear(16, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class TwoPools(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(3, 8, 9), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        return self.head(torch.cat([y.mean(-1), y.amax(-1)], 1))


def conv(kernel: int = 9, **options: object) -> nn.Conv1d:
    return nn.Conv1d(3, 8, kernel, padding="same", **options)  # type: ignore[arg-type]


def weight_normed() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 8, 9, padding=8, dilation=2))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


KINDS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: Pooled(conv(), nn.BatchNorm1d(8), nn.ReLU()),
    "depthwise": lambda: Pooled(nn.Conv1d(3, 3, 9, groups=3), nn.Conv1d(3, 8, 1), nn.ReLU6()),
    "dilated": lambda: Pooled(conv(dilation=3), nn.ELU()),
    "weight norm": lambda: Pooled(weight_normed(), nn.ReLU()),
    "group norm": lambda: Pooled(conv(), nn.GroupNorm(2, 8), nn.SiLU()),
    "instance norm": lambda: Pooled(conv(), nn.InstanceNorm1d(8, affine=True), nn.LeakyReLU(0.1)),
    "prelu": lambda: Pooled(conv(), nn.PReLU(8)),
    "gelu": lambda: Pooled(conv(), nn.GELU(), nn.Dropout(0.2)),
    "mish": lambda: Pooled(conv(), nn.Mish()),
    "hard swish": lambda: Pooled(conv(), nn.Hardswish(), nn.Hardsigmoid()),
    "max pool": lambda: Pooled(conv(), nn.MaxPool1d(3, 2, 1, ceil_mode=True)),
    "average pool": lambda: Pooled(conv(), nn.AvgPool1d(4, 2), nn.AdaptiveAvgPool1d(1)),
    "squeeze": lambda: Pooled(conv(), Squeeze()),
    "residual": lambda: Pooled(conv(), Residual(nn.Conv1d(8, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU())),
    "two pools": TwoPools,
    "flat": Flat,
    "images": Images,
    "u-net": UNet,
    "gru": lambda: Steps(nn.GRU(8, 6, 2, batch_first=True, bidirectional=True), 12),
    "lstm": lambda: Steps(nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True), 12),
    "rnn": lambda: Steps(nn.RNN(8, 6, batch_first=True), 6),
    "transformer": lambda: Steps(encoder(), 8),
    "attention": lambda: Steps(Attention(), 8),
    "layer norm": lambda: Steps(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.Softplus()), 8),
}  # fmt: skip


#: The oldest operator set in which torch writes a kind, where that is not 11.
OLDEST = {"transformer": 14, "attention": 14}


def exported(module: nn.Module, *, training: bool, opset: int) -> bytes:
    """Write a network as torch's own exporter does, with a free batch; in training mode as unaware exporters do."""
    buffer = io.BytesIO()
    module.train(training)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.zeros(2, 3, 200),), buffer, dynamo=False, opset_version=opset, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "b"}, "y": {0: "b"}}, do_constant_folding=not training,
            training=torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL,
        )  # fmt: skip
    module.eval()
    return buffer.getvalue()


def tried(kind: str, *, training: bool, opset: int) -> str:
    """Return ``ok`` when a kind imports, answers as before, learns, and is written again; else what fails."""
    torch.manual_seed(1)
    module = KINDS[kind]().eval()
    try:
        data = exported(module, training=training, opset=opset)
    except Exception as error:  # what torch itself cannot write is no file that could be met.
        return f"not written by torch: {type(error).__name__}"
    found = import_foreign(data, answers=ANSWERS)
    if not found.trainable or found.contract is None:
        return f"FAILS: prediction only: {found.reason or found.questions}"
    network, signals = trainable_module(found.data, found.contract), torch.from_numpy(beats(5, 3, 200))
    with torch.no_grad():
        difference = float((network.eval()(signals) - module(signals)).abs().max())
    if difference > 1e-4:
        return f"FAILS: differs by {difference:.2g}"
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
    network.train()(signals).square().sum().backward()
    if any(p.grad is None for p in network.parameters()):
        return "FAILS: a parameter gets no gradient"
    optimiser.step()
    network.replace_head(2)
    contract = found.contract.with_changes(classes=("x", "y"))
    again = import_foreign(export_onnx(network.eval(), contract))
    return f"ok, {difference:.0e}" if again.trainable else f"FAILS: cannot be trained once more: {again.reason}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND")
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    failed = 0
    for kind in parser.parse_args().kinds or KINDS:
        for training, opset in ((False, 17), (False, OLDEST.get(kind, 11)), (True, 17)):
            try:
                answer = tried(kind, training=training, opset=opset)
            except Exception as error:  # the table goes on; the row says what happened.
                answer = f"FAILS: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
            failed += answer.startswith("FAILS")
            print(f"{kind:14} opset {opset}{' training' if training else '':10} {answer}", flush=True)
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
