"""What the lists of a dataset of 800,000 records cost: the plans that PostgreSQL chooses, and times at the server.

Run: ``python -m tests.proofs.many_records [--records 800000] [--no-plans]``. An empty database of its own is filled with the
rows of records, subjects and labels (no signals), as ``tests.bench.bench_lists`` makes them, beside a second dataset of 20,000.
Each request goes through the whole server in this process; the figure is the median of three, by the clock, with the
processor time of this process and the number of queries beside it. The database's own time stands in the plans.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from tests.bench.bench_ingest import database
from tests.bench.bench_lists import analyse, fill, queries_of, requests_of

_ROUNDS = 3
_BESIDE = 20_000


def _times(client: Any, path: str) -> tuple[float, float, float, int]:
    """Return the first request's time, the median's, its processor time (ms), and the number of queries."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    found = []
    for _ in range(_ROUNDS + 1):
        clock, processor = time.perf_counter(), time.process_time()
        with CaptureQueriesContext(connection) as asked:
            answer = client.get(path)
        found.append((1000 * (time.perf_counter() - clock), 1000 * (time.process_time() - processor), len(asked)))
        if answer.status_code != 200:
            raise RuntimeError(f"{path} answered {answer.status_code}")
    first, *rest = found
    took, processor, queries = sorted(rest)[len(rest) // 2]
    return first[0], took, processor, queries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=800_000)
    parser.add_argument("--no-plans", action="store_true")
    arguments = parser.parse_args()
    with database():
        from django.db import connection
        from django.test import Client

        from tests.factories import make_dataset, make_project, make_user

        owner = make_user()
        project = make_project({owner: "owner"})
        dataset, other = make_dataset(project), make_dataset(make_project())
        client = Client()
        client.force_login(owner)
        # Everything is loaded before the clock runs.
        client.get(f"/datasets/{dataset.pk}/")
        started = time.perf_counter()
        fill(dataset, arguments.records)
        fill(other, _BESIDE)
        analyse()
        print(f"{arguments.records} records were filled in within {time.perf_counter() - started:.0f} s.", flush=True)
        with connection.cursor() as cursor:
            for table in ("datasets_record", "datasets_recordlabel"):
                cursor.execute(
                    "SELECT pg_size_pretty(pg_table_size(%s)), pg_size_pretty(pg_indexes_size(%s))", [table, table]
                )
                rows, indexes = cursor.fetchone()
                print(f"{table}: {rows}, its indexes {indexes}")
        print(f"\n{'request':56} {'first':>9} {'then':>9} {'processor':>10} queries")
        for name, path in requests_of(dataset, arguments.records).items():
            first, took, processor, queries = _times(client, path)
            print(f"{name:56} {first:6.0f} ms {took:6.0f} ms {processor:7.0f} ms {queries:7}", flush=True)
        if not arguments.no_plans:
            for name, queryset in queries_of(dataset).items():
                print(f"\n-- {name}\n{queryset.explain(analyze=True)}", flush=True)


if __name__ == "__main__":
    main()
