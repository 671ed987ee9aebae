"""The keys whose signatures count on bundles: administrators add and remove them."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from django.db import transaction

from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput, NotFound
from ecgportal.projects import access
from modelhub.bundle import key_id_of
from modelhub.models import SigningKey
from modelhub.packaging import own_key


def listing() -> list[dict[str, Any]]:
    """Return this portal's own key first, then the trusted ones, with their short names."""
    own = own_key()
    rows = [own, *SigningKey.objects.filter(private_encrypted="").order_by("name", "id")]
    return [
        {
            "id": str(row.pk), "name": row.name, "public_key": row.public_key, "key_id": key_id_of(bytes.fromhex(row.public_key)),
            "shown": " ".join(row.public_key[i : i + 8] for i in range(0, 64, 8)), "is_own": row.pk == own.pk, "created_at": row.created_at,
        }
        for row in rows
    ]  # fmt: skip


@transaction.atomic
def trust(*, actor: Any, name: str, public_key: str) -> SigningKey:
    """Trust another portal's public key (64 hexadecimal digits, or base64) from now on."""
    access.require_administrator(actor)
    raw = _raw(public_key.strip())
    if not name.strip():
        raise InvalidInput("Say whose key it is.", fields={"name": "Required."})
    if SigningKey.objects.filter(public_key=raw.hex()).exists():
        raise Conflict("This key is trusted already.", code="key_known")
    row = SigningKey.objects.create(name=name.strip()[:120], public_key=raw.hex())
    audit("signing_key.trusted", row, actor=actor, changes={"key": key_id_of(raw)})
    return row


@transaction.atomic
def distrust(*, actor: Any, key: SigningKey) -> None:
    """Do not trust a key any more. Versions that came by it stay as they are."""
    access.require_administrator(actor)
    if key.private_encrypted:
        raise Conflict("This is the portal's own key.", code="own_key")
    kept = key.pk
    key.delete()
    key.pk = kept
    audit("signing_key.distrusted", key, actor=actor, changes={"key": key_id_of(bytes.fromhex(key.public_key))})


def find(pk: Any) -> SigningKey:
    row = SigningKey.objects.filter(pk=pk).first()
    if row is None:
        raise NotFound("There is no such key.")
    return row


def _raw(text: str) -> bytes:
    for read in (bytes.fromhex, lambda value: base64.b64decode(value, validate=True)):
        try:
            raw = read(text)
        except (ValueError, binascii.Error):
            continue
        if len(raw) == 32:
            return raw
    sentence = "An Ed25519 public key has 32 bytes: 64 hexadecimal digits, or base64."
    raise InvalidInput(sentence, fields={"public_key": sentence})
