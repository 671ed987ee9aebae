"""The beats of a record: aligned at their R peaks on top of each other, and the median beat of every lead."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse

from ecgportal.audit.trail import record as audit
from ecgportal.errors import InvalidInput
from ecgportal.projects.access import Action
from viz import showing
from viz.drawn import at_every_width
from viz.figures.beats import aligned_beats_figure, median_beats_figure
from viz.figures.figure import Figure
from viz.views import RecordView

KINDS = ("aligned", "median")


class RecordBeats(RecordView):
    """Both figures, for the record page or as a page of their own; ``?lead=``, ``?start=`` (long records), ``?csv=aligned`` or ``median``."""

    template = "viz/beats_page.html"
    needs = {"get": Action.DATA_VIEW}

    def get(self, request: HttpRequest, pk: Any) -> HttpResponse:
        source = showing.source_of(self.object)
        lead = request.GET.get("lead") or ("II" if "II" in source.leads else source.leads[0])
        if lead not in source.leads:
            raise InvalidInput(f"Lead {lead[:20]} was not recorded.", fields={"lead": "Choose a recorded lead."})
        asked = showing.read(request.GET, self.object.leads)
        found = showing.measurements(self.object, source, asked.view)
        figures = {
            "aligned": aligned_beats_figure(source, found, lead=lead),
            "median": median_beats_figure(found, record=source),
        }
        wanted = request.GET.get("csv")
        if wanted is not None:
            return self._csv(figures, wanted)
        parts = [{"name": name, "figure": each, "svg": at_every_width(each, 760)} for name, each in figures.items()]
        return self.page(
            "viz/beats.html" if request.htmx else self.template,
            record=self.object,
            leads=source.leads,
            lead=lead,
            parts=parts,
        )

    def _csv(self, figures: dict[str, Figure], wanted: str) -> HttpResponse:
        if wanted not in KINDS:
            raise InvalidInput(
                f"There is no figure {wanted[:40]!r} of beats.", fields={"csv": f"Choose {' or '.join(KINDS)}."}
            )
        audit(
            "record.downloaded", self.object, actor=self.request.user, project=self.project,
            changes={"format": "csv", "figure": f"{wanted} beats"},
        )  # fmt: skip
        return HttpResponse(
            figures[wanted].csv(), content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{wanted}-beats.csv"'},
        )  # fmt: skip
