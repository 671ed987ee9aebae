"""What every version must say about its use before anybody runs it: its licence, what it is meant for, and what it was
trained on.

All are prose of the card, so they can be filled in for a version that came without them; the version itself never
changes. Versions trained here begin with what is known: the project's own licence, or the base model's, and the data.
What came from another portal brings the counts of its training records along, which state the last as well. Where nobody
knows what a model was trained on, a person has to say that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.urls import reverse

from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput
from modelhub.contract import ModelContract
from modelhub.identifiers import find_identifiers
from modelhub.models import ModelVersion, Origin, ProjectLicence

#: What is asked, by the name of the card's section.
STATEMENTS: dict[str, str] = {
    "licence": "Under which licence it may be used, for example CC BY 4.0, or: internal research use only.",
    "intended_use": "What it is meant for, for example: research on rhythm in resting 12-lead ECGs of adults.",
    "training_data": "What it was trained on: which records, how many, labelled how. Where nobody knows: Not known.",
}
#: What a person says who does not know what a model was trained on.
NOT_KNOWN = "Not known."
#: The licence of models trained in a project that has chosen none.
DEFAULT_LICENCE = "Internal research use by the members of this project; no other use is licensed."
#: What is offered where a licence is asked for; any other text is taken, too.
OFFERED = ("CC BY 4.0", "CC BY-NC 4.0", "CC BY-SA 4.0", "CC0 1.0", "MIT", "Apache 2.0", DEFAULT_LICENCE)
_MOST_NAMED = 12


def stated() -> Q:
    """Return the condition that a version states all of them, or was trained here: then the project knows what it is."""
    data = Q(card__training_data__regex=r"\S") | Q(facts__has_key="records")
    return Q(origin=Origin.TRAINED) | Q(data, card__licence__regex=r"\S", card__intended_use__regex=r"\S")


def missing(version: ModelVersion) -> dict[str, str]:
    """Return what a version that came from outside does not state, each with the sentence that asks for it."""
    return {name: STATEMENTS[name] for name in version.unstated}


def require(version: ModelVersion) -> None:
    """Raise Conflict (``statements_missing``) while a version does not state them all."""
    open_ = missing(version)
    if open_:
        *first, last = (f"its {name.replace('_', ' ')}" for name in open_)
        names = f"{', '.join(first)} and {last}" if first else last
        raise Conflict(
            f"{version} does not state {names}, so it cannot be used yet. Fill that in on its page, "
            f"{reverse('modelhub:version', kwargs={'pk': version.pk})}, or by PATCH of its card.",
            code="statements_missing",
            fields=open_,
        )


def read_statements(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the statements among the values of a form or request; blank ones are left out."""
    found = {name: values.get(name) for name in STATEMENTS}
    wrong = {
        name: STATEMENTS[name] for name, value in found.items() if value is not None and not isinstance(value, str)
    }
    if wrong:
        raise InvalidInput("Licence, intended use and training data are texts.", code="bad_answers", fields=wrong)
    return {name: value.strip()[:8000] for name, value in found.items() if value and value.strip()}


def prefilled(
    *, project: Any, contract: ModelContract, data: str, base: ModelVersion | None, records: Mapping[str, int], label_map: str = "",
) -> dict[str, str]:  # fmt: skip
    """Return what a version trained here states to begin with. data: the names of the datasets; records: how many of them
    by part. The licence of a base model goes on; otherwise it is the project's."""
    named = ", ".join(contract.classes[:_MOST_NAMED])
    if contract.n_classes > _MOST_NAMED:
        named += f" and {contract.n_classes - _MOST_NAMED} more"
    about = f"the classes {named}" if contract.task != "regression" else f"the estimation of {named}"
    if contract.is_trunk:
        about = "fine-tuning from features learned without labels"
    text = (
        f"Research on {about} in ECGs with the leads {', '.join(contract.leads)}, trained on {data}. It was not tried for the "
        "care of patients."
    )
    # What looks like a person's name or number would keep the model from travelling.
    text = text if not find_identifiers(text) else text.replace(f", trained on {data}", "")
    licence = str(base.card.get("licence", "")).strip() if base is not None else ""
    trained = _trained_on(data, records, label_map, base)
    return {"licence": licence or licence_of(project), "intended_use": text, "training_data": trained}


def _trained_on(data: str, records: Mapping[str, int], label_map: str, base: ModelVersion | None) -> str:
    counts = (
        f"{records.get('train', 0):,} records for training, {records.get('validation', 0):,} for validation, {records.get('test', 0):,} "
        "held back"
    )
    labels = f"; labels by {label_map}" if label_map else ""
    named = not find_identifiers(data + labels)
    text = f"{data}: {counts}{labels}." if named else f"{counts}."
    if base is not None:
        before = str(base.card.get("training_data", "")).strip() or NOT_KNOWN
        text += (
            f" Fine-tuned from {base.model.name}, version {base.number}, whose training data are stated as: {before}"
        )
    return text[:8000]


def licence_of(project: Any) -> str:
    """Return the licence that models trained in a project begin with."""
    row = ProjectLicence.objects.filter(project=project).first()
    return row.text if row is not None else DEFAULT_LICENCE


@transaction.atomic
def set_licence(*, actor: Any, project: Any, text: str) -> str:
    """Choose the licence that models trained in a project from now on begin with; blank takes the portal's own text."""
    text, before = text.strip(), licence_of(project)
    if len(text) > 2000:
        raise InvalidInput("The licence is too long.", fields={"licence": "At most 2,000 characters."})
    if text:
        ProjectLicence.objects.update_or_create(project=project, defaults={"text": text})
    else:
        ProjectLicence.objects.filter(project=project).delete()
    after = licence_of(project)
    audit("model.licence_chosen", project, actor=actor, project=project, changes={"licence": [before, after]})
    return after
