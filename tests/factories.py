"""One plain function per noun. Names are counted, nothing is random."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np
from django.utils import timezone

from datasets.models import Dataset, Ingest, IngestItem, LabelMap, LabelSource, Outcome, Record, RecordLabel, Subject
from datasets.signals import PackWriter
from ecgportal.accounts.models import User
from ecgportal.jobs.models import OPEN, Job, JobState
from ecgportal.projects.models import Membership, Project, Role

PASSWORD = "correct-horse-battery"
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
_numbers = itertools.count(1)


def make_user(username: str = "", *, is_administrator: bool = False, **fields: Any) -> User:
    """Return a stored user whose password is ``PASSWORD``."""
    name = username or f"user{next(_numbers)}"
    return User.objects.create_user(
        name, password=PASSWORD, is_superuser=is_administrator, is_staff=is_administrator, **fields
    )


def make_project(roles: dict[User, str] | None = None, name: str = "", **fields: Any) -> Project:
    """Return a project with members by role."""
    number = next(_numbers)
    project = Project.objects.create(name=name or f"Project {number}", slug=f"project-{number}", **fields)
    for user, role in (roles or {}).items():
        Membership.objects.create(project=project, user=user, role=role)
    return project


def make_team(project: Project | None = None) -> dict[str, User]:
    """Return one user per role of the project (made when not given) and an ``outsider``."""
    project = project or make_project()
    team = {role: make_user() for role in Role.values}
    for role, user in team.items():
        Membership.objects.create(project=project, user=user, role=role)
    return {**team, "outsider": make_user()}


def make_dataset(project: Project, name: str = "", **fields: Any) -> Dataset:
    return Dataset.objects.create(project=project, name=name or f"Dataset {next(_numbers)}", **fields)


def ecg_signal(n_leads: int = 12, fs_hz: float = 100.0, duration_s: float = 2.0, seed: int = 0) -> np.ndarray:
    """Return a smooth made-up signal, float32 mV ``(leads, samples)``; not an ECG, only unlike any other seed's."""
    time_s = np.arange(round(fs_hz * duration_s)) / fs_hz
    rows = [np.sin(2 * np.pi * (1.0 + 0.1 * lead + 0.01 * seed) * time_s) for lead in range(n_leads)]
    return np.asarray(rows, dtype=np.float32)


def make_record(
    dataset: Dataset,
    key: str = "",
    *,
    subject: str | None = None,
    labels: tuple[str, ...] = (),
    system: str = "scp",
    signal: np.ndarray | None = None,
    fs_hz: float = 100.0,
    leads: tuple[str, ...] = LEADS,
    **fields: Any,
) -> Record:
    """Return a stored record whose signal lies in a pack file. ``labels`` are codes stated by the file."""
    number = next(_numbers)
    key = key or f"rec{number:05d}"
    samples = ecg_signal(len(leads), fs_hz, seed=number) if signal is None else signal
    person = Subject.objects.get_or_create(dataset=dataset, key=subject)[0] if subject else None
    with PackWriter(dataset.pk) as writer:
        offset = writer.add(samples)
    defaults: dict[str, Any] = {
        "format": "wfdb",
        "content_sha256": hashlib.sha256(f"{dataset.pk} {key}".encode()).hexdigest(),
        "search_text": f"{key} {subject or ''}".lower(),
    }
    record = Record.objects.create(
        dataset=dataset, subject=person, key=key, fs_hz=fs_hz, n_samples=samples.shape[1], leads=list(leads),
        pack=writer.pack, offset=offset, **(defaults | fields),
    )  # fmt: skip
    RecordLabel.objects.bulk_create(
        RecordLabel(record=record, system=system, code=code, source=LabelSource.FILE) for code in labels
    )
    return record


def make_job(
    project: Project, *, kind: str = "ingest", state: str = JobState.QUEUED, user: User | None = None, **fields: Any
) -> Job:
    """Return a job in any state, with the times and codes that the state demands. No queue message is sent."""
    now = timezone.now()
    defaults: dict[str, Any] = {"title": f"Job {next(_numbers)}"}
    if state not in (JobState.QUEUED, JobState.CANCELLED):
        defaults |= {"started_at": now, "heartbeat_at": now, "attempt": 1}
    if state not in OPEN:
        defaults |= {"finished_at": now}
    if state == JobState.FAILED:
        defaults |= {"error_code": "made_to_fail", "error_message": "The job failed because the test wanted it."}
    if state == JobState.SUCCEEDED:
        defaults |= {"progress": 1.0}
    return Job.objects.create(project=project, kind=kind, state=state, created_by=user, **(defaults | fields))


def make_ingest(
    dataset: Dataset,
    *,
    state: str = JobState.SUCCEEDED,
    items: tuple[tuple[str, str, str, str], ...] = (),
    **fields: Any,
) -> Ingest:
    """Return an upload with its job. ``items``: (file name, outcome, code, message)."""
    ingest = Ingest.objects.create(dataset=dataset, **fields)
    ingest.job = make_job(dataset.project, state=state, payload={"ingest": str(ingest.pk)})
    ingest.save()
    IngestItem.objects.bulk_create(
        IngestItem(ingest=ingest, position=number, name=name, outcome=outcome, code=code, message=message)
        for number, (name, outcome, code, message) in enumerate(items, start=1)
    )
    return ingest


def make_label_map(project: Project | None = None, name: str = "", **fields: Any) -> LabelMap:
    """Return a map of two classes; without a project one that the portal brings along."""
    defaults: dict[str, Any] = {
        "system": "scp", "classes": ["NORM", "MI"],
        "entries": {"NORM": {"class": "NORM", "relation": "exact"}, "IMI": {"class": "MI", "relation": "exact"}},
    }  # fmt: skip
    return LabelMap.objects.create(project=project, name=name or f"Map {next(_numbers)}", **(defaults | fields))


__all__ = [
    "LEADS", "PASSWORD", "Outcome", "ecg_signal", "make_dataset", "make_ingest", "make_job", "make_label_map",
    "make_project", "make_record", "make_team", "make_user",
]  # fmt: skip
