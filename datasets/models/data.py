"""Datasets, their subjects and records, the files these came in, and what is computed from them."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import Func
from django.db.models.functions import Lower

from ecgportal.base_models import UUIDModel
from ecgportal.projects.models import ProjectOwned

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


class TwinGroup(models.Model):
    """Records of a dataset that hold one signal, in the order of their keys; found once and kept (``datasets.twins``).

    place: of the group among those of its dataset. is_decided: somebody decided to keep all of them. The records are named, not
    referred to: the groups are found anew before they are read once a record has gone.
    """

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="twin_groups", db_index=False)
    place = models.PositiveIntegerField()
    records = ArrayField(models.UUIDField())
    is_decided = models.BooleanField()

    project_path = "dataset__project"

    class Meta:
        ordering = ["place"]
        indexes = [
            models.Index(fields=["dataset", "place"], condition=models.Q(is_decided=False), name="twin_group_open"),
            GinIndex(fields=["records"], name="twin_group_records"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["dataset", "place"], name="twin_group_place"),
            models.CheckConstraint(condition=models.Q(records__len__gt=1), name="twin_group_of_several"),
        ]

    def __str__(self) -> str:
        return f"group {self.place} of {self.dataset_id}"


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
