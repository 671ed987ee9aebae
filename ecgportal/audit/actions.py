"""The verbs of the audit trail. A verb that is not registered cannot be recorded.

Each sentence is completed with the object's label.
"""

from __future__ import annotations

ACTIONS: dict[str, str] = {}


def register(**verbs: str) -> None:
    """Register verbs as ``noun__verb="sentence with {object}"``; the stored form is ``noun.verb``."""
    for name, sentence in verbs.items():
        action = name.replace("__", ".")
        if action in ACTIONS:
            raise RuntimeError(f"The audit verb {action} is registered twice.")
        ACTIONS[action] = sentence


register(
    session__signed_in="signed in",
    session__sign_in_failed="failed to sign in as {object}",
    session__signed_out="signed out",
    token__created="created the API token {object}",
    token__deleted="deleted the API token {object}",
    user__created="created the user {object}",
    user__changed="changed the user {object}",
    user__password_changed="changed the password of {object}",
    project__created="created the project {object}",
    project__changed="changed the project {object}",
    project__archived="archived the project {object}",
    project__deleted="deleted the project {object}",
    member__set="set the role of {object}",
    member__removed="removed {object}",
    job__cancelled="asked to cancel the job {object}",
    job__failed="the job {object} failed",
    access__refused="was refused access to {object}",
    access__hidden="asked for {object} without being a member of its project",
    audit__exported="exported the audit trail",
    backup__started="started the backup {object}",
    backup__restored="restored the portal from the backup {object}",
    storage__moved="brought the files of a data folder into {object}",
)
