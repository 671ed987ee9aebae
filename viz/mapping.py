"""Make and read maps of datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from django.db import transaction
from django.db.models import BooleanField, F, Func, QuerySet, TextField, Value

from datasets.insight import FIELDS
from datasets.measure.features import FEATURES, SHAPE_LEADS, SHAPE_POINTS
from datasets.models import Dataset, Record, RecordFeatures, RecordLabel
from datasets.preparing import StoreView, bring_up_to_date
from datasets.preprocess.recipe import Recipe
from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput
from ecgportal.jobs.context import JobContext
from ecgportal.jobs.models import OPEN
from ecgportal.jobs.services import enqueue
from modelhub import loading
from modelhub.answering import why_not
from modelhub.contract import ModelContract
from modelhub.models import ModelVersion, Prediction, PredictionRun
from viz.models import Basis, DatasetMap, MapPoint
from viz.projection import project

# Above this many records an even part is placed.
MOST = 20_000
_BATCH = 128
_NUDGE = 1e-3
METHODS = {"umap": "UMAP", "pca": "Principal components"}
COLOURS = {
    "labels": "Most frequent label", "sex": "Sex", "age": "Age", "quality": "Quality", "format": "File format", "device": "Device", "site": "Hospital",
}  # fmt: skip
_BANDS = ((0.5, "poor, under 0.5"), (0.8, "fair, 0.5 to 0.8"))


@transaction.atomic
def map_start(*, actor: Any, dataset: Dataset, basis: str, version: ModelVersion | None, with_umap: bool) -> DatasetMap:
    """Start the job that makes a map. The version is for the basis ``model`` and must be of the dataset's project."""
    if basis == Basis.MODEL and (version is None or version.model.project_id != dataset.project_id):
        raise InvalidInput(
            "Choose the model whose view is mapped.", fields={"version": "Choose a model of this project."}
        )
    if basis != Basis.MODEL:
        version = None
        if not RecordFeatures.objects.filter(record__dataset=dataset).exists():
            raise Conflict("The records have not been measured yet; measure them first.", code="not_measured")
    if DatasetMap.objects.filter(dataset=dataset, basis=basis, version=version, job__state__in=OPEN).exists():
        raise Conflict("This map is being made already.", code="map_open")
    row = DatasetMap(dataset=dataset, created_by=actor, basis=basis, version=version, with_umap=with_umap)
    row.job = enqueue(
        "map", actor=actor, project=dataset.project, payload={"map": str(row.pk)}, title=f"Map {dataset.name}"
    )
    row.save(force_insert=True)
    audit("dataset.mapped", dataset, actor=actor, project=dataset.project, changes={"basis": basis})
    return row


@transaction.atomic
def map_delete(*, actor: Any, row: DatasetMap) -> None:
    """Delete a map that is not being made."""
    if row.job.state in OPEN:
        raise Conflict("The map is being made. Cancel its job first.", code="map_open")
    audit("dataset.map_deleted", row.dataset, actor=actor, project=row.dataset.project, changes={"basis": row.basis})
    DatasetMap.objects.filter(pk=row.pk).delete()


def run(context: JobContext) -> dict[str, Any]:
    """The job: read what the map is made of, place the records, keep the places."""
    row = DatasetMap.objects.select_related("dataset", "version__model").get(pk=context.payload["map"])
    ids, values = _values(row, context)
    context.progress(0.6, "Placing the records" + (" (UMAP takes minutes for many)" if row.with_umap else ""))
    found = project(values, with_umap=row.with_umap, scale=row.basis == Basis.MEASURES)
    umap = found.umap if found.umap is not None else np.full((len(ids), 2), np.nan)
    present = set(Record.objects.filter(dataset=row.dataset).values_list("pk", flat=True))
    with transaction.atomic():
        row.points.all().delete()
        MapPoint.objects.bulk_create(
            [
                MapPoint(map=row, record_id=pk, pca_x=p[0], pca_y=p[1], umap_x=_or_none(u[0]), umap_y=_or_none(u[1]))
                for pk, p, u in zip(ids, found.pca.tolist(), umap.tolist(), strict=True)
                if pk in present
            ],
            batch_size=2000,
        )
        row.explained, row.left_out = list(found.explained), len(present) - len(ids)
        row.save(update_fields=["explained", "left_out"])
    return {"map": str(row.pk), "records": len(ids), "left_out": row.left_out}


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _values(row: DatasetMap, context: JobContext) -> tuple[list[Any], np.ndarray]:
    """Return the records that can be placed and the numbers that place them, ``(records, features)``."""
    if row.basis == Basis.MODEL:
        return _embedding(row, context)
    # Keys are random, so the first by key are an even part.
    known = RecordFeatures.objects.filter(record__dataset=row.dataset).order_by("record")
    if row.basis == Basis.MEASURES:
        rows = list(known.filter(reason="").values_list("record", *FEATURES)[:MOST])
        return [pk for pk, *_ in rows], np.array(
            [[np.nan if v is None else v for v in rest] for _, *rest in rows], np.float64
        )
    shapes = list(known.exclude(shape=b"").values_list("record", "shape")[:MOST])
    size = len(SHAPE_LEADS) * SHAPE_POINTS
    values = np.frombuffer(b"".join(bytes(shape) for _, shape in shapes), "<f2").reshape(-1, size).astype(np.float64)
    return [pk for pk, _ in shapes], values


def _embedding(row: DatasetMap, context: JobContext) -> tuple[list[Any], np.ndarray]:
    """Return what the version's last layer is given for each record that it can take."""
    assert row.version is not None
    contract = ModelContract.from_dict(row.version.contract)
    records = Record.objects.filter(dataset=row.dataset).order_by("pk")[:MOST]
    ids = [record.pk for record in records.iterator() if why_not(record, contract) is None]
    recipe = Recipe.from_json(loading.recipe_of(contract))
    store = bring_up_to_date(row.dataset, recipe, lambda part, note: context.progress(0.3 * part, note))
    view, embed = StoreView(store, ids), _embedder(row.version)
    parts = []
    for start in range(0, len(ids), _BATCH):
        parts.append(embed(view.read(np.arange(start, min(start + _BATCH, len(ids))))))
        context.progress(
            0.3 + 0.3 * (start + _BATCH) / max(len(ids), start + _BATCH), f"{start:,} of {len(ids):,} records seen"
        )
    return ids, np.concatenate(parts) if parts else np.zeros((0, 1))


def _embedder(version: ModelVersion) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from prepared signals ``(n, leads, samples)`` to the input of the last linear layer."""
    import torch
    from torch import nn

    module = loading.module_of(version).eval()
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise InvalidInput(f"{version} has no linear layer whose input could be mapped.", code="no_embedding")
    seen: list[torch.Tensor] = []
    layers[-1].register_forward_pre_hook(lambda layer, given: seen.append(given[0]))

    def embed(batch: np.ndarray) -> np.ndarray:
        seen.clear()
        with torch.inference_mode():
            module(torch.from_numpy(batch))
        return seen[-1].flatten(1).numpy().astype(np.float64)

    return embed


def methods_of(row: DatasetMap) -> dict[str, str]:
    """Return the projections that a map has, by key."""
    return METHODS if row.with_umap else {"pca": METHODS["pca"]}


@dataclass(frozen=True)
class Places:
    """xy ``(records, 2)``; the ids and keys of the records and their category, in the same order."""

    xy: np.ndarray
    records: list[Any]
    keys: list[str]
    groups: list[str]


def places(row: DatasetMap, method: str, colour: str) -> Places:
    """Return where the records of a map lie and what they are, in two or three queries.

    colour: a key of ``COLOURS``, or ``prediction:<id of a prediction run>``.
    """
    points = row.points.order_by("record_id").values_list("record_id", "record__key", f"{method}_x", f"{method}_y")
    ids, keys, x, y = zip(*points, strict=True) if points else ((), (), (), ())
    xy = np.array([x, y], dtype=np.float64).T.reshape(-1, 2)
    named = _categories(row, colour)
    return Places(xy, list(ids), list(keys), [named(pk) for pk in ids])


def _categories(row: DatasetMap, colour: str) -> Callable[[Any], str]:
    """Return what tells the category of a record by its id."""
    if colour.startswith("prediction:"):
        answers = Prediction.objects.filter(run=colour.removeprefix("prediction:"), run__dataset=row.dataset_id)
        held = {pk: ", ".join(names) or "none" for pk, names in answers.values_list("record", "predicted")}
        return lambda pk: held.get(pk, "not predicted")
    if colour == "labels":
        return _labels(row)
    records = Record.objects.filter(dataset=row.dataset_id)
    if colour == "quality":
        scores = dict(records.values_list("pk", "quality_score"))
        return lambda pk: _band(scores.get(pk))
    field = FIELDS[colour if colour in COLOURS else "sex"]
    values = dict(records.annotate(c=field.value()).values_list("pk", "c"))
    names = {value: "unknown" if value is None else field.named(value)[0] for value in set(values.values())}
    return lambda pk: names.get(values.get(pk), "unknown")


def _band(score: float | None) -> str:
    if score is None:
        return "not judged"
    return next((name for limit, name in _BANDS if score < limit), "good, 0.8 and over")


def _labels(row: DatasetMap) -> Callable[[Any], str]:
    """Name each record by its label, of several by the one that is most frequent in the dataset."""
    held = RecordLabel.objects.filter(record__dataset=row.dataset_id).values_list("record", "code").distinct()
    counts = Counter(code for _, code in held)
    best: dict[Any, str] = {}
    for pk, code in held:
        if pk not in best or (counts[code], code) > (counts[best[pk]], best[pk]):
            best[pk] = code
    return lambda pk: best.get(pk, "no label")


def colours_of(row: DatasetMap) -> dict[str, str]:
    """Return what a map can be coloured by: fields, and the latest predictions of the dataset."""
    runs = PredictionRun.objects.filter(dataset=row.dataset_id, job__state="succeeded").select_related(
        "version__model"
    )[:8]
    return COLOURS | {f"prediction:{run.pk}": f"Prediction of {run.version}" for run in runs}


class _Inside(Func):
    """Whether a point lies in a polygon, both of PostgreSQL's own types."""

    template = "(%(expressions)s)"
    arg_joiner = " <@ "
    output_field = BooleanField()


def inside(row: DatasetMap, method: str, area: list[tuple[float, float]]) -> QuerySet[Record]:
    """Return the records of a map whose places lie in a polygon of corners ``(x, y)``."""
    polygon = "(" + ",".join(f"({x:.9g},{y:.9g})" for x, y in area) + ")"
    point = Func(F(f"{method}_x"), F(f"{method}_y"), function="point", output_field=TextField())
    shape = Func(Value(polygon), template="%(expressions)s::polygon", output_field=TextField())
    found = (
        row.points.filter(**{f"{method}_x__isnull": False}).annotate(inside=_Inside(point, shape)).filter(inside=True)
    )
    return Record.objects.filter(pk__in=found.values("record")).order_by("key", "id")


def nearest(row: DatasetMap, method: str, x: float, y: float) -> Record | None:
    """Return the record whose place is nearest to ``(x, y)``, with its key only."""
    dx, dy = F(f"{method}_x") - x, F(f"{method}_y") - y
    placed = row.points.filter(**{f"{method}_x__isnull": False}).annotate(far=dx * dx + dy * dy)
    found = placed.order_by("far", "record_id").select_related("record").only("record__key")[:1]
    return next((point.record for point in found), None)


def read_area(text: str) -> list[tuple[float, float]]:
    """Read ``x,y;x,y;...`` (3 to 200 corners). InvalidInput for anything else."""
    try:
        corners = [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split(";"))]
    except ValueError:
        corners = []
    if not 3 <= len(corners) <= 200 or not np.isfinite(corners).all():
        raise InvalidInput(
            "The area is not a list of corners.", fields={"area": "Give x,y;x,y;... with three corners at least."}
        )
    return corners


def regions(row: DatasetMap, method: str, parts: int = 4) -> list[list[tuple[int, list[tuple[float, float]]]]]:
    """Divide the map into ``parts`` x ``parts`` fields of equal size, the top row first: how many records, and the corners."""
    xy = np.array(list(row.points.values_list(f"{method}_x", f"{method}_y")), dtype=np.float64).reshape(-1, 2)
    if not len(xy):
        return []
    low, high = xy.min(axis=0), xy.max(axis=0)
    step = np.where(high > low, (high - low) / parts, 1.0)
    # Borders lie a little below round shares of the range, so that hardly ever a record lies on one.
    place = np.clip(np.floor((xy - low) / step + _NUDGE).astype(int), 0, parts - 1)
    counts = np.bincount(place[:, 1] * parts + place[:, 0], minlength=parts * parts).reshape(parts, parts)

    def corners(r: int, c: int) -> list[tuple[float, float]]:
        first, last = np.array((c, r)), np.array((c + 1, r + 1))
        x0, y0 = (low + step * (first - np.where(first == 0, 1, _NUDGE))).tolist()
        x1, y1 = (low + step * (last + np.where(last == parts, 1, -_NUDGE))).tolist()
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]

    return [[(int(counts[r, c]), corners(r, c)) for c in range(parts)] for r in reversed(range(parts))]
