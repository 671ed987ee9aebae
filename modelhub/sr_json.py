"""Predictions as documents in the manner of DICOM structured reports: the JSON model of PS3.18 Annex F, one per record.

It is like a Comprehensive SR, not one: no patient or study stands in it, because models are applied to records whose
identity the portal does not hold. Codes of the private scheme ``99ECGPORTAL`` are explained by their meanings.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

SCHEME = "99ECGPORTAL"
_COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"


def document(
    row: Mapping[str, Any], *, model: str, sha256: str, at: datetime, task: str, unit: str = "1", origin: str = ""
) -> dict[str, Any]:
    """Return one record's document. row: as the API's rows of a prediction. origin: where the thresholds come from."""
    items = [
        _text("MODEL", "Model", model),
        _text("SHA256", "Digest of the model", sha256),
        _text("RECORD", "Record", row["key"]),
        _text("STATUS", "Verification", "Unconfirmed, needs a physician's over-read. Research use, not a diagnosis."),
    ]
    for name, value in row["probabilities"].items():
        title = name if task == "regression" else f"Probability of {name}"
        item = _number(f"P_{name}"[:16], title, value, unit)
        limit = (row.get("thresholds") or {}).get(name)
        if limit is not None:
            item["0040A730"] = {"vr": "SQ", "Value": [_number("THRESHOLD", "Threshold", limit, unit)]}
        items.append(item)
    if origin:
        items.append(_text("ORIGIN", "Origin of the thresholds", origin))
    items += [_text("PREDICTED", "Predicted class", name) for name in row["predicted"]]
    items += [_text("NOTICE", "Notice", sentence) for sentence in row.get("notices", [])]
    return {
        "00080016": {"vr": "UI", "Value": [_COMPREHENSIVE_SR]},
        "00080018": {"vr": "UI", "Value": [f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, row['record'] + sha256).int}"]},
        "00080023": {"vr": "DA", "Value": [f"{at:%Y%m%d}"]},
        "00080033": {"vr": "TM", "Value": [f"{at:%H%M%S}"]},
        "00080060": {"vr": "CS", "Value": ["SR"]},
        "0040A040": {"vr": "CS", "Value": ["CONTAINER"]},
        "0040A043": _code("ECGPRED", "Prediction of an ECG model"),
        "0040A050": {"vr": "CS", "Value": ["SEPARATE"]},
        "0040A491": {"vr": "CS", "Value": ["COMPLETE"]},
        "0040A493": {"vr": "CS", "Value": ["UNVERIFIED"]},
        "0040A730": {"vr": "SQ", "Value": items},
    }


def _code(value: str, meaning: str) -> dict[str, Any]:
    entry = {
        "00080100": {"vr": "SH", "Value": [value]},
        "00080102": {"vr": "SH", "Value": [SCHEME]},
        "00080104": {"vr": "LO", "Value": [meaning[:64]]},
    }
    return {"vr": "SQ", "Value": [entry]}


def _text(code: str, meaning: str, text: str) -> dict[str, Any]:
    return {
        "0040A010": {"vr": "CS", "Value": ["CONTAINS"]},
        "0040A040": {"vr": "CS", "Value": ["TEXT"]},
        "0040A043": _code(code, meaning),
        "0040A160": {"vr": "UT", "Value": [text]},
    }


def _number(code: str, meaning: str, value: float, unit: str) -> dict[str, Any]:
    measured = {
        "0040A30A": {"vr": "DS", "Value": [round(float(value), 6)]},
        "004008EA": {
            "vr": "SQ",
            "Value": [
                {
                    "00080100": {"vr": "SH", "Value": [unit]},
                    "00080102": {"vr": "SH", "Value": ["UCUM"]},
                    "00080104": {"vr": "LO", "Value": ["no units" if unit == "1" else unit]},
                }
            ],
        },
    }
    return {
        "0040A010": {"vr": "CS", "Value": ["CONTAINS"]},
        "0040A040": {"vr": "CS", "Value": ["NUM"]},
        "0040A043": _code(code, meaning),
        "0040A300": {"vr": "SQ", "Value": [measured]},
    }
