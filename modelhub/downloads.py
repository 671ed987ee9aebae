"""Versions and predictions as files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from django.http import FileResponse, HttpResponse
from django.utils.text import slugify

from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput
from modelhub import packaging, services
from modelhub.contract import ModelContract
from modelhub.models import ModelVersion, Prediction, PredictionRun, VersionState

FORMATS = ("onnx", "bundle", "safetensors")


def answer(version: ModelVersion, kind: str, *, actor: Any) -> FileResponse | HttpResponse:
    """Return a version's file; InvalidInput when the version has none of this kind."""
    if version.state == VersionState.QUARANTINED:
        raise Conflict(
            f"{version} is in quarantine; it can be downloaded once an owner has accepted it.",
            code="version_quarantined",
        )
    if kind != "safetensors":
        services.contract_of(version)
    name = f"{slugify(version.model.name)[:80] or 'model'}-v{version.number}"
    if kind == "onnx":
        if version.checks.get("format", "onnx") != "onnx":
            raise InvalidInput(
                f"The network of {version} cannot be written as ONNX.",
                fields={"format": "Choose safetensors or bundle."},
            )
        audit("model_version.downloaded", version, actor=actor, project=version.model.project, changes={"format": kind})
        return FileResponse(
            storage.open_blob(version.sha256),
            as_attachment=True,
            filename=f"{name}.onnx",
            content_type="application/octet-stream",
        )
    if kind == "safetensors":
        if not version.weights_sha256:
            raise InvalidInput(f"{version} came as ONNX only.", fields={"format": "Choose onnx or bundle."})
        audit("model_version.downloaded", version, actor=actor, project=version.model.project, changes={"format": kind})
        return FileResponse(
            storage.open_blob(version.weights_sha256),
            as_attachment=True,
            filename=f"{name}.safetensors",
            content_type="application/octet-stream",
        )
    if kind == "bundle":
        data = packaging.bundle_of(version)
        audit("model_version.downloaded", version, actor=actor, project=version.model.project, changes={"format": kind})
        return HttpResponse(
            data,
            content_type="application/zip",
            headers={"Content-Disposition": f'attachment; filename="{name}.ecgmodel.zip"'},
        )
    raise InvalidInput(f"There is no model format {kind!r}.", fields={"format": f"Choose one of {', '.join(FORMATS)}."})


card_markdown = packaging.card_markdown
card_facts = packaging.card_facts


def prediction_rows(run: PredictionRun, predictions: Iterable[Prediction]) -> list[dict[str, Any]]:
    """Return predictions as the API sends them."""
    contract = ModelContract.from_dict(run.version.contract)
    limits = (
        None if contract.activation != "sigmoid" else {name: run.thresholds.get(name, 0.5) for name in contract.classes}
    )
    return [
        {
            "record": str(row.record_id), "key": row.record.key, "probabilities": dict(zip(contract.classes, row.values)),
            "predicted": row.predicted, "thresholds": limits,
        }
        for row in predictions
    ]  # fmt: skip


def predictions_csv(run: PredictionRun, *, actor: Any) -> HttpResponse:
    """Return all predictions of a run as CSV, one probability column per class."""
    contract = ModelContract.from_dict(run.version.contract)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        [
            "record",
            "key",
            *(f"p({name})" if contract.task != "regression" else name for name in contract.classes),
            "predicted",
        ]
    )
    for row in run.predictions.select_related("record").order_by("record__key", "id").iterator(chunk_size=2000):
        cells = [
            str(row.record_id),
            row.record.key,
            *(f"{value:.6f}" for value in row.values),
            "; ".join(row.predicted),
        ]
        writer.writerow(
            [
                "'" + cell if cell[:1] in "=+@\t\r" or (cell[:1] == "-" and i < 2) else cell
                for i, cell in enumerate(cells)
            ]
        )
    audit("prediction.downloaded", run, actor=actor, project=run.project, changes={"format": "csv"})
    return HttpResponse(
        out.getvalue(),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="predictions.csv"'},
    )
