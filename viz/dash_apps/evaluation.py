"""ROC, precision-recall, confusion and calibration of one evaluation (``?id=``)."""

from __future__ import annotations

from typing import Any

from dash import dcc, html
from dash.dependencies import Input, Output

from ecgportal.projects.access import Action
from training.models import Evaluation
from training.result_figures import FIGURES, figure_of
from viz.dash_apps.frame import GRAPH_CONFIG, choice, follow_scheme, make_app, page
from viz.drawn import is_wide
from viz.guard import guarded_callback

app = make_app("EvaluationView")

app.layout = page(
    html.Div(
        [choice("Figure", "kind", [(name, title) for name, title in FIGURES.items()], "roc")], className="choices"
    ),
    html.Div(dcc.Graph(id="figure", config=GRAPH_CONFIG), id="field", className="whole"),
    html.P(id="told", className="told", role="status"),
)
follow_scheme(app)


def _rows() -> Any:
    return Evaluation.objects.select_related("project")


@guarded_callback(
    app, _rows, Action.MODEL_VIEW, [Output("figure", "figure"), Output("told", "children"), Output("field", "className")], Input("kind", "value"), Input("scheme", "data"),
)  # fmt: skip
def draw(row: Evaluation, kind: str, scheme: str | None) -> list[Any]:
    """Draw the chosen figure."""
    figure = figure_of(row, kind if str(kind) in FIGURES else "roc", dark=scheme == "dark")
    return [figure.plotly, figure.summary, "whole whole--wide" if is_wide(figure) else "whole"]
