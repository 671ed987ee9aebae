"""The measurements of a record as a table for people: value with unit and method, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """title: what was measured; value: with its unit, None where it could not be; note: the method, or the reason;
    printed: what the recording device printed, if the file says it; number: the value alone, for differences."""

    title: str
    value: str | None
    note: str
    printed: str = ""
    number: float | None = None


_BETWEEN = {
    "p_ms": ("P duration", "P onset to P offset"), "pr_ms": ("PR interval", "P onset to QRS onset"),
    "qrs_ms": ("QRS duration", "QRS onset to QRS offset"), "qt_ms": ("QT interval", "QRS onset to T offset"),
}  # fmt: skip
_QTC = {
    "bazett": "QT / √RR",
    "fridericia": "QT / ∛RR",
    "framingham": "QT + 154 ms · (1 − RR)",
    "hodges": "QT + 1.75 ms · (rate − 60)",
}
_RR = (
    ("mean", "RR interval, mean", "mean over {n} intervals"), ("sd", "RR variability, SDNN", "standard deviation of {n} intervals"),
    ("rmssd", "RR variability, RMSSD", "root mean square of the differences between successive intervals"),
    ("min", "RR interval, shortest", "of {n} intervals"), ("max", "RR interval, longest", "of {n} intervals"),
)  # fmt: skip
_AXES = (
    ("p", "P axis"), ("qrs", "QRS axis"), ("t", "T axis"),
)  # fmt: skip


def rows(found: Mapping[str, Any], printed: Mapping[str, float] | None = None) -> list[Row]:
    """Return the table of ``Measurements.to_json()``; ``printed`` holds what the device printed, by the same names."""
    printed = printed or {}
    reasons = found.get("reasons") or {}
    statistics = found.get("rr_ms")
    out = [
        _row(
            "Heart rate", found.get("heart_rate_bpm"), "/min", "60 000 ms over the mean RR interval",
            reasons.get("heart_rate_bpm"), printed.get("heart_rate_bpm"),
        )
    ]  # fmt: skip
    for key, title, how in _RR:
        value = statistics.get(key) if statistics else None
        n = int(statistics["n"]) if statistics else 0
        if value is None and key != "mean":
            continue
        if key in ("sd", "rmssd") and n < 2:
            value, why = None, "Variability needs three beats."
        else:
            why = reasons.get("rr_ms")
        out.append(_row(title, value, "ms", how.format(n=n), why, printed.get("rr_ms") if key == "mean" else None))
    for key, (title, how) in _BETWEEN.items():
        how = f"{how}, median over the beats of the dominant shape"
        out.append(_row(title, found.get(key), "ms", how, reasons.get(key), printed.get(key)))
    qtc = found.get("qtc_ms") or {}
    for name, formula in _QTC.items():
        how = f"{formula}, RR in s" if "RR" in formula else formula
        out.append(
            _row(
                f"QTc, {name.capitalize()}",
                qtc.get(name),
                "ms",
                how,
                reasons.get("qtc_ms") or reasons.get("qt_ms"),
                printed.get("qtc_ms") if name == "bazett" else None,
            )
        )
    axes = found.get("axis_deg") or {}
    for wave, title in _AXES:
        how = "from the net amplitudes in I and aVF of the median beat"
        out.append(
            _row(title, axes.get(wave), "°", how, reasons.get(f"axis_deg.{wave}"), printed.get(f"{wave}_axis_deg"))
        )
    return out


def _row(title: str, value: float | None, unit: str, how: str, why: str | None, printed: float | None = None) -> Row:
    words = "" if printed is None else _words(printed, unit)
    if value is None:
        return Row(title, None, why or "It was not measured.", words)
    return Row(title, _words(value, unit), how, words, float(value))


def _words(value: float, unit: str) -> str:
    number = f"{value:.0f}".replace("-", "−")
    return f"{number}{'' if unit == '°' else ' '}{unit}"
