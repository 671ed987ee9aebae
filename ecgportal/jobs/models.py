"""The job's row is the truth about it; the queue only carries "start job N"."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db import models
from django.utils import timezone

from ecgportal.base_models import UUIDModel
from ecgportal.projects.models import Project


class JobState(models.TextChoices):
    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


OPEN = (JobState.QUEUED, JobState.RUNNING)
TERMINAL = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class JobQuerySet(models.QuerySet["Job"]):
    def unfinished(self) -> JobQuerySet:
        """Jobs that wait or run."""
        return self.filter(state__in=OPEN)

    def lost(self) -> JobQuerySet:
        """Running jobs whose process has not shown itself for longer than ``JOB_STALE_S``."""
        limit = timezone.now() - timedelta(seconds=settings.JOB_STALE_S)
        return self.filter(state=JobState.RUNNING, heartbeat_at__lt=limit)


class Job(UUIDModel):
    kind = models.CharField(max_length=40)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, null=True, related_name="+")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    title = models.CharField(max_length=200, blank=True, default="")
    payload = models.JSONField(default=dict)
    state = models.CharField(max_length=10, choices=JobState.choices, default=JobState.QUEUED)
    progress = models.FloatField(default=0.0)
    message = models.CharField(max_length=300, blank=True, default="")
    result = models.JSONField(default=dict)
    error_code = models.CharField(max_length=60, blank=True, default="")
    error_message = models.TextField(blank=True, default="")
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    enqueued_at = models.DateTimeField(default=timezone.now)
    cancel_requested = models.BooleanField(default=False)
    attempt = models.PositiveSmallIntegerField(default=0)
    max_attempts = models.PositiveSmallIntegerField(default=3)
    pid = models.IntegerField(null=True)
    # When the process with this id started, in seconds since 1970: an id alone may be another process's by now.
    pid_started = models.FloatField(null=True)
    host = models.CharField(max_length=120, blank=True, default="")

    objects = JobQuerySet.as_manager()
    project_path = "project"

    class Meta:
        ordering = ["-created_at", "id"]
        indexes = [
            models.Index(fields=["project", "-created_at"], name="job_of_project"),
            models.Index(fields=["state", "heartbeat_at"], name="job_state"),
        ]
        constraints = [
            models.CheckConstraint(condition=models.Q(state__in=JobState.values), name="job_state_known"),
            models.CheckConstraint(condition=models.Q(progress__gte=0, progress__lte=1), name="job_progress_range"),
            models.CheckConstraint(
                condition=models.Q(state__in=TERMINAL, finished_at__isnull=False)
                | models.Q(state__in=OPEN, finished_at__isnull=True),
                name="job_finished_iff_terminal",
            ),
            models.CheckConstraint(
                condition=~models.Q(state=JobState.FAILED) | ~models.Q(error_code=""), name="job_failed_has_code"
            ),
            models.CheckConstraint(
                condition=models.Q(started_at__isnull=False) | models.Q(state__in=["queued", "cancelled", "failed"]),
                name="job_running_has_started",
            ),
            models.CheckConstraint(
                condition=models.Q(pid__isnull=True, pid_started__isnull=True)
                | models.Q(pid__isnull=False, pid_started__isnull=False),
                name="job_pid_has_start",
            ),
        ]

    def __str__(self) -> str:
        return self.title or self.kind

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    @property
    def percent(self) -> int:
        return round(100 * self.progress)


class WorkerBeat(models.Model):
    """When a process that looks after the jobs last showed itself; one row per host."""

    name = models.CharField(max_length=120, unique=True)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} at {self.at:%Y-%m-%d %H:%M:%S}"


class Removal(models.Model):
    """A file of the bucket that is to be forgotten, written in the transaction by which no row names it any more.

    key: as :func:`ecgportal.storage.release` takes it. is_done: the bucket has forgotten it; the row stays for a while, by which
    the other hosts do.
    """

    key = models.CharField(max_length=300, unique=True)
    at = models.DateTimeField(db_index=True)
    is_done = models.BooleanField(default=False)

    class Meta:
        indexes = [models.Index(fields=["id"], name="removal_to_do", condition=models.Q(is_done=False))]

    def __str__(self) -> str:
        return self.key
