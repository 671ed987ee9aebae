"""The interactive 12-lead ECG of one record (``?id=``)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import dash_bootstrap_components as dbc
import numpy as np
from dash import dcc, html
from dash.dependencies import Input, Output

from datasets import signals
from datasets.ecg import LEADS_12
from datasets.ecg import Record as EcgRecord
from datasets.models import Record
from datasets.preprocess.recipe import DEFAULT_RECIPE
from ecgportal.projects.access import Action
from viz.dash_apps.frame import GRAPH_CONFIG, choice, follow_scheme, make_app, number_of, page
from viz.figures.ecg12 import ecg_plotly, summary
from viz.figures.filters import Filters
from viz.figures.overlays import Annotation, Overlays, Saliency
from viz.figures.view import GAINS_MM_MV, LAYOUTS, PAPERS, SPEEDS_MM_S, View
from viz.guard import guarded_callback

app = make_app("EcgView")

_BANDS: dict[str, tuple[str, Filters]] = {
    "none": ("None (as recorded)", Filters()),
    "diagnostic": ("0.05–150 Hz", Filters(high_pass_hz=0.05, low_pass_hz=150.0)),
    "wander": ("0.5–150 Hz", Filters(high_pass_hz=0.5, low_pass_hz=150.0)),
    "mains50": ("0.5–150 Hz, 50 Hz notch", Filters(high_pass_hz=0.5, low_pass_hz=150.0, notch_hz=50.0)),
    "mains60": ("0.5–150 Hz, 60 Hz notch", Filters(high_pass_hz=0.5, low_pass_hz=150.0, notch_hz=60.0)),
    "monitor": ("0.5–40 Hz (monitoring)", Filters(high_pass_hz=0.5, low_pass_hz=40.0)),
}

app.layout = page(
    html.Div(
        [
            choice("Layout", "layout", [(name, entry.title) for name, entry in LAYOUTS.items()], "3x4+rhythm"),
            choice("Speed", "speed", [(v, f"{v:g} mm/s") for v in SPEEDS_MM_S], 25.0),
            choice("Gain", "gain", [(v, f"{v:g} mm/mV") for v in GAINS_MM_MV], 10.0),
            choice("Rhythm lead", "rhythm", [(name, name) for name in LEADS_12], "II"),
            choice("Filter", "band", [(name, title) for name, (title, _) in _BANDS.items()], "none"),
            choice("Paper", "paper", [(name, name.capitalize()) for name in PAPERS], "pink"),
            choice("Marks", "marks", [("none", "None"), ("r", "R peaks"), ("waves", "P, QRS and T waves")], "none"),
            choice(
                "Signal",
                "stage",
                [("original", "Original"), ("prepared", "As a model sees it (100 Hz, 10 s)")],
                "original",
            ),
            choice("Saliency", "saliency", [("none", "None")], "none"),
            html.Label(
                [html.Span("From (s)"), dbc.Input(id="start", type="number", min=0, step=1, value=0, debounce=True)],
                className="choice choice--short",
            ),
        ],
        className="choices",
        role="group",
        **{"aria-label": "How the ECG is shown"},
    ),
    html.Div(
        dcc.Graph(id="ecg", config=GRAPH_CONFIG, className="ecg-graph", responsive=True),
        className="paper",
        role="region",
        tabIndex=0,
        **{"aria-label": "12-lead ECG on paper"},
    ),
    html.P(id="told", className="told", role="status"),
)
follow_scheme(app)


def _rows() -> Any:
    return Record.objects.select_related("dataset__project", "subject")


def _prepared(source: EcgRecord) -> EcgRecord:
    made = DEFAULT_RECIPE.apply(source)
    samples = np.where(made.mask, made.signal, np.float32(np.nan))
    return EcgRecord(samples, made.fs_hz, made.leads, tuple(n for n in source.computed if n in made.leads))


def _notes(row: Record, original: EcgRecord, marks: str) -> list[Annotation]:
    """Return what people marked, with its author, and with marks shown also what the file marks."""
    found = [
        Annotation(
            note.t0_s, note.text, note.t1_s, note.lead, f"({note.author.username if note.author else 'a deleted user'})"
        )
        for note in row.annotations.select_related("author")[:500]
    ]
    if marks != "none":
        found += [Annotation(t0_s=t, text=symbol, lead=lead) for t, symbol, lead, _ in original.meta.annotations[:500]]
    return found


def _overlays(marks: str, row: Record, original: EcgRecord, stage: str) -> Overlays:
    if stage != "original":
        return Overlays()
    notes = _notes(row, original, marks)
    if marks == "none":
        return Overlays(annotations=notes)
    from datasets.measure.measure import measure

    found = measure(original).to_json()
    return Overlays(
        r_peaks_s=found["r_peaks_s"] or (),
        fiducials=(found["fiducials"] or ()) if marks == "waves" else (),
        annotations=notes,
    )


def _saliency(row: Record, chosen: str) -> Saliency | None:
    """Return what supports the chosen class of the chosen prediction (``id class``), or None.

    What speaks against the class is left out: shading has no sign.
    """
    key, _, name = str(chosen).partition(" ")
    found = next((each for each in row.predictions.exclude(saliency={}) if str(each.pk) == key), None)
    if found is None or name not in found.saliency["classes"]:
        return None
    kept = found.saliency
    values = np.clip(np.array(kept["values"][kept["classes"].index(name)], dtype=float), 0.0, None)
    return Saliency(tuple(kept["leads"]), values, kept["t0_s"], kept["t1_s"], name, kept["method"])


@guarded_callback(app, _rows, Action.MODEL_VIEW, Output("saliency", "options"))
def offer(row: Record) -> list[dict[str, str]]:
    """Offer the classes of every prediction of the record that has a saliency."""
    found = [{"value": "none", "label": "None"}]
    for each in row.predictions.exclude(saliency={}).select_related("run__version__model").order_by("-created_at")[:20]:
        found += [
            {"value": f"{each.pk} {name}", "label": f"{name}, {each.run.version}"} for name in each.saliency["classes"]
        ]
    return found


@guarded_callback(
    app, _rows, Action.DATA_VIEW, [Output("ecg", "figure"), Output("told", "children")],
    Input("layout", "value"), Input("speed", "value"), Input("gain", "value"), Input("rhythm", "value"), Input("band", "value"),
    Input("paper", "value"), Input("marks", "value"), Input("stage", "value"), Input("saliency", "value"), Input("start", "value"), Input("scheme", "data"),
)  # fmt: skip
def draw(
    row: Record,
    layout: str,
    speed: float,
    gain: float,
    rhythm: str,
    band: str,
    paper: str,
    marks: str,
    stage: str,
    saliency: str,
    start: float | None,
    scheme: str | None,
) -> list[Any]:
    """Draw the record with the chosen view and say in words what is drawn."""
    speed, gain = number_of(speed, SPEEDS_MM_S, 25.0), number_of(gain, GAINS_MM_MV, 10.0)
    original = signals.load(row)
    shown = _prepared(original) if stage == "prepared" else original
    start_s = float(start) if isinstance(start, int | float) and math.isfinite(start) else 0.0
    latest = max(0.0, float(int(shown.duration_s) - 1))
    view = View(
        layout=str(layout), speed_mm_s=speed, gain_mm_mv=gain, rhythm_lead=str(rhythm), paper=str(paper), dark=scheme == "dark",
        filters=_BANDS.get(str(band), _BANDS["none"])[1], start_s=min(max(start_s, 0.0), latest),
    )  # fmt: skip
    # A prepared signal has lost the record's time, on which the saliency stands.
    drawn = _overlays(marks, row, original, stage)
    drawn = replace(drawn, saliency=_saliency(row, saliency) if stage == "original" else None)
    figure = ecg_plotly(
        shown,
        view,
        drawn,
        uirevision=f"{row.pk}-{layout}-{speed}-{gain}-{stage}-{view.start_s}",
    )
    told = summary(replace(shown, meta=original.meta), None)
    if drawn.saliency is not None:
        told += f" Shading shows what supports {drawn.saliency.target} by {drawn.saliency.method}; unconfirmed, research use."
    return [figure, told]
