"""Datasets, their records and labels, uploads, label maps and recipes."""

from __future__ import annotations

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import Func
from django.db.models.functions import Lower

from ecgportal.base_models import UUIDModel
from ecgportal.jobs.models import Job
from ecgportal.projects.models import Project, ProjectOwned

# What datasets.fingerprint.buckets returns, computed by the database.
_BUCKETS = (
    "CASE WHEN length(%(expressions)s) = 64 THEN ARRAY["
    + ", ".join(f"'{i}' || substr(%(expressions)s, {6 * i + 1}, 6)" for i in range(10))
    + "] ELSE ARRAY[]::text[] END"
)


# The words of a JSON array as an array of texts; null without any. Words are letters and underscores only.
_LIST = "string_to_array(nullif(translate({words}, '[]\" ', ''), ''), ',')"
_FLAGS = _LIST.format(words="(%(expressions)s) ->> 'flags'")
_LEAD_FLAGS = _LIST.format(words="jsonb_path_query_array(%(expressions)s, '$.leads[*].flags[*]')::text")


class Dataset(ProjectOwned):
    """A named collection of records. ``record_count`` is kept by the services that add and remove records."""

    name = models.CharField(max_length=120)
    description = models.TextField(blank=True, default="", max_length=4000)

    class Meta:
        ordering = ["name", "id"]
        constraints = [
            models.UniqueConstraint(
                "project", Lower("name"), name="dataset_name_unique",
                violation_error_message="The project has a dataset with this name already.",
            ),
        ]  # fmt: skip

    def __str__(self) -> str:
        return self.name


class DatasetTally(models.Model):
    """Figures of a dataset that were counted once (``datasets.tallies``), by the names of their parts."""

    dataset = models.OneToOneField(Dataset, on_delete=models.CASCADE, primary_key=True, related_name="tally")
    content = models.JSONField(default=dict)

    project_path = "dataset__project"

    class Meta:
        verbose_name_plural = "dataset tallies"

    def __str__(self) -> str:
        return f"figures of {self.dataset_id}"


class Subject(UUIDModel):
    """A person within one dataset, known by a key that is a pseudonym of the project.

    identifier_encrypted: what the source calls the person, in projects that keep identifiers (``ecgportal.secrets``).
    """

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="subjects")
    key = models.CharField(max_length=120)
    identifier_encrypted = models.TextField(blank=True, default="", editable=False)

    project_path = "dataset__project"

    class Meta:
        ordering = ["key"]
        constraints = [models.UniqueConstraint(fields=["dataset", "key"], name="subject_once_per_dataset")]

    def __str__(self) -> str:
        return self.key


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


class Sex(models.TextChoices):
    """As stored; the label is the word that files, tables and the pure core use."""

    FEMALE = "F", "female"
    MALE = "M", "male"

    @classmethod
    def stored(cls, word: str | None) -> str:
        """Return the stored form of ``female`` or ``male``; empty when it is not known."""
        return next((sex.value for sex in cls if sex.label == word), "")


class Record(UUIDModel):
    """One ECG. The native-rate signal (float32 mV, ``(leads, samples)``) lies in the pack file ``pack`` at byte ``offset``.

    fold: the fold that the source gives the record (PTB-XL ``strat_fold``). site: the hospital or source it comes from, as a
    published code or, where its name could tell more, a pseudonym of the project; empty when unknown. recorded_at: wall clock
    (marked UTC) where it was recorded; has_shifted_time: moved back by the project's secret number of days, as every time
    is unless the project keeps identifiers (``datasets.recording_time``). is_kept_twin: somebody decided to keep it beside
    another record of the same signal.
    """

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="records")
    subject = models.ForeignKey(Subject, on_delete=models.SET_NULL, null=True, related_name="records")
    key = models.CharField(max_length=200)
    format = models.CharField(max_length=40)
    fs_hz = models.FloatField()
    n_samples = models.PositiveIntegerField()
    leads = ArrayField(models.CharField(max_length=20))
    leads_computed = ArrayField(models.CharField(max_length=20), default=list)
    age = models.FloatField(null=True)
    sex = models.CharField(max_length=1, blank=True, default="")
    fold = models.SmallIntegerField(null=True)
    site = models.CharField(max_length=80, blank=True, default="")
    recorded_at = models.DateTimeField(null=True)
    has_shifted_time = models.BooleanField(default=False)
    is_kept_twin = models.BooleanField(default=False)
    quality = models.JSONField(default=dict)
    quality_flags = models.GeneratedField(
        expression=Func(models.F("quality"), template=_FLAGS), output_field=ArrayField(models.TextField(), null=True), db_persist=True,
    )  # fmt: skip
    lead_flags = models.GeneratedField(
        expression=Func(models.F("quality"), template=_LEAD_FLAGS), output_field=ArrayField(models.TextField(), null=True), db_persist=True,
    )  # fmt: skip
    quality_score = models.FloatField(null=True)
    content_sha256 = models.CharField(max_length=64)
    fingerprint = models.CharField(max_length=64, blank=True, default="")
    fingerprint_buckets = models.GeneratedField(
        expression=Func(models.F("fingerprint"), template=_BUCKETS), output_field=ArrayField(models.TextField()), db_persist=True,
    )  # fmt: skip
    meta = models.JSONField(default=dict)
    pack = models.UUIDField()
    offset = models.BigIntegerField()
    search_text = models.TextField(blank=True, default="", editable=False)

    project_path = "dataset__project"

    class Meta:
        ordering = ["key", "id"]
        indexes = [
            # Lists, filters and figures read this index alone; a record's row with its quality report is ten times as wide.
            models.Index(
                fields=["dataset", "key"],
                name="record_list",
                include=[
                    "id",
                    "subject",
                    "format",
                    "fs_hz",
                    "n_samples",
                    "age",
                    "sex",
                    "quality_score",
                    "quality_flags",
                    "search_text",
                    "recorded_at",
                ],
            ),
            models.Index(fields=["dataset", "fingerprint"], name="record_fingerprint"),
            models.Index(fields=["subject", "recorded_at"], name="record_subject"),
            models.Index(fields=["dataset", "recorded_at", "key"], name="record_time"),
            # Every batch that is stored looks here for 640 buckets: each look would read all that waits to be sorted in.
            GinIndex(fields=["fingerprint_buckets"], name="record_signal_buckets", fastupdate=False),
        ]
        constraints = [
            models.UniqueConstraint(fields=["dataset", "key"], name="record_key_once"),
            models.UniqueConstraint(fields=["dataset", "content_sha256"], name="record_content_once"),
            models.CheckConstraint(condition=models.Q(fs_hz__gt=0), name="record_fs_positive"),
            models.CheckConstraint(condition=models.Q(n_samples__gt=0), name="record_has_samples"),
            models.CheckConstraint(condition=models.Q(leads__len__gt=0), name="record_has_leads"),
            models.CheckConstraint(condition=models.Q(sex__in=["", "F", "M"]), name="record_sex_known"),
            models.CheckConstraint(
                condition=models.Q(has_shifted_time=False) | models.Q(recorded_at__isnull=False),
                name="record_time_shifted",
            ),
        ]

    def __str__(self) -> str:
        return self.key

    @property
    def duration_s(self) -> float:
        return self.n_samples / self.fs_hz

    @property
    def sex_word(self) -> str | None:
        """``female``, ``male``, or None when it is not known."""
        return Sex(self.sex).label if self.sex else None


class RecordFeatures(models.Model):
    """What was measured in a record for the views of its dataset (``datasets.measure.features``), null where it could not be.

    shape: the median beat, float16 little-endian ``(8 leads, 50)`` in mV; empty without one. version: of the way of
    measuring.
    """

    record = models.OneToOneField(Record, on_delete=models.CASCADE, primary_key=True, related_name="features")
    version = models.PositiveSmallIntegerField()
    heart_rate_bpm = models.FloatField(null=True)
    rr_sd_ms = models.FloatField(null=True)
    pr_ms = models.FloatField(null=True)
    qrs_ms = models.FloatField(null=True)
    qt_ms = models.FloatField(null=True)
    qtc_ms = models.FloatField(null=True)
    axis_deg = models.FloatField(null=True)
    amplitude_mv = models.FloatField(null=True)
    noise_mv = models.FloatField(null=True)
    shape = models.BinaryField(default=b"")
    reason = models.CharField(max_length=300, blank=True, default="")

    project_path = "record__dataset__project"

    class Meta:
        verbose_name_plural = "record features"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(heart_rate_bpm__isnull=True) | models.Q(heart_rate_bpm__gt=0),
                name="features_rate_positive",
            ),
        ]

    def __str__(self) -> str:
        return f"features of {self.record_id}"


class OriginalFile(UUIDModel):
    """The untouched bytes that a record was read from."""

    record = models.ForeignKey(Record, on_delete=models.CASCADE, related_name="originals")
    name = models.CharField(max_length=400)
    sha256 = models.CharField(max_length=64, db_index=True)
    size = models.BigIntegerField()

    project_path = "record__dataset__project"

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(size__gte=0), name="original_size")]

    def __str__(self) -> str:
        return self.name


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


class LabelSource(models.TextChoices):
    FILE = "file", "stated in the ECG file"
    TABLE = "table", "label table"
    USER = "user", "annotated by a user"


class RecordLabel(UUIDModel):
    """A label as its source states it. ``system``: snomed, scp, icd10, aha or name."""

    record = models.ForeignKey(Record, on_delete=models.CASCADE, related_name="labels")
    system = models.CharField(max_length=20)
    code = models.CharField(max_length=120)
    likelihood = models.FloatField(null=True)
    source = models.CharField(max_length=10, choices=LabelSource.choices)
    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")

    project_path = "record__dataset__project"

    class Meta:
        ordering = ["system", "code"]
        indexes = [models.Index(fields=["code", "record"], name="label_code")]
        constraints = [
            models.UniqueConstraint(fields=["record", "system", "code", "source"], name="label_once"),
            models.CheckConstraint(
                condition=models.Q(likelihood__isnull=True) | models.Q(likelihood__gte=0, likelihood__lte=1),
                name="label_likelihood_range",
            ),
            models.CheckConstraint(condition=models.Q(source__in=LabelSource.values), name="label_source_known"),
        ]

    def __str__(self) -> str:
        return self.code


class RecordAnnotation(UUIDModel):
    """What somebody marked in a record: a point (``t1_s`` empty) or a span, in seconds from the record's start, in one
    lead or (``lead`` empty) in all."""

    record = models.ForeignKey(Record, on_delete=models.CASCADE, related_name="annotations")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    t0_s = models.FloatField()
    t1_s = models.FloatField(null=True, blank=True)
    lead = models.CharField(max_length=20, null=True, blank=True)  # noqa: DJ001 (empty text is no lead)
    text = models.CharField(max_length=500)

    project_path = "record__dataset__project"

    class Meta:
        ordering = ["t0_s", "id"]
        indexes = [models.Index(fields=["record", "t0_s"], name="annotation_of_record")]
        constraints = [
            models.CheckConstraint(condition=models.Q(t0_s__gte=0), name="annotation_starts_in_record"),
            models.CheckConstraint(
                condition=models.Q(t1_s__isnull=True) | models.Q(t1_s__gt=models.F("t0_s")),
                name="annotation_ends_later",
            ),
            models.CheckConstraint(condition=~models.Q(text=""), name="annotation_says_something"),
            models.CheckConstraint(condition=models.Q(lead__isnull=True) | ~models.Q(lead=""), name="annotation_lead"),
        ]

    def __str__(self) -> str:
        return f"annotation of {self.record.key}"


class LabelImport(UUIDModel):
    """One label table, its column mapping, and what was taken row by row.

    job: what reads it; a collection's import reads its tables itself. result: what was taken, as the job's result says it.
    is_scrubbed: the stored table holds the columns that were taken only, with pseudonyms for the subjects.
    """

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="label_imports")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    job = models.ForeignKey(Job, on_delete=models.PROTECT, null=True, related_name="label_imports")
    file_name = models.CharField(max_length=400)
    sha256 = models.CharField(max_length=64)
    is_scrubbed = models.BooleanField(default=False)
    mapping = models.JSONField(default=dict)
    rows = models.JSONField(default=list)
    result = models.JSONField(default=dict)

    project_path = "dataset__project"

    class Meta:
        ordering = ["-created_at", "id"]
        indexes = [models.Index(fields=["dataset", "-created_at"], name="label_import_of_dataset")]

    def __str__(self) -> str:
        return self.file_name


class LabelMap(UUIDModel):
    """Codes of one or several systems to classes. ``project`` is empty for maps that the portal brings along.

    ``entries``: ``{code: {"class": name or null, "relation": "exact" | "broader" | "ambiguous" | "unmapped"}}``.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, null=True, related_name="+")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    name = models.CharField(max_length=120)
    version = models.PositiveIntegerField(default=1)
    system = models.CharField(max_length=60)
    classes = ArrayField(models.CharField(max_length=80))
    entries = models.JSONField(default=dict)
    frozen = models.BooleanField(default=False)

    project_path = "project"

    class Meta:
        ordering = ["name", "-version", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "name", "version"], name="label_map_version", nulls_distinct=False
            ),
            models.CheckConstraint(condition=models.Q(classes__len__gt=0), name="label_map_has_classes"),
        ]

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"


class PreparedSet(UUIDModel):
    """A dataset's records prepared by one recipe, packed for training; built once and shared."""

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="prepared_sets")
    recipe_digest = models.CharField(max_length=64)
    recipe = models.JSONField()
    record_count = models.PositiveIntegerField(default=0)

    project_path = "dataset__project"

    class Meta:
        constraints = [models.UniqueConstraint(fields=["dataset", "recipe_digest"], name="prepared_once")]

    def __str__(self) -> str:
        return f"{self.dataset} by {self.recipe_digest[:8]}"
