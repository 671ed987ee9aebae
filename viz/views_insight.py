"""A dataset at a glance: counts and gaps by every field with links to the records, and a gallery of miniatures."""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import urlencode

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.safestring import SafeString

from datasets import selectors, signals
from datasets.ecg import Record as EcgRecord
from datasets.forms import RecordFilterForm
from datasets.insight import Counts, Insight, insight
from datasets.models import Dataset, Record
from ecgportal.errors import InvalidInput, PortalError
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView, paginate
from viz.figures.cohort import count_bars
from viz.figures.ecg12 import ecg_thumbnail_svg
from viz.figures.figure import Figure
from viz.figures.matrices import co_occurrence
from viz.figures.render import figure_svg

GALLERY_SIZE = 24
_SECONDS_SHOWN = 10.0
_WIDTH_PX = 560
# The table below a figure holds all.
_MOST_BARS = 20
# field -> (title, what one bar is, what is said when there is none)
_FIELDS = {
    "labels": ("Records per label", "label", "No record has a label yet."),
    "gaps": ("What is not known", "gap", "Every record has a label, an age, a sex and a subject."),
    "age": ("Age", "age in years", "No record states an age."),
    "sex": ("Sex", "sex", ""),
    "rate": ("Sampling rate", "rate", ""),
    "length": ("Length of the recordings", "length", ""),
    "format": ("File format", "format", ""),
    "quality": ("Quality flags", "flag", "No record has a quality flag."),
    "leads": ("Missing leads", "lead", "Every record has the twelve standard leads."),
}
SORTS = [("key", "Record"), ("age", "Age, youngest first"), ("-age", "Age, oldest first"),
         ("quality", "Quality, worst first"), ("-quality", "Quality, best first")]  # fmt: skip


class DatasetPage(ProjectView):
    model = Dataset
    needs = {"get": Action.DATA_VIEW}
    nav_active = "datasets"
    object: Dataset

    def rows(self) -> QuerySet[Any]:
        return Dataset.objects.select_related("project")


class InsightView(DatasetPage):
    """Counts by field as figures; ``?csv=`` with a field's name gives the numbers behind one."""

    template = "viz/insight.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        found = insight(self.object)
        asked = request.GET.get("csv")
        if asked is not None:
            return self._csv(found, asked)
        panels = [
            self._panel(name, found.fields[name], found.totals.records)
            for name in _FIELDS
            if found.fields[name].counts or _FIELDS[name][2]
        ]
        together = _together(found) if len(found.frequent) > 1 else None
        return self.page(
            dataset=self.object, totals=found.totals, panels=panels, together=together,
            together_svg=SafeString(figure_svg(together, 760, 520)) if together else "",
        )  # fmt: skip

    def _panel(self, name: str, counts: Counts, total: int) -> dict[str, Any]:
        title, noun, nothing = _FIELDS[name]
        records = reverse("datasets:detail", kwargs={"pk": self.object.pk})
        links = {key: f"{records}?{urlencode(query)}#records" for key, query in counts.filters.items()}
        drawn = dict(list(counts.counts.items())[:_MOST_BARS])
        figure = count_bars(drawn, total=total, links=links, title=title, noun=noun)
        summary = figure.summary
        if len(counts.counts) > _MOST_BARS:
            few = dict(list(drawn.items())[:8])
            told = count_bars(few, total=total, title=title, noun=noun).summary
            summary = f"{told} The figure shows the first {_MOST_BARS}, the table all {len(counts.counts)}."
        height = 120 + 26 * len(drawn)
        rows = [(key, count, 100 * count / total, links[key]) for key, count in counts.counts.items()]
        return {
            "name": name, "figure": figure, "noun": noun.capitalize(), "rows": rows, "nothing": "" if rows else nothing, "summary": summary,
            "svg": SafeString(figure_svg(figure, _WIDTH_PX, height)) if rows else "",
        }  # fmt: skip

    def _csv(self, found: Insight, name: str) -> HttpResponse:
        if name == "together":
            text = _together(found).csv()
        elif name in _FIELDS:
            title, noun, _ = _FIELDS[name]
            text = count_bars(found.fields[name].counts, total=found.totals.records, title=title, noun=noun).csv()
        else:
            raise InvalidInput(
                f"There are no counts by {name[:40]!r}.",
                fields={"csv": f"Choose one of {', '.join(_FIELDS)}, together."},
            )
        disposition = f'attachment; filename="{name}.csv"'
        return HttpResponse(text, content_type="text/csv; charset=utf-8", headers={"Content-Disposition": disposition})


def _together(found: Insight) -> Figure:
    return co_occurrence(found.together, found.frequent)


class GalleryView(DatasetPage):
    """Miniatures of the records that the filter of the record list finds, 24 a page."""

    template = "viz/gallery.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        totals = selectors.totals(self.object)
        labels = selectors.label_counts(self.object)
        form = RecordFilterForm(request.GET, labels=labels, formats=totals.formats, flags=totals.flags)
        records = selectors.filtered(Record.objects.filter(dataset=self.object), form.values)
        records, sort = selectors.sorted_records(records, request.GET.get("sort", "key"))
        page = paginate(request, records.select_related("subject").prefetch_related("labels"), GALLERY_SIZE)
        kept = request.GET.copy()
        kept.pop("page", None)
        return self.page(
            dataset=self.object, page_obj=page, filters=form, sort=sort, sorts=SORTS, query=kept.urlencode(), is_filtered=bool(form.values),
            cards=[(row, *_miniature(row)) for row in page],
        )  # fmt: skip


def _miniature(row: Record) -> tuple[SafeString, str]:
    """Return the picture, or why there is none: one bad record leaves the others to be seen."""
    try:
        source: EcgRecord = signals.load(row, _SECONDS_SHOWN)
        return SafeString(ecg_thumbnail_svg(source, label=f"ECG {row.key}")), ""
    except PortalError as error:
        return SafeString(""), error.message
