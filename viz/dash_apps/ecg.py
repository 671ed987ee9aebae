"""The interactive 12-lead ECG of one record (``?id=``, and the view as in the record page's address).

Zoom and pan are the script ``portal/js/ecg-paper.js``, tools and keys ``portal/js/ecg-view.js``; what is drawn comes from here.
"""

from __future__ import annotations

import math
from typing import Any

import dash_bootstrap_components as dbc
from dash import dcc, html
from dash.dependencies import ClientsideFunction, Input, Output, State
from dash.exceptions import PreventUpdate
from django.templatetags.static import static

from datasets.ecg import LEADS_12
from datasets.models import Record
from ecgportal.projects.access import Action
from viz import overviews, showing
from viz.dash_apps.frame import GRAPH_CONFIG, choice, follow_scheme, make_app, number_of, page
from viz.figures.ecg12 import ecg_plotly, summary
from viz.figures.interactive import Zoom
from viz.figures.overlays import Overlays
from viz.figures.pyramid import overview_plotly
from viz.figures.view import BANDS, GAINS_MM_MV, LAYOUTS, PAPERS, SPEEDS_MM_S, WINDOWS_S, View
from viz.guard import guarded_callback

app = make_app("EcgView", scripts=[static("portal/js/ecg-paper.js"), static("portal/js/ecg-view.js")])

_CONFIG = GRAPH_CONFIG | {"displayModeBar": False, "scrollZoom": False, "doubleClick": False}
# What stands in the address, in the order of the callbacks' arguments.
_KEPT = (
    "layout", "speed", "gain", "rhythm", "band", "paper", "marks", "signal", "saliency", "window", "centred", "start",
)  # fmt: skip
_TOOLS = (
    ("out", "−", "Zoom out"), ("in", "+", "Zoom in"), ("whole", "Whole page", None), ("left", "←", "Move left"),
    ("right", "→", "Move right"), ("caliper", "Caliper", None), ("march", "March", "Repeat the caliper's interval along the row"),
    ("mark", "Annotate", "Annotate the place of the caliper"), ("png", "PNG", "Download as PNG"), ("full", "Full screen", None),
)  # fmt: skip
_KEYS = (
    ("Arrow keys", "move the paper by 5 mm, with Shift by 25 mm; with the caliper: move its active corner by 0.25 mm, with Shift by 2.5 mm"),
    ("+ and −, 0", "zoom in and out, show the whole page"), ("1 to 9, L", "show one lead alone; L the next one, Shift+L the one before"),
    ("S, G", "next paper speed, next gain; with Shift the one before"), ("C", "take or put away the caliper; Enter or Space changes the active corner, Esc puts it away"),
    ("M, A", "march the caliper along the row; annotate its place"), ("N, B", "next and previous annotation"),
    ("Page Down and Up, Home, End", "move through a long recording"),
)  # fmt: skip


def _button(name: str, words: str, told: str | None) -> html.Button:
    more: dict[str, Any] = {"data-tool": name} | ({"aria-label": told, "title": told} if told else {})
    if name in ("caliper", "march"):
        more["aria-pressed"] = "false"
    return html.Button(words, type="button", className="tool", **more)


app.layout = page(
    html.Div(
        [
            choice("Layout", "layout", [(name, entry.title) for name, entry in LAYOUTS.items()], "3x4+rhythm"),
            choice("Speed", "speed", [(v, f"{v:g} mm/s") for v in SPEEDS_MM_S], 25.0),
            choice("Gain", "gain", [(v, f"{v:g} mm/mV") for v in GAINS_MM_MV], 10.0),
            choice("Filter", "band", [(name, title) for name, (title, _) in BANDS.items()], "none"),
            choice("Marks", "marks", list(showing.MARKS.items()), "none"),
            choice("Signal", "signal", [(showing.ORIGINAL, "Original")], showing.ORIGINAL),
            choice("Saliency", "saliency", [("none", "None")], "none"),
            html.Details(
                [
                    html.Summary("More settings"),
                    html.Div(
                        [
                            choice("Rhythm lead", "rhythm", [(name, name) for name in LEADS_12], "II"),
                            choice("Paper", "paper", [(name, name.capitalize()) for name in PAPERS], "pink"),
                            choice("Baseline", "centred", [("0", "As recorded"), ("1", "Centred")], "0"),
                            choice("Window", "window", [(v, f"{v:g} s") for v in WINDOWS_S], 10.0),
                            html.Label(
                                [
                                    html.Span("From (s)"),
                                    dbc.Input(id="start", type="number", min=0, step="any", value=0, debounce=True),
                                ],
                                className="choice choice--short",
                            ),
                        ],
                        className="choices",
                    ),
                ],
                id="more",
                className="more",
            ),
        ],
        className="choices",
        role="group",
        **{"aria-label": "How the ECG is shown"},
    ),
    html.Div(
        [
            html.Div([_button(*tool) for tool in _TOOLS], className="tools", role="group", **{"aria-label": "Tools"}),
            html.Output(id="reading", className="reading"),
        ],
        className="toolbar",
    ),
    html.Div(id="caliper-fields", className="choices caliper-fields", role="group", **{"aria-label": "Caliper"}),
    html.Div(
        id="overview-box", className="overview", role="group", **{"aria-label": "Overview of the whole recording"}
    ),
    html.Div(
        html.Div(
            [
                dcc.Graph(id="ecg", config=_CONFIG, className="ecg-graph", responsive=True),
                html.Div(id="layer", className="layer", **{"aria-hidden": "true"}),
            ],
            className="paper__inner",
        ),
        id="paper-region",
        className="paper",
        role="application",
        tabIndex=0,
        **{"aria-label": "12-lead ECG on paper, moved and measured by keys", "aria-describedby": "told"},
    ),
    html.P(id="told", className="told", role="status"),
    html.Div(id="measured", className="visually-hidden", role="status"),
    html.Details(
        [
            html.Summary("Keys"),
            html.P("They work while the paper has the focus."),
            html.Dl([each for key, does in _KEYS for each in (html.Dt(key), html.Dd(does))], className="keys"),
        ],
        className="more",
    ),
    dcc.Store(id="zoom"),
    # The same, once the paper rests and its samples were thinned: those of the part that is shown are asked for.
    dcc.Store(id="detail"),
    dcc.Store(id="span"),
    dcc.Store(id="kept"),
    # Set by the script once the ECG stands: what is asked for afterwards does not delay it.
    dcc.Store(id="drawn"),
)
follow_scheme(app)

# The address gives the first values; what is chosen afterwards is told to the page around the frame.
app.clientside_callback(
    ClientsideFunction("portal", "settings"),
    [*(Output(name, "value") for name in _KEPT), Output("zoom", "data")],
    [Input("address", "search")],
    [State(name, "value") for name in _KEPT],
)
app.clientside_callback(
    ClientsideFunction("portal", "keep"), Output("kept", "data"), [Input(name, "value") for name in _KEPT]
)


def _rows() -> Any:
    return Record.objects.select_related("dataset__project", "subject")


@guarded_callback(
    app, _rows, Action.MODEL_VIEW, [Output("saliency", "options"), Output("signal", "options")], Input("drawn", "data"),
)  # fmt: skip
def offer(row: Record, drawn: Any) -> list[list[dict[str, str]]]:
    """Offer the explained classes and the prepared forms of the record's signal."""
    if drawn is None:
        raise PreventUpdate
    saliency = [("none", "None"), *showing.saliency_choices(row)]
    return [
        [{"value": value, "label": words} for value, words in choices]
        for choices in (saliency, showing.signal_choices(row))
    ]


def _zoom(kept: Any, view: View) -> Zoom | None:
    """Return the part of the paper that the browser asks for, if it belongs to this layout and speed."""
    if not isinstance(kept, dict) or kept.get("key") != f"{view.layout}|{view.speed_mm_s:g}|{view.window_s:g}":
        return None
    try:
        (x0, x1), (y0, y1) = ([float(v) for v in kept[name]] for name in ("x", "y"))
    except (KeyError, TypeError, ValueError):
        return None
    if not all(math.isfinite(v) for v in (x0, x1, y0, y1)) or x1 - x0 < 1 or y1 - y0 < 1:
        return None
    return Zoom((x0, x1), (y0, y1))


def _start(sent: Any, row: Record) -> float:
    start_s = float(sent) if isinstance(sent, int | float) and math.isfinite(sent) else 0.0
    return min(max(start_s, 0.0), max(0.0, row.duration_s - 1.0))


@guarded_callback(
    app, _rows, Action.DATA_VIEW, [Output("ecg", "figure"), Output("told", "children")],
    *(Input(name, "value") for name in _KEPT), Input("scheme", "data"), Input("detail", "data"), State("zoom", "data"),
)  # fmt: skip
def draw(
    row: Record, layout: str, speed: Any, gain: Any, rhythm: str, band: str, paper: str, marks: str, signal: str, saliency: str,
    window: Any, centred: str, start: float | None, scheme: str | None, detail: Any, zoom: Any,
) -> list[Any]:  # fmt: skip
    """Draw the record with the chosen view and say in words what is drawn."""
    if scheme is None:
        # The colour scheme is known a moment after the first call; drawing twice would cost the first picture.
        raise PreventUpdate
    view = View(
        layout=str(layout), speed_mm_s=number_of(speed, SPEEDS_MM_S, 25.0), gain_mm_mv=number_of(gain, GAINS_MM_MV, 10.0),
        rhythm_lead=str(rhythm), paper=str(paper), dark=scheme == "dark", filters=BANDS.get(str(band), BANDS["none"])[1],
        start_s=_start(start, row), window_s=number_of(window, WINDOWS_S, 10.0), centred=str(centred) == "1",
    )  # fmt: skip
    asked = showing.Showing(view, marks if marks in showing.MARKS else "none", str(signal), str(saliency))
    original = showing.source_of(row)
    shown, why = showing.at_stage(row, original, asked.signal)
    drawn = showing.overlays(row, original, asked) if shown is original else Overlays()
    figure = ecg_plotly(
        shown, view, drawn, zoom=_zoom(zoom, view), uirevision=f"{row.pk}-{layout}-{speed}-{window}-{signal}"
    )
    figure["layout"]["meta"]["stops"] = [[note.t0_s, note.text[:80]] for note in drawn.annotations]
    told = f"{why} {summary(shown, None, view=view)}".strip()
    if drawn.saliency is not None:
        told += f" Shading shows what supports {drawn.saliency.target} by {drawn.saliency.method}; unconfirmed, research use."
    return [figure, told]


@guarded_callback(
    app, _rows, Action.DATA_VIEW, Output("overview-box", "children"),
    Input("start", "value"), Input("window", "value"), Input("rhythm", "value"), Input("scheme", "data"), Input("span", "data"),
    Input("drawn", "data"),
)  # fmt: skip
def oversee(row: Record, start: Any, window: Any, rhythm: str, scheme: str | None, span: Any, drawn: Any) -> dcc.Graph:
    """Draw the overview of a record that is longer than a page, whole or the part that was zoomed to."""
    window_s = number_of(window, WINDOWS_S, 10.0)
    if drawn is None or row.duration_s <= 1.2 * window_s:
        raise PreventUpdate
    source = showing.source_of(row)
    lead = rhythm if rhythm in source.leads else source.leads[0]
    first_s = min(_start(start, row), max(0.0, row.duration_s - window_s))
    shown_s = None
    if isinstance(span, list) and len(span) == 2 and all(isinstance(v, int | float) and math.isfinite(v) for v in span):
        a, b = max(0.0, float(span[0])), min(row.duration_s, float(span[1]))
        shown_s = (a, b) if b - a >= 1 else None
    pyramid = overviews.pyramid_of(row, source, lead)
    place = source.leads.index(lead)
    figure = overview_plotly(
        pyramid,
        source.signal[place : place + 1],
        lead,
        (first_s, first_s + window_s),
        dark=scheme == "dark",
        shown_s=shown_s,
    )
    return dcc.Graph(id="overview", figure=figure, config=_CONFIG, style={"height": "160px"}, responsive=True)
