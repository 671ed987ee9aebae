"""Figures of results as files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse

from ecgportal.audit.trail import record as audit
from ecgportal.errors import InvalidInput
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView
from training.models import Evaluation, TrainingRun
from training.result_figures import EVERY_FIGURE, figure_of
from viz import training_figures
from viz.drawn import file_of


class TrainingFile(ProjectView):
    """One figure of a training run: the numbers behind it (csv) or its picture (svg)."""

    model = TrainingRun
    needs = {"get": Action.MODEL_VIEW}
    kind: ClassVar[str] = "csv"
    object: TrainingRun

    def rows(self) -> Any:
        return TrainingRun.objects.select_related("project", "job")

    def get(self, request: HttpRequest, pk: Any, **names: str) -> HttpResponse:
        figure = _known(names["kind"], training_figures.FIGURES)
        return file_of(training_figures.figure_of(self.object, figure), figure, self.kind)


def _known(figure: str, figures: Mapping[str, str]) -> str:
    """Return the name of a figure; InvalidInput names those that there are."""
    if figure not in figures:
        raise InvalidInput(
            f"There is no figure {figure[:40]!r}.", fields={"kind": f"Choose one of {', '.join(figures)}."}
        )
    return figure


class EvaluationFile(ProjectView):
    """One figure of an evaluation: the numbers behind it (csv) or its picture (svg)."""

    model = Evaluation
    needs = {"get": Action.MODEL_DOWNLOAD}
    kind: ClassVar[str] = "csv"
    object: Evaluation

    def rows(self) -> Any:
        return Evaluation.objects.select_related("project", "version__model", "dataset")

    def get(self, request: HttpRequest, pk: Any, **names: str) -> HttpResponse:
        figure = _known(names["kind"], EVERY_FIGURE)
        answer = file_of(figure_of(self.object, figure), figure, self.kind)
        audit(
            "evaluation.downloaded",
            self.object,
            actor=request.user,
            project=self.project,
            changes={"figure": figure, "format": self.kind},
        )
        return answer
