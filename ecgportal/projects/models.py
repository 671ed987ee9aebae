"""Projects, and who belongs to them in which role."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models.functions import Lower

from ecgportal.base_models import UUIDModel


class Role(models.TextChoices):
    VIEWER = "viewer", "Viewer"
    EDITOR = "editor", "Editor"
    OWNER = "owner", "Owner"


class Project(UUIDModel):
    """The unit of sharing: datasets, models and runs belong to exactly one project.

    keeps_identifiers: whether uploads may bring identifiers of patients with them; they are stored encrypted then.
    pseudonym_secret: the encrypted key of the project's pseudonyms.
    """

    name = models.CharField(max_length=120)
    slug = models.SlugField(max_length=130, unique=True)
    description = models.TextField(blank=True, default="", max_length=4000)
    archived_at = models.DateTimeField(null=True, blank=True, editable=False)
    keeps_identifiers = models.BooleanField(default=False)
    pseudonym_secret = models.TextField(blank=True, default="", editable=False)
    members = models.ManyToManyField(settings.AUTH_USER_MODEL, through="Membership", related_name="projects")

    class Meta:
        ordering = ["name", "id"]
        constraints = [
            models.UniqueConstraint(
                Lower("name"),
                name="project_name_unique",
                violation_error_message="There is a project with this name already.",
            ),
        ]

    project_path = ""

    def __str__(self) -> str:
        return self.name


class Membership(UUIDModel):
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role.choices)

    class Meta:
        ordering = ["user__username"]
        constraints = [
            models.UniqueConstraint(fields=["project", "user"], name="membership_once"),
            models.CheckConstraint(condition=models.Q(role__in=Role.values), name="membership_role_known"),
        ]
        indexes = [models.Index(fields=["user", "project", "role"], name="membership_lookup")]

    project_path = "project"

    def __str__(self) -> str:
        return f"{self.user} as {self.role} of {self.project}"


class ProjectOwned(UUIDModel):
    """A row that belongs to a project. ``project_path`` is the lookup from the row to its project."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")

    project_path = "project"

    class Meta:
        abstract = True
