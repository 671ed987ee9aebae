"""The import job: an uploaded model file is told by its content, checked, and becomes a version, or is refused with the reason.

A file that is safe but leaves open what it expects becomes a version that cannot be run; the questions stand in its
``checks``, and answering them starts the job again for that version.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from django.db import transaction

from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput, PortalError, UnsafeFile
from ecgportal.jobs.context import JobContext
from modelhub import packaging, statements
from modelhub.bundle import identifiers_in_texts, onnx_texts, read_bundle
from modelhub.card import PROSE
from modelhub.contract import ModelContract, statements_in
from modelhub.loading import recipe_of
from modelhub.models import ModelVersion, Origin, VersionState
from modelhub.runtime_words import EXPORT_AGAIN, logged
from modelhub.services import model_get_or_create, version_add


@dataclass(frozen=True)
class Incoming:
    """A model file that passed its checks. Without a contract it waits for answers to ``checks["questions"]``, and
    ``main`` is the file as it came."""

    main: bytes = field(repr=False)
    weights: bytes | None = field(repr=False)
    contract: ModelContract | None
    parameters: int | None
    checks: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    quarantined: bool = False


def run(context: JobContext) -> dict[str, Any]:
    """Check the file of the payload and add it as a version; a refusal is recorded in the audit trail."""
    payload, job = context.payload, context.job
    data = storage.read_blob(payload["sha256"])
    context.progress(0.1, "Checking the file")
    try:
        found = examine(data, payload["file_name"], payload.get("contract") or {})
    except PortalError as error:
        audit(
            "model_version.refused", payload["file_name"], actor=job.created_by, project=job.project, outcome="refused",
            changes={"code": error.code, "sha256": payload["sha256"]},
        )  # fmt: skip
        _forget(payload["sha256"])
        raise
    context.progress(0.9, "Storing")
    if payload.get("version"):
        version = complete(found, actor=job.created_by, version_id=payload["version"])
    else:
        version = store(
            found, actor=job.created_by, project=job.project, name=payload["name"], origin=Origin.IMPORTED, card=payload.get("card"),
        )  # fmt: skip
    _forget(payload["sha256"])
    questions = found.checks.get("questions", {})
    return {
        "version": str(version.pk), "state": version.state, "notes": found.checks.get("notes", []), "questions": questions,
        "missing": list(statements.missing(version)),
    }  # fmt: skip


def _forget(sha256: str) -> None:
    """Remove what was uploaded unless a version is made of exactly these bytes."""
    storage.drop_unused([sha256])


@transaction.atomic
def store(
    found: Incoming, *, actor: Any, project: Any, name: str, origin: str, card: dict[str, str] | None = None
) -> ModelVersion:
    """Add what was examined as the next version of the model called ``name``. card: prose that goes before the file's."""
    model = model_get_or_create(actor=actor, project=project, name=name)
    newest = model.versions.filter(facts__number__isnull=False).order_by("-facts__number").first()
    checks, facts = dict(found.checks), dict(found.facts)
    said = facts.pop("prose", None)
    prose = {key: str(said[key])[:8000] for key in PROSE if isinstance(said, dict) and said.get(key)}
    prose |= card or {}
    number = facts.get("number")
    if newest is not None and isinstance(number, int) and number < newest.facts["number"]:
        concern = f"It holds version {number}; version {newest.facts['number']} of this model is already here."
        checks["concerns"] = [*checks.get("concerns", []), concern]
    state = VersionState.QUARANTINED if found.quarantined else VersionState.READY
    return version_add(
        actor=actor, model=model, onnx=found.main, contract=found.contract, origin=origin, parameters=found.parameters,
        weights=found.weights, facts=facts, card=prose, checks=checks, state=state if found.contract else VersionState.INCOMPLETE,
    )  # fmt: skip


@transaction.atomic
def complete(found: Incoming, *, actor: Any, version_id: str) -> ModelVersion:
    """Fill in a version that waited for answers; InvalidInput (``contract_incomplete``) while some are missing."""
    version = ModelVersion.objects.select_for_update(of=("self",)).select_related("model__project").get(pk=version_id)
    if version.state != VersionState.INCOMPLETE:
        raise Conflict(f"{version} was completed in the meantime.", code="version_complete")
    contract = found.contract
    if contract is None:
        questions = found.checks["questions"]
        raise InvalidInput(
            f"{version} still leaves open what it expects. {' '.join(questions.values())}",
            code="contract_incomplete",
            fields=questions,
        )
    storage.hold_blobs()
    version.sha256, version.size = storage.put_bytes(found.main)
    version.weights_sha256 = storage.put_bytes(found.weights)[0] if found.weights else ""
    version.contract, version.classes, version.task = contract.to_dict(), list(contract.classes), contract.task
    version.architecture, version.parameters = contract.architecture or "", found.parameters
    kept = {name: version.checks[name] for name in ("signature", "key", "concerns") if name in version.checks}
    version.checks = kept | found.checks
    pulled = version.origin == Origin.PULLED
    version.state = VersionState.QUARANTINED if pulled else VersionState.READY
    version.save()
    audit(
        "model_version.completed",
        version,
        actor=actor,
        project=version.model.project,
        changes={"sha256": version.sha256},
    )
    return version


def examine(data: bytes, name: str, answers: dict[str, Any]) -> Incoming:
    """Tell what a model file is by its content and check it. UnsafeFile or InvalidInput say why it cannot be taken."""
    found = _examined(data, name, answers)
    if found.contract is not None:
        # A contract whose input cannot be made would fail at the first prediction.
        recipe_of(found.contract)
    return found


def _examined(data: bytes, name: str, answers: dict[str, Any]) -> Incoming:
    if data[:4] == b"PK\x03\x04":
        return _torch(data, name, answers) if _is_torch_zip(data) else _bundle(data)
    if _is_safetensors(data):
        return _safetensors(data, name, answers)
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise UnsafeFile(
            f"{name} is a Python pickle, which can run code when it is opened. It is never loaded. Save the weights with "
            "safetensors.torch.save_file, or with torch.save of a current PyTorch.",
            code="pickle_refused",
        )
    other = _other_kind(data)
    if other:
        raise UnsafeFile(f"{name} is no model file that is read here: it is {other}", code="not_onnx")
    return _onnx(data, name, answers)


def _other_kind(data: bytes) -> str | None:
    """Say what a file is that people send by mistake, and what to send instead."""
    if not data:
        return "empty. Send it again."
    if data[:8] == b"\x89HDF\r\n\x1a\n":
        return "an HDF5 file, as Keras writes. Convert the model with tf2onnx and send the .onnx file."
    if data[4:8] == b"TFL3":
        return "a TensorFlow Lite file. Convert the model with tf2onnx and send the .onnx file."
    if data[:2] == b"\x1f\x8b":
        return "compressed with gzip. Unpack it and send what is in it."
    if data.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself. Fetch the file with git lfs pull and send that."
    if data.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "a web page. The download it came from probably asked for a sign-in."
    return None


def _is_torch_zip(data: bytes) -> bool:
    return b"data.pkl" in data[:4096] or b"/data.pkl" in data[-65536:]


def _is_safetensors(data: bytes) -> bool:
    length = int.from_bytes(data[:8], "little") if len(data) > 10 else 0
    return 2 <= length <= 100_000_000 and data[8:9] == b"{"


def _bundle(data: bytes) -> Incoming:
    bundle = read_bundle(data, packaging.trusted_keys())
    if not bundle.installable:
        raise UnsafeFile(
            "The bundle's signature does not fit its content: it was changed after it was signed.",
            code="signature_broken",
        )
    main, weights = bundle.onnx or bundle.weights, bundle.weights
    assert main is not None
    kind = "onnx" if bundle.onnx else "safetensors"
    parameters = bundle.manifest.get("parameters")
    concerns = bundle.concerns()
    checks = {
        "format": kind,
        "signature": bundle.signature,
        "key": bundle.key_id,
        "concerns": concerns,
        "card": bundle.card[:20_000],
    }
    if bundle.onnx:
        found = _onnx(bundle.onnx, "model.onnx", {})
        checks |= {name: value for name, value in found.checks.items() if name not in checks}
        parameters, weights = found.parameters, weights or found.weights
    facts = {name: value for name, value in bundle.manifest.items() if name in packaging.MANIFEST_FACTS}
    return Incoming(
        main,
        weights,
        bundle.contract,
        parameters if isinstance(parameters, int) else None,
        checks,
        facts,
        quarantined=True,
    )


def _onnx(data: bytes, name: str, answers: dict[str, Any]) -> Incoming:
    from modelhub.onnx.load import is_own, load_own
    from modelhub.onnx.safety import check_onnx

    model, facts = check_onnx(data, name=name)
    _nobody_named(name, identifiers_in_texts(onnx_texts(model)))
    if is_own(facts):
        from modelhub.architectures.registry import parameter_count
        from modelhub.onnx.export import check_parity
        from modelhub.weights import save_safetensors

        own = load_own(data, name=name)
        difference = check_parity(own.module, data, own.contract)
        weights = save_safetensors(
            own.module, {"architecture": own.contract.architecture or "", "contract": own.contract.to_json()}
        )
        return Incoming(
            data,
            weights,
            own.contract,
            parameter_count(own.module),
            {"format": "onnx", "parity_max_difference": difference},
            {"prose": statements_in(facts.metadata)},
        )
    return replace(_foreign(data, name, answers), facts={"prose": statements_in(facts.metadata)})


def _nobody_named(name: str, found: str | None) -> None:
    """Refuse a file whose texts may name a patient: it could never leave again, and a version never changes."""
    if found:
        raise UnsafeFile(
            f"{name} was refused: {found}. Take that text out of the file's metadata and import it again.",
            code="identifiers_found",
        )


def _foreign(data: bytes, name: str, answers: dict[str, Any]) -> Incoming:
    from modelhub.onnx.foreign import import_foreign

    found = import_foreign(data, name=name, answers=answers)
    checks: dict[str, Any] = {"format": "onnx", "notes": list(found.notes), "foreign": True}
    reason = found.reason
    if found.trainable:
        checks |= {"parity_max_difference": found.parity, "million_macs": found.million_macs}
        if found.fixed_head:
            checks["fixed_head"] = found.fixed_head
        reason = _why_not_again(found.data, found.contract) if found.contract is not None else None
    if reason:
        checks["prediction_only"] = reason
    if found.contract is None:
        checks |= {"questions": found.questions, "known": found.known, "n_outputs": found.n_outputs}
        return Incoming(data, None, None, found.facts.n_parameters, checks)
    return Incoming(found.data, None, found.contract, found.facts.n_parameters, checks)


def _why_not_again(data: bytes, contract: ModelContract) -> str | None:
    """Return why what is trained from a foreign network could not be written as a file; None when it can. A training that
    has nothing to show for at its end is refused at its start."""
    from modelhub.onnx.export import export_onnx
    from modelhub.onnx.foreign import trainable_module

    try:
        export_onnx(trainable_module(data, contract), contract)
    except PortalError as error:
        return f"A further trained version could not be written as ONNX: {error.message}"
    except Exception as error:  # the exporter raises what it likes for a graph that it cannot write.
        return logged(f"A further trained version could not be written as ONNX. {EXPORT_AGAIN}", error)
    return None


def _safetensors(data: bytes, name: str, answers: dict[str, Any]) -> Incoming:
    from modelhub.weights import check_safetensors, read_safetensors

    metadata = check_safetensors(data)
    _nobody_named(name, identifiers_in_texts(metadata))
    said: dict[str, Any] = {}
    if metadata.get("contract"):
        said = ModelContract.from_json(metadata["contract"]).to_dict()
    found = _weights(data, read_safetensors(data), {**said, **answers}, metadata.get("architecture") or None)
    return replace(found, facts={"prose": statements_in(metadata)})


def _torch(data: bytes, name: str, answers: dict[str, Any]) -> Incoming:
    """Read a state dictionary in a process with little memory and time; only tensors come out of it."""
    import safetensors.torch

    from modelhub.weights import read_state_dict

    state = read_state_dict(data)
    plain = safetensors.torch.save({key: value.contiguous().clone() for key, value in state.items()})
    found = _weights(plain, state, answers, None)
    notes = [
        *found.checks.get("notes", []),
        "The weights came as a PyTorch state dictionary; nothing else of it was kept.",
    ]
    return replace(found, checks={**found.checks, "notes": notes})


def _weights(data: bytes, state: Any, answers: dict[str, Any], architecture: str | None) -> Incoming:
    from modelhub.architectures.registry import parameter_count
    from modelhub.from_weights import from_weights
    from modelhub.loading import export

    found = from_weights(state, answers, architecture)
    if found.module is None or found.contract is None:
        checks = {
            "format": "safetensors", "questions": found.questions, "known": found.known, "n_outputs": found.n_outputs,
        }  # fmt: skip
        return Incoming(data, None, None, sum(value.numel() for value in state.values()), checks)
    files = export(found.module, found.contract)
    return Incoming(files.main, files.weights, found.contract, parameter_count(found.module), files.checks)
