"""Results on their way between processes: files of safetensors and JSON in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Result = TypeVar("Result")
_TENSORS, _PLAIN = "result.safetensors", "result.json"


def save_result(folder: Path, result: Any) -> None:
    """Write a result, a data class of arrays, states and plain values, into a folder."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for name, value in vars(result).items():
        if isinstance(value, np.ndarray):
            tensors[name] = torch.as_tensor(value).contiguous()
        elif isinstance(value, dict) and any(isinstance(each, Tensor) for each in value.values()):
            tensors |= {f"{name}/{key}": each.detach().cpu().contiguous() for key, each in value.items()}
        else:
            plain[name] = value
    save_file(tensors, folder / _TENSORS)
    (folder / _PLAIN).write_text(json.dumps(plain))


def load_result(folder: Path, kind: type[Result]) -> Result:
    """Read what :func:`save_result` wrote of a result of this kind."""
    found: dict[str, Any] = json.loads((folder / _PLAIN).read_text())
    for name, tensor in load_file(folder / _TENSORS).items():
        field, _, key = name.partition("/")
        if key:
            found.setdefault(field, {})[key] = tensor
        else:
            found[field] = tensor.numpy()
    return kind(**found | {name: tuple(found[name]) for name in ("notes", "facts") if name in found})
