"""Weights in and out: safetensors always; PyTorch state dictionaries only inside a restricted process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ecgportal.errors import InvalidInput, UnsafeFile
from modelhub.architectures.base import EcgNetwork
from modelhub.safetensors_check import check_safetensors

MAX_PT_BYTES = 512 * 1024 * 1024
MAX_PT_MEMBERS = 20_000
# What torch itself needs of address space.
_PT_MIN_MEMORY = 8 * 1024**3


def save_safetensors(module: nn.Module, metadata: dict[str, str] | None = None) -> bytes:
    """Return a safetensors file of the module's state. The same state gives the same bytes."""
    state = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    return _in_order(safetensors.torch.save(state, metadata))


def _in_order(data: bytes) -> bytes:
    """Return a safetensors file with the entries of its header sorted: the library writes metadata in any order."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def read_safetensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file after checking every claim of its header.

    UnsafeFile for a header beyond 4 MB, offsets that overlap, leave gaps or pass the end, sizes that do not fit the
    shapes, unknown types, and for values that are not finite.
    """
    check_safetensors(data)
    state = safetensors.torch.load(data)
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UnsafeFile(
                f"The weights {name!r} hold values that are not finite numbers. Export the model again.",
                code="weights_not_finite",
            )
    return state


def read_state_dict(data: bytes, *, seconds: int = 60) -> dict[str, Tensor]:
    """Return the tensors of a ``.pt`` or ``.pth`` state dictionary.

    The archive's members are checked first; then a process with limited memory and time reads it with
    ``weights_only`` and hands back tensors alone, which are checked as any safetensors file. UnsafeFile otherwise.
    """
    size = check_pt_archive(data)
    memory = max(_PT_MIN_MEMORY, 4 * size + _PT_MIN_MEMORY)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "weights.pt"), Path(folder, "weights.safetensors")
        source.write_bytes(data)
        root = str(Path(__file__).resolve().parent.parent)
        command = [sys.executable, "-m", "modelhub.pt_reader", str(source), str(target), str(memory), str(seconds)]
        # The environment may hold secrets; the reader needs none of it.
        environment = {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "PATH": os.defpath, "HOME": folder}
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, timeout=2 * seconds, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise _bad_pt("reading it took too long") from error
        if done.returncode != 0:
            text = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise _bad_pt(
                text[-1][:300] if done.returncode == 3 and text else "reading it passed the memory or time limit"
            )
        return read_safetensors(target.read_bytes())


def check_pt_archive(data: bytes) -> int:
    """Check the members of a ``.pt`` zip archive without reading one; return the sum of their sizes."""
    if len(data) > MAX_PT_BYTES:
        raise _bad_pt(f"it has {len(data)} bytes; at most {MAX_PT_BYTES} are read")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise _bad_pt(
            "it is not a zip archive; save it again with torch.save of a current PyTorch, or as safetensors"
        ) from error
    names = [info.filename for info in entries]
    if len(names) > MAX_PT_MEMBERS or len(set(names)) != len(names):
        raise _bad_pt("it has too many members, or two of one name")
    for info in entries:
        parts = info.filename.split("/")
        if ".." in parts or info.filename.startswith("/") or "\\" in info.filename or ":" in info.filename:
            raise _bad_pt(f"its member {info.filename[:80]!r} points outside the archive")
        if "code" in parts[1:2] or parts[-1] == "constants.pkl":
            raise _bad_pt(
                "it is a TorchScript program, not a dictionary of weights; save the model's state_dict() instead"
            )
        # torch.save never compresses: a compressed member is not of its making, and could inflate without end.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise _bad_pt(f"its member {info.filename[:80]!r} is compressed")
    total = sum(info.file_size for info in entries)
    if total > len(data):
        raise _bad_pt("its members claim more bytes than it has")
    return total


def _bad_pt(reason: str) -> UnsafeFile:
    return UnsafeFile(f"The PyTorch file was refused: {reason}.", code="bad_pt_file")


def load_safetensors(module: nn.Module, data: bytes) -> None:
    """Load a safetensors file into a module; names, shapes and types must match exactly."""
    load_state(module, read_safetensors(data))


def load_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load tensors into a module; InvalidInput (``weights_do_not_fit``) lists what differs."""
    own = module.state_dict()
    idle = module.idle_tensors() if isinstance(module, EcgNetwork) else frozenset()
    missing = sorted(set(own) - set(state) - idle - {n for n in own if n.endswith("num_batches_tracked")})
    strange = sorted(set(state) - set(own))
    shapes = [n for n in own if n in state and own[n].shape != state[n].shape]
    if missing or strange or shapes:
        parts = [f"{len(missing)} are missing, such as {missing[0]}"] if missing else []
        parts += [f"{len(strange)} are not known, such as {strange[0][:80]!r}"] if strange else []
        for name in shapes[:1]:
            parts.append(f"{name} has shape {tuple(state[name].shape)} instead of {tuple(own[name].shape)}")
        raise InvalidInput(
            f"The weights do not fit the network {type(module).__name__}: {'; '.join(parts)}. "
            "Check the architecture, its settings and the number of classes.",
            code="weights_do_not_fit",
        )
    module.load_state_dict(own | state, strict=True)
