"""What a dataset holds: counts by any field, distributions, and a two-dimensional map of its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from viz.figures import charts
from viz.figures.figure import Figure, figure, typed

_MOST_BARS = 60
_MOST_PLACES = 20_000
# Names of more points than these would be most of what is sent, and nobody points at them one by one.
_MOST_NAMED = 5_000
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star", "triangle-down")


@figure("count_bars")
def count_bars(
    counts: Mapping[str, int], *, total: int | None = None, links: Mapping[str, str] | None = None, dark: bool = False,
    title: str = "Records per label", noun: str = "label",
) -> Figure:  # fmt: skip
    """Horizontal bars of counts: labels, sex, source, device, quality, missing leads or any other field.

    counts: ``{name: records}`` in the order to show; total: records in all, for the shares (a record may count
    under several names); links: an address a name, kept in ``customdata`` for the page to follow.
    """
    x_title = "records (count)"
    heads: list[Any] = [noun, x_title, "share of all records"]
    if not counts:
        return charts.empty(title, x_title, noun, dark, f"counts-{noun}", heads, "No records.")
    shown = list(counts.items())[:_MOST_BARS]
    share = [None if not total else n / total for _, n in shown]
    text = [f"{n:,}" if p is None else f"{n:,} ({p:.1%})" for (_, n), p in zip(shown, share, strict=True)]
    data = [{
        "type": "bar", "orientation": "h", "name": x_title, "y": [charts.plain(name, 60) for name, _ in shown], "x": [n for _, n in shown],
        "text": text, "textposition": "auto", "marker": {"color": charts.colour(0, dark)}, "showlegend": False,
        "customdata": [(links or {}).get(name) for name, _ in shown], "hovertemplate": "%{y}: %{text}<extra></extra>",
    }]  # fmt: skip
    told = [f"{name}: {words}." for (name, _), words in zip(shown[:8], text, strict=False)]
    if len(counts) > len(told):
        told.append(f"{len(counts) - len(told)} more are in the table.")
    if len(counts) > len(shown):
        told.append(f"The figure shows the first {len(shown)}.")
    table: list[list[Any]] = [heads] + [
        [name, n, charts.number(n / total) if total else None] for name, n in counts.items()
    ]
    frame = charts.layout(
        title, x_title, noun, dark, uirevision=f"counts-{noun}", y={"type": "category", "autorange": "reversed"},
        x={"rangemode": "tozero"}, height=max(240, 110 + 24 * len(shown)),
    )  # fmt: skip
    return Figure({"data": data, "layout": frame}, title, " ".join(told), table)


@figure("binned_bars")
def binned_bars(
    counts: Sequence[tuple[float, int]], *, width: float, unit: str, quantity: str, links: Sequence[str | None] = (),
    quartiles: Sequence[float] = (), dark: bool = False, title: str = "",
) -> Figure:  # fmt: skip
    """Distribution that was counted elsewhere: upright bars of one width.

    counts: ``(lower end, records)`` a bar, ascending; links: an address a bar, kept in ``customdata``; quartiles: the three
    quartiles of the values, of which the middle one is drawn.
    """
    title = title or quantity
    x_title, y_title = f"{quantity} ({unit})", "records (count)"
    heads: list[Any] = [f"from ({unit})", f"to ({unit})", y_title]
    if not counts:
        return charts.empty(
            title, x_title, y_title, dark, f"binned-{quantity}", heads, f"No record has a known {quantity}."
        )
    ends = [f"{low:g} to {low + width:g} {unit}" for low, _ in counts]
    data = [{
        "type": "bar", "name": y_title, "x": [charts.number(low + width / 2) for low, _ in counts], "y": [n for _, n in counts], "width": width,
        "marker": {"color": charts.colour(0, dark)}, "showlegend": False, "customdata": list(links) or [None] * len(counts),
        "hovertext": ends, "hovertemplate": "%{hovertext}: %{y} records<extra></extra>",
    }]  # fmt: skip
    shapes = []
    total = sum(n for _, n in counts)
    told = [f"{total:,} records."]
    if len(quartiles) == 3:
        q1, middle, q3 = quartiles
        shapes.append({
            "type": "line", "x0": middle, "x1": middle, "y0": 0, "y1": 1, "yref": "paper",
            "line": {"color": charts.colour(1, dark), "dash": "dash", "width": 2},
            "label": {"text": f"median {middle:.4g}", "textposition": "end", "textangle": 0},
        })  # fmt: skip
        told.append(f"Median {middle:.4g} {unit}, half of them between {q1:.4g} and {q3:.4g}.")
    low, n = max(counts, key=lambda one: one[1])
    told.append(f"Most records ({n:,}) lie between {low:g} and {low + width:g} {unit}.")
    table: list[list[Any]] = [heads, *([low, low + width, n] for low, n in counts)]
    frame = charts.layout(
        title, x_title, y_title, dark, uirevision=f"binned-{quantity}", y={"rangemode": "tozero"}, shapes=shapes, bargap=0.05,
        x={"range": [counts[0][0] - width / 2, counts[-1][0] + 1.5 * width]},
    )  # fmt: skip
    return Figure({"data": data, "layout": frame}, title, " ".join(told), table)


@figure("group_ranges")
def group_ranges(
    groups: Sequence[tuple[str, int, Sequence[float] | None]], *, unit: str, quantity: str, by: str, dark: bool = False, title: str = "",
) -> Figure:  # fmt: skip
    """Median and quartiles of a measure in each group.

    groups: ``(name, records with the measure, three quartiles or None)`` in the order to show.
    """
    title = title or f"{quantity} by {by}"
    x_title = f"{quantity} ({unit})"
    heads: list[Any] = [
        by,
        "records (count)",
        f"lower quartile ({unit})",
        f"median ({unit})",
        f"upper quartile ({unit})",
    ]
    unknown = (None, None, None)
    table: list[list[Any]] = [heads, *([name, n, *(three or unknown)] for name, n, three in groups)]
    drawn = [(name, n, three) for name, n, three in groups if three]
    if not drawn:
        return charts.empty(title, x_title, by, dark, "group-ranges", heads, f"No record has a known {quantity}.")
    names = [charts.plain(f"{name} ({n:,})", 40) for name, n, _ in drawn]
    bars = {
        "type": "data", "symmetric": False, "array": charts.numbers([t[2] - t[1] for _, _, t in drawn]),
        "arrayminus": charts.numbers([t[1] - t[0] for _, _, t in drawn]), "color": charts.theme(dark).ink, "thickness": 1.5, "width": 4,
    }  # fmt: skip
    data = [{
        "type": "scatter", "mode": "markers", "name": "median and quartiles", "x": charts.numbers([t[1] for _, _, t in drawn]),
        "y": list(range(len(drawn))), "error_x": bars, "marker": {"color": charts.colour(0, dark), "symbol": "diamond", "size": 10},
        "showlegend": False, "customdata": names, "hovertemplate": f"%{{customdata}}: median %{{x:.4g}} {unit}<extra></extra>",
    }]  # fmt: skip
    told = [
        f"{name}: median {t[1]:.4g} {unit}, quartiles {t[0]:.4g} to {t[2]:.4g}, {n:,} records."
        for name, n, t in drawn[:8]
    ]
    frame = charts.layout(
        title, x_title, by, dark, uirevision="group-ranges",
        y={"tickvals": list(range(len(drawn))), "ticktext": names, "range": [len(drawn) - 0.5, -0.5]}, height=max(240, 130 + 26 * len(drawn)),
    )  # fmt: skip
    return Figure({"data": data, "layout": frame}, title, " ".join(told), table)


@figure("effect_sizes")
def effect_sizes(
    effects: Sequence[tuple[str, str, float, str]], *, first: str, second: str, dark: bool = False, title: str = "What differs",
) -> Figure:  # fmt: skip
    """Bars of effect sizes, each in units of what counts as large: fields of both kinds on one axis.

    effects: ``(field, kind, effect, size in words)`` with kind ``d`` (Cohen's d, large from 0.8) or ``v`` (Cramér's V, large from 0.5).
    """
    x_title, heads = "effect (1 = large)", ["field", "measure", "effect size", "in words"]
    if not effects:
        return charts.empty(
            title, x_title, "field", dark, "effects", heads, "Too little is known of one of the datasets."
        )
    scaled = [abs(effect) / (0.8 if kind == "d" else 0.5) for _, kind, effect, _ in effects]
    measure = {"d": "Cohen's d", "v": "Cramér's V"}
    text = [f"{'d' if kind == 'd' else 'V'} = {effect:.2f}, {size}" for _, kind, effect, size in effects]
    data = [{
        "type": "bar", "orientation": "h", "name": x_title, "y": [charts.plain(name, 40) for name, *_ in effects], "x": charts.numbers(scaled),
        "text": text, "textposition": "auto", "marker": {"color": charts.colour(0, dark)}, "showlegend": False, "hovertemplate": "%{y}: %{text}<extra></extra>",
    }]  # fmt: skip
    large = [name for (name, *_), value in zip(effects, scaled, strict=True) if value >= 1]
    told = f"{second} against {first}. " + (
        f"Large: {', '.join(large)}." if large else "No field differs by a large effect."
    )
    line = {
        "type": "line",
        "x0": 1,
        "x1": 1,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": charts.colour(1, dark), "dash": "dash", "width": 2},
    }
    frame = charts.layout(
        title, x_title, "field", dark, uirevision="effects", y={"type": "category", "autorange": "reversed"}, x={"rangemode": "tozero"},
        shapes=[line | {"label": {"text": "large", "textposition": "end", "textangle": 0}}], height=max(240, 110 + 24 * len(effects)),
    )  # fmt: skip
    table: list[list[Any]] = [
        heads,
        *([name, measure[kind], charts.number(effect), size] for name, kind, effect, size in effects),
    ]
    return Figure({"data": data, "layout": frame}, title, told, table)


@figure("histogram")
def histogram(
    groups: Mapping[str, Sequence[float | None]], *, unit: str, bins: int = 30, dark: bool = False, title: str = "Distribution",
    quantity: str = "value",
) -> Figure:  # fmt: skip
    """Distribution of a measure (age, heart rate, an interval, length), one outline a group (sex, dataset, split).

    groups: ``{name: values}``; what is unknown (None or NaN) is counted and said, not drawn.
    """
    x_title, y_title = f"{quantity} ({unit})", "records (count)"
    heads: list[Any] = ["group", f"from ({unit})", f"to ({unit})", y_title]
    known = {name: _finite(values) for name, values in groups.items()}
    everything = np.concatenate(list(known.values())) if known else np.empty(0)
    unknown = {name: len(values) - known[name].size for name, values in groups.items()}
    if everything.size == 0:
        return charts.empty(
            title, x_title, y_title, dark, f"histogram-{quantity}", heads, f"No record has a known {quantity}."
        )
    low, high = float(everything.min()), float(everything.max())
    edges = np.linspace(low, high if high > low else low + 1, bins + 1 if high > low else 2)
    data: list[dict[str, Any]] = []
    table: list[list[Any]] = [heads]
    told: list[str] = []
    for k, (name, values) in enumerate(known.items()):
        counted, _ = np.histogram(values, edges)
        data.append({
            "type": "scatter", "mode": "lines", "name": charts.plain(name), "x": charts.numbers(np.repeat(edges, 2)),
            "y": [0, *np.repeat(counted, 2).tolist(), 0], "line": charts.line(k, dark), "fill": "tozeroy",
            "fillcolor": charts.rgba(charts.colour(k, dark), 0.18), "hovertemplate": f"{charts.plain(name)}: %{{y}} at %{{x:.4g}} {unit}<extra></extra>",
        })  # fmt: skip
        table += [
            [name, *row]
            for row in zip(charts.numbers(edges[:-1]), charts.numbers(edges[1:]), counted.tolist(), strict=True)
        ]
        if values.size:
            q1, middle, q3 = np.percentile(values, [25, 50, 75])
            told.append(
                f"{name}: {values.size} records, median {middle:.4g} {unit} (quartiles {q1:.4g} to {q3:.4g}), {unknown[name]} unknown."
            )
        else:
            told.append(f"{name}: no known {quantity}, {unknown[name]} unknown.")
    frame = charts.layout(title, x_title, y_title, dark, uirevision=f"histogram-{quantity}", y={"rangemode": "tozero"})
    return Figure({"data": data, "layout": frame}, title, " ".join(told), table)


def _finite(values: Sequence[float | None]) -> np.ndarray:
    array = np.array([np.nan if value is None else value for value in values], dtype=float)
    return array[np.isfinite(array)]


@figure("embedding_map")
def embedding_map(
    places: Sequence[Sequence[float]], *, ids: Sequence[Any] = (), groups: Sequence[str] = (), dark: bool = False,
    title: str = "Map of the dataset", axes: tuple[str, str] = ("first axis (no unit)", "second axis (no unit)"), coloured_by: str = "label",
) -> Figure:  # fmt: skip
    """Scatter of records in two dimensions (PCA, UMAP, a model's embedding), coloured by a category.

    places: ``(records, 2)``; ids: what a point is called when it is pointed at, left out above 5000 points; groups: one
    category a record. Up to eight categories have colours and symbols, of more the seven most frequent, and the rest is
    "other". Above 20 000 records an even part is drawn.
    """
    heads: list[Any] = [coloured_by, "records (count)", f"mean {axes[0]}", f"mean {axes[1]}"]
    xy = np.asarray(places, dtype=float).reshape(-1, 2)
    fine = np.isfinite(xy).all(axis=1)
    if not fine.any():
        return charts.empty(title, axes[0], axes[1], dark, "map", heads, "No record has a place on the map.")
    own, other, category = _categories(groups, fine)
    drawn = np.flatnonzero(fine)
    drawn = drawn[charts.thin(drawn.size, _MOST_PLACES)]
    many = drawn.size > _MOST_NAMED
    data: list[dict[str, Any]] = []
    table: list[list[Any]] = [heads]
    told = [
        f"{int(fine.sum())} records, {int((~fine).sum())} without a place, {len(own) + other} categories of {coloured_by}."
    ]
    for k, name in enumerate([*own, "other"] if other else own):
        rows = drawn[category[drawn] == k]
        plain = charts.plain(name, 40)
        data.append({
            "type": "scattergl" if many else "scatter", "mode": "markers", "name": plain, "x": typed(xy[rows, 0]), "y": typed(xy[rows, 1]),
            **({} if many else {"customdata": [str(ids[r]) for r in rows] if len(ids) else rows.tolist()}),
            "marker": {"size": 4 if many else 6, "opacity": 0.75, "color": charts.colour(k, dark), "symbol": _SYMBOLS[k % len(_SYMBOLS)]},
            "hovertemplate": f"{plain}<extra></extra>" if many else f"{plain}: %{{customdata}}<extra></extra>",
        })  # fmt: skip
        every = np.flatnonzero(fine & (category == k))
        table.append([name, every.size, *charts.numbers(xy[every].mean(axis=0))])
        told.append(f"{name}: {every.size}.")
    if drawn.size < fine.sum():
        told.append(f"An even part of {drawn.size} records is drawn.")
    frame = charts.layout(title, axes[0], axes[1], dark, uirevision="map", dragmode="lasso")
    return Figure({"data": data, "layout": frame}, title, " ".join(told), table)


def _categories(groups: Sequence[str], fine: np.ndarray) -> tuple[list[str], int, np.ndarray]:
    """Return the categories that have a colour of their own, how many others there are, and the place of each record's.

    Only records with a place (``fine``) count; the place after the last of its own stands for "other".
    """
    if not len(groups):
        return ["all records"], 0, np.zeros(fine.size, dtype=int)
    names, inverse = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    counts = np.bincount(inverse[fine], minlength=names.size)
    order = [k for k in np.lexsort((names, -counts)).tolist() if counts[k]]
    own = order[:7] if len(order) > 8 else order
    place = np.full(names.size, len(own))
    place[own] = np.arange(len(own))
    return [str(names[k]) for k in own], len(order) - len(own), place[inverse]
