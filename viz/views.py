"""The record page with its first picture in the HTML, and its downloads."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from datasets import annotating, selectors, signals
from datasets.forms_annotations import AnnotationForm, LabelForm
from datasets.models import LabelSource, Record
from ecgportal.audit.trail import record as audit
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView
from modelhub import explaining
from viz.figures.ecg12 import ecg_svg, summary
from viz.figures.view import from_query

# What the header of the figure may take; a Holter recording is drawn from its first minutes.
_ROWS = (
    ("heart_rate_bpm", "Heart rate", "bpm", 0), ("rr_ms", "RR interval", "ms", 0), ("pr_ms", "PR interval", "ms", 0),
    ("qrs_ms", "QRS duration", "ms", 0), ("qt_ms", "QT interval", "ms", 0), ("qtc_ms", "QTc", "ms", 0),
)  # fmt: skip
_QTC = ("fridericia", "bazett")


class RecordView(ProjectView):
    model = Record
    needs = {"get": Action.DATA_VIEW}
    nav_active = "datasets"

    def rows(self) -> Any:
        return Record.objects.select_related("dataset__project", "subject").prefetch_related(
            "labels__author", "originals"
        )


def _header(row: Record, found: dict[str, Any] | None = None) -> dict[str, Any]:
    header: dict[str, Any] = {
        "record": row.key, "subject": row.subject.key if row.subject else None, "age": row.age, "sex": row.sex or None, "format": row.format,
        "quality": ", ".join(row.quality.get("flags", [])) or None,
    }  # fmt: skip
    return header | (found or {})


class RecordPage(RecordView):
    """One record: the ECG, what is known about it, its measurements and labels."""

    template = "viz/record.html"

    def get(self, request: HttpRequest, pk: Any) -> HttpResponse:
        return self.shown()

    def shown(self, status: int = 200, **forms: Any) -> HttpResponse:
        """Render the page; ``forms`` may hold a filled ``annotation_form`` or ``label_form``."""
        row: Record = self.object
        query = self.request.GET
        queryset = selectors.filtered(Record.objects.filter(dataset=row.dataset), query)
        before, after = selectors.neighbours(row, queryset)
        source = signals.load(row)
        notes, labels = list(row.annotations.select_related("author")), list(row.labels.all())
        for each in (*notes, *labels):
            each.removable = getattr(each, "source", LabelSource.USER) == LabelSource.USER and annotating.may_remove(
                self.role, self.request.user, each.author_id
            )
        predictions = list(
            row.predictions.select_related("run__version__model", "run__project").order_by("-created_at")[:10]
        )
        for prediction in predictions:
            prediction.explaining = not prediction.saliency and explaining.open_job(prediction)  # type: ignore[attr-defined]
        context = {
            "record": row, "dataset": row.dataset, "before": before, "after": after, "query": query.urlencode(),
            "picture": SafeString(ecg_svg(source, from_query(query), _header(row))), "told": summary(source, None),
            "predictions": predictions,
            "notes": notes, "labels": labels, "annotation_form": AnnotationForm(row, auto_id="annotation_%s"),
            "label_form": LabelForm(auto_id="label_%s"),
        }  # fmt: skip
        return self.page(self.template, status, **(context | forms))


class RecordSvg(RecordView):
    """The figure as a file, in true size with ``?size=true``."""

    def get(self, request: HttpRequest, pk: Any) -> HttpResponse:
        row: Record = self.object
        width = "true" if request.GET.get("size") == "true" else "100%"
        text = ecg_svg(signals.load(row), from_query(request.GET), _header(row), width=width)
        audit("record.downloaded", row, actor=request.user, project=self.project, changes={"format": "svg"})
        return HttpResponse(
            text, content_type="image/svg+xml", headers={"Content-Disposition": f'attachment; filename="{row.pk}.svg"'}
        )


class RecordMeasurements(RecordView):
    """The measurements table, loaded after the page."""

    template = "viz/measurements.html"

    def get(self, request: HttpRequest, pk: Any) -> HttpResponse:
        from datasets.measure.measure import measure

        found = measure(signals.load(self.object)).to_json()
        return self.page(found=found, rows=measurement_rows(found))


def measurement_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per measurement: title, value with unit, or the reason why there is none."""
    reasons = found.get("reasons", {})
    rows = []
    for name, title, unit, places in _ROWS:
        value = found.get(name)
        # A corrected QT is worth nothing without the name of its formula.
        named = (
            {f"{title} ({formula.capitalize()})": ms for formula, ms in value.items() if formula in _QTC}
            if isinstance(value, dict)
            else {title: value}
        )
        for words, one in named.items():
            text = f"{one:.{places}f} {unit}" if isinstance(one, (int, float)) else None
            rows.append({"title": words, "value": text, "reason": reasons.get(name, "")})
    axes = found.get("axis_deg") or {}
    for wave, title in (("p", "P axis"), ("qrs", "QRS axis"), ("t", "T axis")):
        value = axes.get(wave)
        rows.append(
            {
                "title": title,
                "value": f"{value:.0f}°" if value is not None else None,
                "reason": reasons.get(f"axis_{wave}_deg", reasons.get("axis_deg", "")),
            }
        )
    return rows
