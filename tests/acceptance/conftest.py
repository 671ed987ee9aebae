"""A portal as it stands after its first start."""

from __future__ import annotations

import pytest

from tests import factories
from tests.api_client import Api
from tests.modelhub.dav_server import dav_server as dav_server  # a fixture


@pytest.fixture
def few_threads():
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def signed_in(username: str, **fields: object) -> Api:
    """Return the interface of a new user who signed in."""
    user = factories.make_user(username, **fields)  # type: ignore[arg-type]
    api = Api.sign_in(username, factories.PASSWORD)
    api.user = user  # type: ignore[attr-defined]
    return api


@pytest.fixture
def owner(db) -> Api:
    return signed_in("olga")
