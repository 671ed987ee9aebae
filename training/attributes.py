"""What divides the records of an evaluation into parts: people, devices, datasets."""

from __future__ import annotations

from datasets.models import Record, Sex
from training.targets import Labelled

_AGE_BANDS = ((18, "under 18"), (40, "18 to 39"), (60, "40 to 59"), (75, "60 to 74"))
_OLDEST = "75 and older"


def attributes(items: list[Labelled]) -> dict[str, list[str]]:
    """Return, per attribute, which part of the people or devices each record belongs to; empty where unknown."""
    rows = Record.objects.filter(pk__in=[item.record for item in items]).values_list(
        "pk", "sex", "age", "format", "meta__device", "dataset__name"
    )
    known = {pk: rest for pk, *rest in rows}
    found: dict[str, list[str]] = {name: [] for name in ("sex", "age", "site", "device", "format", "dataset")}
    for item in items:
        sex, age, file_format, device, dataset = known[item.record]
        found["sex"].append(Sex(sex).label if sex else "")
        found["age"].append(age_band(age))
        found["site"].append(item.site)
        found["dataset"].append(dataset)
        found["device"].append(str(device)[:60] if device else "")
        found["format"].append(file_format)
    return found


def age_band(age: float | None) -> str:
    """Return the band of an age in years; empty where it is not known."""
    if age is None:
        return ""
    return next((name for limit, name in _AGE_BANDS if age < limit), _OLDEST)
