"""Figures of results as files."""

from __future__ import annotations

from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse

from ecgportal.audit.trail import record as audit
from ecgportal.errors import InvalidInput
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView
from training.models import Evaluation
from training.result_figures import FIGURES, figure_of
from viz.drawn import file_of


class EvaluationFile(ProjectView):
    """One figure of an evaluation: the numbers behind it (csv) or its picture (svg)."""

    model = Evaluation
    needs = {"get": Action.MODEL_DOWNLOAD}
    kind: ClassVar[str] = "csv"
    object: Evaluation

    def rows(self) -> Any:
        return Evaluation.objects.select_related("project", "version__model", "dataset")

    def get(self, request: HttpRequest, pk: Any, **names: str) -> HttpResponse:
        figure = names["kind"]
        if figure not in FIGURES:
            raise InvalidInput(
                f"There is no figure {figure[:40]!r}.", fields={"kind": f"Choose one of {', '.join(FIGURES)}."}
            )
        answer = file_of(figure_of(self.object, figure), figure, self.kind)
        audit(
            "evaluation.downloaded",
            self.object,
            actor=request.user,
            project=self.project,
            changes={"figure": figure, "format": self.kind},
        )
        return answer
