"""Loss, metrics and learning-rate finder of one training run (``?id=``), growing while it runs."""

from __future__ import annotations

from typing import Any

from dash import dcc, html
from dash.dependencies import Input, Output
from django.urls import reverse

from ecgportal.projects.access import Action
from training import selectors
from training.models import TrainingRun
from viz.dash_apps.frame import GRAPH_CONFIG, follow_scheme, make_app, page
from viz.guard import guarded_callback
from viz.training_figures import FIGURES, figure_of

app = make_app("TrainingView")

# The button of each figure saves it as PNG; CSV and SVG are links below.
_CONFIG = GRAPH_CONFIG | {"toImageButtonOptions": {"format": "png", "scale": 2, "filename": "training"}}

app.layout = page(
    dcc.Interval(id="tick", interval=2000),
    html.Div(
        [
            dcc.Graph(id="loss", config=_CONFIG, className="half"),
            dcc.Graph(id="metrics", config=_CONFIG, className="half"),
        ],
        className="halves",
    ),
    html.Div(dcc.Graph(id="rate", config=_CONFIG, className="half"), id="rate-box", hidden=True),
    html.P(id="told", className="told"),
    html.P(id="files", className="told"),
)
follow_scheme(app)


def _rows() -> Any:
    return TrainingRun.objects.select_related("job", "project")


@guarded_callback(
    app, _rows, Action.MODEL_VIEW,
    [Output("loss", "figure"), Output("metrics", "figure"), Output("rate", "figure"), Output("rate-box", "hidden"), Output("told", "children"), Output("tick", "disabled"), Output("files", "children")],
    Input("tick", "n_intervals"), Input("scheme", "data"),
)  # fmt: skip
def draw(run: TrainingRun, ticks: int | None, scheme: str | None) -> list[Any]:
    """Draw the epochs so far; polling ends when the run has ended."""
    rows = selectors.epoch_rows(run)
    made = {kind: figure_of(run, kind, scheme == "dark", rows) for kind in FIGURES}
    shown = [kind for kind, figure in made.items() if figure.plotly["data"]]
    told = " ".join(made[kind].summary for kind in FIGURES if kind in shown or kind != "rate")
    return [
        made["loss"].plotly, made["metrics"].plotly, made["rate"].plotly, "rate" not in shown, told, not run.job.is_open, _files(run, shown),
    ]  # fmt: skip


def _files(run: TrainingRun, shown: list[str]) -> list[Any]:
    """Return links to the numbers and the picture of each figure that shows something."""
    links: list[Any] = []
    for kind in shown:
        for suffix in ("csv", "svg"):
            href = reverse(f"viz:training_{suffix}", args=[run.pk, kind])
            links += [html.A(f"{FIGURES[kind]} as {suffix.upper()}", href=href, download=True, target="_top"), " "]
    return links
