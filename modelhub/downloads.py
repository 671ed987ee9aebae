"""Versions and predictions as files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from django.http import FileResponse, HttpResponse
from django.shortcuts import render
from django.utils.text import slugify

from datasets.labels.tabular import safe_cell
from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput
from modelhub import agreement, packaging, services, sr_json
from modelhub.answer_list import AnswerList
from modelhub.architectures.catalog import catalog
from modelhub.contract import ModelContract
from modelhub.models import ModelVersion, Prediction, PredictionRun, VersionState

FORMATS = ("onnx", "bundle", "safetensors")
#: File name and content type by format.
PREDICTION_FORMATS = {
    "csv": ("predictions.csv", "text/csv; charset=utf-8"),
    "json": ("predictions.json", "application/json"),
    "sr": ("predictions.sr.json", "application/dicom+json"),
}
_PAGE = 2000


def answer(version: ModelVersion, kind: str, *, actor: Any) -> FileResponse | HttpResponse:
    """Return a version's file; InvalidInput when the version has none of this kind."""
    if version.state == VersionState.QUARANTINED:
        raise Conflict(
            f"{version} is in quarantine; it can be downloaded once an owner has accepted it.",
            code="version_quarantined",
        )
    if kind != "safetensors":
        services.contract_of(version)
    name = _file_name(version)
    if kind == "onnx":
        if version.checks.get("format", "onnx") != "onnx":
            raise InvalidInput(why_no_onnx(version), fields={"format": "Choose safetensors or bundle."})
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


def why_no_onnx(version: ModelVersion) -> str:
    """Say why a version has no ONNX file, and what can be done."""
    facts = catalog().get(version.architecture)
    if version.is_trunk:
        return f"{version} has no classes; it becomes an ONNX file when it is fine-tuned."
    if facts is not None and facts.exports_onnx:
        return (
            f"{version} was stored when its network could not be written as ONNX. Download its safetensors file and import "
            "it as a new version: that one has an ONNX file."
        )
    return f"The network of {version} cannot be written as ONNX."


card_markdown = packaging.card_markdown
card_facts = packaging.card_facts


CARD_FORMATS = ("html", "markdown", "pdf")


def card_file(version: ModelVersion, kind: str, request: Any) -> HttpResponse:
    """Return a version's card as a page of its own, as Markdown or as PDF."""
    if kind in ("md", "markdown"):
        answer = HttpResponse(packaging.card_markdown(version), content_type="text/markdown; charset=utf-8")
        answer["Content-Disposition"] = f'attachment; filename="{_file_name(version)}-card.md"'
    elif kind == "pdf":
        answer = HttpResponse(packaging.card_pdf(version), content_type="application/pdf")
        answer["Content-Disposition"] = f'attachment; filename="{_file_name(version)}-card.pdf"'
    elif kind == "html":
        context = {"title": packaging.card_title(version), "sections": packaging.card_sections(version)}
        return render(request, "modelhub/card_document.html", context)
    else:
        raise InvalidInput(
            f"A card is not written as {kind}.", fields={"format": f"Choose one of {', '.join(CARD_FORMATS)}."}
        )
    return answer


def _file_name(version: ModelVersion) -> str:
    return f"{slugify(version.model.name)[:80] or 'model'}-v{version.number}"


def threshold_origin(run: PredictionRun) -> str:
    """Say where the thresholds of a run come from."""
    return origin_of(run.version, run.thresholds)


def origin_of(version: ModelVersion, thresholds: Mapping[str, float]) -> str:
    """Say where thresholds for a model's answers come from, and how they decide."""
    contract = ModelContract.from_dict(version.contract)
    if contract.activation == "identity":
        return ""
    one = contract.activation == "softmax"
    if not thresholds:
        return "none: the most probable class is predicted" if one else "0.5, because the model states none"
    rule = "; the class that exceeds its threshold the most is predicted" if one else ""
    if version.is_made_here:
        return f"chosen on the validation data of the training{rule}"
    return f"as they came with the model; how they were chosen is not known here{rule}"


def prediction_rows(listed: AnswerList, predictions: Iterable[Prediction]) -> list[dict[str, Any]]:
    """Return answers of a list as the API sends them."""
    run = listed.run
    contract, predictions = ModelContract.from_dict(run.version.contract), list(predictions)
    limits = contract.limits(run.thresholds)
    truths = agreement.truths(run, predictions, listed.label_map)
    return [
        {
            "record": str(row.record_id), "key": row.record.key, "probabilities": dict(zip(contract.classes, row.values)),
            "predicted": row.predicted, "thresholds": limits, "labels": truths.get(row.record_id),
            "agreement": agreement.verdict(row.predicted, truths.get(row.record_id)), "notices": row.notices,
            **({"sureness": row.sureness} if listed.is_of_mistakes else {}),
        }
        for row in predictions
    ]  # fmt: skip


def _pages(listed: AnswerList) -> Iterator[list[Prediction]]:
    rows = listed.rows().iterator(chunk_size=_PAGE)
    while page := list(islice(rows, _PAGE)):
        yield page


def predictions_file(listed: AnswerList, kind: str, *, actor: Any) -> HttpResponse:
    """Return the answers of a list as ``csv``, ``json`` or ``sr`` (documents like DICOM structured reports, as JSON)."""
    if kind not in PREDICTION_FORMATS:
        raise InvalidInput(
            f"Predictions are not written as {kind}.",
            fields={"format": f"Choose one of {', '.join(PREDICTION_FORMATS)}."},
        )
    run = listed.run
    narrowed = {} if listed.is_whole else {"listed": listed.query()}
    audit("prediction.downloaded", run, actor=actor, project=run.project, changes={"format": kind, **narrowed})
    content = _csv(listed) if kind == "csv" else _json(listed) if kind == "json" else _reports(listed)
    name, content_type = PREDICTION_FORMATS[kind]
    return HttpResponse(
        content, content_type=content_type, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


def _csv(listed: AnswerList) -> str:
    contract = ModelContract.from_dict(listed.run.version.contract)
    names = [f"p({name})" if contract.task != "regression" else name for name in contract.classes]
    out = io.StringIO()
    writer = csv.writer(out)
    limited = [f"threshold({name})" for name in contract.limits(listed.run.thresholds) or ()]
    writer.writerow(
        [
            "record",
            "key",
            *names,
            *limited,
            "predicted",
            "labels",
            "agreement",
            "notices",
            *(["sureness"] if listed.is_of_mistakes else []),
        ]
    )
    for page in _pages(listed):
        for row in prediction_rows(listed, page):
            cells = [
                row["record"], row["key"], *(f"{value:.6f}" for value in row["probabilities"].values()),
                *(f"{value:.6f}" for value in (row["thresholds"] or {}).values()), "; ".join(row["predicted"]),
                "; ".join(row["labels"] or []), row["agreement"], " ".join(row["notices"]),
                *([f"{row['sureness']:.6f}"] if "sureness" in row else []),
            ]  # fmt: skip
            writer.writerow([safe_cell(cell) for cell in cells])
    return out.getvalue()


def _json(listed: AnswerList) -> str:
    run = listed.run
    about = {
        "prediction": str(run.pk), "model": str(run.version), "version": str(run.version_id), "sha256": run.version.sha256,
        "dataset": run.dataset.name, "task": run.version.task, "classes": run.version.classes, "thresholds": run.thresholds,
        "threshold_origin": threshold_origin(run), "care_basis": (run.job.result or {}).get("care_basis", ""), "refused": run.refused, "agreement": (run.job.result or {}).get("agreement"),
    }  # fmt: skip
    rows = [row for page in _pages(listed) for row in prediction_rows(listed, page)]
    return json.dumps({**about, "rows": rows}, ensure_ascii=False, allow_nan=False)


def _reports(listed: AnswerList) -> str:
    run = listed.run
    told = {
        "model": str(run.version),
        "sha256": run.version.sha256,
        "at": run.created_at,
        "task": run.version.task,
        "origin": threshold_origin(run),
    }
    rows = (row for page in _pages(listed) for row in prediction_rows(listed, page))
    return json.dumps([sr_json.document(row, **told) for row in rows], ensure_ascii=False, allow_nan=False)
