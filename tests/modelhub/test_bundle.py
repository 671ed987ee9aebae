"""Bundles travel whole, signed and without patients."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecgportal.errors import InvalidInput, UnsafeFile
from modelhub import bundle as bundles
from modelhub.bundle import new_signing_key, public_key_of, read_bundle, write_bundle
from modelhub.card import BLANK, card_markdown
from modelhub.identifiers import find_identifiers
from modelhub.onnx.export import export_onnx
from modelhub.weights import save_safetensors
from tests.modelhub.conftest import beats, make_contract
from tests.modelhub.test_architectures import small

CONTRACT = make_contract(
    leads=("I", "II", "V2"), n_samples=200, classes=("a", "b", "c", "d"), architecture="xresnet1d18"
)


@pytest.fixture(scope="module")
def parts():
    module = small("xresnet1d18").eval()
    return {
        "onnx": export_onnx(module, CONTRACT),
        "weights": save_safetensors(module, {"architecture": "xresnet1d18"}),
        "card": card_markdown(CONTRACT, title="Test"),
        "sample_input": beats(2, 3, 200),
        "sample_output": np.full((2, 4), 0.5, dtype=np.float32),
    }


@pytest.fixture(scope="module")
def key():
    return new_signing_key()


@pytest.fixture(scope="module")
def signed(parts, key):
    manifest = {"name": "Test", "number": 3, "created_at": "2026-01-02T03:04:05+00:00", "expires_at": "2030-01-01"}
    return write_bundle(CONTRACT, manifest=manifest, signing_key=key, **parts)


def rewritten(data: bytes, change) -> bytes:
    """Return the zip with ``change(members)`` applied and everything else kept."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def with_sums(members: dict[str, bytes]) -> None:
    import hashlib

    names = sorted(set(members) - {"SHA256SUMS", "SIGNATURE"})
    members["SHA256SUMS"] = "".join(f"{hashlib.sha256(members[n]).hexdigest()}  {n}\n" for n in names).encode()


def test_round_trip_trusted(parts, key, signed):
    found = read_bundle(signed, [public_key_of(key)])
    assert (found.signature, found.installable, found.number) == ("trusted", True, 3)
    assert found.contract == CONTRACT
    assert (found.onnx, found.weights, found.card) == (parts["onnx"], parts["weights"], parts["card"])
    assert np.array_equal(found.sample_input, parts["sample_input"])
    assert found.concerns(now=datetime(2026, 5, 1, tzinfo=UTC)) == []


def test_the_same_content_gives_the_same_bytes_and_a_path_is_read_too(parts, tmp_path):
    data = write_bundle(CONTRACT, **parts)
    assert data == write_bundle(CONTRACT, **parts)
    path = tmp_path / "x.zip"
    path.write_bytes(data)
    assert read_bundle(path).signature == "none"


def test_unknown_key_expiry_and_replay_are_concerns(signed):
    found = read_bundle(signed, [public_key_of(new_signing_key())])
    assert found.signature == "unknown"
    sentences = found.concerns(now=datetime(2031, 1, 1, tzinfo=UTC), newest_known=4)
    assert len(sentences) == 3
    assert "not among the trusted keys" in sentences[0]
    assert "expired on 2030-01-01" in sentences[1]
    assert "version 4 of this model is already here" in sentences[2]


def test_one_changed_byte_is_found(signed, key):
    def flip(members):
        weights = bytearray(members["weights.safetensors"])
        weights[-1] ^= 1
        members["weights.safetensors"] = bytes(weights)

    with pytest.raises(UnsafeFile, match=r"checksum of weights.safetensors differs"):
        read_bundle(rewritten(signed, flip))

    def flip_and_hide(members):
        flip(members)
        with_sums(members)

    found = read_bundle(rewritten(signed, flip_and_hide), [public_key_of(key)])
    assert (found.signature, found.installable) == ("broken", False)
    assert found.concerns() == ["Its signature does not fit its content."]


@pytest.mark.parametrize("signature", [b"", b"[]", b'{"algorithm": "none"}', b"\xff"])
def test_a_spoiled_signature_is_broken(signed, signature):
    data = rewritten(signed, lambda members: members.__setitem__("SIGNATURE", signature))
    assert read_bundle(data).signature == "broken"


@pytest.mark.parametrize(
    "name", ["patients.csv", "../model.onnx", "/etc/x", "C:model.onnx", "MANIFEST.json", "sub/card.md", "x.zip"]
)
def test_nothing_else_travels(signed, name):
    with pytest.raises(UnsafeFile, match="does not belong into a bundle|members"):
        read_bundle(rewritten(signed, lambda members: (members.pop("SIGNATURE"), members.__setitem__(name, b"x"))))


def test_links_and_repeated_members_are_refused(signed):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("card.md")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UnsafeFile, match="link"):
        read_bundle(buffer.getvalue())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, pytest.warns(UserWarning):
        archive.writestr("card.md", "a")
        archive.writestr("card.md", "b")
    with pytest.raises(UnsafeFile, match="does not belong"):
        read_bundle(buffer.getvalue())


def test_a_zip_bomb_stops_at_the_limit():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("card.md", b"\0" * (3 * 1024 * 1024))
    with pytest.raises(UnsafeFile, match="claims 3145728 bytes"):
        read_bundle(buffer.getvalue())


@pytest.mark.parametrize("missing", ["manifest.json", "SHA256SUMS"])
def test_incomplete_bundles_are_refused(signed, missing):
    with pytest.raises(UnsafeFile, match="lacks"):
        read_bundle(rewritten(signed, lambda members: members.pop(missing)))


@pytest.mark.parametrize(
    "array,reason",
    [
        (np.array([{"a": 1}], dtype=object), "not a plain array"),
        (np.zeros((2, 3, 200)), "finite float32"),
        (np.zeros((2, 12, 200), dtype=np.float32), "does not fit its contract"),
    ],
)
def test_samples_must_be_plain_and_fit(signed, array, reason):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)

    def change(members):
        members["sample_input.npy"] = buffer.getvalue()
        with_sums(members)

    with pytest.raises(UnsafeFile, match=reason):
        read_bundle(rewritten(signed, change))


def test_the_contract_inside_the_model_must_be_the_manifests(parts):
    other = CONTRACT.with_changes(classes=("a", "b", "c", "e"))
    with pytest.raises(UnsafeFile, match="not the manifest's"):
        read_bundle(write_bundle(other, **parts))


@pytest.mark.parametrize(
    "text",
    [
        "MRN: 00123456",
        "patient_id=K-9931",
        "Date of birth: 1951-02-03",
        "SSN 078-05-1120",
        "seen was 8812345678 in May",
    ],
)
def test_what_may_name_a_patient_does_not_leave_or_enter(parts, signed, text):
    with pytest.raises(InvalidInput, match="may name a patient"):
        write_bundle(CONTRACT, **{**parts, "card": f"Trained on {text} and others"})
    with pytest.raises(InvalidInput, match="may name a patient"):
        write_bundle(CONTRACT, manifest={"note": text}, **parts)

    def change(members):
        members["manifest.json"] = json.dumps({**json.loads(members["manifest.json"]), "note": text}).encode()
        with_sums(members)

    with pytest.raises(UnsafeFile, match="may name a patient"):
        read_bundle(rewritten(signed, change))


@pytest.mark.parametrize(
    "text",
    [
        "doi 10.1109/jbhi.2020.3022989, arXiv 1909.04939",
        "AUROC 0.92312345 on 21,799 records of 18,869 patients",
        "sha256 0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9",
        "created 2026-01-02T03:04:05+00:00, patient id: removed",
        "https://physionet.org/content/1234567/1.0.3/",
    ],
)
def test_ordinary_facts_are_not_taken_for_patients(text):
    assert find_identifiers(text) == []


@given(st.binary(max_size=400))
def test_noise_is_refused_not_crashed_on(data):
    with pytest.raises(UnsafeFile):
        read_bundle(data)


def test_limits_cover_every_member():
    assert set(bundles.LIMITS) == {
        "manifest.json", "model.onnx", "weights.safetensors", "card.md", "sample_input.npy", "sample_output.npy",
        "SHA256SUMS", "SIGNATURE",
    }  # fmt: skip


def test_a_card_says_what_is_blank_and_shows_markup_as_text():
    contract = CONTRACT.with_changes(classes=("<script>alert(1)</script>", "b|c", "d", "e"), thresholds={"d": 0.25})
    metrics = [{"name": "AUROC", "part": "test", "value": 0.91, "low": 0.88, "high": 0.93, "n": 2198}]
    text = card_markdown(
        contract,
        title="Net *v1*",
        facts={"metrics": metrics, "records": {"train": 17000}, "seed": 7},
        prose={"intended_use": "Research.\n# Not a section <img src=x onerror=y>", "licence": ""},
    )
    assert "<script>" not in text and "<img" not in text
    assert "b\\|c" in text
    assert "threshold 0.250" in text
    assert "| AUROC | test | all | 0.910 | 0.880 to 0.930 | 2198 |" in text
    assert "| train | 17,000 |" in text
    assert "## Licence\n\n" + BLANK in text
    assert "\\# Not a section" in text
    assert text.count("\n## ") == 14
