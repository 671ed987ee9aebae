"""A project in which something of every kind was done, as the portal's own services do it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from datasets import annotating, labelling, uploading
from datasets.featuring import measuring_start
from datasets.models import LabelMap, Record
from datasets.services import dataset_create, label_map_create, upload_receive
from ecgportal.accounts.services import token_create
from ecgportal.jobs.models import JobState
from ecgportal.projects.services import member_set, project_create
from modelhub import catalogue, services_exchanges, services_predictions
from modelhub import services as models
from modelhub.models import ModelVersion
from modelhub.trying import try_start
from tests import factories
from tests.datasets.labels.test_kinds_of_tables import workbook
from tests.ecgfiles import make_cohort
from tests.working import work_off
from training import services as training
from training.forecast import Point, forecast
from training.models import Evaluation, Study, Trial
from viz.mapping import map_start

FAST = {"epochs": 2, "batch_size": 8, "threads": 1, "seed": 3}

# As names of files are: longer than a phone is wide, without a place to break.
LONG_NAME = "recording_of_a_ward_that_somebody_named_after_all_that_was_known"


class World:
    """``user`` owns the project and is an administrator. ``dav``: a WebDAV server to publish on."""

    def __init__(self, dav: Any) -> None:
        self.user = factories.make_user("helga.brandt", is_administrator=True, email="helga.brandt@example.org")
        self.viewer = factories.make_user("viktor")
        user = self.user
        self.project = project = project_create(
            actor=user,
            name="Conduction disorders",
            description="Block and hypertrophy in simulated records.\n\nNo patient data.",
        )
        member_set(actor=user, project=project, user=self.viewer, role="viewer")
        self.empty_project = project_create(actor=user, name="Nothing here yet")
        self.dataset = dataset_create(
            actor=user, project=project, name="Simulated ward", description="From the portal's simulator."
        )
        self.empty_dataset = dataset_create(actor=user, project=project, name="Second centre")
        self._take_in()
        self.label_map = label_map_create(
            actor=user,
            project=project,
            name="Block",
            system="scp",
            classes=["block", "none"],
            entries={"CRBBB": {"class": "block", "relation": "exact"}, "NORM": {"class": "none", "relation": "exact"}},
        )
        _, self.token_key = token_create(user=user, name="nightly export")
        self.superclass = LabelMap.objects.get(name="PTB-XL superclass")
        self._learn()
        self.map = map_start(actor=user, dataset=self.dataset, basis="measures", version=None, with_umap=False)
        work_off()
        self._share(dav)
        self.unfinished = training.evaluation_start(actor=user, version=self.version, dataset=self.dataset)
        self.open_job = factories.make_job(project, user=user, title="Take in 3 files to Simulated ward")
        self.failed_job = factories.make_job(
            project, kind="train", state=JobState.FAILED, user=user, payload={"run": str(self.run.pk)}
        )

    def _take_in(self) -> None:
        cohort = make_cohort(32)
        files = [
            SimpleUploadedFile("study.zip", cohort.zip()),
            SimpleUploadedFile("notes.txt", b"Call the ward."),
            SimpleUploadedFile("alone.hea", b"alone 12 250 1500\n"),
        ]
        self.ingest = upload_receive(actor=self.user, dataset=self.dataset, files=files)
        self.waiting_ingest = upload_receive(
            actor=self.user,
            dataset=self.dataset,
            files=[SimpleUploadedFile(f"{LONG_NAME}.csv", b"I,II\n" + b"0.1,0.2\n" * 3000)],
        )
        self.open_upload = uploading.upload_open(actor=self.user, dataset=self.dataset)
        uploading.files_declare(ingest=self.open_upload, files=[("ward/study-2.zip", 48_000_000)])
        work_off()
        table = cohort.table() + b"nobody,p,50,0,{'NORM': 100.0},1\n" + b"case000,case-p000,50,0,{'XYZZY': 100.0},1\n"
        self.label_import = labelling.import_start(
            actor=self.user, dataset=self.dataset, file=SimpleUploadedFile("table.csv", table)
        )
        self.kept_table = labelling.import_keep(
            actor=self.user, dataset=self.dataset, file=SimpleUploadedFile("kept.csv", table)
        )
        book = workbook(
            Legend=[["code", "words"], ["NORM", "normal"]], Labels=[["record", "label"], ["case000", "NORM"]]
        )
        self.kept_book = labelling.import_keep(
            actor=self.user, dataset=self.dataset, file=SimpleUploadedFile("kept.xlsx", book)
        )
        work_off()
        self.record = Record.objects.get(dataset=self.dataset, key="case003")
        annotating.label_add(actor=self.user, record=self.record, system="scp", code="AFIB")
        measuring_start(actor=self.user, dataset=self.dataset)
        work_off()

    def _learn(self) -> None:
        self.run = training.run_start(
            actor=self.user, project=self.project, dataset=self.dataset, label_map=self.superclass, classes=["NORM", "MI", "CD", "HYP"],
            architecture="xresnet1d18", settings=FAST,
        )  # fmt: skip
        work_off()
        self.run.refresh_from_db()
        self.evaluation = Evaluation.objects.get(run=self.run)
        self.version = ModelVersion.objects.get(pk=self.run.produced_version_id)
        card = {"intended_use": "Sorting ECGs for a second reading.", "licence": "CC BY 4.0"}
        models.card_update(actor=self.user, version=self.version, card=card)
        self.prediction = services_predictions.prediction_start(
            actor=self.user, project=self.project, version=self.version, dataset=self.dataset
        )
        work_off()

        self._study()

    def _study(self) -> None:
        """A trunk that learned without labels, a learning rate found, a search and a learning curve."""
        rest = {"actor": self.user, "project": self.project, "architecture": "xresnet1d18", "settings": FAST}
        self.trunk_run = training.run_start(**rest, dataset=self.dataset, label_map=self.superclass, task="pretraining")
        self.rate_job = training.rate_start(**rest, datasets=[self.dataset], label_map=self.superclass)
        short = rest | {"architecture": None, "search": {"minutes": 0.001}}
        self.short_search = training.run_start(**short, dataset=self.dataset, label_map=self.superclass)
        work_off()
        self.trunk_run.refresh_from_db()
        search = Study.objects.create(
            run=self.run, kind="search", job=self.run.job, settings={"minutes": 5}, result={"trial": 1}
        )
        choices = {"learning_rate": 0.003, "augmentation": "strong", "class_weights": "none", "weight_decay": 0.01}
        for number, (start, state) in enumerate((("xresnet1d18", "done"), ("inception_time", "stopped")), start=1):
            Trial.objects.create(
                study=search, number=number, choices=choices | {"start": start}, state=state, score=0.8, low=0.7, high=0.9, seconds=40,
                alone=0.75, goodness=0.8,
            )  # fmt: skip
        Trial.objects.create(study=search, number=3, choices={"start": "linear"}, state="done", score=0.7, seconds=4)
        points = [Point(size, 0.95 - 1.2 * size**-0.5, 0.7, 0.9) for size in (40, 80, 160, 320)]
        curve = Study.objects.create(
            run=self.run, kind="learning_curve", job=self.run.job, settings={"repeats": 1},
            result={"metric": "auroc_macro", **forecast(points).to_json()},
        )  # fmt: skip
        for number, point in enumerate(points, start=1):
            Trial.objects.create(
                study=curve, number=number, choices={"records": point.records, "subjects": point.records, "share": 1, "repeat": 0},
                state="done", score=point.score, low=point.low, high=point.high, seconds=9,
            )  # fmt: skip

    def _share(self, dav: Any) -> None:
        self.tried = try_start(actor=self.user, version=self.version, record=self.record)
        work_off()
        self.entry = catalogue.propose(actor=self.user, version=self.version, reason="Holds on two wards.")
        self.exchange = services_exchanges.exchange_save(
            actor=self.user, name="Ward share", url=dav.url, username=dav.user, password=dav.password
        )
        services_exchanges.exchange_save(actor=self.user, name="Gone", url="http://127.0.0.1:9/")
        push = services_exchanges.push_start(actor=self.user, exchange=self.exchange, version=self.version)
        work_off()
        services_exchanges.pull_start(
            actor=self.user, exchange=self.exchange, project=self.empty_project, remote_path=push.remote_path
        )
        work_off()
        self.pulled = ModelVersion.objects.get(model__project=self.empty_project)
        second = ModelVersion.objects.get(pk=self.version.pk)
        second.pk, second.number, second._state.adding = uuid4(), 2, True
        second.save(force_insert=True)
        self.second_entry = catalogue.propose(actor=self.user, version=second, reason="Smaller, nearly as good.")

    def addresses(self) -> dict[str, str]:
        """Return one address per parametrised page, and further ones where a page has another face."""
        rows = {
            "accounts:user": self.viewer, "audit:project": None, "datasets:detail": self.dataset, "datasets:edit": self.dataset,
            "datasets:delete": self.dataset, "datasets:record_delete": self.record, "datasets:subject_delete": self.record.subject, "datasets:twins": self.dataset, "datasets:upload": self.dataset, "datasets:ingest": self.ingest,
            "datasets:labels": self.dataset, "datasets:label_import": self.label_import, "datasets:label_map": self.label_map,
            "datasets:label_map_export": self.label_map, "jobs:detail": self.run.job, "jobs:fragment": self.run.job, "modelhub:version": self.version,
            "modelhub:download": self.version, "modelhub:card": self.version, "modelhub:delete": self.version, "modelhub:prediction": self.prediction,
            "modelhub:prediction_file": self.prediction, "modelhub:card_read": self.version, "modelhub:tried": self.tried, "modelhub:exchange_edit": self.exchange, "training:detail": self.run, "training:live": self.run, "training:search": self.run, "training:curve": self.run, "training:rate": self.rate_job, "training:delete": self.run,
            "training:evaluation": self.evaluation, "training:report": self.evaluation, "training:report_pdf": self.evaluation, "training:validation": self.version, "viz:insight": self.dataset, "viz:gallery": self.dataset, "viz:outliers": self.dataset, "viz:maps": self.dataset, "viz:training_csv": self.run, "viz:training_svg": self.run, "viz:map": self.map, "viz:map_delete": self.map, "viz:dataset_compare": self.dataset, "catalogue_entry": self.entry, "catalogue_propose": self.version, "viz:record": self.record, "viz:record_svg": self.record,
            "viz:record_pdf": self.record, "viz:beats": self.record, "viz:compare": self.record, "viz:evaluation_csv": self.evaluation, "viz:evaluation_svg": self.evaluation,
        }  # fmt: skip
        compare = f"{reverse('catalogue_compare')}?entry={self.entry.pk}&entry={self.second_entry.pk}"
        corner = reverse("viz:map_records", args=[self.map.pk]) + "?by=pca&area=-9,-9;9,-9;9,9;-9,9"
        return {"catalogue_compare": compare, "viz:map_records": corner} | {
            name: reverse(
                name,
                args=[
                    row.pk,
                    *(
                        ["roc"]
                        if name.startswith("viz:evaluation_")
                        else ["loss"]
                        if name.startswith("viz:training_")
                        else []
                    ),
                ],
            )
            for name, row in rows.items()
            if row is not None
        }

    def further(self) -> dict[str, str]:
        """Return addresses of pages in another state than those of ``addresses``."""
        return {
            "two records side by side": reverse("viz:compare", args=[self.record.pk]) + "?with=case004",
            "before and after a recipe": reverse("viz:compare", args=[self.record.pk]) + "?recipe=default&layout=12x1",
            "a record without its labels": reverse("viz:record", args=[self.record.pk])
            + "?blind=1&marks=waves&layout=cabrera",
            "an empty project": reverse("projects:detail", args=[self.empty_project.pk]),
            "no datasets": reverse("datasets:list", args=[self.empty_project.pk]),
            "no runs": reverse("training:list", args=[self.empty_project.pk]),
            "no predictions": reverse("modelhub:predictions", args=[self.empty_project.pk]),
            "an empty dataset": reverse("datasets:detail", args=[self.empty_dataset.pk]),
            "an upload that asks": reverse("datasets:ingest", args=[self.waiting_ingest.pk]),
            "an unfinished upload": reverse("datasets:ingest", args=[self.open_upload.pk]),
            "going on with an upload": f"{reverse('datasets:upload', args=[self.dataset.pk])}?open={self.open_upload.pk}",
            "columns to check": reverse("datasets:label_import", args=[self.kept_table.pk]),
            "a sheet of a workbook": reverse("datasets:label_import", args=[self.kept_book.pk]) + "?sheet=Labels",
            "a built-in label map": reverse("datasets:label_map", args=[self.superclass.pk]),
            "an open job": reverse("jobs:detail", args=[self.open_job.pk]),
            "a failed job": reverse("jobs:detail", args=[self.failed_job.pk]),
            "a pulled model": reverse("modelhub:version", args=[self.pulled.pk]),
            "a run without labels": reverse("training:detail", args=[self.trunk_run.pk]),
            "a search that ended early": reverse("training:detail", args=[self.short_search.pk]),
            "a trunk": reverse("modelhub:version", args=[self.trunk_run.produced_version_id]),
            "fine-tuning a trunk": reverse("training:create", args=[self.project.pk])
            + f"?base={self.trunk_run.produced_version_id}&dataset={self.dataset.pk}",
            "an unfinished evaluation": reverse("training:evaluation", args=[self.unfinished.pk]),
            "labels by sex": reverse("viz:insight", args=[self.dataset.pk]) + "?what=labels&by=sex",
            "an interval by age": reverse("viz:insight", args=[self.dataset.pk]) + "?what=qtc_ms&by=age",
            "two datasets": reverse("viz:dataset_compare", args=[self.dataset.pk]) + f"?other={self.empty_dataset.pk}",
            "two evaluations": reverse("training:compare", args=[self.project.pk])
            + f"?evaluation={self.evaluation.pk}&evaluation={self.evaluation.pk}",
            "answers that differ": reverse("modelhub:prediction", args=[self.prediction.pk]) + "?agreement=differs",
            "a record among answers": reverse("viz:record", args=[self.record.pk])
            + f"?prediction={self.prediction.pk}&sort=-MI",
            "records by a measure": reverse("datasets:detail", args=[self.dataset.pk]) + "?sort=-qtc_ms",
            "a filter without a match": reverse("datasets:detail", args=[self.dataset.pk]) + "?search=nothing",
        }
