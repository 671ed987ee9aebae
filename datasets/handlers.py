"""Job kinds of datasets."""

from __future__ import annotations

from typing import Any

from ecgportal.jobs.context import JobContext
from ecgportal.jobs.registry import HOST, handler


@handler("ingest", title="Take in files", max_attempts=5)
def ingest(context: JobContext) -> dict[str, Any]:
    from datasets import ingest as ingesting

    return ingesting.run(context)


@handler("ingest_share", title="Help to take in files", queue=HOST, max_attempts=5)
def ingest_share(context: JobContext) -> dict[str, Any]:
    from datasets import ingest as ingesting

    return ingesting.run_share(context)


@handler("labels", title="Read a label table")
def labels(context: JobContext) -> dict[str, Any]:
    from datasets import label_jobs

    return label_jobs.run(context)


@handler("features", title="Measure the records of a dataset")
def features(context: JobContext) -> dict[str, Any]:
    from datasets import featuring

    return featuring.run(context)
