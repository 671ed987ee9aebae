"""Write models and versions, and say what a version may be used for."""

from __future__ import annotations

import re
from typing import Any

from django.db import transaction
from django.db.models import ProtectedError

from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput, NotFound
from ecgportal.jobs.services import enqueue
from ecgportal.validation import require_valid
from modelhub import statements
from modelhub.architectures.catalog import require_definition
from modelhub.card import PROSE
from modelhub.contract import ModelContract
from modelhub.models import (
    Model,
    ModelAlias,
    ModelBundle,
    ModelVersion,
    VersionState,
)

CARD_FIELDS = tuple(PROSE)
# What stands for the outputs of a trunk in the database, whose versions all have some.
_OUTPUTS_OF_TRUNK = ["features"]


@transaction.atomic
def model_get_or_create(*, actor: Any, project: Any, name: str) -> Model:
    """Return the project's model of this name, made if it is not there."""
    model = Model.objects.filter(project=project, name__iexact=name.strip()).first()
    if model is None:
        model = Model(project=project, name=name.strip(), created_by=actor)
        require_valid(model, "The model cannot be named like this.")
        model.save(force_insert=True)
        audit("model.created", model, actor=actor, project=project)
    return model


@transaction.atomic
def version_add(
    *,
    actor: Any,
    model: Model,
    onnx: bytes,
    contract: ModelContract | None,
    origin: str,
    parameters: int | None,
    weights: bytes | None = None,
    parent: ModelVersion | None = None,
    facts: dict[str, Any] | None = None,
    card: dict[str, str] | None = None,
    checks: dict[str, Any] | None = None,
    state: str = VersionState.READY,
) -> ModelVersion:
    """Store the weights and add the next version of ``model``. The files must have passed their checks before.

    contract: None for a file that leaves open what it expects (state ``incomplete``); ``checks`` then tell how many
    outputs it has and what is known.
    """
    if contract is not None:
        described: dict[str, Any] = {
            "contract": contract.to_dict(), "classes": list(contract.classes) or _OUTPUTS_OF_TRUNK, "task": contract.task,
            "architecture": contract.architecture or "",
        }  # fmt: skip
    else:
        known = (checks or {}).get("known", {})
        names = known.get("classes") or [f"output {i}" for i in range(1, (checks or {}).get("n_outputs", 1) + 1)]
        described = {
            "contract": known, "classes": names, "task": known.get("task", ""), "architecture": known.get("architecture", ""),
        }  # fmt: skip
    storage.hold_blobs()
    sha256, size = storage.put_bytes(onnx)
    weights_sha256 = storage.put_bytes(weights)[0] if weights else ""
    Model.objects.select_for_update().get(pk=model.pk)
    last = model.versions.order_by("-number").first()
    version = ModelVersion(
        model=model, created_by=actor, number=last.number + 1 if last else 1, state=state, origin=origin,
        parameters=parameters, sha256=sha256, size=size, **described,
        weights_sha256=weights_sha256, parent=parent, facts=facts or {}, card=card or {}, checks=checks or {},
    )  # fmt: skip
    version.save(force_insert=True)
    audit(
        "model_version.created",
        version,
        actor=actor,
        project=model.project,
        changes={"origin": origin, "sha256": sha256},
    )
    return version


@transaction.atomic
def version_accept(*, actor: Any, version: ModelVersion) -> ModelVersion:
    """Release a version from quarantine."""
    version = ModelVersion.objects.select_for_update().get(pk=version.pk)
    if version.state != VersionState.QUARANTINED:
        raise Conflict(f"{version} is not in quarantine.", code="not_quarantined")
    version.state = VersionState.READY
    version.save(update_fields=["state"])
    audit("model_version.accepted", version, actor=actor, project=version.model.project)
    return version


@transaction.atomic
def card_update(*, actor: Any, version: ModelVersion, card: dict[str, str]) -> ModelVersion:
    """Change the prose of a version's card; the facts come from the portal."""
    unknown = set(card) - set(CARD_FIELDS)
    if unknown:
        raise InvalidInput(
            f"A card has no field {', '.join(sorted(unknown))}.", fields=dict.fromkeys(unknown, "Unknown field.")
        )
    wrong = {name: "A text." for name, text in card.items() if not isinstance(text, str)}
    if wrong:
        raise InvalidInput("The sections of a card are texts.", fields=wrong)
    version.card = ModelVersion.objects.select_for_update().get(pk=version.pk).card
    said = {name: text.strip()[:8000] for name, text in card.items()}
    taken_back = [name for name in statements.STATEMENTS if version.card.get(name) and said.get(name) == ""]
    if taken_back:
        names = " and ".join(name.replace("_", " ") for name in taken_back)
        raise InvalidInput(
            f"{version} has to state its {names}; say something else, but not nothing.",
            fields={name: statements.STATEMENTS[name] for name in taken_back},
        )
    changed = {name: text for name, text in said.items() if text != version.card.get(name, "")}
    # What a model may be used for is kept in the trail word by word; other prose by its name.
    changes = {
        name: [version.card.get(name, ""), text] for name, text in changed.items() if name in statements.STATEMENTS
    }
    version.card = {**version.card, **said}
    version.save(update_fields=["card"])
    changes |= {"card": sorted(changed)}
    audit("model_version.changed", version, actor=actor, project=version.model.project, changes=changes)
    return version


def version_delete(*, actor: Any, version: ModelVersion) -> None:
    """Delete a version nothing depends on; Conflict names what does."""
    written = ModelBundle.objects.filter(version=version).values_list("sha256", flat=True)
    sha256, project = {version.sha256, version.weights_sha256, *written} - {""}, version.model.project
    version_id, model = version.pk, version.model
    try:
        with transaction.atomic():
            version.delete()
            version.pk = version_id
            storage.release_blobs(sha256)
            audit("model.deleted", version, actor=actor, project=project)
            if not model.versions.exists():
                model.delete()
    except ProtectedError as error:
        names = sorted({str(row._meta.verbose_name) for row in error.protected_objects})
        raise Conflict(
            f"{version} cannot be deleted: {', '.join(names)} depend on it.", code="version_in_use"
        ) from error
    storage.drop_unused(sha256)


@transaction.atomic
def version_complete(*, actor: Any, version: ModelVersion, answers: dict[str, Any]) -> Any:
    """Start the job that fills in what a version left open; answers given before still count."""
    if version.state != VersionState.INCOMPLETE:
        raise Conflict(f"{version} states all that it needs; a version never changes.", code="version_complete")
    said = {**version.checks.get("known", {}), **version.checks.get("answers", {}), **answers}
    payload = {"sha256": version.sha256, "file_name": version.model.name, "contract": said, "version": str(version.pk)}
    return enqueue(
        "model_import", actor=actor, project=version.model.project, payload=payload, title=f"Complete {version}"
    )


@transaction.atomic
def version_retire(*, actor: Any, version: ModelVersion, retired: bool) -> ModelVersion:
    """Take a version out of use, or back into it. Its predictions and evaluations stay."""
    version = ModelVersion.objects.select_for_update(of=("self",)).select_related("model__project").get(pk=version.pk)
    before, after = (VersionState.READY, VersionState.RETIRED)[:: 1 if retired else -1]
    if version.state != before:
        raise Conflict(f"{version} is not {VersionState(before).label.lower()}.", code="wrong_version_state")
    version.state = after
    version.save(update_fields=["state"])
    verb = "model_version.retired" if retired else "model_version.reinstated"
    audit(verb, version, actor=actor, project=version.model.project)
    return version


_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,39}")


@transaction.atomic
def alias_set(*, actor: Any, model: Model, name: str, version: ModelVersion) -> ModelAlias:
    """Let an alias of a model (``champion``, ``candidate``, or any plain name) point to one of its versions."""
    name = name.strip().lower()
    if not _ALIAS.fullmatch(name):
        raise InvalidInput(
            "An alias has small letters, digits, - and _, and begins with a letter.",
            fields={"name": "For example champion."},
        )
    version = ModelVersion.objects.select_for_update(of=("self",)).select_related("model__project").get(pk=version.pk)
    if version.model_id != model.pk:
        raise InvalidInput(
            f"{version} is not a version of {model}.", fields={"version": "Choose a version of this model."}
        )
    check_runnable(version)
    row = ModelAlias.objects.select_for_update().filter(model=model, name=name).select_related("version").first()
    before = row.version.number if row else None
    row = row or ModelAlias(model=model, name=name)
    row.version, row.moved_by = version, actor
    row.save()
    changes = {"alias": name, "version": [before, version.number]}
    audit("model_version.alias_moved", version, actor=actor, project=model.project, changes=changes)
    return row


@transaction.atomic
def alias_remove(*, actor: Any, model: Model, name: str) -> None:
    """Remove an alias; the version that it pointed to stays."""
    row = ModelAlias.objects.select_for_update().filter(model=model, name=name).select_related("version__model").first()
    if row is None:
        raise NotFound(f"{model} has no alias {name}.")
    row.delete()
    changes = {"alias": name, "version": [row.version.number, None]}
    audit("model_version.alias_moved", row.version, actor=actor, project=model.project, changes=changes)


@transaction.atomic
def import_start(
    *, actor: Any, project: Any, file: Any, name: str, contract: dict[str, Any] | None = None, card: dict[str, str] | None = None,
) -> Any:  # fmt: skip
    """Keep an uploaded model file and start the job that checks it in a process of its own. contract, card: what the file
    does not say itself."""
    if not name.strip():
        raise InvalidInput("Give the model a name.", fields={"name": "Required."})
    if file.size > 2 << 30:
        raise InvalidInput("A model file may have at most 2 GB.", code="too_large", fields={"file": "Too large."})
    storage.hold_blobs()
    sha256, size = storage.put(file.file)
    payload = {
        "sha256": sha256,
        "file_name": file.name[-200:],
        "name": name.strip()[:120],
        "contract": contract or {},
        "card": card or {},
    }
    job = enqueue(
        "model_import", actor=actor, project=project, payload=payload, title=f"Check and import {file.name[-80:]}"
    )
    audit(
        "upload.received",
        f"model file {file.name[-100:]}",
        actor=actor,
        project=project,
        changes={"bytes": size, "sha256": sha256},
    )
    return job


def check_runnable(version: ModelVersion) -> ModelContract:
    """Return the contract of a version that may be run; Conflict in quarantine, in retirement, while it is open, and for
    a trunk, which has no classes."""
    contract = check_usable(version)
    if contract.is_trunk:
        raise Conflict(
            f"{version} is a trunk that learned without labels: it has no classes and cannot predict. Fine-tune it first.",
            code="no_classes",
        )
    return contract


def check_usable(version: ModelVersion) -> ModelContract:
    """Return the contract of a version that may be run or fine-tuned; Conflict in quarantine, in retirement, while it is
    open, or while it does not state its licence, intended use and training data."""
    if version.state == VersionState.QUARANTINED:
        raise Conflict(f"{version} is in quarantine. An owner has to accept it first.", code="version_quarantined")
    if version.state == VersionState.RETIRED:
        raise Conflict(f"{version} is retired. Use a newer version, or take it back first.", code="version_retired")
    contract = contract_of(version)
    statements.require(version)
    return contract


def check_trainable(version: ModelVersion) -> ModelContract:
    """Return the contract of a version that a training can start from; InvalidInput (``prediction_only``) names the
    operator for which that cannot be, Conflict says what else stands in the way."""
    contract = check_usable(version)
    if reason := version.checks.get("prediction_only"):
        raise InvalidInput(
            f"{version} can predict but not be trained further. {reason}",
            code="prediction_only",
            fields={"base_version": "Choose a model that can be trained."},
        )
    require_definition(contract.architecture, contract.definition)
    return contract


def contract_of(version: ModelVersion) -> ModelContract:
    """Return a version's contract; Conflict (``contract_incomplete``) names what nobody has said yet."""
    if version.state == VersionState.INCOMPLETE:
        questions = version.checks.get("questions", {})
        raise Conflict(
            f"{version} does not say what it expects ({', '.join(questions)}). Fill that in on its page first.",
            code="contract_incomplete",
            fields=questions,
        )
    return ModelContract.from_dict(version.contract)
