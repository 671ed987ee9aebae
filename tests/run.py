"""Run the suite: get a browser if this machine has none, then hand over to pytest (``python -m tests.run``).

The tests start their own PostgreSQL in a throw-away folder unless ``DATABASE_URL`` names a server.
``PORTAL_TEST_PROCESSES`` sets how many processes share the tests (default: one more than there are cores, since some wait for
a browser or for other processes, at most five; 0: one).
With ``PORTAL_TEST_RANDOM=1`` the property tests think of new examples; otherwise they are the same at every run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from tests.chromium import chromium_path


def get_chromium() -> None:
    """Install Debian's Chromium when root; otherwise say what will be skipped."""
    if chromium_path():
        return
    apt = shutil.which("apt-get")
    if apt and os.geteuid() == 0:
        print("Installing chromium with apt for the browser tests ...", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = [apt, "-qq", "install", "-y", "--no-install-recommends", "chromium"]
        quiet = {"env": environment, "stdout": subprocess.DEVNULL, "check": False}
        if subprocess.run(install, **quiet).returncode:
            subprocess.run([apt, "-qq", "update"], **quiet)
            subprocess.run(install, **quiet)
    if not chromium_path():
        print(
            "There is no Chromium on this machine and it could not be installed: the browser tests are skipped. "
            "Install it (Debian: sudo apt install chromium) or set PORTAL_CHROMIUM to one.",
            flush=True,
        )


def main() -> None:
    """Replace this process by pytest, whose status and closing line are the last that is seen."""
    get_chromium()
    arguments = sys.argv[1:]
    if "-m" not in arguments:
        arguments = ["-m", "not slow", *arguments]
    if (processes := os.environ.get("PORTAL_TEST_PROCESSES", str(min(os.cpu_count() or 1, 4) + 1))) != "0":
        arguments = ["-n", processes, "--dist", "loadfile", "--no-loadscope-reorder", *arguments]
    # Else each process that a test starts would compile the portal anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments])


if __name__ == "__main__":
    main()
