"""The overviews of long recordings: one lead's min/max pyramid, built once and kept beside the signals."""

from __future__ import annotations

import os
import tempfile
import zipfile

import numpy as np

from datasets import signals
from datasets.ecg import Record as EcgRecord
from datasets.models import Record
from viz.figures.pyramid import Pyramid, build


def pyramid_of(row: Record, source: EcgRecord, lead: str) -> Pyramid:
    """Return the pyramid of one lead of a record; ``source`` is its signal, which may be a memory map.

    The file is written whole or not at all, so two requests that build it at the same time do no harm.
    """
    place = source.leads.index(lead)
    path = signals.derived_path(row, f"overview-{place}.npz")
    try:
        with np.load(path) as kept:
            return Pyramid((lead,), source.fs_hz, source.n_samples, *_levels(kept))
    except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        made = build(source.signal[place : place + 1], source.fs_hz, (lead,))
    arrays = {f"low{k}": low for k, low in enumerate(made.lows)} | {
        f"high{k}": high for k, high in enumerate(made.highs)
    }
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{row.pk}.", suffix=".part", delete=False) as part:
        np.savez(part, **arrays)
    os.replace(part.name, path)
    return made


def _levels(kept: np.lib.npyio.NpzFile) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    n = len(kept.files) // 2
    return tuple(kept[f"low{k}"] for k in range(n)), tuple(kept[f"high{k}"] for k in range(n))
