"""Loss and metrics of one training run (``?id=``), growing while it runs."""

from __future__ import annotations

from typing import Any

from dash import dcc, html
from dash.dependencies import Input, Output

from ecgportal.projects.access import Action
from training import selectors
from training.models import TrainingRun
from viz.dash_apps.frame import GRAPH_CONFIG, follow_scheme, make_app, page
from viz.figures.progress import loss_curves, lr_finder, metric_curves
from viz.guard import guarded_callback

app = make_app("TrainingView")

app.layout = page(
    dcc.Interval(id="tick", interval=2000),
    html.Div(
        [
            dcc.Graph(id="loss", config=GRAPH_CONFIG, className="half"),
            dcc.Graph(id="metrics", config=GRAPH_CONFIG, className="half"),
        ],
        className="halves",
    ),
    html.Div(dcc.Graph(id="rate", config=GRAPH_CONFIG, className="half"), id="rate-box", hidden=True),
    html.P(id="told", className="told"),
)
follow_scheme(app)

# What an axis of shares shows, the higher the better.
_SCORES = {
    "auroc_macro": "AUROC, mean over classes", "auprc_macro": "AUPRC, mean over classes", "f1_macro": "F1, mean over classes",
    "f1_weighted": "F1, weighted", "accuracy": "accuracy", "r2": "R²",
}  # fmt: skip


def _rows() -> Any:
    return TrainingRun.objects.select_related("job", "project")


@guarded_callback(
    app, _rows, Action.MODEL_VIEW,
    [Output("loss", "figure"), Output("metrics", "figure"), Output("rate", "figure"), Output("rate-box", "hidden"), Output("told", "children"), Output("tick", "disabled")],
    Input("tick", "n_intervals"), Input("scheme", "data"),
)  # fmt: skip
def draw(run: TrainingRun, ticks: int | None, scheme: str | None) -> list[Any]:
    """Draw the epochs so far; polling ends when the run has ended."""
    dark = scheme == "dark"
    rows = selectors.epoch_rows(run)

    def series(names: dict[str, str]) -> dict[str, list[tuple[float, float | None]]]:
        return {
            title: [(row["epoch"], row.get(name)) for row in rows]
            for name, title in names.items()
            if any(row.get(name) is not None for row in rows)
        }

    loss = loss_curves(
        series({"train_loss": "training", "val_loss": "validation"}),
        best_epoch=run.best_epoch,
        run=str(run.pk),
        dark=dark,
    )
    metrics = metric_curves(
        series(_SCORES),
        best_epoch=run.best_epoch,
        run=str(run.pk),
        dark=dark,
        title="Validation metrics",
    )
    found = run.lr_finder or {}
    rate = lr_finder(
        found.get("rates", []),
        found.get("losses", []),
        chosen=run.learning_rate,
        smoothed=found.get("smoothed", []),
        dark=dark,
    )
    return [
        loss.plotly,
        metrics.plotly,
        rate.plotly,
        not found,
        f"{loss.summary} {metrics.summary}",
        not run.job.is_open,
    ]
