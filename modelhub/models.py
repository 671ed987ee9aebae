"""Models, their immutable versions, predictions, and exchanges."""

from __future__ import annotations

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Lower

from datasets.models import Dataset, LabelMap, Record
from ecgportal.base_models import UUIDModel
from ecgportal.jobs.models import Job
from ecgportal.projects.models import Project, ProjectOwned
from modelhub.contract import PRETRAINING, TASKS


class Model(ProjectOwned):
    name = models.CharField(max_length=120)
    description = models.TextField(blank=True, default="", max_length=4000)

    class Meta:
        ordering = ["name", "id"]
        constraints = [
            models.UniqueConstraint(
                "project", Lower("name"), name="model_name_unique",
                violation_error_message="The project has a model with this name already.",
            ),
        ]  # fmt: skip

    def __str__(self) -> str:
        return self.name


class ProjectLicence(ProjectOwned):
    """The licence that models trained in a project begin with, where the project has chosen one."""

    project = models.OneToOneField(Project, on_delete=models.CASCADE, related_name="+")
    text = models.TextField(max_length=2000)

    class Meta:
        constraints = [models.CheckConstraint(condition=~models.Q(text=""), name="project_licence_said")]

    def __str__(self) -> str:
        return f"licence of {self.project}"


class VersionState(models.TextChoices):
    INCOMPLETE = "incomplete", "Needs answers"
    QUARANTINED = "quarantined", "In quarantine"
    READY = "ready", "Ready"
    RETIRED = "retired", "Retired"


class Origin(models.TextChoices):
    TRAINED = "trained", "trained here"
    IMPORTED = "imported", "imported from a file"
    PULLED = "pulled", "pulled from an exchange"


class ModelVersion(UUIDModel):
    """One set of weights with its contract (input, classes, task). The content never changes; only ``state`` and
    the card's prose do (a trigger holds that).

    A version in the state ``incomplete`` holds an imported file as it came, whose contract is not known yet; it cannot
    be run, and becomes ready once when somebody says what the file leaves open (``checks["questions"]``).
    """

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="versions")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=12, choices=VersionState.choices)
    origin = models.CharField(max_length=10, choices=Origin.choices)
    contract = models.JSONField()
    classes = ArrayField(models.CharField(max_length=200))
    task = models.CharField(max_length=12)
    architecture = models.CharField(max_length=60, blank=True, default="")
    parameters = models.BigIntegerField(null=True)
    sha256 = models.CharField(max_length=64)
    size = models.BigIntegerField()
    weights_sha256 = models.CharField(max_length=64, blank=True, default="")
    parent = models.ForeignKey("self", on_delete=models.PROTECT, null=True, related_name="children")
    facts = models.JSONField(default=dict)
    card = models.JSONField(default=dict)
    checks = models.JSONField(default=dict)

    project_path = "model__project"

    class Meta:
        ordering = ["-created_at", "id"]
        constraints = [
            models.UniqueConstraint(fields=["model", "number"], name="version_number_once"),
            models.CheckConstraint(condition=models.Q(state__in=VersionState.values), name="version_state_known"),
            models.CheckConstraint(condition=models.Q(origin__in=Origin.values), name="version_origin_known"),
            models.CheckConstraint(condition=~models.Q(sha256="") & models.Q(size__gt=0), name="version_has_weights"),
            models.CheckConstraint(condition=models.Q(classes__len__gt=0), name="version_has_classes"),
        ]
        indexes = [
            models.Index(fields=["model", "-created_at"], name="version_of_model"),
            models.Index(fields=["sha256"], name="version_by_file"),
            models.Index(fields=["weights_sha256"], name="version_by_weights"),
        ]

    def __str__(self) -> str:
        return f"{self.model.name} v{self.number}"

    @property
    def is_trunk(self) -> bool:
        """Whether it learned without labels: it has no classes, cannot predict, and is there to be fine-tuned."""
        return self.task == PRETRAINING

    @property
    def task_title(self) -> str:
        return TASKS.get(self.task) or ("Signals without labels" if self.is_trunk else "not said yet")

    @property
    def named_classes(self) -> list[str]:
        """The classes in order; none of a trunk, for whose outputs a placeholder stands in ``classes``."""
        return [] if self.is_trunk else self.classes

    @property
    def is_made_here(self) -> bool:
        """Whether a run of this portal trained it, or what it is a copy of, or it comes with the portal."""
        copied = self.checks.get("catalogue", {}).get("trained_here", False)
        return self.origin == Origin.TRAINED or copied or bool(self.checks.get("starter"))

    @property
    def unstated(self) -> list[str]:
        """Which of licence, intended use and training data it does not state; for what was trained here they are the
        project's own, and the counts of its training records, which travel with a bundle, state the last."""
        if self.origin == Origin.TRAINED:
            return []
        known = {"training_data"} if self.facts.get("records") else set()
        names = ("licence", "intended_use", "training_data")
        return [name for name in names if name not in known and not str(self.card.get(name, "")).strip()]

    @property
    def states_its_use(self) -> bool:
        return not self.unstated

    @property
    def tone(self) -> str:
        tones = {"ready": "success", "quarantined": "warning", "incomplete": "warning"}
        return tones.get(self.state, "neutral")


class ModelAlias(UUIDModel):
    """A name that points to one version of a model and can be moved to another, such as ``champion``."""

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="aliases")
    name = models.CharField(max_length=40)
    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="aliases")
    moved_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    moved_at = models.DateTimeField(auto_now=True)

    project_path = "model__project"

    class Meta:
        ordering = ["name"]
        verbose_name = "alias"
        constraints = [
            models.UniqueConstraint(fields=["model", "name"], name="alias_once"),
            models.CheckConstraint(condition=models.Q(name__regex=r"^[a-z][a-z0-9_-]*$"), name="alias_name_plain"),
        ]

    def __str__(self) -> str:
        return f"{self.model.name}@{self.name}"


class PredictionRun(ProjectOwned):
    """One model version applied to a dataset or some of its records."""

    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="prediction_runs")
    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="prediction_runs")
    record_ids = ArrayField(models.UUIDField(), default=list)
    job = models.OneToOneField(Job, on_delete=models.PROTECT, related_name="prediction_run")
    thresholds = models.JSONField(default=dict)
    # With it the answers are compared with the records' labels.
    label_map = models.ForeignKey(LabelMap, on_delete=models.SET_NULL, null=True, related_name="+")
    refused = models.JSONField(default=list)

    class Meta:
        ordering = ["-created_at", "id"]
        indexes = [models.Index(fields=["project", "-created_at"], name="prediction_of_project")]

    def __str__(self) -> str:
        return f"{self.version} on {self.dataset}"


class Prediction(UUIDModel):
    """Probabilities in the order of the version's classes (the value itself for regression)."""

    run = models.ForeignKey(PredictionRun, on_delete=models.CASCADE, related_name="predictions")
    record = models.ForeignKey(Record, on_delete=models.CASCADE, related_name="predictions")
    values = ArrayField(models.FloatField())
    predicted = ArrayField(models.CharField(max_length=200), default=list)
    # Why the answer is to be read with care: quality, rate, distance from the training data, what was imputed.
    notices = ArrayField(models.CharField(max_length=300), default=list)
    # {"method", "leads", "t0_s", "t1_s", "classes", "values": (classes, leads, windows)}; empty until asked for.
    saliency = models.JSONField(default=dict, blank=True)

    project_path = "run__project"

    class Meta:
        ordering = ["record__key", "id"]
        constraints = [models.UniqueConstraint(fields=["run", "record"], name="prediction_once")]

    def __str__(self) -> str:
        return f"{self.record}: {', '.join(self.predicted) or 'none'}"


class Exchange(UUIDModel):
    """A WebDAV server on which models are published. Administrators manage them; the password is encrypted and
    never read back."""

    name = models.CharField(max_length=80)
    url = models.URLField(max_length=400)
    username = models.CharField(max_length=120, blank=True, default="")
    password_encrypted = models.TextField(blank=True, default="", editable=False)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")

    class Meta:
        ordering = ["name", "id"]
        constraints = [
            models.UniqueConstraint(
                Lower("name"),
                name="exchange_name_unique",
                violation_error_message="There is an exchange with this name already.",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Transfer(ProjectOwned):
    """One push of a version to an exchange or one pull from it."""

    exchange = models.ForeignKey(Exchange, on_delete=models.CASCADE, related_name="transfers")
    direction = models.CharField(max_length=4, choices=[("push", "Publish"), ("pull", "Pull")])
    remote_path = models.CharField(max_length=400)
    version = models.ForeignKey(ModelVersion, on_delete=models.SET_NULL, null=True, related_name="transfers")
    sha256 = models.CharField(max_length=64, blank=True, default="")
    # The server's tag of the file when it was pulled: another one later means that the file was changed there.
    remote_state = models.CharField(max_length=200, blank=True, default="")
    job = models.OneToOneField(Job, on_delete=models.PROTECT, related_name="transfer")

    class Meta:
        ordering = ["-created_at", "id"]
        indexes = [models.Index(fields=["project", "-created_at"], name="transfer_of_project")]
        constraints = [
            models.CheckConstraint(condition=models.Q(direction__in=["push", "pull"]), name="transfer_direction_known")
        ]

    def __str__(self) -> str:
        return f"{self.direction} {self.remote_path}"


class SigningKey(UUIDModel):
    """Ed25519 keys: the portal's own (private part encrypted) and public keys that an administrator trusts."""

    name = models.CharField(max_length=120)
    public_key = models.CharField(max_length=64, unique=True)
    private_encrypted = models.TextField(blank=True, default="", editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                models.Value(1), condition=~models.Q(private_encrypted=""), name="one_own_signing_key"
            )
        ]

    def __str__(self) -> str:
        return self.name


class ModelBundle(UUIDModel):
    """The bundle of a version as it was last written; ``made_of`` is the digest of all that went into it."""

    version = models.OneToOneField(ModelVersion, on_delete=models.CASCADE, related_name="written_bundle")
    made_of = models.CharField(max_length=64)
    sha256 = models.CharField(max_length=64)
    size = models.BigIntegerField()

    def __str__(self) -> str:
        return f"bundle of {self.version}"


class CatalogueState(models.TextChoices):
    DRAFT = "draft", "Draft"
    IN_REVIEW = "in_review", "In review"
    APPROVED = "approved", "Approved"
    RETIRED = "retired", "Retired"


class CatalogueEntry(UUIDModel):
    """A version that its project proposed to the whole platform and for which an administrator may vouch.

    ``shown`` is what was proposed (card, prose, facts): later edits of the version's card do not reach what an
    administrator approved. Triggers hold the order of states and the proposal of an entry that left ``draft``.
    """

    version = models.OneToOneField(ModelVersion, on_delete=models.PROTECT, related_name="catalogue_entry")
    state = models.CharField(max_length=10, choices=CatalogueState.choices, default=CatalogueState.DRAFT)
    proposed_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    shown = models.JSONField(default=dict)
    visible_to_all = models.BooleanField(default=False)
    projects = models.ManyToManyField(Project, related_name="+", blank=True)

    project_path = "version__model__project"

    class Meta:
        ordering = ["-created_at", "id"]
        verbose_name = "catalogue entry"
        constraints = [
            models.CheckConstraint(condition=models.Q(state__in=CatalogueState.values), name="catalogue_state_known"),
        ]
        indexes = [models.Index(fields=["state", "-created_at"], name="catalogue_by_state")]

    def __str__(self) -> str:
        return str(self.version)

    @property
    def tone(self) -> str:
        return {"approved": "success", "in_review": "info", "retired": "warning"}.get(self.state, "neutral")


class CatalogueDecision(UUIDModel):
    """One change of an entry's state: who, and why. Rows are added and never changed (a trigger holds that)."""

    entry = models.ForeignKey(CatalogueEntry, on_delete=models.PROTECT, related_name="decisions")
    from_state = models.CharField(max_length=10, choices=CatalogueState.choices)
    to_state = models.CharField(max_length=10, choices=CatalogueState.choices)
    reason = models.TextField(max_length=4000)
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    decided_by_name = models.CharField(max_length=150)

    project_path = "entry__version__model__project"

    class Meta:
        ordering = ["created_at", "id"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(from_state__in=CatalogueState.values, to_state__in=CatalogueState.values),
                name="catalogue_decision_states_known",
            ),
            models.CheckConstraint(condition=~models.Q(reason=""), name="catalogue_decision_has_reason"),
        ]

    def __str__(self) -> str:
        return f"{self.entry}: {self.from_state} to {self.to_state}"
