"""Speed of lists, filters, search and label counts over one large dataset, at the server.

Run: ``python -m tests.bench lists``; ``python -m tests.bench.bench_lists [records]`` prints the plans that PostgreSQL
chooses for the queries, too. The rows are made in the database by a few statements, beside a second dataset of the
same size, so that every query also has to leave other people's rows aside. Each request goes through the whole server
in this process (middleware, permission, queries, rendering); the figure is the median of several, by the clock, and
the number of its queries.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.bench.bench_ingest import database

Row = dict[str, Any]

RECORDS = 20_000
GOAL_MS = 300.0
ROUNDS = 7

_SUBJECTS = """
INSERT INTO datasets_subject (id, created_at, dataset_id, key, identifier_encrypted)
SELECT gen_random_uuid(), now(), %(dataset)s, 'S' || upper(substr(md5('s' || n), 1, 12)), '' FROM generate_series(1, %(subjects)s) n
"""
_RECORDS = """
INSERT INTO datasets_record (id, created_at, dataset_id, subject_id, key, format, fs_hz, n_samples, leads, leads_computed,
  age, sex, site, recorded_at, has_shifted_time, quality, quality_score, content_sha256, fingerprint, meta, pack, "offset", search_text{columns})
SELECT gen_random_uuid(), now(), %(dataset)s, s.id, k.key, (ARRAY['wfdb', 'dicom', 'muse_xml', 'csv'])[1 + n %% 4],
  (ARRAY[500, 400, 1000, 240])[1 + n %% 4], 5000, string_to_array('I II III aVR aVL aVF V1 V2 V3 V4 V5 V6', ' '), ARRAY[]::varchar[],
  18 + n %% 70, (ARRAY['F', 'M', ''])[1 + n %% 3], '', timestamptz '1990-01-01 08:00Z' + (n * 7919::bigint %% 7300) * interval '1 day', true,
  jsonb_build_object('flags', CASE WHEN n %% 11 = 0 THEN '["pacing_spikes"]'::jsonb WHEN n %% 7 = 0 THEN '["missing_leads"]'::jsonb ELSE '[]'::jsonb END,
    'leads', (SELECT jsonb_agg(jsonb_build_object('lead', l, 'flags', CASE WHEN n %% 9 = 0 AND l IN ('V1', 'V4') THEN '["noisy"]'::jsonb ELSE '[]'::jsonb END, 'sqi', 0.9, 'noise_mv', 0.01, 'missing', 0))
      FROM unnest(string_to_array('I II III aVR aVL aVF V1 V2 V3 V4 V5 V6', ' ')) l), 'score', 0.9),
  (n %% 100) / 100.0, md5(%(dataset)s::text || n) || md5('b' || n), md5('f' || n) || md5('g' || n),
  '{{"notes": [], "printed": {{}}, "annotations": [], "dropped_channels": []}}'::jsonb, gen_random_uuid(), 0, lower(k.key || ' ' || s.key){defaults}
FROM generate_series(1, %(records)s) n
CROSS JOIN LATERAL (SELECT 'records500/' || lpad((n / 1000)::text, 5, '0') || '/' || lpad(n::text, 6, '0') || '_hr' AS key) k
JOIN (SELECT id, key, row_number() OVER (ORDER BY key) AS place FROM datasets_subject WHERE dataset_id = %(dataset)s) s
  ON s.place = 1 + n %% %(subjects)s
"""
_LABELS = """
INSERT INTO datasets_recordlabel (id, created_at, record_id, system, code, likelihood, source)
SELECT gen_random_uuid(), now(), id, 'scp', 'C' || lpad(c::text, 2, '0'), 1, 'table'
FROM (SELECT id, row_number() OVER () AS n FROM datasets_record WHERE dataset_id = %(dataset)s) r
CROSS JOIN LATERAL (SELECT DISTINCT (n * k * k) %% 60 AS c FROM generate_series(1, 3) k) codes
"""
_MEASURES = """
INSERT INTO datasets_recordfeatures (record_id, version, reason, shape, {names})
SELECT id, {version}, '', ''::bytea, {values} FROM (SELECT id, row_number() OVER () AS n FROM datasets_record WHERE dataset_id = %(dataset)s) r
"""
_POINTS = """
INSERT INTO viz_mappoint (map_id, record_id, pca_x, pca_y)
SELECT %(map)s, id, 10 * cos(n), 10 * sin(n * 0.7) FROM (SELECT id, row_number() OVER () AS n FROM datasets_record WHERE dataset_id = %(dataset)s) r
"""
_ANSWERS = """
INSERT INTO modelhub_prediction (id, created_at, run_id, record_id, values, predicted, notices, saliency)
SELECT gen_random_uuid(), now(), %(run)s, id, ARRAY[x, 1 - x, 0.1, 0.1, 0.1], CASE WHEN x < 0.5 THEN ARRAY['MI'] ELSE ARRAY['NORM'] END,
  ARRAY[]::varchar[], '{}'
FROM (SELECT id, abs(sin(row_number() OVER ())) AS x FROM datasets_record WHERE dataset_id = %(dataset)s) r
"""


def measured(dataset: Any) -> Any:
    """Give every record measures and a place on a map; return the map."""
    from django.db import connection

    from datasets.measure.features import FEATURES, VERSION
    from tests.factories import make_job
    from viz.models import DatasetMap

    # Bell-shaped enough, about forty bars wide.
    numbers = ", ".join(
        f"{one.width} * (20 + 10 * sin(n * {k + 1}.37) + 10 * cos(n * {k + 2}.91))"
        for k, one in enumerate(FEATURES.values())
    )
    row = DatasetMap.objects.create(
        dataset=dataset, basis="measures", with_umap=False, job=make_job(dataset.project, kind="map", state="succeeded")
    )
    with connection.cursor() as cursor:
        cursor.execute(
            _MEASURES.format(names=", ".join(FEATURES), values=numbers, version=VERSION), {"dataset": dataset.pk}
        )
        cursor.execute(_POINTS, {"dataset": dataset.pk, "map": row.pk})
    return row


def answered(dataset: Any) -> Any:
    """Let a model of five classes answer for every record by chance, beside a map of the labels; return the run."""
    from django.db import connection

    from modelhub.agreement import map_for
    from modelhub.models import PredictionRun
    from tests.factories import make_job, make_label_map
    from tests.modelhub.test_predicting import make_version

    version = make_version(dataset.project)
    entries = {f"C{n:02d}": {"class": version.classes[n % 5], "relation": "exact"} for n in range(60)}
    make_label_map(dataset.project, "Codes", classes=version.classes, entries=entries)
    run = PredictionRun.objects.create(
        project=dataset.project, version=version, dataset=dataset, label_map=map_for(version, dataset.project),
        job=make_job(dataset.project, kind="predict", state="succeeded"),
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(_ANSWERS, {"run": run.pk, "dataset": dataset.pk})
    return run


def fill(dataset: Any, records: int) -> None:
    """Make records with subjects and about three labels each; nothing lies on disk for them."""
    from django.db import connection

    from datasets.models import Record

    values = {"dataset": dataset.pk, "records": records, "subjects": max(1, records * 4 // 5)}
    # What a record has beyond what is made here takes its field's default.
    named = set(re.findall(r"\w+", _RECORDS.partition("{columns}")[0]))
    others = [f for f in Record._meta.concrete_fields if f.column not in named and not (f.null or f.generated)]
    values |= {f.column: f.get_db_prep_save(f.get_default(), connection) for f in others}
    made = _RECORDS.format(
        columns="".join(f', "{f.column}"' for f in others), defaults="".join(f", %({f.column})s" for f in others)
    )
    with connection.cursor() as cursor:
        for statement in (_SUBJECTS, made, _LABELS):
            cursor.execute(statement, values)


def analyse() -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


def requests_of(dataset: Any, records: int) -> dict[str, str]:
    """Return what is asked for of lists and figures, by what it shows."""
    page, rest = f"/datasets/{dataset.pk}/", f"/api/v1/records/?dataset={dataset.pk}"
    return {
        "page: figures, label counts, first records": page,
        "page: last records": f"{page}?page=999999",
        "page: by label": f"{page}?label=C07",
        "page: by quality flag": f"{page}?quality=pacing_spikes",
        "page: by format, sex and age": f"{page}?format=dicom&sex=F&age_min=40&age_max=60",
        "page: search, found": f"{page}?search=017345",
        "page: search, not found": f"{page}?search=nowhere",
        "page: sorted by quality": f"{page}?sort=quality",
        "page: sorted by time": f"{page}?sort=recorded_at",
        "page: a year": f"{page}?recorded_from=2001-01-01&recorded_to=2001-12-31",
        "page: some lead noisy": f"{page}?quality=lead:noisy",
        "page: without labels": f"{page}?missing=labels",
        "page: label coverage by every map": f"{page}labels/",
        "page: duplicates": f"{page}duplicates/",
        "REST: first records": rest,
        "REST: records in the middle": f"{rest}&page={max(1, records // 100)}",
        "REST: by label": f"{rest}&label=C07",
        "REST: search": f"{rest}&search=017345",
        "REST: last records": f"{rest}&page={max(1, records // 50)}",
        "REST: sorted by time, middle": f"{rest}&sort=recorded_at&page={max(1, records // 100)}",
        "REST: noisy, without V1": f"{rest}&quality=lead:noisy&missing=lead:V1",
        "REST: label table, middle": f"/api/v1/datasets/{dataset.pk}/labels/?page={max(1, records // 100)}",
        "REST: subjects": f"/api/v1/subjects/?dataset={dataset.pk}",
        "REST: duplicates": f"/api/v1/datasets/{dataset.pk}/duplicates/",
        "REST: dataset with label counts": f"/api/v1/datasets/{dataset.pk}/",
    }


def views_of(dataset: Any, drawn: Any) -> dict[str, str]:
    """Return what is asked for of the views of a measured dataset. drawn: its map."""
    lasso, page = "area=-4,-4;4,-4;4,4;-4,4", f"/datasets/{dataset.pk}/"
    return {
        "insight: every field and measure": f"{page}insight/",
        "insight: a measure by label": f"/api/v1/datasets/{dataset.pk}/insight/by/?what=qtc_ms&by=labels",
        "outliers": f"/api/v1/datasets/{dataset.pk}/outliers/",
        "measures of the first records": f"/api/v1/datasets/{dataset.pk}/measures/",
        "map with its regions": f"/maps/{drawn.pk}/",
        "map: all places with labels": f"/api/v1/dataset-maps/{drawn.pk}/points/?colour=labels",
        "map: records inside a line": f"/maps/{drawn.pk}/records/?by=pca&{lasso}",
    }


def answers_of(run: Any) -> dict[str, str]:
    """Return what is asked for of the answers of a run."""
    page, rest = f"/predictions/{run.pk}/", f"/api/v1/predictions/{run.pk}/rows/"
    return {
        "answers": page,
        "answers that differ from the labels, surest first": f"{page}?agreement=differs",
        "answers with a class too many": f"{page}?agreement=false_positive&class=NORM",
        "REST: answers that differ": f"{rest}?agreement=differs",
    }


def queries_of(dataset: Any) -> dict[str, Any]:
    """Return the query sets behind them, for their plans."""
    from datasets import selectors
    from datasets.models import Record, RecordLabel

    records = Record.objects.filter(dataset=dataset)
    narrowed: Callable[..., Any] = lambda **params: selectors.filtered(records, params)  # noqa: E731
    counted = RecordLabel.objects.filter(record__dataset=dataset).values("code")
    from django.db.models import Count

    return {
        "first page by key": records.order_by("key", "id")[:50],
        "page 200 by key": records.order_by("key", "id")[9950:10000],
        "by label": narrowed(label="C07").order_by("key", "id")[:50],
        "by quality flag": narrowed(quality="pacing_spikes").order_by("key", "id")[:50],
        "search": narrowed(search="017345").order_by("key", "id")[:50],
        "sorted by quality": selectors.sorted_records(records, "quality")[0][:50],
        "sorted by time": selectors.sorted_records(records, "recorded_at")[0][:50],
        "sorted by time, latest first": selectors.sorted_records(records, "-recorded_at")[0][:50],
        "a year": narrowed(recorded_from="2001-01-01", recorded_to="2001-12-31").order_by("key", "id")[:50],
        "some lead noisy": narrowed(quality="lead:noisy").order_by("key", "id")[:50],
        "one subject by time": selectors.sorted_records(narrowed(subject="S000000000000"), "recorded_at")[0],
        "without labels": narrowed(missing="labels").order_by("key", "id")[:50],
        "ids of a deep page": records.order_by("key", "id").values_list("pk", flat=True)[9950:10000],
        "label counts": counted.annotate(n=Count("record", distinct=True)).order_by("-n", "code"),
    }


def measure(records: int, *, plans: bool = False) -> list[Row]:
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    from tests.factories import make_dataset, make_project, make_user

    owner = make_user()
    project = make_project({owner: "owner"})
    dataset, other = make_dataset(project), make_dataset(make_project())
    fill(dataset, records)
    fill(other, records)
    drawn, run = measured(dataset), answered(dataset)
    measured(other)
    analyse()
    client = Client()
    client.force_login(owner)
    rows: list[Row] = []
    for name, path in (requests_of(dataset, records) | views_of(dataset, drawn) | answers_of(run)).items():
        times = []
        client.get(path)
        for _ in range(ROUNDS):
            start = time.perf_counter()
            answer = client.get(path)
            times.append(1000 * (time.perf_counter() - start))
            if answer.status_code != 200:
                raise RuntimeError(f"{path} answered {answer.status_code}")
        with CaptureQueriesContext(connection) as asked:
            client.get(path)
        took = sorted(times)[len(times) // 2]
        rows.append(
            {"name": f"{records} records, {name} ({len(asked)} queries)", "value": round(took, 1), "unit": "ms",
             "goal": f"<= {GOAL_MS:g}", "ok": took <= GOAL_MS}
        )  # fmt: skip
    if plans:
        for name, queryset in queries_of(dataset).items():
            print(f"\n-- {name}\n{queryset.explain(analyze=True)}")
    return rows


def run() -> list[Row]:
    """Measure with 20,000 records in the dataset."""
    with database():
        return measure(RECORDS)


if __name__ == "__main__":
    with database():
        for row in measure(int(sys.argv[1]) if len(sys.argv) > 1 else RECORDS, plans=True):
            print(row["name"], row["value"], row["unit"], "" if row["ok"] else "MISSED")
