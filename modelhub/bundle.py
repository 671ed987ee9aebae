"""The exchange bundle: one zip with a model, what it is, and a signature over all of it.

Members (nothing else is written or accepted): ``manifest.json``, ``model.onnx``, ``weights.safetensors``,
``card.md``, ``sample_input.npy``, ``sample_output.npy``, ``SHA256SUMS``, ``SIGNATURE``. The signature (Ed25519,
RFC 8032) is over ``SHA256SUMS``, which covers every other member.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import stat
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ecgportal.errors import InvalidInput, UnsafeFile
from modelhub.contract import ModelContract
from modelhub.identifiers import find_identifiers, texts_of

FORMAT = "ecg-portal-bundle/1"
MANIFEST, ONNX, WEIGHTS, CARD = "manifest.json", "model.onnx", "weights.safetensors", "card.md"
SAMPLE_INPUT, SAMPLE_OUTPUT, SUMS, SIGNATURE = "sample_input.npy", "sample_output.npy", "SHA256SUMS", "SIGNATURE"

_MB = 1024 * 1024
LIMITS = {
    MANIFEST: _MB,
    ONNX: 512 * _MB,
    WEIGHTS: 512 * _MB,
    CARD: _MB,
    SAMPLE_INPUT: 16 * _MB,
    SAMPLE_OUTPUT: _MB,
    SUMS: 64 * 1024,
    SIGNATURE: 64 * 1024,
}
MAX_BUNDLE_BYTES = 1024 * _MB
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)

SignatureState = Literal["trusted", "unknown", "broken", "none"]


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and whose checksums agree.

    signature: ``trusted`` (by a key that was given), ``unknown`` (valid, by another key), ``broken``, ``none``.
    digest: SHA-256 of the whole file. key_id: of the signing key, None without one.
    """

    manifest: dict[str, Any]
    contract: ModelContract
    onnx: bytes | None = field(repr=False)
    weights: bytes | None = field(repr=False)
    card: str = field(repr=False)
    sample_input: np.ndarray | None = field(repr=False)
    sample_output: np.ndarray | None = field(repr=False)
    signature: SignatureState
    key_id: str | None
    public_key: bytes | None
    digest: str

    @property
    def number(self) -> int | None:
        """The version's number at its portal, None when the manifest does not say."""
        value = self.manifest.get("number")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def concerns(self, *, now: datetime | None = None, newest_known: int | None = None) -> list[str]:
        """Return the reasons why a person has to decide before this bundle is used; empty when there are none.

        newest_known: the highest version number already taken from the same model.
        """
        found = {
            "trusted": [],
            "unknown": [f"It is signed by the key {self.key_id}, which is not among the trusted keys."],
            "broken": ["Its signature does not fit its content."],
            "none": ["It is not signed."],
        }[self.signature]
        expires = _time(self.manifest.get("expires_at"))
        if expires is not None and expires < (now or datetime.now(UTC)):
            found.append(f"It expired on {expires:%Y-%m-%d}.")
        if newest_known is not None and self.number is not None and self.number < newest_known:
            found.append(f"It holds version {self.number}; version {newest_known} of this model is already here.")
        return found

    @property
    def installable(self) -> bool:
        """False when the signature is broken: such a bundle is never used."""
        return self.signature != "broken"


def new_signing_key() -> bytes:
    """Return a fresh private key: 32 secret bytes."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_key_of(private_key: bytes) -> bytes:
    """Return the 32 public bytes that belong to a private key."""
    return Ed25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def key_id_of(public_key: bytes) -> str:
    """Return the short name of a public key: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def write_bundle(
    contract: ModelContract,
    *,
    card: str,
    onnx: bytes | None = None,
    weights: bytes | None = None,
    manifest: Mapping[str, Any] | None = None,
    sample_input: np.ndarray | None = None,
    sample_output: np.ndarray | None = None,
    signing_key: bytes | None = None,
) -> bytes:
    """Return the bytes of a bundle. The same arguments give the same bytes.

    manifest: further facts in JSON values (``name``, ``number``, ``created_at``, ``expires_at``, ``licence``,
    ``lineage`` and whatever helps the receiver). sample_input: simulated ECGs, float32 ``(n, leads, samples)``, with
    the model's answers in ``sample_output``. InvalidInput (``identifiers_found``) when a text in it looks as if it
    named a patient.
    """
    if onnx is None and weights is None:
        raise InvalidInput("A bundle needs the model as ONNX, as safetensors, or both.")
    facts = {**(manifest or {}), "format": FORMAT, "contract": contract.to_dict()}
    members = {
        MANIFEST: json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode(),
        CARD: card.encode(),
    }
    for name, data in ((ONNX, onnx), (WEIGHTS, weights)):
        if data is not None:
            members[name] = data
    for name, array in ((SAMPLE_INPUT, sample_input), (SAMPLE_OUTPUT, sample_output)):
        if array is not None:
            members[name] = _npy(array)
    if found := _scan(facts, card):
        raise InvalidInput(
            f"The bundle was not written: {found}. Take it out of the card or the facts of this version.",
            code="identifiers_found",
        )
    if found := identifiers_in_model(onnx=onnx, weights=weights):
        raise InvalidInput(
            f"The bundle was not written: {found}. Take it out of the file and import it again.",
            code="identifiers_found",
        )
    for name, data in members.items():
        if len(data) > LIMITS[name]:
            raise InvalidInput(
                f"{name} has {len(data)} bytes; a bundle holds at most {LIMITS[name]}.", code="too_large"
            )
    members[SUMS] = "".join(f"{hashlib.sha256(members[n]).hexdigest()}  {n}\n" for n in sorted(members)).encode()
    if signing_key is not None:
        members[SIGNATURE] = _sign(members[SUMS], signing_key)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, _ZIP_DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, members[name])
    return buffer.getvalue()


def read_bundle(source: bytes | Path, trusted_keys: Iterable[bytes] = (), *, check_model: bool = True) -> Bundle:
    """Read and verify a bundle; UnsafeFile with the reason when it is not what a bundle must be.

    Members are read up to their limits and never unpacked to disk. The model inside is checked as any uploaded file
    (``check_model``), its contract must be the manifest's, and no text may look as if it named a patient.
    """
    data = _bytes_of(source)
    members = _members(data)
    if MANIFEST not in members or SUMS not in members or not ({ONNX, WEIGHTS} & set(members)):
        raise _unsafe("it lacks the manifest, the checksums or the model", "incomplete_bundle")
    _check_sums(members)
    state, public_key = _verify(members, set(trusted_keys))
    manifest, contract = _manifest(members[MANIFEST])
    card = _text(members.get(CARD, b""), CARD)
    found = _scan(manifest, card)
    if found:
        raise _unsafe(found, "identifiers_found")
    if check_model:
        _check_model(members, contract)
    sample_input = _array(members, SAMPLE_INPUT, 3)
    sample_output = _array(members, SAMPLE_OUTPUT, 2)
    if sample_input is not None and sample_input.shape[1:] != (contract.n_leads, contract.n_samples):
        raise _unsafe("its sample does not fit its contract", "bad_sample")
    return Bundle(
        manifest=manifest,
        contract=contract,
        onnx=members.get(ONNX),
        weights=members.get(WEIGHTS),
        card=card,
        sample_input=sample_input,
        sample_output=sample_output,
        signature=state,
        key_id=key_id_of(public_key) if public_key else None,
        public_key=public_key,
        digest=hashlib.sha256(data).hexdigest(),
    )


def _bytes_of(source: bytes | Path) -> bytes:
    if isinstance(source, bytes):
        size = len(source)
    else:
        size = source.stat().st_size
    if size > MAX_BUNDLE_BYTES:
        raise _unsafe(f"it has {size} bytes; at most {MAX_BUNDLE_BYTES} are read", "too_large")
    return source if isinstance(source, bytes) else source.read_bytes()


def _members(data: bytes) -> dict[str, bytes]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _unsafe("it is not a readable zip file", "not_a_bundle") from error
    members: dict[str, bytes] = {}
    with archive:
        entries = archive.infolist()
        if len(entries) > len(LIMITS):
            raise _unsafe(f"it has {len(entries)} members; a bundle has at most {len(LIMITS)}", "unexpected_member")
        for info in entries:
            members[info.filename] = _read_member(archive, info, members)
    return members


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, seen: Mapping[str, bytes]) -> bytes:
    name = info.filename
    if name not in LIMITS or name in seen:
        raise _unsafe(f"it holds {name[:80]!r}, which does not belong into a bundle", "unexpected_member")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG) or info.flag_bits & 1:
        raise _unsafe(f"its member {name} is a link, a folder or encrypted", "unexpected_member")
    if info.file_size > LIMITS[name]:
        raise _unsafe(f"its member {name} claims {info.file_size} bytes; at most {LIMITS[name]} are read", "too_large")
    try:
        with archive.open(info) as stream:
            content = stream.read(LIMITS[name] + 1)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError, RuntimeError) as error:
        raise _unsafe(f"its member {name} cannot be unpacked", "not_a_bundle") from error
    if len(content) > LIMITS[name]:
        raise _unsafe(f"its member {name} is larger than it claims", "too_large")
    return content


def _check_sums(members: Mapping[str, bytes]) -> None:
    listed: dict[str, str] = {}
    for line in _text(members[SUMS], SUMS).splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    covered = set(members) - {SUMS, SIGNATURE}
    if set(listed) != covered:
        raise _unsafe("its checksums do not cover exactly its members", "checksum_differs")
    for name in sorted(covered):
        if hashlib.sha256(members[name]).hexdigest() != listed[name]:
            raise _unsafe(f"the checksum of {name} differs: the file was damaged or changed", "checksum_differs")


def _sign(sums: bytes, private_key: bytes) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(private_key)
    public = key.public_key().public_bytes_raw()
    return json.dumps(
        {
            "algorithm": "Ed25519",
            "key_id": key_id_of(public),
            "public_key": base64.b64encode(public).decode(),
            "signature": base64.b64encode(key.sign(sums)).decode(),
        },
        indent=1,
    ).encode()


def _verify(members: Mapping[str, bytes], trusted: set[bytes]) -> tuple[SignatureState, bytes | None]:
    if SIGNATURE not in members:
        return "none", None
    try:
        entry = json.loads(members[SIGNATURE])
        public = base64.b64decode(entry["public_key"], validate=True)
        signature = base64.b64decode(entry["signature"], validate=True)
        if entry["algorithm"] != "Ed25519":
            return "broken", None
        Ed25519PublicKey.from_public_bytes(public).verify(signature, members[SUMS])
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error, InvalidSignature):
        return "broken", None
    return ("trusted" if public in trusted else "unknown"), public


def _manifest(data: bytes) -> tuple[dict[str, Any], ModelContract]:
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _unsafe("its manifest is not valid JSON", "bad_manifest") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _unsafe(f"its manifest is not of the format {FORMAT}", "bad_manifest")
    try:
        contract = ModelContract.from_dict(manifest.get("contract", {}))
    except InvalidInput as error:
        raise _unsafe(f"its contract cannot be used ({error.message})", "bad_contract") from error
    return manifest, contract


def _check_model(members: Mapping[str, bytes], contract: ModelContract) -> None:
    if ONNX in members:
        from modelhub.onnx.metadata import contract_in
        from modelhub.onnx.safety import check_onnx

        model, facts = check_onnx(members[ONNX], name=f"{ONNX} in the bundle")
        inside = contract_in(facts.metadata)
        stated = (inside.classes, inside.leads, inside.fs_hz, inside.n_samples) if inside is not None else None
        if stated and stated != (contract.classes, contract.leads, contract.fs_hz, contract.n_samples):
            raise _unsafe("the contract inside the model is not the manifest's", "contract_differs")
        if found := identifiers_in_texts(onnx_texts(model)):
            raise _unsafe(f"in the model's metadata {found}", "identifiers_found")
    if WEIGHTS in members and (found := identifiers_in_model(weights=members[WEIGHTS])):
        raise _unsafe(found, "identifiers_found")


def onnx_texts(model: Any) -> dict[str, str]:
    """Return the texts that an ONNX model carries beside its graph: metadata, and what its documentation says."""
    said = {entry.key: entry.value for entry in model.metadata_props}
    return {**said, "doc": model.doc_string, "graph": model.graph.doc_string}


def identifiers_in_texts(texts: Mapping[str, str]) -> str | None:
    """Return what among the named texts of a model looks as if it named a patient, or None."""
    for name, text in texts.items():
        if found := _scan({name: text}, ""):
            return f"{found} (under {name[:60]!r})"
    return None


def identifiers_in_model(*, onnx: bytes | None = None, weights: bytes | None = None) -> str | None:
    """Return what in the metadata of model files looks as if it named a patient, or None. The files passed their checks."""
    if onnx is not None:
        import onnx as library

        if found := identifiers_in_texts(onnx_texts(library.load_from_string(onnx))):
            return f"in the model's metadata {found}"
    if weights is not None:
        from modelhub.safetensors_check import check_safetensors

        if found := identifiers_in_texts(check_safetensors(weights)):
            return f"in the metadata of the weights {found}"
    return None


def _scan(facts: Any, card: str) -> str | None:
    for text in (*texts_of(facts), card):
        found = find_identifiers(text)
        if found:
            return f"it holds {found[0]}, which may name a patient"
    return None


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array, dtype=np.float32), allow_pickle=False)
    return buffer.getvalue()


def _array(members: Mapping[str, bytes], name: str, n_axes: int) -> np.ndarray | None:
    if name not in members:
        return None
    try:
        array = np.load(io.BytesIO(members[name]), allow_pickle=False, max_header_size=1000)
    except (ValueError, EOFError, OSError, MemoryError, SyntaxError) as error:
        raise _unsafe(f"its member {name} is not a plain array", "bad_sample") from error
    if (
        not isinstance(array, np.ndarray)
        or array.dtype != np.float32
        or array.ndim != n_axes
        or not np.isfinite(array).all()
    ):
        raise _unsafe(f"its member {name} is not a finite float32 array of {n_axes} axes", "bad_sample")
    return array


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unsafe(f"its member {name} is not UTF-8 text", "bad_manifest") from error


def _time(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _unsafe(reason: str, code: str) -> UnsafeFile:
    return UnsafeFile(f"The bundle was refused: {reason}.", code=code)
