"""Splits, training runs with their metrics, and evaluations."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models

from datasets.models import Dataset, LabelMap, Record
from ecgportal.base_models import UUIDModel
from ecgportal.jobs.models import Job
from ecgportal.projects.models import ProjectOwned
from modelhub.contract import PRETRAINING
from modelhub.models import ModelVersion

PARTS = ("train", "validation", "test")


class Split(UUIDModel):
    """A division of a run's records into parts. A group (a subject, or records that hold the same signal) is in exactly
    one part, by construction: the part belongs to the group's row. Parts are train, validation and test, or ``fold-1``
    to ``fold-k`` when every fold is held out in turn; ``counts`` then has the records and subjects of each round."""

    digest = models.CharField(max_length=64)
    counts = models.JSONField(default=list)
    settings = models.JSONField(default=dict)

    project_path = "training_run__project"

    class Meta:
        ordering = ["-created_at", "id"]

    def __str__(self) -> str:
        return self.digest[:12]


class SplitGroup(models.Model):
    split = models.ForeignKey(Split, on_delete=models.CASCADE, related_name="groups")
    key = models.CharField(max_length=130)
    part = models.CharField(max_length=10)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["split", "key"], name="split_group_once"),
            models.CheckConstraint(
                condition=models.Q(part__in=PARTS) | models.Q(part__regex=r"^fold-[1-9][0-9]?$"),
                name="split_part_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.key}: {self.part}"


class SplitMember(models.Model):
    """A record of a run. truth: what was known of it when the split was drawn, which the run goes by whatever becomes of the
    labels: its classes, or the numeric target; None in runs without labels and in those of earlier versions."""

    group = models.ForeignKey(SplitGroup, on_delete=models.CASCADE, related_name="members")
    split = models.ForeignKey(Split, on_delete=models.CASCADE, related_name="members")
    record = models.ForeignKey(Record, on_delete=models.CASCADE, related_name="+")
    truth = models.JSONField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["split", "record"], name="split_record_once")]

    def __str__(self) -> str:
        return f"{self.record_id}"


class Mode(models.TextChoices):
    SCRATCH = "scratch", "From scratch"
    HEAD = "head", "Fine-tune the head only"
    FULL = "full", "Fine-tune all layers"
    HEAD_THEN_FULL = "head_then_full", "Fine-tune the head, then all layers"


class DrawnBy(models.TextChoices):
    """What puts a run's records in order before chance draws from them and deals them out."""

    CONTENT = "content", "Their content, the same in every portal"
    RECORD_ID = "record_id", "Their ids in this portal, as in runs of earlier versions"


class TrainingRun(ProjectOwned):
    """One training, from frozen choices to a produced version and its evaluation on the test part.

    ``dataset`` is the first of ``datasets``, the only one of most runs. ``selection`` says which of their records take
    part (``training.selection``), ``split_settings`` how they are divided (``training.splitting``), ``drawn_by`` in which
    order chance meets them. ``members``: how many
    networks are trained, one per seed or held-out fold; together they are the produced version. ``pretraining``: of a run
    without labels, how it learns (:mod:`training.engine.unlabelled.settings`); it gives a trunk and no evaluation, and ``label_map``
    then only says which records a later run will hold back.
    """

    name = models.CharField(max_length=120)
    dataset = models.ForeignKey(Dataset, on_delete=models.PROTECT, related_name="+")
    datasets = models.ManyToManyField(Dataset, through="RunDataset", related_name="training_runs")
    label_map = models.ForeignKey(LabelMap, on_delete=models.PROTECT, null=True, related_name="training_runs")
    classes = ArrayField(models.CharField(max_length=80))
    task = models.CharField(max_length=12)
    target = models.CharField(max_length=40, blank=True, default="")
    architecture = models.CharField(max_length=60)
    base_version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, null=True, related_name="fine_tunings")
    mode = models.CharField(max_length=16, choices=Mode.choices, default=Mode.SCRATCH)
    settings = models.JSONField(default=dict)
    selection = models.JSONField(default=dict)
    split_settings = models.JSONField(default=dict)
    drawn_by = models.CharField(max_length=12, choices=DrawnBy.choices, default=DrawnBy.CONTENT)
    members = models.PositiveSmallIntegerField(default=1)
    repeats = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="repetitions")
    recipe = models.JSONField(default=dict)
    pretraining = models.JSONField(default=dict)
    split = models.OneToOneField(Split, on_delete=models.PROTECT, null=True, related_name="training_run")
    job = models.OneToOneField(Job, on_delete=models.PROTECT, related_name="training_run")
    learning_rate = models.FloatField(null=True)
    best_epoch = models.PositiveIntegerField(null=True)
    resumed = models.PositiveSmallIntegerField(default=0)
    manifest = models.JSONField(default=dict)
    warnings = models.JSONField(default=list)
    live = models.JSONField(default=dict)
    lr_finder = models.JSONField(default=dict)
    produced_version = models.OneToOneField(
        ModelVersion, on_delete=models.SET_NULL, null=True, related_name="training_run"
    )

    class Meta:
        ordering = ["-created_at", "id"]
        indexes = [models.Index(fields=["project", "-created_at"], name="run_of_project")]
        constraints = [
            models.CheckConstraint(condition=models.Q(members__gte=1), name="run_has_member"),
            models.CheckConstraint(condition=models.Q(mode__in=Mode.values), name="run_mode_known"),
            models.CheckConstraint(condition=models.Q(drawn_by__in=DrawnBy.values), name="run_drawn_by_known"),
            models.CheckConstraint(
                condition=models.Q(mode="scratch", base_version__isnull=True)
                | (~models.Q(mode="scratch") & models.Q(base_version__isnull=False)),
                name="run_base_iff_fine_tuning",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_pretraining(self) -> bool:
        """Whether it learns from signals without labels."""
        return self.task == PRETRAINING


class RunDataset(models.Model):
    """One of the datasets of a run, which cannot be deleted while the run is there."""

    run = models.ForeignKey(TrainingRun, on_delete=models.CASCADE, related_name="+")
    dataset = models.ForeignKey(Dataset, on_delete=models.PROTECT, related_name="+")
    position = models.PositiveSmallIntegerField()

    project_path = "run__project"

    class Meta:
        ordering = ["position"]
        constraints = [models.UniqueConstraint(fields=["run", "dataset"], name="run_dataset_once")]

    def __str__(self) -> str:
        return f"{self.run_id}: {self.dataset_id}"


class EpochMetrics(models.Model):
    """One epoch of one network of a run; ``values`` holds the losses and validation metrics of that epoch."""

    run = models.ForeignKey(TrainingRun, on_delete=models.CASCADE, related_name="epochs")
    member = models.PositiveSmallIntegerField(default=1)
    epoch = models.PositiveIntegerField()
    values = models.JSONField()

    project_path = "run__project"

    class Meta:
        ordering = ["member", "epoch"]
        constraints = [models.UniqueConstraint(fields=["run", "member", "epoch"], name="epoch_once")]

    def __str__(self) -> str:
        return f"epoch {self.epoch}"


class Evaluation(ProjectOwned):
    """How well a version does on labelled records; ``part`` is ``test`` for the held-back part of a training run."""

    version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="evaluations")
    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="evaluations")
    label_map = models.ForeignKey(LabelMap, on_delete=models.PROTECT, null=True, related_name="+")
    part = models.CharField(max_length=10, default="all")
    run = models.OneToOneField(TrainingRun, on_delete=models.CASCADE, null=True, related_name="report")
    job = models.ForeignKey(Job, on_delete=models.PROTECT, null=True, related_name="evaluations")
    report = models.JSONField(default=dict)
    curves = models.JSONField(default=dict)

    class Meta:
        ordering = ["-created_at", "id"]
        indexes = [models.Index(fields=["project", "-created_at"], name="evaluation_of_project")]

    def __str__(self) -> str:
        return f"{self.version} on {self.dataset}"


class Speed(models.Model):
    """What training a network costs on the machine that trains, for one record of 12 leads and 1000 samples.

    architecture: the network's name, or of a foreign network ``sha256:`` and the beginning of its file's digest. step_s:
    seconds of one training step per record; memory_base, memory_per_record: bytes beside and per record of a batch;
    million_macs: of one record, where the network's own facts do not tell it.
    """

    architecture = models.CharField(max_length=60, unique=True)
    million_macs = models.FloatField(null=True)
    step_s = models.FloatField()
    memory_base = models.BigIntegerField(null=True)
    memory_per_record = models.BigIntegerField(null=True)
    device = models.CharField(max_length=20)
    measured_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(step_s__gt=0), name="speed_positive")]

    def __str__(self) -> str:
        return f"{self.architecture}: {1 / self.step_s:.1f} records/s"


class StudyKind(models.TextChoices):
    SEARCH = "search", "Choose for me"
    LEARNING_CURVE = "learning_curve", "Learning curve"


class Study(UUIDModel):
    """Several trainings for one run: the search for its network and settings, or its learning curve.

    settings: what was asked for. result: the winner, or the forecast. job: the last one that worked on it.
    """

    run = models.ForeignKey(TrainingRun, on_delete=models.CASCADE, related_name="studies")
    kind = models.CharField(max_length=16, choices=StudyKind.choices)
    job = models.ForeignKey(Job, on_delete=models.PROTECT, related_name="+")
    settings = models.JSONField(default=dict)
    result = models.JSONField(default=dict)

    project_path = "run__project"

    class Meta:
        ordering = ["-created_at", "id"]
        constraints = [
            models.UniqueConstraint(fields=["run", "kind"], name="study_once_per_run"),
            models.CheckConstraint(condition=models.Q(kind__in=StudyKind.values), name="study_kind_known"),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {self.run_id}"


class TrialState(models.TextChoices):
    RUNNING = "running", "running"
    DONE = "done", "done"
    STOPPED = "stopped", "stopped early"
    FAILED = "failed", "failed"


class Trial(models.Model):
    """One training of a study. score: the headline metric with its 95 % interval; scores: by epoch, of a search.

    Where a search compares a network as it answers beside the linear model, ``score`` is that of both, ``alone`` the network's
    own, and ``goodness`` what both reach by the metric of ``scores``, the higher the better.
    """

    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="trials")
    number = models.PositiveSmallIntegerField()
    choices = models.JSONField(default=dict)
    state = models.CharField(max_length=8, choices=TrialState.choices, default=TrialState.RUNNING)
    score = models.FloatField(null=True)
    low = models.FloatField(null=True)
    high = models.FloatField(null=True)
    scores = models.JSONField(default=list)
    alone = models.FloatField(null=True)
    goodness = models.FloatField(null=True)
    seconds = models.FloatField(default=0.0)
    note = models.CharField(max_length=300, blank=True, default="")

    project_path = "study__run__project"

    class Meta:
        ordering = ["number"]
        constraints = [
            models.UniqueConstraint(fields=["study", "number"], name="trial_once"),
            models.CheckConstraint(condition=models.Q(state__in=TrialState.values), name="trial_state_known"),
            models.CheckConstraint(
                condition=models.Q(alone__isnull=True) | models.Q(goodness__isnull=False), name="trial_alone_or_beside"
            ),
        ]

    def __str__(self) -> str:
        return f"trial {self.number}"
