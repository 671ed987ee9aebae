"""A dataset record by record: miniatures, outliers first, and what differs from another dataset."""

from __future__ import annotations

import uuid

from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from datasets import featuring, selectors, signals
from datasets.ecg import Record as EcgRecord
from datasets.forms import RecordFilterForm
from datasets.measure.features import FEATURES
from datasets.models import Record
from datasets.outliers import LIMIT, outliers
from datasets.shift import shift, summary
from ecgportal.errors import PortalError
from ecgportal.views import paginate
from viz.drawn import drawn
from viz.figures.cohort import effect_sizes
from viz.figures.ecg12 import ecg_thumbnail_svg
from viz.forms_insight import CompareForm
from viz.views_insight import DatasetPage

GALLERY_SIZE = 24
_SECONDS_SHOWN = 10.0
SORTS = [
    ("key", "Record"), ("age", "Age, youngest first"), ("-age", "Age, oldest first"),
    ("quality", "Quality, worst first"), ("-quality", "Quality, best first"),
    ("recorded_at", "Time of recording, first to last"), ("-recorded_at", "Time of recording, last to first"),
    *((sign + name, f"{one.title}, {word} first") for name, one in FEATURES.items() for sign, word in (("", "lowest"), ("-", "highest"))),
]  # fmt: skip


class GalleryView(DatasetPage):
    """Miniatures of the records that the filter of the record list finds, 24 a page, in the order of any measure."""

    template = "viz/gallery.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        totals = selectors.totals(self.object)
        labels = selectors.label_counts(self.object)
        form = RecordFilterForm(request.GET, totals=totals, labels=labels)
        records = selectors.filtered(Record.objects.filter(dataset=self.object), form.values)
        records, sort = selectors.sorted_records(records, request.GET.get("sort", "key"))
        page = paginate(request, records.select_related("subject", "features").prefetch_related("labels"), GALLERY_SIZE)
        kept = request.GET.copy()
        kept.pop("page", None)
        return self.page(
            page_obj=page, filters=form, sort=sort, sorts=SORTS, query=kept.urlencode(), is_filtered=bool(form.values),
            cards=[(row, *miniature(row), _measure(row, sort)) for row in page],
        )  # fmt: skip


def miniature(row: Record) -> tuple[SafeString, str]:
    """Return the picture, or why there is none: one bad record leaves the others to be seen."""
    try:
        source: EcgRecord = signals.load(row, _SECONDS_SHOWN)
        return SafeString(ecg_thumbnail_svg(source, label=f"ECG {row.key}")), ""
    except PortalError as error:
        return SafeString(""), error.message


def _measure(row: Record, sort: str) -> str:
    """Return the measure that orders the gallery, in words."""
    feature = FEATURES.get(sort.removeprefix("-"))
    if feature is None:
        return ""
    value = getattr(getattr(row, "features", None), feature.name, None)
    return f"{feature.title}: {'not measured' if value is None else f'{value:.4g} {feature.unit}'}"


class OutliersView(DatasetPage):
    """Records that stand apart, the most striking first, with the reason and a miniature."""

    template = "viz/outliers.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        found = outliers(self.object)
        page = paginate(request, found.records, GALLERY_SIZE)
        measured = Record.objects.filter(dataset=self.object, features__isnull=False).exists()
        return self.page(
            page_obj=page,
            cards=[(row, *miniature(row), found.reason(row)) for row in page],
            measured=measured,
            measuring=featuring.open_job(self.object),
            limit=LIMIT,
        )


class DatasetCompareView(DatasetPage):
    """This dataset against another of the project: the shift of every field with its effect size."""

    template = "viz/dataset_compare.html"

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        form = CompareForm(request.GET, dataset=self.object)
        other = form.values.get("other")
        if other is None:
            return self.page(form=form)
        found = shift(self.object, other)
        effects = [(one.title, one.kind, one.effect, one.size) for one in found]
        figure = effect_sizes(effects, first=self.object.name, second=other.name)
        return self.page(
            form=form, other=other, differences=found, told=summary(self.object, other, found), figure=drawn(figure, "effects", kind="counts", width=640)
        )  # fmt: skip
