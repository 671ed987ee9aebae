"""The import job: an uploaded model file is told by its content, checked, and becomes a version, or is refused with the reason."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction

from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import InvalidInput, PortalError, UnsafeFile
from ecgportal.jobs.context import JobContext
from modelhub import packaging
from modelhub.bundle import read_bundle
from modelhub.contract import ModelContract
from modelhub.models import ModelVersion, Origin, VersionState
from modelhub.services import model_get_or_create, version_add


@dataclass(frozen=True)
class Incoming:
    """A model file that passed its checks."""

    main: bytes = field(repr=False)
    weights: bytes | None = field(repr=False)
    contract: ModelContract
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
        if not _in_use(payload["sha256"]):
            storage.delete_blob(payload["sha256"])
        raise
    context.progress(0.9, "Storing")
    version = store(found, actor=job.created_by, project=job.project, name=payload["name"], origin=Origin.IMPORTED)
    return {"version": str(version.pk), "state": version.state, "notes": found.checks.get("notes", [])}


def _in_use(sha256: str) -> bool:
    return (
        ModelVersion.objects.filter(sha256=sha256).exists()
        or ModelVersion.objects.filter(weights_sha256=sha256).exists()
    )


@transaction.atomic
def store(found: Incoming, *, actor: Any, project: Any, name: str, origin: str) -> ModelVersion:
    """Add what was examined as the next version of the model called ``name``."""
    model = model_get_or_create(actor=actor, project=project, name=name)
    state = VersionState.QUARANTINED if found.quarantined else VersionState.READY
    return version_add(
        actor=actor, model=model, onnx=found.main, contract=found.contract, origin=origin, parameters=found.parameters,
        weights=found.weights, facts=found.facts, checks=found.checks, state=state,
    )  # fmt: skip


def examine(data: bytes, name: str, answers: dict[str, Any]) -> Incoming:
    """Tell what a model file is by its content and check it. UnsafeFile or InvalidInput say why it cannot be taken."""
    if data[:4] == b"PK\x03\x04":
        if _is_torch_zip(data):
            raise UnsafeFile(
                f"{name} is a PyTorch file, which can run code when it is opened. Save the weights as safetensors "
                "(safetensors.torch.save_file) and import those with their network's name.",
                code="pickle_refused",
            )
        return _bundle(data)
    if _is_safetensors(data):
        return _safetensors(data, name, answers)
    if data[:2] in (b"\x80\x02", b"\x80\x04", b"\x80\x05"):
        raise UnsafeFile(
            f"{name} is a Python pickle, which can run code when it is opened. It is never loaded.",
            code="pickle_refused",
        )
    return _onnx(data, name, answers)


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

    _, facts = check_onnx(data, name=name)
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
        )
    return _foreign(data, name, answers)


def _foreign(data: bytes, name: str, answers: dict[str, Any]) -> Incoming:
    from modelhub.onnx.foreign import import_foreign

    found = import_foreign(data, name=name, answers=answers)
    if found.contract is None:
        raise InvalidInput(
            f"{name} leaves open what it expects. Import it again with the answers: {' '.join(found.questions.values())}",
            code="contract_incomplete", fields=found.questions,
        )  # fmt: skip
    checks: dict[str, Any] = {"format": "onnx", "notes": list(found.notes), "foreign": True}
    if found.trainable:
        checks["parity_max_difference"] = found.parity
    else:
        checks["prediction_only"] = found.reason
    return Incoming(found.data, None, found.contract, found.facts.n_parameters, checks)


def _safetensors(data: bytes, name: str, answers: dict[str, Any]) -> Incoming:
    from modelhub.architectures.registry import build, parameter_count
    from modelhub.loading import export
    from modelhub.weights import check_safetensors, load_safetensors

    metadata = check_safetensors(data)
    text = json.dumps(answers) if answers else metadata.get("contract", "")
    if not text:
        raise InvalidInput(
            f"{name} holds weights only. Say which network they belong to: give the contract with architecture, classes, leads, fs_hz, n_samples and task.",
            code="contract_incomplete", fields={"contract": "Required for a weights file of another origin."},
        )  # fmt: skip
    contract = ModelContract.from_json(text)
    if contract.architecture is None:
        raise InvalidInput(
            "The contract does not name the network.",
            code="contract_incomplete",
            fields={"contract": "architecture is missing."},
        )
    module = build(
        contract.architecture,
        n_leads=contract.n_leads,
        n_samples=contract.n_samples,
        fs_hz=contract.fs_hz,
        n_classes=contract.n_classes,
        **contract.config,
    )
    load_safetensors(module, data)
    files = export(module.eval(), contract)
    return Incoming(files.main, files.weights, contract, parameter_count(module), files.checks)
