"""Raw outputs of a network over a source of signals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from modelhub.runtime.pieces import Pieces
from training.engine.source import Feed, SignalSource


def outputs_of(
    net: nn.Module,
    feed: Feed,
    *,
    batch_size: int,
    rows: np.ndarray | None = None,
    autocast: bool = False,
    before_batch: Callable[[], None] | None = None,
    pieces: Pieces | None = None,
) -> np.ndarray:
    """Return raw outputs float32 ``(records, outputs)`` of ``rows`` (default: all) in eval mode; the mode is restored.

    pieces: what computes a batch within the memory, where a caller keeps it for later batches.
    """
    pieces = pieces or Pieces(batch_size)
    wanted = np.arange(len(feed.source)) if rows is None else rows
    orders = [wanted[start : start + batch_size] for start in range(0, len(wanted), batch_size)]
    was_training = [m.training for m in net.modules()]
    net.eval()
    parts = []
    try:
        with torch.inference_mode(), torch.autocast(feed.device.type, torch.bfloat16, enabled=autocast):
            for own, x in zip(orders, feed.batches(orders), strict=True):
                if before_batch is not None:
                    before_batch()
                parts += pieces.of(lambda *given: net(*given).float(), x, *feed.beside(own))
    finally:
        for module, mode in zip(net.modules(), was_training, strict=True):
            module.training = mode
    return torch.cat(parts).cpu().numpy() if parts else np.zeros((0, 0), np.float32)


def predict(
    module: nn.Module, source: SignalSource, *, device: str = "cpu", batch_size: int = 64, pieces: Pieces | None = None
) -> np.ndarray:
    """Return raw outputs float32 ``(records, outputs)`` of a network for every record of ``source``, in its order."""
    place = torch.device(device)
    return outputs_of(module.to(place), Feed(source, place, module), batch_size=batch_size, pieces=pieces)
