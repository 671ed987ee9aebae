"""What all Dash views of the portal share: how an app is made, its stylesheet, its colour scheme."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import dash_bootstrap_components as dbc
from dash import dcc, html
from dash.dependencies import ClientsideFunction, Input, Output
from django.templatetags.static import static
from django_plotly_dash import DjangoDash

from viz.dash_setup import libraries_version

GRAPH_CONFIG: dict[str, Any] = {
    "displaylogo": False, "responsive": True, "scrollZoom": True, "doubleClick": "reset",
    # Nothing on a figure sends it anywhere.
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d", "sendChartToCloud"], "plotlyServerURL": "",
    "toImageButtonOptions": {"format": "svg", "filename": "figure"},
}  # fmt: skip

# Read while the view's layout is on its way, instead of after it; Dash takes the library that is there.
_PLOTLY = {
    "src": f"{static('dash/component/plotly/package_data/plotly.min.js')}?v={libraries_version()}",
    "defer": "defer",
}

_INDEX = """<!DOCTYPE html>
<html lang="en">
  <head>{%metas%}<title>{%title%}</title>{%favicon%}{%css%}</head>
  <body>{%app_entry%}{%config%}{%scripts%}{%renderer%}</body>
</html>"""


def make_app(name: str, scripts: Iterable[str] = ()) -> DjangoDash:
    """Return a new app that sends the CSRF token and takes its look from the portal."""
    with warnings.catch_warnings():
        # django-plotly-dash warns that it passes the two CSRF names on to Dash, which is what is wanted.
        warnings.filterwarnings("ignore", message="You are passing extra arguments")
        return DjangoDash(
            name,
            serve_locally=True,
            index_string=_INDEX,
            title="Figure",
            update_title=None,
            csrf_token_name="csrftoken",
            csrf_header_name="X-CSRFToken",
            external_stylesheets=[static("portal/css/dash.css")],
            external_scripts=[static("portal/js/dash-theme.js"), *scripts, _PLOTLY],
        )


def page(*children: Any) -> html.Div:
    """Return the layout: the address that names the object, the colour scheme, and the children."""
    return html.Div(
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
    """Return a labelled select of the browser's own; what it sends is text."""
    select = dbc.Select(id=id, options=[{"value": _text(v), "label": t} for v, t in options], value=_text(value))
    return html.Label([html.Span(label), select], className="choice")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def number_of(sent: Any, allowed: Iterable[float], default: float) -> float:
    """Return the number that a select sent, or the default when it is none of those it offers."""
    return next((value for value in allowed if _text(value) == _text(sent)), default)
