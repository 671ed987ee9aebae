"""The portal's settings over a throw-away home, and a throw-away database unless ``DATABASE_URL`` names one.

The database itself is started by ``tests/conftest.py`` when the first test asks for it.
"""

import os
import shutil
import tempfile
from pathlib import Path

import psutil

# As in the processes of jobs; must be known before NumPy and PyTorch are. The suite's processes share the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A developer's .env must not reach the tests, nor the tests a developer's data.
os.environ["PORTAL_ENV_FILE"] = os.devnull
os.environ["PORTAL_ENV"] = "test"
if "PORTAL_TEST_HOME" not in os.environ:
    # A short name: the database's socket must lie inside. In memory where there is plenty: tests that commit empty all tables
    # again and again. The processes of pytest-xdist inherit the name.
    memory = Path("/dev/shm")
    in_memory = (
        os.access(memory, os.W_OK)
        and shutil.disk_usage(memory).free > 4 << 30
        and psutil.virtual_memory().available > 8 << 30
    )
    os.environ["PORTAL_TEST_HOME"] = tempfile.mkdtemp(
        prefix=f"ecgportal-test-{os.getpid()}-", dir=memory if in_memory else "/tmp"
    )
TEST_HOME = Path(os.environ["PORTAL_TEST_HOME"])
_worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
os.environ["PORTAL_HOME"] = str(TEST_HOME / _worker)
os.environ.pop("PORTAL_RUN", None)
os.environ.pop("PORTAL_STORAGE_URL", None)

from ecgportal import home  # noqa: E402

if home.uses_embedded():
    os.environ["PORTAL_TEST_EMBEDDED"] = "1"
    os.environ["DATABASE_URL"] = home.embedded_url(TEST_HOME / "postgres" / "s")

from ecgportal.settings import *  # noqa: E402, F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

INSTALLED_APPS = [*INSTALLED_APPS, "tests.probe.apps.ProbeConfig"]  # noqa: F405
# Tests that commit empty all tables afterwards, which the trail's trigger refuses everywhere else.
DATABASES["default"]["OPTIONS"]["options"] = "-c portal.audit_truncate=on"  # noqa: F405
# The middleware that serves files warns of a folder that is not there.
STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # noqa: F405
# The few tests of measuring after an upload switch it on; in all others a job more would be in the way.
MEASURE_UP_TO = 0
