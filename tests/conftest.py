"""What every test can count on: a database that starts with the first test that asks for it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long a machine takes to think of an example says nothing about what is tested. The examples are the same at every run,
# so that a change is judged by what it changed; PORTAL_TEST_RANDOM=1 looks for new ones.
settings.register_profile(
    "portal",
    deadline=None,
    derandomize=not os.environ.get("PORTAL_TEST_RANDOM"),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("portal")

# The suite's figures and hashes are the processor's, also on a machine with an accelerator.
if not os.environ.get("PORTAL_TEST_ACCELERATOR"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

# The synchronous driver of the browser tests runs an event loop in the thread that also uses the ORM.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")


# The files that take longest, in the order in which they begin: those that wait for a browser beside those that compute.
_LONGEST = (
    "tests/browser/test_pages.py", "tests/browser/test_main_job.py", "tests/test_routes", "tests/training/test_team",
    "tests/browser/test_record_view.py", "tests/training/test_launch.py", "tests/training/test_searches.py", "tests/browser/",
    "tests/modelhub/test_architectures.py", "tests/modelhub/test_foreign_onnx.py", "tests/datasets/test_ingest", "tests/training/",
)  # fmt: skip


def _embedded_server():
    from ecgportal.embedded_pg import EmbeddedServer

    return EmbeddedServer(Path(os.environ["PORTAL_TEST_HOME"]) / "postgres", durable=False)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix):
    """Start the tests' own PostgreSQL before Django makes its test database."""
    if os.environ.get("PORTAL_TEST_EMBEDDED"):
        _embedded_server().start()


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        _sweep_homes_of_killed_runs()


def pytest_collection_modifyitems(items):
    """Begin with what takes longest, so that no process is left alone with it at the end."""
    items.sort(
        key=lambda item: next((at for at, name in enumerate(_LONGEST) if item.nodeid.startswith(name)), len(_LONGEST))
    )


def pytest_make_parametrize_id(val, argname):
    """Name bytes by their number: two processes must find the same tests, and packed bytes may hold the hour."""
    return f"{argname}_of_{len(val)}" if isinstance(val, bytes) else None


def pytest_unconfigure(config):
    home = os.environ.get("PORTAL_TEST_HOME")
    if hasattr(config, "workerinput") or not home or f"-test-{os.getpid()}-" not in home:
        return
    if os.environ.get("PORTAL_TEST_EMBEDDED"):
        _embedded_server().stop(5.0)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def own_home(settings, tmp_path):
    """A home of the test's own, without what earlier tests left: for tests that search or copy all of it."""
    home = tmp_path / "portal" / "main"
    home.mkdir(parents=True)
    settings.PORTAL_HOME, settings.MEDIA_ROOT = home, home / "blobs"
    return home


def _sweep_homes_of_killed_runs():
    """Stop the servers and remove the folders of test runs whose process is gone."""
    from ecgportal.embedded_pg import EmbeddedServer

    for folder in (*Path("/tmp").glob("ecgportal-test-*"), *Path("/dev/shm").glob("ecgportal-test-*")):
        match = re.fullmatch(r"ecgportal-test-(\d+)-\w+", folder.name)
        try:
            is_left_over = match and folder.stat().st_uid == os.geteuid() and not Path(f"/proc/{match[1]}").exists()
        except FileNotFoundError:
            # Another run that ends or begins has removed it.
            continue
        if is_left_over:
            EmbeddedServer(folder / "postgres").stop(1.0)
            shutil.rmtree(folder, ignore_errors=True)
