"""The record page with its first picture in the HTML, and its downloads."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from datasets import annotating
from datasets.forms_annotations import AnnotationForm, LabelForm
from datasets.labels import builtin
from datasets.models import LabelSource, Record
from datasets.quality import RECORD_FLAGS
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView
from modelhub import explaining
from modelhub.contract import ModelContract
from modelhub.models import Prediction
from viz import measured, showing, walking
from viz.figures.ecg12 import SCREEN_POINTS, ecg_svg, summary
from viz.figures.view import usual_layout

_MOST_SERIAL, _MOST_PREDICTIONS, _MOST_VERSIONS, _MOST_CLASSES = 50, 100, 10, 8


class RecordView(ProjectView):
    model = Record
    needs = {"get": Action.DATA_VIEW}
    nav_active = "datasets"

    def rows(self) -> Any:
        return Record.objects.select_related("dataset__project", "subject").prefetch_related(
            "labels__author", "originals"
        )


class RecordPage(RecordView):
    """One record: the ECG, what is known about it, its measurements and labels."""

    template = "viz/record.html"

    def get(self, request: HttpRequest, pk: Any) -> HttpResponse:
        return self.shown()

    def shown(self, status: int = 200, **forms: Any) -> HttpResponse:
        """Render the page; ``forms`` may hold a filled ``annotation_form`` or ``label_form``."""
        row: Record = self.object
        query = self.request.GET
        walk = walking.of(row, query, self.project)
        asked = showing.read(query, row.leads)
        original = showing.source_of(row)
        shown, why = showing.at_stage(row, original, asked.signal)
        found = showing.measurements(row, original, asked.view)
        over = showing.overlays(row, original, asked, found) if shown is original else None
        picture = ecg_svg(
            shown,
            asked.view,
            showing.header_of(row, asked, found),
            overlays=over,
            width="true",
            max_points=SCREEN_POINTS,
        )
        notes, labels = list(row.annotations.select_related("author")), list(row.labels.all())
        for each in (*notes, *labels):
            each.removable = getattr(each, "source", LabelSource.USER) == LabelSource.USER and annotating.may_remove(
                self.role, self.request.user, each.author_id
            )
        if asked.blind:
            # Who reads without knowing sees what they set themselves.
            labels = [each for each in labels if each.author_id == self.request.user.pk]
        predictions = self._predictions(row)
        context = {
            "record": row, "usual_layout": usual_layout(row.leads), "flags": [RECORD_FLAGS.get(flag, flag) for flag in (row.quality or {}).get("flags", ())], "dataset": row.dataset, "walk": walk, "query": query.urlencode(), "kept_query": f"?{query.urlencode()}" if query else "",
            "picture": SafeString(picture), "told": summary(shown, None if asked.blind else found, view=asked.view),
            "rows": measured.rows(found, row.meta.get("printed")), "found": found, "showing": asked, "blind_query": _with(query, "blind", "" if asked.blind else "1"),
            "why_original": why, "kept": [(name, value) for name in query for value in query.getlist(name) if name != "model"], "serial": showing.serial_rows(row, _MOST_SERIAL), "recorded": showing.recorded_words(row),
            "predictions": predictions, "shown_predictions": [each for each in predictions if each.is_shown],
            "notes": notes, "labels": labels, "annotation_form": AnnotationForm(row, auto_id="annotation_%s"),
            "label_form": LabelForm(auto_id="label_%s"),
            "known_codes": builtin.offered() if self.allows(Action.DATA_EDIT) else (),
        }  # fmt: skip
        return self.page(self.template, status, **(context | forms))

    def _predictions(self, row: Record) -> list[Prediction]:
        """Return the latest answer of each model version, with what the table shows of it.

        ``?model=`` (repeated) chooses the versions whose answers are shown; without it all are.
        """
        chosen = set(self.request.GET.getlist("model"))
        rows = row.predictions.select_related("run__version__model", "run__project").order_by("-created_at")
        latest: dict[Any, Prediction] = {}
        for each in rows[:_MOST_PREDICTIONS]:
            latest.setdefault(each.run.version_id, each)
        found = list(latest.values())[:_MOST_VERSIONS]
        for each in found:
            contract = ModelContract.from_dict(each.run.version.contract)
            limits = contract.limits(each.run.thresholds) or {}
            rated = zip(contract.classes, each.values, map(limits.get, contract.classes), strict=True)
            answers = sorted(rated, key=lambda row: -row[1])
            each.answers = answers[:_MOST_CLASSES]  # type: ignore[attr-defined]
            each.is_shown = not chosen or str(each.run.version_id) in chosen  # type: ignore[attr-defined]
            each.explaining = not each.saliency and explaining.open_job(each)  # type: ignore[attr-defined]
            each.shadings = [  # type: ignore[attr-defined]
                (name, _with(self.request.GET, "saliency", f"{each.run.version_id} {name}"))
                for name in (each.saliency or {}).get("classes", [])
            ]
        return found


def _with(query: Any, name: str, value: str) -> str:
    """Return the address's query with one part set, or left out where the value is empty."""
    changed = query.copy()
    changed.pop(name, None)
    if value:
        changed[name] = value
    return str(changed.urlencode())
