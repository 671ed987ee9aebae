"""Import every known collection that lies in the shared material, whole, and check what came in against its list.

Run: ``python -m tests.proofs.known_collections``. Each part of ``ecg/labelled`` goes through the service that the page, REST and
``manage.py import_collection`` call, into an empty database of its own. Printed are records, persons, records with labels
and with a time, and the classes of PTB-XL; checked are the number of records and persons against ``labels_all.csv``, the
superclasses against what the list's description states, and the records of one signal inside one collection.
"""

from __future__ import annotations

import csv
import time
from collections import Counter, defaultdict

from tests.bench.bench_ingest import database
from tests.shared import shared_path

SUPERCLASSES = {"NORM": 210, "STTC": 65, "CD": 55, "MI": 52, "HYP": 25}
PAIRS = {
    "cinc2021": {("E07509", "E07510")},
    "ptbxl": {("00143", "00144"), ("00145", "00463"), ("00456", "00457"), ("00459", "00460")},
}
# Their parts here come without a table of persons; in LUDB every record is another person's.
_WITHOUT_PERSONS = {"code15", "cinc2021", "ludb"}


def main() -> None:
    root = shared_path("ecg", "labelled")
    listed: dict[str, list[dict[str, str]]] = defaultdict(list)
    with (root / "labels_all.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            listed[row["dataset"]].append(row)
    wrong: list[str] = []
    with database():
        from django.conf import settings

        from datasets import demo, importing, selectors, twins
        from datasets.models import LabelMap
        from ecgportal.jobs.models import JobState
        from tests.factories import make_project, make_user
        from tests.working import work_off

        settings.IMPORT_ROOTS = [root]
        demo.sync_label_maps()
        owner = make_user()
        project = make_project({owner: "owner"})
        superclass = LabelMap.objects.filter(project=None, name="PTB-XL superclass").latest("version")
        for place in importing.places():
            name, started = place.folder.rpartition("/")[2], time.perf_counter()
            ingest = importing.import_by_name(
                actor=owner, project=project, collection=place.collection.name, folder=place.folder
            )
            states = {job.state for job in work_off()}
            dataset, rows = ingest.dataset, listed[name]
            found, outcomes = selectors.totals(dataset), Counter(ingest.items.values_list("outcome", flat=True))
            print(
                f"{place.collection.title}: {found.records} records of {found.subjects} known persons, {found.labelled} with labels, "
                f"{found.timed} with a time; {dict(outcomes)}; {time.perf_counter() - started:.0f} s",
                flush=True,
            )
            print(f"  {', '.join(f'{code} {n}' for code, n in list(selectors.label_counts(dataset).items())[:12])}")
            persons = {row["patient"] for row in rows if row["patient"]}
            keys = dict(dataset.records.values_list("pk", "key"))
            groups = [[keys[pk] for pk in group.records] for group in twins.groups(dataset)]
            pairs = {tuple(key.rpartition("/")[2].removesuffix("_hr") for key in group) for group in groups}
            if name == "ptbxl":
                classes = selectors.class_counts(dataset, superclass)
                print(f"  superclasses: {classes}")
                wrong += [] if classes == SUPERCLASSES else [f"{name}: superclasses {classes}"]
            wrong += [] if states == {JobState.SUCCEEDED} else [f"{name}: jobs {states}"]
            wrong += [] if found.records == len(rows) else [f"{name}: {found.records} records, {len(rows)} are listed"]
            wrong += [] if pairs == PAIRS.get(name, set()) else [f"{name}: pairs {pairs}"]
            if name not in _WITHOUT_PERSONS and found.subjects != len(persons):
                wrong.append(f"{name}: {found.subjects} persons, {len(persons)} are listed")
    print("\n".join(["", *wrong]) if wrong else "\nAll as listed.")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
