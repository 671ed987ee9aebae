"""Two ECGs side by side: two records, serial ECGs of one subject, or one record before and after a recipe."""

from __future__ import annotations

import uuid
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from datasets.ecg import Record as EcgRecord
from datasets.models import Record
from ecgportal.errors import InvalidInput
from ecgportal.projects import access
from ecgportal.projects.access import Action
from viz import measured, showing
from viz.figures.ecg12 import SCREEN_POINTS, ecg_svg
from viz.figures.view import BANDS, GAINS_MM_MV, LAYOUTS, PAPERS, SPEEDS_MM_S, View
from viz.views import RecordView

_MOST_SERIAL = 50


class CompareView(RecordView):
    """``?with=`` another record's id or key in the same dataset, or ``?recipe=default`` or a model version's id."""

    template = "viz/compare.html"
    needs = {"get": Action.DATA_VIEW}

    def get(self, request: HttpRequest, pk: Any) -> HttpResponse:
        row: Record = self.object
        asked = showing.read(request.GET, row.leads)
        others = list(showing.serial_of(row)[:_MOST_SERIAL])
        recipes = [choice for choice in showing.signal_choices(row) if choice[0] != showing.ORIGINAL]
        original = showing.source_of(row)
        sides = [self._side(row, original, asked.view, row.key, "a", with_header=True)]
        other, recipe = self._other(row, others), request.GET.get("recipe", "")
        if other is not None:
            told = showing.source_of(other)
            sides.append(self._side(other, told, asked.view, other.key, "b", with_header=True))
        elif recipe:
            name, steps = showing.recipe_of(row, recipe)
            made = showing.prepared(original, steps)
            sides.append(self._side(row, made, asked.view, f"{row.key}, {name}", "b", with_header=False))
        return self.page(
            record=row, dataset=row.dataset, sides=sides, others=others, other=other, recipe=recipe, recipes=recipes, view=asked.view,
            rows=self._differences(sides) if other is not None else [], wanted=request.GET.get("with", ""),
            layouts=[(name, each.title) for name, each in LAYOUTS.items()], speeds=SPEEDS_MM_S, gains=GAINS_MM_MV, papers=PAPERS,
            bands=[(name, title) for name, (title, _) in BANDS.items()], band=request.GET.get("band", "none"),
        )  # fmt: skip

    def _other(self, row: Record, others: list[Record]) -> Record | None:
        wanted = self.request.GET.get("with", "").strip()
        if not wanted:
            return None
        found = next((each for each in others if wanted in (str(each.pk), each.key)), None)
        if found is not None:
            return found
        rows = Record.objects.select_related("dataset__project", "subject")
        try:
            found = access.find(rows, self.request.user, pk=uuid.UUID(wanted))
        except ValueError:
            found = access.find(rows, self.request.user, dataset=row.dataset, key=wanted)
        if found is not None and found.dataset.project_id != self.project.pk:
            found = None
        if found is None:
            raise InvalidInput(
                f"There is no record {wanted[:60]!r} in this dataset to compare with.",
                fields={"with": "Give the name of a record of this dataset."},
            )
        return found

    def _side(
        self, row: Record, shown: EcgRecord, view: View, title: str, uid: str, *, with_header: bool
    ) -> dict[str, Any]:
        asked = showing.Showing(view)
        found = showing.measurements(row, shown, view) if with_header else None
        header = showing.header_of(row, asked, found) | {"record": title}
        svg = ecg_svg(shown, view, header, uid=f"ecg-{uid}", max_points=SCREEN_POINTS)
        return {"row": row, "title": title, "svg": SafeString(svg), "found": found, "is_record": with_header}

    def _differences(self, sides: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return one row per measurement: both values and, where both are numbers, the second less the first."""
        first, second = ({row.title: row for row in measured.rows(side["found"])} for side in sides)
        out = []
        for title in dict.fromkeys([*first, *second]):
            a, b = first.get(title), second.get(title)
            change = None
            if a and b and a.number is not None and b.number is not None:
                unit = (a.value or "").lstrip("−0123456789")
                difference = b.number - a.number
                if unit == "°":
                    difference = (difference + 180) % 360 - 180
                change = f"{difference:+.0f}".replace("-", "−") + unit
            out.append({"title": title, "pair": (a, b), "change": change})
        return out
