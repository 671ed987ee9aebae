"""Uploads: what was sent, how far it is read, and what became of each file."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from datasets.models.data import Dataset, Record
from ecgportal.base_models import UUIDModel
from ecgportal.jobs.models import Job


class Stage(models.IntegerChoices):
    """What the parts of an upload are about (``datasets.ingest_plan``); each stage must be whole before the next one."""

    NEW = 0, "nothing planned"
    ARCHIVES = 1, "archives are unpacked"
    MASTERS = 2, "headers of several segments are read"
    HEADERS = 3, "other headers are read"
    OTHERS = 4, "files that belong to no header are read"
    READ = 5, "all files are read"


class Ingest(UUIDModel):
    """One upload or import: its files, the answers given for files that do not say their rate or unit, and its job.

    source: empty for an upload; ``{"collection", "folder"}`` or ``{"collection", "download": true}`` for an import, whose files
    stay where they lie. is_open: files are still arriving (``ArrivingFile``), nothing is read yet. waiting: the kept files
    that could not be taken without an answer, as in ``files``. stage: how far the reading is. read_on: the host that reads it
    where hosts have no folder in common, empty elsewhere.
    """

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="ingests")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    job = models.OneToOneField(Job, on_delete=models.PROTECT, null=True, related_name="ingest")
    options = models.JSONField(default=dict)
    files = models.JSONField(default=list)
    source = models.JSONField(default=dict)
    waiting = models.JSONField(default=list)
    is_open = models.BooleanField(default=False)
    stage = models.PositiveSmallIntegerField(choices=Stage.choices, default=Stage.NEW, editable=False)
    read_on = models.CharField(max_length=120, blank=True, default="", editable=False)

    project_path = "dataset__project"

    class Meta:
        ordering = ["-created_at", "id"]
        indexes = [models.Index(fields=["dataset", "-created_at"], name="ingest_of_dataset")]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(is_open=False) | models.Q(job__isnull=True), name="ingest_open_has_no_job"
            ),
            models.CheckConstraint(condition=models.Q(stage__in=Stage.values), name="ingest_stage_known"),
        ]

    def __str__(self) -> str:
        return f"{'import' if self.source else 'upload'} of {self.created_at:%Y-%m-%d %H:%M}"


class IngestPart(UUIDModel):
    """A share of an upload's files, done whole by one process of any host; gone when the upload is read.

    work: which files, as :class:`datasets.ingest_plan.Work` writes it. found: what the stages after it must know. n_files: how
    many of the upload's files are dealt with once it is done. The part is held while the job ``taken_by`` runs with the
    attempt ``taken_attempt``, on ``host``; when that process dies, any other may take it.
    """

    ingest = models.ForeignKey(Ingest, on_delete=models.CASCADE, related_name="parts")
    number = models.PositiveIntegerField()
    work = models.JSONField()
    found = models.JSONField(default=dict)
    n_files = models.PositiveIntegerField(default=0)
    is_done = models.BooleanField(default=False)
    taken_by = models.ForeignKey(Job, on_delete=models.SET_NULL, null=True, related_name="+")
    taken_attempt = models.PositiveSmallIntegerField(default=0)
    host = models.CharField(max_length=120, blank=True, default="")

    project_path = "ingest__dataset__project"

    class Meta:
        ordering = ["number", "id"]
        indexes = [
            models.Index(fields=["ingest", "number"], condition=models.Q(is_done=False), name="part_not_done"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["ingest", "number"], name="part_once"),
        ]

    def __str__(self) -> str:
        return f"part {self.number}"


class ArrivingFile(UUIDModel):
    """A file of an open upload. received: how many of its ``size`` bytes are there. pieces: in a portal with a bucket the names
    of the objects that hold them, in order, below the upload's own."""

    ingest = models.ForeignKey(Ingest, on_delete=models.CASCADE, related_name="arriving")
    position = models.PositiveIntegerField()
    name = models.CharField(max_length=400)
    size = models.BigIntegerField()
    received = models.BigIntegerField(default=0)
    pieces = models.JSONField(default=list)

    project_path = "ingest__dataset__project"

    class Meta:
        ordering = ["position", "id"]
        constraints = [
            models.UniqueConstraint(fields=["ingest", "position"], name="arriving_position_once"),
            models.UniqueConstraint(fields=["ingest", "name"], name="arriving_name_once"),
            models.CheckConstraint(
                condition=models.Q(received__gte=0, received__lte=models.F("size")), name="arriving_at_most_whole"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Outcome(models.TextChoices):
    ACCEPTED = "accepted", "Accepted"
    DUPLICATE = "duplicate", "Duplicate"
    REFUSED = "refused", "Refused"
    COMPANION = "companion", "Companion"


class IngestItem(UUIDModel):
    """What became of one file of an upload. asks: what it does not say, each with a sentence that offers a guess."""

    ingest = models.ForeignKey(Ingest, on_delete=models.CASCADE, related_name="items")
    position = models.PositiveIntegerField()
    name = models.CharField(max_length=400)
    outcome = models.CharField(max_length=10, choices=Outcome.choices)
    code = models.CharField(max_length=60, blank=True, default="")
    message = models.TextField(blank=True, default="")
    asks = models.JSONField(default=dict)
    record = models.ForeignKey(Record, on_delete=models.SET_NULL, null=True, related_name="+")

    project_path = "ingest__dataset__project"

    class Meta:
        ordering = ["position", "id"]
        indexes = [models.Index(fields=["ingest", "outcome", "position"], name="item_outcome")]
        constraints = [
            models.UniqueConstraint(fields=["ingest", "position"], name="item_once"),
            # Processes on several hosts write the outcomes of one upload.
            models.UniqueConstraint(fields=["ingest", "name"], name="item_name_once"),
            models.CheckConstraint(condition=models.Q(outcome__in=Outcome.values), name="item_outcome_known"),
            models.CheckConstraint(
                condition=~models.Q(outcome="refused") | ~models.Q(code=""), name="item_refused_has_code"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name}: {self.outcome}"
