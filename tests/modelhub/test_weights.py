"""Weights: exact out and in, hostile files refused."""

from __future__ import annotations

import io
import json
import pickle  # noqa: TID251  writes the attack
import zipfile

import pytest
import torch

from ecgportal.errors import InvalidInput, UnsafeFile
from modelhub.safetensors_check import check_safetensors
from modelhub.weights import (
    check_pt_archive,
    load_safetensors,
    load_state,
    read_safetensors,
    read_state_dict,
    save_safetensors,
)
from tests.modelhub.test_architectures import small


def raw(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def tensor(start: int, end: int, shape=None, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


def pt(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_a_network_survives_exactly_and_the_same_state_gives_the_same_bytes():
    module = small("xresnet1d18")
    metadata = {name: name for name in "fbcade"}
    data = save_safetensors(module, metadata)
    assert all(data == save_safetensors(module, metadata) for _ in range(3))
    assert check_safetensors(data) == metadata
    other = small("xresnet1d18", seed=3)
    load_safetensors(other, data)
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize(
    "data,reason",
    [
        (b"", "shorter"),
        ((10**9).to_bytes(8, "little"), "claims"),
        ((200_000_000).to_bytes(8, "little") + b"{}", "claims"),
        ((50).to_bytes(8, "little") + b"{}", "passes the end"),
        (raw(b"{"), "not valid JSON"),
        (raw(b'{"a": 1, "a": 2}'), "comes twice"),
        (raw(b"[" * 100_000), "not valid JSON"),
        (raw([1]), "not a JSON object"),
        (raw({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)), "overlaps"),
        (raw({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)), "gap"),
        (raw({"a": tensor(0, 16)}, bytes(8)), "do not fill"),
        (raw({"a": tensor(0, 8)}, bytes(12)), "do not fill"),
        (raw({"a": tensor(0, 8, [2**40])}, bytes(8)), "claims 1099511627776 values"),
        (raw({"a": tensor(0, 8, [-2])}, bytes(8)), "whole number"),
        (raw({"a": tensor(8, 0, [0])}, bytes(8)), "claims"),
        (raw({"a": tensor(0, 8, [2], "OBJ")}, bytes(8)), "type"),
        (raw({"a": {"dtype": "F32"}}), "incomplete"),
        (raw({"__metadata__": {"a": 1}}), "metadata"),
    ],
)
def test_hostile_safetensors_are_refused(data, reason):
    with pytest.raises(UnsafeFile, match=reason):
        read_safetensors(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    module = small("xresnet1d18")
    with torch.no_grad():
        module.head.classes.weight[0, 0] = value
    with pytest.raises(UnsafeFile, match="not finite"):
        read_safetensors(save_safetensors(module))


def test_weights_of_another_network_are_refused_by_name():
    with pytest.raises(InvalidInput, match="InceptionTime"):
        load_state(small("inception_time"), small("xresnet1d18").state_dict())
    with pytest.raises(InvalidInput, match=r"shape \(4, 128\) instead of \(7, 128\)"):
        load_state(small("inception_time", n_classes=7), small("inception_time").state_dict())


@pytest.mark.parametrize(
    "wrap",
    [lambda s: s, lambda s: {"epoch": 3, "model_state_dict": s}, lambda s: {f"module.{k}": v for k, v in s.items()}],
)
def test_state_dictionaries_of_torch_load(wrap):
    module = small("xresnet1d18")
    state = read_state_dict(pt(wrap(dict(module.state_dict()))))
    other = small("xresnet1d18", seed=5)
    load_state(other, state)
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), other.state_dict().values()))


class Attack:
    """Would write a file when unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_with_code_is_never_run(tmp_path):
    mark = tmp_path / "ran"
    with pytest.raises(UnsafeFile, match="not a plain dictionary of weights"):
        read_state_dict(pt({"a": torch.zeros(2), "b": Attack(str(mark))}))
    with pytest.raises(UnsafeFile, match="not a zip archive"):
        read_state_dict(pickle.dumps({"b": Attack(str(mark))}))
    assert not mark.exists()


def test_a_whole_module_is_refused():
    with pytest.raises(UnsafeFile, match=r"it holds torch\.nn\.\S*Linear.*Save model\.state_dict\(\)") as error:
        read_state_dict(pt(torch.nn.Linear(2, 2)))
    assert "\x1b" not in error.value.message and "trust" not in error.value.message


def test_a_program_of_torchscript_is_called_what_it_is():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    with pytest.raises(UnsafeFile, match="TorchScript"):
        read_state_dict(buffer.getvalue())


def archive(name: str, data: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as target:
        target.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data,reason",
    [
        (archive("../evil", b"x"), "outside"),
        (archive("a/../../evil", b"x"), "outside"),
        (archive("/etc/passwd", b"x"), "outside"),
        (archive("C:\\evil", b"x"), "outside"),
        (archive("archive/data.pkl", b"\0" * 10_000_000, zipfile.ZIP_DEFLATED), "compressed"),
        (archive("archive/code/main.py", b"x"), "TorchScript"),
        (b"PK\x03\x04 broken", "not a zip archive"),
    ],
)
def test_hostile_archives_are_refused(data, reason):
    with pytest.raises(UnsafeFile, match=reason):
        check_pt_archive(data)
