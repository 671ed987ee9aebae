"""Abstract tables that the apps share."""

from __future__ import annotations

import uuid

from django.db import models


class UUIDModel(models.Model):
    """A row known outside by a UUID, with the time it was written."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    created_at = models.DateTimeField(auto_now_add=True, editable=False)

    class Meta:
        abstract = True
