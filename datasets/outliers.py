"""Records that stand apart from their dataset, ranked, each with the reason."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import Case, F, FloatField, QuerySet, Value, When
from django.db.models.functions import Abs, Greatest

from datasets.insight import quartiles
from datasets.measure.features import FEATURES
from datasets.models import Dataset, Record

# A robust z of 5: for a normal distribution, two records in a million.
LIMIT = 5.0
# Irregular rhythms are a group of their own, not records that stand alone.
_LEFT_OUT = {"rr_sd_ms"}
# What could not be measured at all comes first.
_UNMEASURED = 1_000.0
# The interquartile range of a normal distribution is so many standard deviations.
_IQR_PER_SD = 1.349


@dataclass(frozen=True)
class Outliers:
    """records: the queryset, the most striking first, each with ``score``; spread: quartiles of the dataset by measure."""

    records: QuerySet[Record]
    spread: dict[str, list[float]]

    def reason(self, record: Record) -> str:
        """Return why a record is among the outliers: its most striking measure beside those of the dataset."""
        if record.features.reason:
            return record.features.reason
        name, z = max(self._distances(record).items(), key=lambda item: item[1], default=("", 0.0))
        if not name:
            return ""
        feature, (q1, _, q3) = FEATURES[name], self.spread[name]
        value = getattr(record.features, name)
        return (
            f"{feature.title} {value:.4g} {feature.unit}; half of the dataset lies between {q1:.4g} and {q3:.4g} "
            f"({z:.1f} standard deviations away)."
        )

    def _distances(self, record: Record) -> dict[str, float]:
        found = {}
        for name, (q1, middle, q3) in self.spread.items():
            value = getattr(record.features, name)
            if value is not None:
                found[name] = abs(value - middle) * _IQR_PER_SD / (q3 - q1)
        return found


def outliers(dataset: Dataset) -> Outliers:
    """Return the records whose beats could not be measured or of which a measure lies far from the dataset's.

    Distances are robust: from the median, in standard deviations estimated from the quartiles. A measure that hardly
    varies (no distance between its quartiles) is left out, and so is the variability of RR. Two queries, one of them for the page that is shown.
    """
    records = Record.objects.filter(dataset=dataset, features__isnull=False).select_related("features", "subject")
    spread = {
        name: three for name, three in quartiles(records).items() if three[2] > three[0] and name not in _LEFT_OUT
    }
    distances = [
        Abs(F(f"features__{name}") - middle) * (_IQR_PER_SD / (q3 - q1)) for name, (q1, middle, q3) in spread.items()
    ]
    score = Greatest(Value(0.0), *distances, output_field=FloatField()) if distances else Value(0.0, FloatField())
    ranked = records.annotate(
        score=Case(When(features__reason__gt="", then=Value(_UNMEASURED)), default=score, output_field=FloatField())
    )
    return Outliers(ranked.filter(score__gte=LIMIT).order_by("-score", "key"), spread)
