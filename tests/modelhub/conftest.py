"""Small deterministic signals and contracts for the tests of models."""

from __future__ import annotations

import pytest

from datasets.ecg import LEADS_12
from modelhub.architecture_checks import beats as beats
from modelhub.contract import ModelContract
from tests import factories
from tests.modelhub.dav_server import dav_server as dav_server  # a fixture


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_contract(**changes) -> ModelContract:
    values = {
        "leads": LEADS_12,
        "fs_hz": 100.0,
        "n_samples": 1000,
        "classes": ("NORM", "MI", "STTC", "CD", "HYP"),
        "task": "multilabel",
    } | changes
    return ModelContract(**values)


@pytest.fixture
def administrator(db):
    return factories.make_user("admin", is_administrator=True)
