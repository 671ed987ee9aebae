"""A map of a dataset (``?id=``): places by PCA or UMAP, coloured by a field or by predictions; a lasso leads to the records."""

from __future__ import annotations

import math
from typing import Any

from dash import dcc, html
from dash.dependencies import ClientsideFunction, Input, Output
from django.urls import reverse

from datasets.insight import FIELDS
from ecgportal.errors import InvalidInput
from ecgportal.projects.access import Action
from viz import mapping
from viz.dash_apps.frame import GRAPH_CONFIG, choice, follow_scheme, make_app, page
from viz.figures.cohort import embedding_map
from viz.guard import guarded_callback
from viz.models import DatasetMap

app = make_app("MapView")

_CONFIG = GRAPH_CONFIG | {"modeBarButtonsToRemove": ["autoScale2d", "sendChartToCloud"]}

app.layout = page(
    html.Div(
        [
            choice("Places by", "method", list(mapping.METHODS.items()), "umap"),
            choice("Coloured by", "colour", list(mapping.COLOURS.items()), "labels"),
        ],
        className="choices",
    ),
    dcc.Graph(id="map", config=_CONFIG, className="whole"),
    dcc.Store(id="area"),
    html.P(
        [html.Span(id="chosen"), " ", html.A("Show these records", id="open", href="", target="_top", hidden=True)],
        className="told",
        role="status",
    ),
    html.P(
        ["Click a place to see its record. ", html.A(id="point", href="", target="_top", hidden=True)],
        className="told",
        role="status",
    ),
    html.P(id="told", className="told"),
)
follow_scheme(app)
app.clientside_callback(ClientsideFunction("portal", "area"), Output("area", "data"), [Input("map", "selectedData")])


def _rows() -> Any:
    return DatasetMap.objects.select_related("dataset__project", "version__model", "job")


@guarded_callback(
    app, _rows, Action.DATA_VIEW,
    [Output("method", "options"), Output("method", "value"), Output("colour", "options")],
)  # fmt: skip
def offer(row: DatasetMap) -> list[Any]:
    """Offer what this map has: its projections, the fields, and the predictions of the dataset."""
    methods = mapping.methods_of(row)
    return [_options(methods), next(iter(methods)), _options(mapping.colours_of(row))]


def _options(names: dict[str, str]) -> list[dict[str, str]]:
    return [{"value": value, "label": label} for value, label in names.items()]


@guarded_callback(
    app, _rows, Action.DATA_VIEW, [Output("map", "figure"), Output("told", "children")],
    Input("method", "value"), Input("colour", "value"), Input("scheme", "data"),
)  # fmt: skip
def draw(row: DatasetMap, method: str, colour: str, scheme: str | None) -> list[Any]:
    """Draw the places in the chosen colours."""
    method = _method(row, method)
    colours = mapping.colours_of(row)
    colour = colour if str(colour) in colours else "labels"
    found = mapping.places(row, method, colour)
    words = FIELDS[colour].words if colour in FIELDS else str
    figure = embedding_map(
        found.xy,
        ids=found.keys,
        groups=[words(name) for name in found.groups],
        dark=scheme == "dark",
        title=str(row),
        axes=axes_of(row, method),
        coloured_by=colours[colour].lower(),
    )
    return [figure.plotly, figure.summary]


def axes_of(row: DatasetMap, method: str) -> tuple[str, str]:
    """Return what the two axes are; UMAP's have no meaning of their own."""
    if method == "pca" and len(row.explained) == 2:
        first, second = (f"{100 * share:.0f} % of variance" for share in row.explained)
        return f"component 1 ({first})", f"component 2 ({second})"
    return "UMAP 1 (no unit)", "UMAP 2 (no unit)"


def _method(row: DatasetMap, asked: Any) -> str:
    methods = mapping.methods_of(row)
    return asked if str(asked) in methods else next(iter(methods))


@guarded_callback(
    app, _rows, Action.DATA_VIEW, [Output("chosen", "children"), Output("open", "href"), Output("open", "hidden")],
    Input("area", "data"), Input("method", "value"),
)  # fmt: skip
def choose(row: DatasetMap, area: str | None, method: str) -> list[Any]:
    """Count the records inside the lasso and link to them."""
    method = _method(row, method)
    try:
        corners = mapping.read_area(area or "")
    except InvalidInput:
        return ["Draw a line around records, or use the table of regions below the map.", "", True]
    n = mapping.inside(row, method, corners).count()
    href = f"{reverse('viz:map_records', args=[row.pk])}?by={method}&area={area}"
    return [f"{n} record{'' if n == 1 else 's'} inside the line.", href, not n]


@guarded_callback(
    app, _rows, Action.DATA_VIEW, [Output("point", "children"), Output("point", "href"), Output("point", "hidden")],
    Input("map", "clickData"), Input("method", "value"),
)  # fmt: skip
def name(row: DatasetMap, clicked: Any, method: str) -> list[Any]:
    """Name the record whose place was clicked and link to it: large maps are sent without the names of their records."""
    points = clicked.get("points") if isinstance(clicked, dict) else None
    place = points[0] if isinstance(points, list) and points and isinstance(points[0], dict) else {}
    x, y = place.get("x"), place.get("y")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in (x, y)):
        return ["", "", True]
    record = mapping.nearest(row, _method(row, method), x, y)
    return ["", "", True] if record is None else [f"Open {record.key}", reverse("viz:record", args=[record.pk]), False]
