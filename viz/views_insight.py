"""A dataset at a glance: counts and gaps by every field with links to the records, distributions, and any of them by any other."""

from __future__ import annotations

import math
import uuid
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from datasets import featuring
from datasets.insight import ALL, FIELDS, MEASURES, Counts, Insight, cross, insight, measure_by
from datasets.labels import builtin
from datasets.measure.features import FEATURES
from datasets.models import Dataset
from ecgportal.errors import InvalidInput, PortalError
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView
from viz.drawn import at_every_width, drawn, file_of
from viz.figures.cohort import binned_bars, count_bars, group_ranges
from viz.figures.figure import Figure
from viz.figures.matrices import co_occurrence, cross_table
from viz.forms_insight import GroupForm

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
    "device": ("Device", "device", ""),
    "site": ("Hospital", "hospital", ""),
    "quality": ("Quality flags", "flag", "No record has a quality flag."),
    "leads": ("Missing leads", "lead", "Every record has the twelve standard leads."),
}


class DatasetPage(ProjectView):
    model = Dataset
    needs = {"get": Action.DATA_VIEW}
    nav_active = "datasets"
    object: Dataset

    def rows(self) -> QuerySet[Any]:
        return Dataset.objects.select_related("project")

    def page(self, template: str | None = None, status: int = 200, **context: Any) -> HttpResponse:
        return super().page(template, status, dataset=self.object, **context)

    def link(self, query: dict[str, str]) -> str:
        """Return the address of the record list under a filter."""
        return f"{reverse('datasets:detail', kwargs={'pk': self.object.pk})}?{urlencode(query)}#records"


class InsightView(DatasetPage):
    """Counts by field as figures; ``?csv=`` or ``?svg=`` with a panel's name gives one of them as a file."""

    template = "viz/insight.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        found = insight(self.object)
        for kind in ("csv", "svg"):
            if (asked := request.GET.get(kind)) is not None:
                return file_of(self._figure(found, asked), asked, kind)
        names = [name for name in _FIELDS if found.fields[name].counts or _FIELDS[name][2]]
        together = drawn(
            self._figure(found, "together"), "together", _files("together"), kind="matrix", width=760, height=520
        )
        unmeasured = found.totals.records - found.measured
        return self.page(
            totals=found.totals, measured=found.measured, unmeasured=unmeasured, minutes=math.ceil(featuring.expected_s(unmeasured) / 60),
            measuring=featuring.open_job(self.object), panels=[self._panel(found, name) for name in names],
            distributions=[self._panel(found, name) for name in found.measures if found.measures[name].counts],
            together=together if len(found.frequent) > 1 else None, grouping=self._grouping(request),
        )  # fmt: skip

    def _links(self, counts: Counts) -> dict[str, str]:
        return {key: self.link(query) for key, query in counts.filters.items()}

    def _figure(self, found: Insight, name: str, most: int | None = None) -> Figure:
        """Return the figure of one panel; InvalidInput when there is none of that name."""
        if name == "together":
            return co_occurrence(found.together, [builtin.named(code) for code in found.frequent])
        if name in found.measures:
            return self._distribution(found, name)
        if name not in _FIELDS:
            choice = ", ".join([*_FIELDS, *found.measures, "together"])
            raise InvalidInput(f"There are no counts by {name[:40]!r}.", fields={"csv": f"Choose one of {choice}."})
        title, noun, _ = _FIELDS[name]
        counts = _worded(found, name)
        shown = dict(list(counts.counts.items())[:most])
        return count_bars(shown, total=found.totals.records, links=self._links(counts), title=title, noun=noun)

    def _distribution(self, found: Insight, name: str) -> Figure:
        feature, counts = FEATURES[name], found.measures[name]
        links = self._links(counts)
        bars = [(float(key.split(" to ")[0]), n) for key, n in counts.counts.items()]
        return binned_bars(
            bars, width=feature.width, unit=feature.unit, quantity=feature.title, links=[links[key] for key in counts.counts], quartiles=found.spread.get(name, ())
        )  # fmt: skip

    def _panel(self, found: Insight, name: str) -> dict[str, Any]:
        figure = self._figure(found, name, _MOST_BARS)
        counts = found.measures.get(name) or _worded(found, name)
        total, links = found.totals.records, self._links(counts)
        rows = [(key, n, 100 * n / total, links[key]) for key, n in counts.counts.items()]
        summary = figure.summary
        if name in _FIELDS and len(rows) > _MOST_BARS:
            summary = f"{summary} The figure shows the first {_MOST_BARS}, the table all {len(rows)}."
        height = None if name in found.measures else 120 + 26 * min(len(rows), _MOST_BARS)
        title, noun, nothing = _FIELDS.get(
            name, (figure.title, f"{figure.title} ({FEATURES[name].unit})" if name in FEATURES else "", "")
        )
        return {
            "name": name, "title": title, "noun": noun.capitalize() if name in _FIELDS else noun, "rows": rows, "nothing": "" if rows else nothing,
            "summary": summary, "kind": "plot" if name in found.measures else "counts",
            "svg": at_every_width(figure, _WIDTH_PX, height or 340) if rows else "",
        }  # fmt: skip

    def _grouping(self, request: HttpRequest) -> dict[str, Any]:
        """Return the form that counts one field by another, and its figure when both are chosen."""
        form = GroupForm(request.GET)
        what, by = form.values.get("what"), form.values.get("by")
        if not what or not by:
            return {"form": form}
        title, words = GroupForm.TITLES[by].lower(), FIELDS[by].words
        if what in MEASURES:
            groups = measure_by(self.object, what, FIELDS[by])
            feature = FEATURES[what]
            figure = group_ranges(
                [(words(one.name), one.known, one.quartiles) for one in groups],
                unit=feature.unit,
                quantity=feature.title,
                by=title,
            )
            rows = [(words(one.name), one.records, one.known, one.quartiles, self.link(one.filters)) for one in groups]
            return {
                "form": form,
                "figure": drawn(figure, "grouped", width=800),
                "groups": rows,
                "feature": feature,
                "by": title,
            }
        table = cross(self.object, ALL[what], FIELDS[by])
        columns, parts = [words(name) for name in table.columns], [ALL[what].words(name) for name in table.rows]
        figure = cross_table(table.counts, parts, columns, what=GroupForm.TITLES[what], by=GroupForm.TITLES[by])
        cells = [
            (name, [(n, self.link(query) if n and query else "") for n, query in zip(counts, filters, strict=True)])
            for name, counts, filters in zip(parts, table.counts, table.filters, strict=True)
        ]
        shown = drawn(
            figure, "grouped", kind="matrix", width=max(760, 80 * len(table.columns)), height=140 + 34 * len(table.rows)
        )
        return {"form": form, "figure": shown, "columns": columns, "cells": cells, "by": title}


def _worded(found: Insight, name: str) -> Counts:
    """Return the counts of a field as people read them; gaps are in words already."""
    return found.fields[name].worded(FIELDS[name].words) if name in FIELDS else found.fields[name]


def _files(name: str) -> dict[str, str]:
    return {kind: f"?{kind}={name}" for kind in ("csv", "svg")}


class MeasureView(DatasetPage):
    """Measure the records that have not been measured, for distributions, outliers and maps."""

    needs = {"post": Action.DATA_EDIT}

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        try:
            featuring.measuring_start(actor=request.user, dataset=self.object)
        except PortalError as error:
            messages.info(request, error.message)
        return redirect("viz:insight", pk=pk)
