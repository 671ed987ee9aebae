"""What all Dash views of the portal share: how an app is made, its stylesheet, its colour scheme."""

from __future__ import annotations

import warnings
from typing import Any

from dash import dcc, html
from dash.dependencies import ClientsideFunction, Input, Output
from django.templatetags.static import static
from django_plotly_dash import DjangoDash

GRAPH_CONFIG: dict[str, Any] = {
    "displaylogo": False, "responsive": True, "scrollZoom": True, "doubleClick": "reset",
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
    "toImageButtonOptions": {"format": "svg", "filename": "figure"},
}  # fmt: skip


def make_app(name: str) -> DjangoDash:
    """Return a new app that sends the CSRF token and takes its look from the portal."""
    with warnings.catch_warnings():
        # django-plotly-dash warns that it passes the two CSRF names on to Dash, which is what is wanted.
        warnings.filterwarnings("ignore", message="You are passing extra arguments")
        return DjangoDash(
            name,
            serve_locally=True,
            csrf_token_name="csrftoken",
            csrf_header_name="X-CSRFToken",
            external_stylesheets=[static("portal/css/dash.css")],
            external_scripts=[static("portal/js/dash-theme.js")],
        )


def page(*children: Any) -> html.Main:
    """Return the layout: the address that names the object, the colour scheme, and the children."""
    return html.Main(
        [
            dcc.Location(id="address", refresh=False),
            dcc.Store(id="scheme"),
            dcc.Interval(id="scheme-tick", interval=1500),
            *children,
        ],
        className="frame",
    )


def follow_scheme(app: DjangoDash) -> None:
    """Keep the ``scheme`` store (``dark`` or ``light``) in step with the page around the frame."""
    app.clientside_callback(
        ClientsideFunction("portal", "scheme"), Output("scheme", "data"), [Input("scheme-tick", "n_intervals")]
    )


def choice(label: str, id: str, options: list[tuple[Any, str]], value: Any) -> html.Label:
    """Return a labelled drop-down."""
    return html.Label(
        [
            html.Span(label),
            dcc.Dropdown(
                id=id,
                options=[{"value": v, "label": t} for v, t in options],
                value=value,
                clearable=False,
                searchable=False,
            ),
        ],
        className="choice",
    )
