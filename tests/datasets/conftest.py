"""A project with a user of each role and an empty dataset, and ways to act as its editor."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from datasets.models import Dataset
from ecgportal.projects.models import Project
from tests.api_client import Api
from tests.factories import make_dataset, make_project, make_team


@pytest.fixture
def project(db: None) -> Project:
    return make_project()


@pytest.fixture
def team(project: Project) -> dict[str, Any]:
    """The users by role, and their project."""
    return {"project": project, **make_team(project)}


@pytest.fixture
def dataset(project: Project) -> Dataset:
    return make_dataset(project, "PTB-XL part")


@pytest.fixture
def editor(client: Client, team: dict[str, Any]) -> Client:
    """A browser in which the editor is signed in."""
    client.force_login(team["editor"])
    return client


@pytest.fixture
def api(team: dict[str, Any]) -> Api:
    """The REST interface for the editor."""
    return Api(session=team["editor"])
