"""One upload read by two worker hosts, one of which loses its power in the middle: nothing is lost and nothing is doubled.

Run: ``python -m tests.proofs.spread_ingest [--records N] [--kill lead|helper|none] [--folder F]``. Two supervisors with
``PORTAL_PROCESSES=workers`` share one database and one ``PORTAL_HOME`` in a throw-away folder. All processes of one of them get
SIGKILL when a third of the records is stored: ``lead`` is the host whose job plans and ends the upload. Then the same upload is
sent again, with a few records more.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from tests.proofs.hosts import Portal, until


def _upload(dataset: Any, path: Path) -> Any:
    from django.core.files.base import File

    from datasets.services import upload_receive

    with path.open("rb") as stream:
        return upload_receive(actor=None, dataset=dataset, files=[File(stream, name=path.name)])


def _ended(ingest: Any) -> bool:
    ingest.job.refresh_from_db()
    return not ingest.job.is_open


def prove(records: int, kill: str, folder: str | None) -> bool:
    """Run the proof and print what was found; True when all is as it must be."""
    with Portal(folder) as portal:
        from datasets.ingest import outcome_counts
        from datasets.models import IngestPart, Record
        from ecgportal.jobs.models import Job, WorkerBeat
        from tests.bench.bench_ingest import write_zip
        from tests.factories import make_dataset, make_project

        archive, more = portal.home / "a.zip", portal.home / "b.zip"
        write_zip(archive, records)
        write_zip(more, records + 10)
        dataset = make_dataset(make_project())
        for name in ("a", "b"):
            portal.start(name)
        until(lambda: WorkerBeat.objects.count() == 2, "two hosts", 300)
        ingest = _upload(dataset, archive)
        begun = time.monotonic()

        def stored() -> int:
            return Record.objects.filter(dataset=dataset).count()

        def halves() -> set[str]:
            return set(IngestPart.objects.filter(is_done=True, n_files__gt=0).values_list("host", flat=True))

        until(lambda: _ended(ingest) or (stored() >= records // 3 and len(halves()) == 2), "both hosts at work")
        print(
            f"{stored()} of {records} records stored after {time.monotonic() - begun:.1f} s by hosts {sorted(halves())}"
        )
        if kill != "none":
            lead = Job.objects.get(pk=ingest.job_id).host
            victim = lead if kill == "lead" else next(name for name in ("a", "b") if name != lead)
            print(
                f"host {victim} ({'lead' if victim == lead else 'helper'}): {portal.cut_power(victim)} processes killed"
            )
        until(lambda: _ended(ingest), "the end of the upload")
        seconds = time.monotonic() - begun
        result, job = ingest.job.result, ingest.job
        print(f"{job.state} after {seconds:.1f} s, attempt {job.attempt}: {result or job.error_message}")
        print(f"{records / seconds:.0f} records/s by the clock, the wait for the dead host included")
        counts = outcome_counts(ingest)
        distinct = Record.objects.filter(dataset=dataset).values("content_sha256").distinct().count()
        whole = counts == {"accepted": records, "companion": records, "refused": 0, "duplicate": 0}
        print(f"outcomes {counts}; {stored()} records, {distinct} of them different")
        again = _upload(dataset, more)
        until(lambda: _ended(again), "the end of the second upload")
        second = outcome_counts(again)
        print(f"sent again with 10 more: {second}")
        ok = (
            job.state == "succeeded" and whole and stored() == distinct + 10 == records + 10
            and len(result.get("hosts", {})) == 2 and second["accepted"] == 10 and second["duplicate"] == records
        )  # fmt: skip
        if not ok:
            print(portal.log("a"), portal.log("b"), sep="\n")
        return ok


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=4000)
    parser.add_argument("--kill", choices=("lead", "helper", "none"), default="lead")
    parser.add_argument("--folder", help="where the throw-away portal lies")
    options = parser.parse_args()
    ok = prove(options.records, options.kill, options.folder)
    print("PASSED" if ok else "FAILED")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
