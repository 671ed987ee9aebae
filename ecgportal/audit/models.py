"""The audit trail: append-only, hash-chained, independent of the rows it speaks of.

The row is written in the transaction of the change. A deferred trigger gives it its place in the chain at commit
(``sequence`` without gaps, ``hash = sha256(previous hash, newline, payload)``), so that the chain's lock is held only
while a transaction commits. Triggers refuse every other update and every deletion.
"""

from __future__ import annotations

from django.db import models


class AuditEvent(models.Model):
    id = models.BigAutoField(primary_key=True)
    sequence = models.BigIntegerField(null=True, unique=True, editable=False)
    at = models.DateTimeField()
    action = models.CharField(max_length=60)
    outcome = models.CharField(max_length=10, default="success")
    channel = models.CharField(max_length=10)
    address = models.CharField(max_length=45, blank=True, default="")
    correlation = models.UUIDField()
    actor_id = models.UUIDField(null=True)
    actor_name = models.CharField(max_length=150, blank=True, default="")
    actor_role = models.CharField(max_length=20, blank=True, default="")
    project_id = models.UUIDField(null=True)
    project_name = models.CharField(max_length=120, blank=True, default="")
    object_type = models.CharField(max_length=40, blank=True, default="")
    object_id = models.CharField(max_length=64, blank=True, default="")
    object_label = models.CharField(max_length=200, blank=True, default="")
    changes = models.JSONField(default=dict)
    software = models.CharField(max_length=40, blank=True, default="")
    payload = models.TextField(editable=False)
    hash = models.CharField(max_length=64, blank=True, default="", editable=False)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["project_id", "-id"], name="audit_project"),
            models.Index(fields=["actor_id", "-id"], name="audit_actor"),
            models.Index(fields=["action", "-id"], name="audit_action"),
            models.Index(
                fields=["-at"], condition=models.Q(action="session.sign_in_failed"), name="audit_failed_sign_ins"
            ),
            models.Index(
                fields=["actor_id", "project_id", "object_type", "-at"],
                condition=models.Q(action="access.hidden"),
                name="audit_hidden",
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(outcome__in=["success", "failure", "refused"]), name="audit_outcome_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.sequence} {self.action} {self.object_label}"
